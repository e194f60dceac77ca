"""Large JSON files, value by value: what is read, what is refused, and how much is held."""

import json
from pathlib import Path

import pytest

from shared import json_stream
from shared.errors import InputError
from shared.json_stream import JsonStream, open_json


def values(path: Path, longest: int = 1 << 20) -> list[object]:
    """The values of a list, one by one."""
    found = []
    with open_json(path) as file:
        stream = JsonStream(path, file, unit="value", longest=longest)
        stream.take("[", "expected a list")
        while stream.next() != "]":
            found.append(stream.value())
            stream.count += 1
            if stream.next() != "]":
                stream.take(",", "expected , or ]")
        stream.take("]", "expected ]")
        stream.end("list")
    return found


@pytest.mark.parametrize("chunk", [1, 3, 64, 1 << 20])
def test_pieces_of_any_size_give_the_same_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    content = [{"a": "é\n\U0001f600"}, "x", {"b": [1, 2.5, None]}, [[]], {}]
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(content, indent=2, ensure_ascii=False).encode())
    monkeypatch.setattr(json_stream, "_CHUNK", chunk)
    assert values(path) == content


def test_a_value_without_an_end_is_not_read_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_stream, "_CHUNK", 100)
    path = tmp_path / "a.json"
    path.write_text('["' + "x" * 1_000_000)
    with open_json(path) as file:
        stream = JsonStream(path, file, unit="value", longest=1000)
        stream.take("[", "")
        with pytest.raises(InputError, match="not valid JSON in value 1"):
            stream.value()
        assert file.tell() < 10_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{}", "not valid JSON in value 1: expected a list"),
        (b"[{} {}]", "not valid JSON in value 2: expected , or ]"),
        (b"[{}] 1", "something follows the JSON list: '1'"),
        (b'["\xff"]', "not UTF-8 text"),
        (b"[" * 100_000, "not valid JSON in value 1: nested too deeply"),
        (b'[{"a": 1', "not valid JSON in value 1: "),
    ],
)
def test_what_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        values(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.json: no such file"):
        open_json(tmp_path / "a.json")
