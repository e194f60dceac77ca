"""correspondence.json, `{image id: {point id: [x, y]}}`: about 1 GB zipped, read and written image by image."""

import codecs
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from shared.errors import InputError
from shared.files import atomic_write

Keypoint = tuple[str, Any]  # point id, [x, y]
_CHUNK = 1 << 20  # bytes read at a time
_LONGEST = 256 << 20  # characters of one image: more is a file of another kind
_BLANK = re.compile(r"[ \t\r\n]*")


def read_images(
    path: str | Path, on_read: Callable[[int], object] = lambda size: None
) -> Iterator[tuple[str, list[Keypoint]]]:
    """(image id, its keypoints as the file has them) one by one; memory is that of one image and a buffer.

    Several times as fast as a stream of tokens, and a point that is twice in an image is seen.
    on_read: is told of every piece of the file how many bytes it has. InputError: no such file, not an object of
    objects, not valid JSON (with the number of the image), cut short.
    """
    try:
        file = open(path, "rb")  # noqa: SIM115
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise InputError(
            f"{path}: {'no such file' if missing else f'cannot be read: {error.strerror}'}"
        ) from None
    with file:
        yield from _Images(path, file, on_read).read()


def write_images(
    path: str | Path, images: Iterable[tuple[str, Mapping[str, Sequence[float]]]], digits: int = 6
) -> int:
    """Write a correspondence.json atomically and without holding it; the number of images.

    images: (image id, {point id: (x, y)}), x and y as fractions of the width and height, rounded to `digits`.
    """
    count = 0
    with atomic_write(path, "w") as file:
        file.write("{")
        for name, keypoints in images:
            rounded = {
                point: [round(float(x), digits), round(float(y), digits)]
                for point, (x, y) in keypoints.items()
            }
            start = ",\n" if count else "\n"
            file.write(f"{start}{json.dumps(name, ensure_ascii=False)}: {json.dumps(rounded)}")
            count += 1
        file.write("\n}\n")
    return count


class _Pairs(list[Any]):
    """The pairs of a JSON object in their order, doubles included."""


class _Images:
    """A buffer of text that is filled from the file while the JSON decoder asks for more."""

    def __init__(self, path: str | Path, file: IO[bytes], on_read: Callable[[int], object]) -> None:
        self.path, self.file, self.on_read = path, file, on_read
        self.decode = json.JSONDecoder(object_pairs_hook=_Pairs).raw_decode
        self.utf8 = codecs.getincrementaldecoder("utf-8-sig")()
        self.text, self.at, self.ended, self.count = "", 0, False, 0

    def read(self) -> Iterator[tuple[str, list[Keypoint]]]:
        if self._next() != "{":
            found = self.text[self.at : self.at + 20]
            raise InputError(f"{self.path}: expected a JSON object of images, found {found!r}")
        self.at += 1
        if self._next() != "}":
            yield self._image()
            while self._next() == ",":
                self.at += 1
                yield self._image()
        if self._next() != "}":
            self._broken("expected , or } after it")
        self.at += 1
        if self._next():
            raise InputError(f"{self.path}: something follows the JSON object: {self.text[self.at :][:20]!r}")

    def _image(self) -> tuple[str, list[Keypoint]]:
        name = self._value('"', "the id of an image")
        if self._next() != ":":
            self._broken("expected : after its id")
        self.at += 1
        keypoints = self._value("{", f"image {name!r}: an object of keypoints")
        self.count += 1
        return name, keypoints

    def _value(self, start: str, what: str) -> Any:
        if self._next() != start:
            found = self.text[self.at : self.at + 20]
            if not found:
                self._broken("the file ends")
            raise InputError(f"{self.path}: image {self.count + 1}: expected {what}, found {found!r}")
        while True:
            try:
                value, self.at = self.decode(self.text, self.at)
            except json.JSONDecodeError as error:
                if self.ended or len(self.text) - self.at > _LONGEST:
                    self._broken(error.msg)
                self._fill()
            except RecursionError:
                self._broken("nested too deeply")
            else:
                return value

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
        """Drop what has been read, and double what is waiting (so an image is not decoded too often)."""
        waiting = self.text[self.at :]
        data = self.file.read(max(_CHUNK, len(waiting)))
        self.ended = not data
        self.on_read(len(data))
        try:
            self.text, self.at = waiting + self.utf8.decode(data, final=self.ended), 0
        except UnicodeDecodeError as error:
            raise InputError(f"{self.path}: not UTF-8 text: {error.reason}") from None

    def _broken(self, reason: str) -> None:
        raise InputError(f"{self.path}: not valid JSON in image {self.count + 1}: {reason}") from None
