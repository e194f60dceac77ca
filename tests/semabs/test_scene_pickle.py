"""The scene pickles of visualize.py: what they may hold, and the one line for what they may not."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from projects.semabs.scene_pickle import file_name, read_scene
from shared.errors import InputError
from tests.semabs.tiny_models import DESCRIPTIONS, LABELS, scene_dict, write_pickle


def test_a_scene_is_read_as_it_is(tmp_path: Path) -> None:
    content = scene_dict()
    scene = read_scene(write_pickle(tmp_path / "room.pkl", content))
    np.testing.assert_array_equal(scene.rgb, content["rgb"])
    np.testing.assert_array_equal(scene.depth, content["depth"])
    np.testing.assert_array_equal(scene.pose, content["cam_extr"])
    assert (scene.name, scene.labels, scene.descriptions) == ("room", LABELS[::-1], DESCRIPTIONS)


def test_larger_intrinsics_and_exchanged_centre_are_taken(tmp_path: Path) -> None:
    """The README's 4 x 4 matrix, and the shipped portrait picture with the landscape one's principal point."""
    content = scene_dict(40, 30)
    content["cam_intr"] = np.array([[50.0, 0, 20, 9], [0, 51, 15, 9], [0, 0, 1, 9], [9, 9, 9, 9]])
    scene = read_scene(write_pickle(tmp_path / "a.pkl", content))
    np.testing.assert_array_equal(scene.intrinsics, [[50, 0, 20], [0, 51, 15], [0, 0, 1]])


def test_img_shape_is_width_and_height(tmp_path: Path) -> None:
    content = {**scene_dict(), "img_shape": (60, 80)}
    content["cam_intr"] = np.array([[70.0, 0, 30], [0, 70, 40], [0, 0, 1]])
    scene = read_scene(write_pickle(tmp_path / "a.pkl", content))
    assert scene.rgb.shape == (80, 60, 3)
    np.testing.assert_array_equal(scene.depth, cv2.resize(content["depth"], (60, 80)))


def changed(**values: Any) -> Callable[[], dict[str, Any]]:
    return lambda: {**scene_dict(), **values}


def without(name: str) -> Callable[[], dict[str, Any]]:
    return lambda: {key: value for key, value in scene_dict().items() if key != name}


BAD: list[tuple[Callable[[], Any], str]] = [
    (lambda: [1, 2], "expected a dict"),
    (without("rgb"), "no rgb in it"),
    (without("cam_extr"), "no cam_extr in it"),
    (
        changed(rgb=np.zeros((40, 30, 3), np.float32)),
        "rgb: expected uint8 [h, w, 3], found float32 [40, 30, 3]",
    ),
    (changed(depth=np.ones((41, 30), np.float32)), "depth: expected [40, 30] as rgb"),
    (changed(depth=scene_dict()["depth"] * 1000), "depth: expected metres"),
    (
        changed(depth=np.zeros((40, 30), np.float32)),
        "depth: expected a depth image in metres, found only zeros",
    ),
    (changed(depth=np.full((40, 30), np.nan, np.float32)), "depth: expected finite metres"),
    (changed(depth="far"), "depth: expected an array of numbers, found str"),
    (changed(cam_intr=np.eye(2)), "cam_intr: expected finite numbers [3, 3]"),
    (
        changed(cam_intr=np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])),
        "intrinsics of another size",
    ),
    (changed(cam_extr=np.eye(3)), "cam_extr: expected finite numbers [4, 4]"),
    (changed(cam_extr=np.zeros((4, 4))), "cam_extr: expected camera to scene"),
    (changed(ovssc_obj_classes=["chair", " "]), "ovssc_obj_classes: empty label"),
    (changed(ovssc_obj_classes="chair"), "ovssc_obj_classes: expected a list of texts, found str"),
    (changed(ovssc_obj_classes=[3]), "ovssc_obj_classes: expected texts, found int"),
    (changed(descriptions=[["mug", "near", "table"]]), "descriptions: unknown relation 'near'"),
    (changed(descriptions=[["mug", "on"]]), "descriptions: expected [target, relation, reference]"),
    (changed(img_shape=[20]), "img_shape: expected (width, height)"),
    (changed(img_shape=(0, 20)), "img_shape: expected 1 to 16384 pixels"),
]


@pytest.mark.parametrize(("make", "words"), BAD, ids=lambda part: part if isinstance(part, str) else "")
def test_bad_scenes_are_one_line(tmp_path: Path, make: Callable[[], Any], words: str) -> None:
    path = write_pickle(tmp_path / "bad.pkl", make())
    with pytest.raises(InputError) as caught:
        read_scene(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


class Malicious:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


def test_code_in_a_pickle_is_refused(tmp_path: Path) -> None:
    path = write_pickle(tmp_path / "evil.pkl", {**scene_dict(), "name": Malicious(tmp_path / "ran")})
    with pytest.raises(InputError, match="mkdir"):
        read_scene(path)
    assert not (tmp_path / "ran").exists()


def test_a_truncated_file_is_one_line(tmp_path: Path) -> None:
    path = write_pickle(tmp_path / "cut.pkl", scene_dict())
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(InputError, match=r"cut\.pkl: "):
        read_scene(path)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("chair", "chair"),
        ("../../etc/passwd", "_.._etc_passwd"),
        ("a/b\\c:d\n", "a_b_c_d_"),
        ("..", "_"),
        ("", "_"),
        ("Ä日本", "Ä日本"),
    ],
)
def test_labels_become_names_of_files(text: str, name: str) -> None:
    assert file_name(text) == name
    assert len(file_name("日" * 200).encode()) <= 180
