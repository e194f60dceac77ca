"""The LMDBs: built as the released code builds them, continued after a SIGKILL, read whoever wrote them."""

import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest

from projects.xmrs import (
    lmdb_conversion,
    lmdb_database,
    lmdb_store,
    lmdb_writer,
    recipe1m,
    token_files,
)
from projects.xmrs.bench_corpus import build_as_released
from projects.xmrs.lmdb_store import RecipeStore
from projects.xmrs.lmdb_writer import Summary
from projects.xmrs.recipe1m import PARTITIONS
from projects.xmrs.tokens import Tokenizer, encode_recipe
from shared.errors import InputError
from shared.untrusted import load_pickle
from tests.xmrs.corpus_files import edit, tokenizer, write_corpus
from tests.xmrs.test_recipe1m import Malicious

ENTRY = Path(__file__).resolve().parents[2] / "projects" / "xmrs" / "create_lmdb.py"
OURS = tokenizer()


def build(root: Path, output: Path, **options: Any) -> Summary:
    return lmdb_writer.write_stores(root, output, OURS, silent=True, **options)


def contents(output: Path) -> dict[str, Any]:
    """Every key and value of the three databases, and the files beside them."""
    found: dict[str, Any] = {
        path.name: path.read_bytes() for path in sorted(output.glob("*.*")) if path.is_file()
    }
    for split in PARTITIONS:
        store = RecipeStore(output / f"{split}_lmdb")
        found[split] = {name: store._value(name) for name in store.ids}
    return found


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus")
    write_corpus(root)
    return root


@pytest.fixture(scope="module")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The databases of an undisturbed build."""
    output = tmp_path_factory.mktemp("whole") / "loader_data"
    assert build(corpus, output, chunk_recipes=4, commit_recipes=3) == Summary(
        {"train": 10, "val": 10, "test": 10}, 0
    )
    return output


@pytest.fixture(scope="module")
def released(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The databases of the released code's way, with its pickled values; keys in the order of insertion."""
    output = tmp_path_factory.mktemp("released") / "loader_data"
    build_as_released(corpus, output, OURS.pieces)
    order = [name for name, _ in recipe1m.stream_images(corpus / "layer2.json")]
    for split in PARTITIONS:
        wanted = set(recipe1m.read_keys(corpus / f"{split}_keys.pkl"))
        recipe1m.write_keys(output / f"{split}_keys.pkl", [name for name in order if name in wanted])
    return output


def same_entries(one: RecipeStore, other: RecipeStore) -> None:
    assert one.ids == other.ids
    assert one.ids
    for index in range(len(one)):
        left, right = one.entry(index), other.entry(index)
        assert [row.tolist() for row in left.rows] == [row.tolist() for row in right.rows]
        assert [row.tolist() for row in left.parts] == [row.tolist() for row in right.parts]
        assert left.lengths.tolist() == right.lengths.tolist()
        assert (left.class_index, left.image_records) == (right.class_index, right.image_records)


def test_as_the_released_code_builds_them(whole: Path, released: Path) -> None:
    for split in PARTITIONS:
        same_entries(RecipeStore(whole / f"{split}_lmdb"), RecipeStore(released / f"{split}_lmdb"))


def test_rows_parts_and_what_lies_beside(corpus: Path, whole: Path) -> None:
    store = RecipeStore(whole / "val_lmdb")
    entry = store.entry(store.index_of(store.ids[3]))
    recipes = {one.id: one for one in recipe1m.stream_recipes(corpus / "layer1_ru.json", "ru")}
    ids, parts = encode_recipe(OURS, recipes[store.ids[3]])
    assert entry.rows[4].tolist() == ids.tolist()
    assert entry.parts[4].tolist() == parts.tolist()
    assert len(entry.images) <= 5
    assert [row.dtype for row in entry.rows] == [np.int32] * 6
    seen: set[int] = set()
    for split in PARTITIONS:
        opened = RecipeStore(whole / f"{split}_lmdb")
        for index in range(len(opened)):
            seen.update(*(row.tolist() for row in opened.entry(index).rows))
    assert np.load(whole / "corpus_tokens.npy").tolist() == sorted(seen)
    lines = (whole / "files_in_DB.txt").read_text().splitlines()
    assert lines[:2] == ["Training samples: 10", "Validation samples: 10"]
    assert not (whole / ".building").exists()


