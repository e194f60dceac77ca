"""`id_mapping.json` of COCO: image id -> path below the image folder, from COCO's own annotations."""

from collections.abc import Sequence
from pathlib import Path

from shared.errors import InputError
from shared.files import stream_json_items


def coco_id_mapping(annotations: Path, folders: Sequence[str] = ("train2014", "val2014")) -> dict[str, str]:
    """`{"<id>": "<folder>/<file name>"}` of the images that `captions_<folder>.json` under `annotations` list.

    InputError for a missing or malformed file, and for an id that two images have.
    """
    mapping: dict[str, str] = {}
    for folder in folders:
        path = annotations / f"captions_{folder}.json"
        for number, image in enumerate(stream_json_items(path, "images.item")):
            try:
                image_id, name = str(image["id"]), str(image["file_name"])
            except (KeyError, TypeError):
                raise InputError(
                    f"{path}: images[{number}]: expected an object with id and file_name, found {image!r:.80}"
                ) from None
            if image_id in mapping:
                raise InputError(
                    f"{path}: images[{number}]: id {image_id} is also that of {mapping[image_id]}"
                )
            mapping[image_id] = f"{folder}/{name}"
    if not mapping:
        raise InputError(f"{annotations}: expected images in captions_*.json, found none")
    return mapping
