"""The index on disk (incremental, safe against kills) and exact search in it."""

import itertools
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from shared import index
from shared.errors import InputError
from shared.index import Encoded, Item
from shared.search import top_k

DIM = 6


def embedding(item: Item) -> np.ndarray:
    seed = sum(ord(c) * 31**i for i, c in enumerate(item.name + item.mark)) % 2**32
    return np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)


class Encoder:
    """Encodes in batches of three, in backward order, and counts; names with "bad" cannot be read."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.items, self.asked = items, []

    def __call__(self, positions: Sequence[int]) -> Iterator[Encoded]:
        self.asked = [self.items[p].name for p in positions]
        for start in reversed(range(0, len(positions), 3)):
            part = list(positions[start : start + 3])
            good = [p for p in part if "bad" not in self.items[p].name]
            rows = np.array([embedding(self.items[p]) for p in good], np.float32).reshape(-1, DIM)
            failures = [(p, f"{self.items[p].name}: broken") for p in part if p not in good]
            yield Encoded(np.array(good, np.int64), rows, failures)


def update(folder: Path, items: Sequence[Item], **options) -> tuple[index.Index, list[str]]:
    encoder = Encoder(items)
    options = {"model": "m", "embed_size": DIM, **options}
    return index.update(folder, items, encoder, **options), encoder.asked


def items(*names: str) -> list[Item]:
    return [Item(*name.split("@")) if "@" in name else Item(name, "1") for name in names]


def check(found: index.Index, expected: Sequence[Item]) -> None:
    assert [expected[p] for p in found.positions] == [i for i in expected if "bad" not in i.name]
    np.testing.assert_array_equal(found.embeddings, [embedding(expected[p]) for p in found.positions])
    assert isinstance(found.embeddings, np.memmap)


def test_only_what_is_new_or_changed_is_encoded(tmp_path: Path) -> None:
    first = items("a", "b", "c", "d", "bad")
    found, asked = update(tmp_path / "i", first)
    assert asked == ["a", "b", "c", "d", "bad"]
    check(found, first)
    assert [(s.item.name, s.reason) for s in found.skipped] == [("bad", "bad: broken")]

    found, asked = update(tmp_path / "i", first)
    assert asked == []  # the broken one is not tried again until it changes
    check(found, first)
    assert [s.reason for s in found.skipped] == ["bad: broken"]
    files = sorted(p.name for p in (tmp_path / "i").iterdir())
    assert len(files) == 4, files  # .lock, index.json, rows, items: no parts are left

    second = items("d", "b@2", "new", "a", "bad@2")  # moved, changed, added; c is gone
    found, asked = update(tmp_path / "i", second)
    assert asked == ["b", "new", "bad"]
    check(found, second)
    assert found.num_encoded == 2
    assert len(list((tmp_path / "i").iterdir())) == 4


def test_equal_items_are_encoded_once(tmp_path: Path) -> None:
    twice = items("a", "b", "a", "a", "b")
    found, asked = update(tmp_path / "i", twice)
    assert asked == ["a", "b"]
    check(found, twice)


def test_an_interrupted_update_keeps_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "_PART_ROWS", 3)
    names = items(*(f"n{i}" for i in range(12)))

    def broken(positions: Sequence[int]) -> Iterator[Encoded]:
        for number, batch in enumerate(Encoder(names)(positions)):
            if number == 2:
                raise KeyboardInterrupt
            yield batch

    with pytest.raises(KeyboardInterrupt):
        index.update(tmp_path / "i", names, broken, model="m", embed_size=DIM)
    found, asked = update(tmp_path / "i", names)
    assert asked == [f"n{i}" for i in range(6)]  # the encoder works backwards: two batches of three were kept
    check(found, names)
    assert len(list((tmp_path / "i").iterdir())) == 4


def _die_at(moment: int, folder: Path, names: list[Item]) -> None:
    """In a forked child: update, killed before the given call that writes; exits with 0 after the last."""
    count = 0

    def counted(original):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        return call

    for owner, name in ((index, "save_npy"), (index, "write_jsonl"), (index, "write_json"), (os, "replace")):
        setattr(owner, name, counted(getattr(owner, name)))
    update(folder, names)
    os._exit(0)


@pytest.mark.parametrize("there_before", [False, True])
def test_killed_at_any_write_the_next_update_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there_before: bool
) -> None:
    monkeypatch.setattr(index, "_PART_ROWS", 3)
    names, more = items(*(f"n{i}" for i in range(9))), items(*(f"n{i}" for i in range(2, 14)))
    for moment in itertools.count(1):
        folder = tmp_path / str(moment)
        if there_before:
            update(folder, names)
        child = os.fork()
        if child == 0:
            try:
                _die_at(moment, folder, more)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        found, _ = update(folder, more)
        check(found, more)
        assert len(list(folder.iterdir())) == 4, os.listdir(folder)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
    assert moment > 8


@pytest.mark.parametrize(
    ("break_it", "options", "words"),
    [
        (lambda f: None, {"model": "other"}, "made with another model"),
        (lambda f: (f / "index.json").write_text("{"), {}, "not valid JSON"),
        (lambda f: (f / "index.json").write_text("[]"), {}, "not an index of this version"),
        (lambda f: (f / "index.json").unlink(), {}, "not an index"),
        (lambda f: next(f.glob("rows-*")).write_bytes(b"x" * 200), {}, "rows-"),
        (lambda f: next(f.glob("rows-*")).unlink(), {}, "rows-"),
        (lambda f: next(f.glob("items-*")).write_text(""), {}, "remove the folder"),
    ],
)
def test_a_folder_that_is_no_index_of_this_model(tmp_path: Path, break_it, options: dict, words: str) -> None:
    update(tmp_path / "i", items("a", "b"))
    break_it(tmp_path / "i")
    before = sorted((p.name, p.read_bytes()) for p in (tmp_path / "i").iterdir())
    with pytest.raises(InputError, match=words) as error:
        update(tmp_path / "i", items("a", "c"), **options)
    assert "\n" not in str(error.value)
    assert sorted((p.name, p.read_bytes()) for p in (tmp_path / "i").iterdir()) == before


def test_strict_and_all_bad(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="bad1: broken"):
        update(tmp_path / "i", items("a", "bad1"), strict=True)
    with pytest.raises(InputError, match="none of the 2 items can be read; the first: bad1: broken"):
        update(tmp_path / "j", items("bad1", "bad2"))
    update(tmp_path / "i", items("a", "bad1"))
    with pytest.raises(InputError, match="bad1: broken"):  # known to be bad, and still an error
        update(tmp_path / "i", items("a", "bad1"), strict=True)


def test_two_updates_at_once_are_refused(tmp_path: Path) -> None:
    def nested(positions: Sequence[int]) -> Iterator[Encoded]:
        with pytest.raises(InputError, match="another process is updating"):
            update(tmp_path / "i", items("a"))
        yield from Encoder(items("a"))(positions)

    index.update(tmp_path / "i", items("a"), nested, model="m", embed_size=DIM)


def test_identity_of_a_model() -> None:
    import torch

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    first = index.model_identity(model, side=256)
    assert index.model_identity(model, side=256) == first
    assert index.model_identity(model, side=512) != first
    with torch.no_grad():
        model.weight[0, 0] += 1e-6
    assert index.model_identity(model, side=256) != first


@pytest.mark.parametrize("block", [1, 40, 1 << 23])
@pytest.mark.parametrize("k", [1, 3, 50, 99])
def test_search_equals_a_full_sort(monkeypatch: pytest.MonkeyPatch, block: int, k: int) -> None:
    monkeypatch.setattr("shared.search._BLOCK_SCORES", block)
    monkeypatch.setattr("shared.search._QUERIES", 4)
    rng = np.random.default_rng(k)
    # small integers: exact products and many ties, which must go to the first item
    queries = rng.integers(-2, 3, (9, 5)).astype(np.float32)
    library = rng.integers(-2, 3, (50, 5)).astype(np.float32)
    scores, rows = top_k(queries, library, k)
    every = queries @ library.T
    expected = np.stack([np.lexsort((np.arange(50), -row))[:k] for row in every])
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_array_equal(scores, np.take_along_axis(every, expected, 1))


def test_search_without_queries() -> None:
    scores, rows = top_k(np.empty((0, 5), np.float32), np.ones((3, 5), np.float32), 2)
    assert scores.shape == rows.shape == (0, 2)
