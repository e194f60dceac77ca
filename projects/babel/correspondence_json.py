"""correspondence.json, `{image id: {point id: [x, y]}}`: about 1 GB zipped, read and written image by image."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from shared.errors import InputError
from shared.files import atomic_write
from shared.json_stream import JsonStream, open_json

Keypoint = tuple[str, Any]  # point id, [x, y]
_LONGEST = 256 << 20  # characters of one image: more is a file of another kind


def read_images(
    path: str | Path, on_read: Callable[[int], object] = lambda size: None
) -> Iterator[tuple[str, list[Keypoint]]]:
    """(image id, its keypoints as the file has them) one by one; memory is that of one image and a buffer.

    A point that is twice in an image is seen. on_read: is told of every piece of the file how many bytes it has.
    InputError: no such file, not an object of objects, not valid JSON (with the number of the image), cut short.
    """
    with open_json(path) as file:
        decoder = json.JSONDecoder(object_pairs_hook=_Pairs)
        stream = JsonStream(path, file, unit="image", longest=_LONGEST, decoder=decoder, on_read=on_read)
        if stream.next() != "{":
            raise InputError(f"{path}: expected a JSON object of images, found {stream.shown()}")
        stream.skip()
        if stream.next() != "}":
            yield _image(stream)
            while stream.next() == ",":
                stream.skip()
                yield _image(stream)
        stream.take("}", "expected , or } after it")
        stream.end("object")


def _image(stream: JsonStream) -> tuple[str, list[Keypoint]]:
    name = _value(stream, '"', "the id of an image")
    stream.take(":", "expected : after its id")
    keypoints = _value(stream, "{", f"image {name!r}: an object of keypoints")
    stream.count += 1
    return name, keypoints


def _value(stream: JsonStream, start: str, what: str) -> Any:
    found = stream.next()
    if not found:
        stream.broken("the file ends")
    if found != start:
        raise InputError(f"{stream.path}: image {stream.count + 1}: expected {what}, found {stream.shown()}")
    return stream.value()


class _Pairs(list[Any]):
    """The pairs of a JSON object in their order, doubles included."""


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
