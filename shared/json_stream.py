"""JSON files too large to hold, value by value: several times as fast as a stream of tokens.

The reader of a format walks its outermost level with `next`, `take` and `skip`, and decodes one inner value at a time;
memory is that of one value and a buffer.
"""

import codecs
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NoReturn

from shared.errors import InputError

_CHUNK = 1 << 20  # bytes read at a time
_BLANK = re.compile(r"[ \t\r\n]*")


def open_json(path: str | Path) -> IO[bytes]:
    """Open a file to be streamed; InputError when it is not there or cannot be read."""
    try:
        return open(path, "rb")
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        reason = "no such file" if missing else f"cannot be read: {error.strerror}"
        raise InputError(f"{path}: {reason}") from None


class JsonStream:
    """A buffer of text that is filled from the file while the JSON decoder asks for more.

    Attributes:
        count: values that the format's reader has finished; messages name the next one.
    """

    def __init__(
        self,
        path: str | Path,
        file: IO[bytes],
        *,
        unit: str,
        longest: int,
        decoder: json.JSONDecoder | None = None,
        on_read: Callable[[int], object] = lambda size: None,
    ) -> None:
        """Start at the file's beginning.

        Args:
            path: for messages.
            file: UTF-8, with or without a byte order mark.
            unit: what `count` counts, for messages ("item").
            longest: characters of one value; a longer one is a file of another kind.
            decoder: of the values.
            on_read: is told of every piece of the file how many bytes it has.
        """
        self.path, self.file, self.unit, self.longest, self.on_read = path, file, unit, longest, on_read
        self.decode = (decoder or json.JSONDecoder()).raw_decode
        self.utf8 = codecs.getincrementaldecoder("utf-8-sig")()
        self.text, self.at, self.ended, self.count = "", 0, False, 0
        self._fill()

    def next(self) -> str:
        """The next character that is not blank, not taken yet; "" at the end of the file."""
        while True:
            match = _BLANK.match(self.text, self.at)
            assert match is not None
            self.at = match.end()
            if self.at < len(self.text) or self.ended:
                return self.text[self.at : self.at + 1]
            self._fill()

    def take(self, expected: str, what: str) -> None:
        """Pass over the character `expected`, else InputError `what` (a sentence without the file's name)."""
        if self.next() != expected:
            self.broken(what)
        self.at += 1

    def skip(self) -> None:
        """Pass over the character that `next` has shown."""
        self.at += 1

    def shown(self) -> str:
        """What comes next, for messages."""
        self.next()
        return repr(self.text[self.at : self.at + 20])

    def end(self, what: str) -> None:
        """Nothing may follow; InputError otherwise."""
        if self.next():
            raise InputError(f"{self.path}: something follows the JSON {what}: {self.shown()}")

    def value(self) -> Any:
        """Decode the value that comes next; InputError when it is broken, cut short or too long."""
        self.next()
        while True:
            try:
                value, self.at = self.decode(self.text, self.at)
            except json.JSONDecodeError as error:
                if self.ended or len(self.text) - self.at > self.longest:
                    self.broken(error.msg)
                self._fill()
            except RecursionError:
                self.broken("nested too deeply")
            else:
                return value

    def broken(self, reason: str) -> NoReturn:
        """Raise InputError with the number of the value at hand."""
        raise InputError(f"{self.path}: not valid JSON in {self.unit} {self.count + 1}: {reason}") from None

    def _fill(self) -> None:
        """Drop what has been read, and double what is waiting (so a value is not decoded too often)."""
        waiting = self.text[self.at :]
        data = self.file.read(max(_CHUNK, len(waiting)))
        self.ended = not data
        self.on_read(len(data))
        try:
            self.text, self.at = waiting + self.utf8.decode(data, final=self.ended), 0
        except UnicodeDecodeError as error:
            raise InputError(f"{self.path}: not UTF-8 text: {error.reason}") from None