def test_a_finished_output_stays_as_it_is(corpus: Path, whole: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    assert build(corpus, whole).counts == {"train": 10, "val": 10, "test": 10}
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before
    other = tmp_path / "other"
    write_corpus(other, 12)
    with pytest.raises(
        InputError, match=r"create_lmdb\.json: was made with other sources; choose another output"
    ):
        build(other, whole)
    (tmp_path / "foreign" / "val_lmdb").mkdir(parents=True)
    with pytest.raises(InputError, match="val_lmdb: is there already, not made by this tool"):
        build(corpus, tmp_path / "foreign")


# ---- killed


def killed(work: Callable[[], Any], module: Any, name: str, count: int, *, before: bool) -> None:
    """Run `work` in a child process that dies by SIGKILL at the `count`-th call of `module.name`."""
    child = os.fork()
    if child:
        assert os.waitpid(child, 0)[1] == signal.SIGKILL, "the process ended otherwise than by being killed"
        return
    original, calls = getattr(module, name), [0]

    def wrapped(*arguments: Any, **keywords: Any) -> Any:
        calls[0] += 1
        if before and calls[0] == count:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*arguments, **keywords)
        if calls[0] == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    try:
        setattr(module, name, wrapped)
        work()
    finally:
        os._exit(3)  # the point was never reached


POINTS = {
    "the first chunk is tokenised": (token_files, "encode_recipes", 1, False),
    "a chunk of the third language is tokenised": (token_files, "encode_recipes", 20, False),
    "tokens are written, their records are not": (token_files.np, "zeros", 9, True),
    "nothing of a database is committed": (lmdb_store, "pack", 2, True),
    "some transactions of the second database": (lmdb_store, "pack", 18, True),
    "the second database has not its name": (lmdb_database.os, "rename", 2, True),
    "the second database has its name": (lmdb_database.os, "rename", 2, False),
    "all databases are there, the mark is not": (lmdb_writer, "_write_side_files", 1, False),
    "the mark is there, the parts are too": (lmdb_writer.shutil, "rmtree", 1, True),
}


@pytest.mark.parametrize("point", POINTS)
def test_killed_builds_continue(corpus: Path, whole: Path, tmp_path: Path, point: str) -> None:
    output = tmp_path / "loader_data"

    def work() -> None:
        build(corpus, output, chunk_recipes=4, commit_recipes=3)

    module, name, count, before = POINTS[point]
    killed(work, module, name, count, before=before)
    work()
    assert contents(output) == contents(whole)
    assert not (output / ".building").exists() or "mark" in point


