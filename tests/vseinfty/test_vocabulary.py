"""The BiGRU vocabulary: building, the file format, and files that are wrong."""

from pathlib import Path
from typing import Any

import pytest

from projects.vseinfty import vocabulary
from shared.errors import InputError
from shared.files import read_json, write_json


def content(words: list[str]) -> dict[str, Any]:
    return {
        "word2idx": {word: i for i, word in enumerate(words)},
        "idx2word": {str(i): word for i, word in enumerate(words)},
        "idx": len(words),
    }


SPECIAL = ["<pad>", "<start>", "<end>", "<unk>"]


def test_build_counts_and_keeps_first_seen_order() -> None:
    captions = [["b", "a", "b"], ["b", "c", "a"], ["b", "a", "a"]]
    words = vocabulary.build(captions, min_count=4)
    assert words.words == [*SPECIAL, "b", "a", "<mask>"]
    assert words.ids(["a", "zebra", "<mask>"]) == [5, 3, 6]


def test_write_and_read(tmp_path: Path) -> None:
    words = vocabulary.build([["dog", "ünïcode", "<mask>"]], min_count=1)
    vocabulary.write(tmp_path / "v.json", words)
    stored = read_json(tmp_path / "v.json")
    assert stored == content([*SPECIAL, "dog", "ünïcode"])  # <mask> is appended at load, never stored
    assert vocabulary.read(tmp_path / "v.json").words == [*SPECIAL, "dog", "ünïcode", "<mask>"]


def test_mask_in_the_file_is_not_appended_again(tmp_path: Path) -> None:
    write_json(tmp_path / "v.json", content([*SPECIAL, "<mask>", "dog"]))
    words = vocabulary.read(tmp_path / "v.json")
    assert (len(words), words.mask_id) == (6, 4)


def broken(change: Any) -> dict[str, Any]:
    value = content([*SPECIAL, "dog", "cat"])
    change(value)
    return value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2], 'field "word2idx"'),
        ({"idx": 3}, 'field "word2idx"'),
        (
            broken(lambda v: v["word2idx"].update(dog="4")),
            'field "word2idx": expected an object of word -> integer',
        ),
        (broken(lambda v: v["word2idx"].update(dog=7)), "expected the ids 0..5 once each"),
        (broken(lambda v: v["word2idx"].update(dog=5)), "expected the ids 0..5 once each"),
        (broken(lambda v: v.update(idx=9)), 'field "idx": expected the number of words 6, found 9'),
        (broken(lambda v: v["idx2word"].update({"4": "cow"})), '"idx2word" is not the inverse'),
        (content(["<start>", "<pad>", "<end>", "<unk>"]), "found <pad> at 1"),
        (content(["<pad>", "dog"]), "found <start>, <end>, <unk> missing"),
    ],
)
def test_wrong_vocabulary(tmp_path: Path, value: Any, message: str) -> None:
    path = tmp_path / "v.json"
    write_json(path, value)
    with pytest.raises(InputError) as error:
        vocabulary.read(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_and_malformed_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such vocabulary file; build_vocab"):
        vocabulary.read(tmp_path / "v.json")
    (tmp_path / "v.json").write_text("{")
    with pytest.raises(InputError, match=r"v\.json"):
        vocabulary.read(tmp_path / "v.json")
