"""COCO's id mapping, written by the command and read by the reader of raw images."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from projects.vseinfty.id_mapping import coco_id_mapping
from projects.vseinfty.images import read_id_mapping
from shared.errors import InputError
from shared.files import write_json

ENTRY = Path(__file__).parents[2] / "projects" / "vseinfty" / "build_id_mapping.py"


def annotations(root: Path, **images: list[object]) -> Path:
    folder = root / "annotations"
    folder.mkdir(parents=True)
    for name, listed in images.items():
        write_json(folder / f"captions_{name}.json", {"info": {}, "images": listed, "annotations": []})
    return folder


def image(number: int, split: str) -> dict[str, object]:
    return {"id": number, "file_name": f"COCO_{split}_{number:012d}.jpg", "height": 4}


def test_the_command_writes_what_the_reader_takes(tmp_path: Path) -> None:
    coco = tmp_path / "coco"
    annotations(
        coco, train2014=[image(9, "train2014"), image(25, "train2014")], val2014=[image(42, "val2014")]
    )
    command = [sys.executable, str(ENTRY), f"hydra.run.dir={tmp_path / 'run'}"]
    environment = {**os.environ, "WORDSIGHT_DATA": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{coco / 'id_mapping.json'}: 3 images\n"
    assert read_id_mapping(coco / "id_mapping.json") == {
        "9": "train2014/COCO_train2014_000000000009.jpg",
        "25": "train2014/COCO_train2014_000000000025.jpg",
        "42": "val2014/COCO_val2014_000000000042.jpg",
    }


@pytest.mark.parametrize(
    ("train", "val", "says"),
    [
        ([image(1, "a"), {"id": 2}], [], r"images\[1\]: expected an object with id and file_name, found"),
        ([image(1, "a")], [image(1, "b")], "id 1 is also that of train2014/COCO_a_000000000001.jpg"),
        ([], [], "expected images in captions_"),
    ],
)
def test_bad_annotations(tmp_path: Path, train: list[object], val: list[object], says: str) -> None:
    folder = annotations(tmp_path, train2014=train, val2014=val)
    with pytest.raises(InputError, match=says):
        coco_id_mapping(folder)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    folder = annotations(tmp_path, train2014=[image(1, "a")])
    with pytest.raises(InputError, match=r"captions_val2014\.json"):
        coco_id_mapping(folder)
