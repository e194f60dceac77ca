"""JSON lists too large to hold: read item by item, several times as fast as a stream of tokens; written alike."""

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from shared.errors import InputError
from shared.files import atomic_write

_CHUNK = 1 << 20  # bytes read at a time
_LONGEST = 64 << 20  # characters of one item: more is no recipe, but a file of another kind
_BLANK = re.compile(r"[ \t\r\n]*")


def read_items(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a UTF-8 file that is one JSON list of objects; memory is that of one item and a buffer.

    InputError: no such file, not a list of objects, not valid JSON (with the number of the item), cut short.
    """
    try:
        file = open(path, "rb")  # noqa: SIM115
    except OSError as error:
        reason = (
            "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        )
        raise InputError(f"{path}: {reason}") from None
    with file:
        yield from _Items(path, file).read()


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


class _Items:
    """A buffer of text that is filled from the file while the JSON decoder asks for more."""

    def __init__(self, path: Path, file: Any) -> None:
        self.path, self.file = path, file
        self.decode = json.JSONDecoder().raw_decode
        self.utf8 = codecs.getincrementaldecoder("utf-8-sig")()
        self.text, self.at, self.ended, self.count = "", 0, False, 0

    def read(self) -> Iterator[dict[str, Any]]:
        self._fill()
        if self._next() != "[":
            raise InputError(
                f"{self.path}: expected a JSON list, found {self.text[self.at : self.at + 20]!r}"
            )
        self.at += 1
        if self._next() != "]":
            yield self._item()
            while self._next() == ",":
                self.at += 1
                yield self._item()
        if self._next() != "]":
            self._broken("expected , or ] after it")
        self.at += 1
        if self._next():
            raise InputError(f"{self.path}: something follows the JSON list: {self.text[self.at :][:20]!r}")

    def _item(self) -> dict[str, Any]:
        if self._next() != "{":
            found = self.text[self.at : self.at + 20]
            raise InputError(f"{self.path}: item {self.count + 1}: expected an object, found {found!r}")
        while True:
            try:
                item, self.at = self.decode(self.text, self.at)
            except json.JSONDecodeError as error:
                if self.ended or len(self.text) - self.at > _LONGEST:
                    self._broken(error.msg)
                self._fill()
            except RecursionError:
                self._broken("nested too deeply")
            else:
                self.count += 1
                return item

    def _next(self) -> str:
        """The next character that is not blank, at `self.at`; "" at the end of the file."""
        while True:
            match = _BLANK.match(self.text, self.at)
            assert match is not None
            self.at = match.end()
            if self.at < len(self.text) or self.ended:
                return self.text[self.at : self.at + 1]
            self._fill()

    def _fill(self) -> None:
        """Drop what has been read, and double what is waiting (so an item is not decoded too often)."""
        waiting = self.text[self.at :]
        data = self.file.read(max(_CHUNK, len(waiting)))
        self.ended = not data
        try:
            self.text, self.at = waiting + self.utf8.decode(data, final=self.ended), 0
        except UnicodeDecodeError as error:
            raise InputError(f"{self.path}: not UTF-8 text: {error.reason}") from None

    def _broken(self, reason: str) -> None:
        raise InputError(f"{self.path}: not valid JSON in item {self.count + 1}: {reason}") from None