def test_what_was_finished_is_not_done_again(
    corpus: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "loader_data"

    def work() -> None:
        build(corpus, output, chunk_recipes=4, commit_recipes=3)

    killed(work, lmdb_store, "pack", 18, before=True)  # of 30; 10 + 2 transactions of 3 are committed
    tokenised, packed = [], []
    monkeypatch.setattr(token_files, "encode_recipes", lambda *_: tokenised.append(1))
    original = lmdb_store.pack
    monkeypatch.setattr(lmdb_store, "pack", lambda *values: packed.append(1) or original(*values))
    work()
    assert not tokenised
    assert len(packed) == 30 - 16
    assert contents(output) == contents(whole)


def test_records_without_their_tokens_are_taken_off(corpus: Path, whole: Path, tmp_path: Path) -> None:
    """After a crash of the machine the shorter file decides."""
    output = tmp_path / "loader_data"

    def work() -> None:
        build(corpus, output, chunk_recipes=4, commit_recipes=3)

    killed(work, token_files, "encode_recipes", 20, before=True)
    file = output / ".building" / "ru-en.tokens"
    os.truncate(file, file.stat().st_size - 6)
    with open(output / ".building" / "ru-en.index", "ab") as index:
        index.write(b"\x01\x02\x03")
    work()
    assert contents(output) == contents(whole)


def test_a_part_of_other_sources_is_refused(corpus: Path, tmp_path: Path) -> None:
    output = tmp_path / "loader_data"
    killed(lambda: build(corpus, output), token_files, "encode_recipes", 1, before=True)
    other = tmp_path / "other"
    write_corpus(other, 12)
    with pytest.raises(InputError, match=r"settings\.json: was made with other sources; remove .*\.building"):
        build(other, output)


# ---- bad input


def refused(root: Path, message: str, **options: Any) -> None:
    output = root / "loader_data"
    with pytest.raises(InputError) as caught:
        build(root, output, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(output.glob("*_lmdb")), "half-written"
    assert not (output / ".building").exists()


def test_keys_that_no_layer_holds(tmp_path: Path) -> None:
    listed = write_corpus(tmp_path, 9)
    recipe1m.write_keys(tmp_path / "val_keys.pkl", ["f" * 10, listed[1].id])
    refused(
        tmp_path, f"layer2.json: recipe {'f' * 10} of the key lists: expected, not found; allow_missing=true"
    )
    items = json.loads((tmp_path / "layer2.json").read_text())
    items += [{"id": letter * 10, "images": [{"id": "abcd.jpg", "url": ""}]} for letter in "fe"]
    (tmp_path / "layer2.json").write_text(json.dumps(items))
    of = recipe1m.read_classes(tmp_path / "classes1M.pkl").of
    recipe1m.write_classes(tmp_path / "classes1M.pkl", {**of, "f" * 10: 1, "e" * 10: 2}, {0: "-"})
    recipe1m.write_keys(tmp_path / "val_keys.pkl", ["f" * 10, "e" * 10, "d" * 10, listed[1].id])
    refused(tmp_path, "layer2.json: recipe dddddddddd of the key lists")
    recipe1m.write_keys(tmp_path / "val_keys.pkl", ["f" * 10, "e" * 10, listed[1].id])
    refused(tmp_path, "layer1.json: recipe eeeeeeeeee and 1 others of the key lists: expected, not found")
    recipe1m.write_keys(tmp_path / "val_keys.pkl", ["f" * 10, "e" * 10, "d" * 10, listed[1].id])
    found = build(tmp_path, tmp_path / "loader_data", allow_missing=True)
    assert (found.missing, sum(found.counts.values())) == (3, 7)


@pytest.mark.parametrize(
    ("file", "fields", "message"),
    [
        (
            "layer1",
            {"title": " ", "ingredients": [], "instructions": [{"text": "\n"}]},
            "expected text, found none",
        ),
        ("layer1", {"title": None}, "title: expected a text, found nothing"),
        ("layer1_fr", {"ingredients_fr": None}, "ingredients_fr: expected a list of objects, found nothing"),
        ("layer2", {"images": []}, "images: expected one at least, found none"),
        ("layer1_de", {"id": "0" * 9 + "x"}, "of the key lists: expected, not found"),
    ],
)
def test_recipes_that_cannot_be_used(tmp_path: Path, file: str, fields: dict, message: str) -> None:
    write_corpus(tmp_path, 9)
    edit(tmp_path / f"{file}.json", 4, **fields)
    refused(tmp_path, message)
    refused(tmp_path, f"{tmp_path}/{file}.json: recipe ")


@pytest.mark.parametrize("file", ["layer1", "layer1_de", "layer2"])
def test_a_recipe_twice(tmp_path: Path, file: str) -> None:
    write_corpus(tmp_path, 9)
    items = json.loads((tmp_path / f"{file}.json").read_text())
    (tmp_path / f"{file}.json").write_text(json.dumps([*items, items[2]]))
    refused(tmp_path, f"{file}.json: recipe {items[2]['id']}: is there twice")


def test_files_that_are_missing_or_of_another_kind(tmp_path: Path) -> None:
    listed = write_corpus(tmp_path, 9)
    recipe1m.write_classes(tmp_path / "classes1M.pkl", {listed[0].id: 1}, {0: "-"})
    refused(tmp_path, "expected a class (0 = background), found none")
    (tmp_path / "classes1M.pkl").write_bytes(pickle.dumps([1]) * 2)
    refused(tmp_path, "first pickle: expected {recipe id: class}")
    (tmp_path / "classes1M.pkl").write_bytes(pickle.dumps({"a": Malicious(tmp_path / "was_run")}))
    refused(tmp_path, "refused: the pickle asks for")
    (tmp_path / "test_keys.pkl").write_bytes(pickle.dumps([Malicious(tmp_path / "was_run")]))
    refused(tmp_path, "test_keys.pkl: byte")
    recipe1m.write_keys(tmp_path / "test_keys.pkl", [])
    (tmp_path / "layer1_de.json").unlink()
    with pytest.raises(
        InputError, match=r"layer1_de\.json: no such file \(translate\.py direction=de makes it\)"
    ):
        build(tmp_path, tmp_path / "loader_data")
    assert not (tmp_path / "was_run").exists()


def test_no_recipe_of_the_keys(tmp_path: Path) -> None:
    write_corpus(tmp_path, 3)
    for split in PARTITIONS:
        recipe1m.write_keys(tmp_path / f"{split}_keys.pkl", [])
    refused(tmp_path, "layer2.json: holds none of the 0 recipes of the key lists")


def test_a_full_disk_is_seen_before_the_work(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lmdb_database, "free_bytes", lambda path: 1000)
    with pytest.raises(InputError, match=r"train_lmdb: 0\.0 GiB to write, 0\.0 GiB free"):
        build(corpus, tmp_path / "loader_data")


def test_a_disk_that_fills_on_the_way(tmp_path: Path) -> None:
    """A limit on the size of files stands for it; what was committed is not written again."""
    pairs = [(f"{index:04d}".encode(), bytes([index]) * 5000) for index in range(200)]
    target, scratch = tmp_path / "x_lmdb", tmp_path / "scratch"

    def write() -> None:
        lmdb_database.write_database(
            target, scratch, len(pairs), lambda done: iter(pairs[done:]), size=1000, commit=10, silent=True
        )

    child = os.fork()
    if not child:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
            with pytest.raises(InputError, match="x_lmdb: cannot be written: "):
                write()
            os._exit(0)
        finally:
            os._exit(3)
    assert os.waitpid(child, 0)[1] == 0
    assert not target.exists()
    assert (scratch / "x_lmdb").exists()
    write()
    with lmdb.open(str(target), readonly=True, lock=False) as environment, environment.begin() as transaction:
        assert list(transaction.cursor()) == pairs


def test_values_larger_than_thought(tmp_path: Path) -> None:
    """The map grows, and nothing is written twice or lost."""
    pairs = [(f"{index:04d}".encode(), bytes([index % 251]) * 100_000) for index in range(1500)]
    target, scratch = tmp_path / "x_lmdb", tmp_path / "scratch"
    lmdb_database.write_database(
        target, scratch, len(pairs), lambda done: iter(pairs[done:]), size=1000, commit=100, silent=True
    )
    with lmdb.open(str(target), readonly=True, lock=False) as environment, environment.begin() as transaction:
        assert list(transaction.cursor()) == pairs


# ---- conversion, memory, the command


def test_released_databases_become_ours(released: Path, whole: Path, tmp_path: Path) -> None:
    output = tmp_path / "loader_data"
    assert lmdb_conversion.convert(released, output, OURS, silent=True).counts == {
        "train": 10,
        "val": 10,
        "test": 10,
    }
    for split in PARTITIONS:
        same_entries(RecipeStore(output / f"{split}_lmdb"), RecipeStore(whole / f"{split}_lmdb"))
    assert np.array_equal(np.load(output / "corpus_tokens.npy"), np.load(whole / "corpus_tokens.npy"))
    assert lmdb_conversion.convert(released, output, OURS, silent=True).counts["val"] == 10
    with pytest.raises(InputError, match="is the folder that is read"):
        lmdb_conversion.convert(released, released, OURS)
    with pytest.raises(InputError, match="holds databases that were not made from"):
        lmdb_conversion.convert(released, whole, OURS)
    with pytest.raises(InputError, match="no such LMDB database"):
        lmdb_conversion.convert(tmp_path / "none", tmp_path / "out", OURS)
    small = Tokenizer(OURS.pieces[:110])
    with pytest.raises(InputError, match=r"train_lmdb: .*: token \d+, but the vocabulary has 110"):
        lmdb_conversion.convert(released, tmp_path / "small", small, silent=True)
    assert not (tmp_path / "small" / "train_lmdb").exists()


def test_memory_does_not_hold_the_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The texts of a recipe are 12,000 bytes here, its tokens 30,000; a further one costs about a thousand."""
    monkeypatch.setattr("shared.json_stream._CHUNK", 1 << 14)
    monkeypatch.setattr(token_files, "_BLOCK", 1 << 12)
    peaks = []
    for count in (100, 300):
        root = tmp_path / str(count)
        listed = write_corpus(root, count)
        for language in ("de", "ru", "fr"):
            path = root / f"layer1_{language}.json"
            longer = [
                recipe1m.Recipe(one.id, "mix the rice " * 300, [], [], one.partition, "") for one in listed
            ]
            recipe1m.write_recipes(path, longer, language)
        tracemalloc.start()
        build(root, root / "loader_data", chunk_recipes=8, commit_recipes=8)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[1] - peaks[0]) / 200 < 2500, peaks


def command(root: Path, *overrides: str) -> list[str]:
    own = [f"data.root={root}", f"data.vocab={root / 'vocab.txt'}", f"hydra.run.dir={root / 'run'}"]
    return [sys.executable, str(ENTRY), "data=recipe1m", *own, *overrides]


@pytest.mark.slow
def test_the_command_killed_from_outside_continues(tmp_path: Path) -> None:
    count = 3000
    write_corpus(tmp_path, count)
    (tmp_path / "vocab.txt").write_text("\n".join(OURS.pieces) + "\n", encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    output = tmp_path / "loader_data"
    with subprocess.Popen(command(tmp_path), env=environment, cwd=tmp_path) as process:
        while process.poll() is None and not (output / ".building" / "ru-en.index").exists():
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert not (output / "create_lmdb.json").exists(), "the process was too quick to be killed"
    done = subprocess.run(
        command(tmp_path, "vocabularies=true"), env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{output}: 1000 train, 1000 val, 1000 test recipes")
    assert load_pickle(output / "ingr_vocab.pkl")["[CLS]"] == 101
    assert load_pickle(output / "vocab_ingr.pkl")[101] == "[CLS]"
    again = tmp_path / "again"
    build(tmp_path, again)
    for path in [*output.glob("*_vocab.pkl"), *output.glob("vocab_*.pkl")]:
        path.unlink()
    assert contents(output) == contents(again)
    assert not (tmp_path / "run").exists()


def test_the_command_ends_in_one_line(tmp_path: Path) -> None:
    write_corpus(tmp_path, 6)
    edit(tmp_path / "layer1.json", 1, title="", ingredients=[], instructions=[])
    (tmp_path / "vocab.txt").write_text("\n".join(OURS.pieces) + "\n", encoding="utf-8")
    done = subprocess.run(command(tmp_path), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path}/layer1.json: recipe ")
    assert done.stderr.count("\n") == 1
