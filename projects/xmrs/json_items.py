"""JSON lists too large to hold: read item by item, and written alike."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from shared.errors import InputError
from shared.files import atomic_write
from shared.json_stream import JsonStream, open_json

_LONGEST = 64 << 20  # characters of one item: more is no recipe, but a file of another kind


def read_items(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a UTF-8 file that is one JSON list of objects; memory is that of one item and a buffer.

    InputError: no such file, not a list of objects, not valid JSON (with the number of the item), cut short.
    """
    with open_json(path) as file:
        stream = JsonStream(path, file, unit="item", longest=_LONGEST)
        if stream.next() != "[":
            raise InputError(f"{path}: expected a JSON list, found {stream.shown()}")
        stream.skip()
        if stream.next() != "]":
            yield _item(stream)
            while stream.next() == ",":
                stream.skip()
                yield _item(stream)
        stream.take("]", "expected , or ] after it")
        stream.end("list")


def _item(stream: JsonStream) -> dict[str, Any]:
    if stream.next() != "{":
        raise InputError(
            f"{stream.path}: item {stream.count + 1}: expected an object, found {stream.shown()}"
        )
    item: dict[str, Any] = stream.value()
    stream.count += 1
    return item


def write_items(path: Path, items: Iterable[Any]) -> int:
    """Write a JSON list, an item a line, atomically and without holding it; the number of items."""
    count = 0
    with atomic_write(path, "w") as file:
        file.write("[")
        for item in items:
            file.write(("\n" if count == 0 else ",\n") + json.dumps(item, ensure_ascii=False))
            count += 1
        file.write("\n]\n")
    return count
