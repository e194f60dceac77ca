"""COLMAP models: text and binary, there and back, as other tools write them, and damaged."""

import dataclasses
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest

from projects.babel import colmap
from projects.babel.colmap import Model
from shared.errors import InputError
from shared.files import save_npz

NAMES = (
    "4/1/pictures/West front (1).jpg",
    "4/1/pictures/Façade  two blanks.jpg",
    "plain.png",
    "unseen one.jpg",
)


@pytest.fixture(scope="module")
def model() -> Model:
    """4 images of two cameras, the last one without keypoints; 9 points with ids in no order."""
    rng = np.random.default_rng(0)
    chosen = rng.permutation(3 * 9)[:20]
    rotations = [np.linalg.qr(rng.normal(size=(3, 3)))[0] for _ in NAMES]
    poses = np.stack([np.c_[q * np.sign(np.linalg.det(q)), rng.normal(size=3)] for q in rotations])
    return colmap.make_model(
        names=NAMES,
        cameras=[
            colmap.Camera("PINHOLE", 100, 80, (90.5, 91, 50, 40)),
            colmap.Camera("SIMPLE_RADIAL", 64, 96, (70, 32, 48, 0.01)),
        ],
        camera_of=np.array([0, 1, 1, 0]),
        cam_from_world=poses,
        point_ids=rng.permutation(100)[:9],
        xyz=rng.normal(size=(9, 3)),
        rgb=rng.integers(0, 256, (9, 3)),
        image=chosen // 9,
        point=chosen % 9,
        xy=rng.uniform(0, 64, (20, 2)),
        error=rng.random(9),
    )


def assert_equal(found: Model, expected: Model) -> None:
    assert found.names == expected.names
    assert found.cameras == expected.cameras
    for name in ("camera_of", "point_ids", "rgb", "offsets", "points"):
        assert getattr(found, name).tolist() == getattr(expected, name).tolist(), name
        assert getattr(found, name).dtype == getattr(expected, name).dtype, name
    for name in ("cam_from_world", "xyz", "error", "xy"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(expected, name), rtol=1e-6, atol=1e-9, err_msg=name
        )


def test_make_model_sorts_and_keeps_what_belongs_together() -> None:
    made = colmap.make_model(
        names=("a", "b"),
        cameras=[colmap.Camera("PINHOLE", 10, 20, (9, 9, 5, 10))],
        camera_of=np.zeros(2),
        cam_from_world=np.tile(np.eye(4)[:3], (2, 1, 1)),
        point_ids=np.array([7, 3]),
        xyz=np.array([[7.0, 0, 0], [3, 0, 0]]),
        rgb=np.zeros((2, 3)),
        image=np.array([1, 0, 1]),
        point=np.array([0, 0, 1]),
        xy=np.array([[5.0, 5], [1, 2], [10, 20]]),
    )
    assert made.point_ids.tolist() == [3, 7]
    assert made.xyz[:, 0].tolist() == [3, 7]
    points, rowcol = made.observations(1)
    assert made.point_ids[points].tolist() == [7, 3]
    assert rowcol.tolist() == [[0.25, 0.5], [1, 1]], "(row, column) as fractions of height 20 and width 10"
    assert made.observations(0)[1].tolist() == [pytest.approx([0.1, 0.1])]
    with pytest.raises(ValueError, match="not unique"):
        colmap.make_model(**{**made_of(made), "point_ids": np.array([3, 3])})
    with pytest.raises(ValueError, match="not there"):
        colmap.make_model(**{**made_of(made), "image": np.array([0, 0, 2])})


def made_of(model: Model) -> dict[str, Any]:
    """Arguments of make_model that make it again."""
    kept = ("names", "cameras", "camera_of", "cam_from_world", "point_ids", "xyz", "rgb", "xy")
    images = np.repeat(np.arange(len(model.names)), np.diff(model.offsets))
    return {**{name: getattr(model, name) for name in kept}, "image": images, "point": model.points}


@pytest.mark.parametrize("binary", [True, False])
def test_there_and_back(model: Model, tmp_path: Path, binary: bool) -> None:
    colmap.write_model(tmp_path, model, binary=binary)
    suffix = "bin" if binary else "txt"
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(f"{p}.{suffix}" for p in colmap.PARTS)
    assert_equal(colmap.read_model(tmp_path), model)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    colmap.write_model(tmp_path, model, binary=binary)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before, "deterministic"


def test_points_project_where_they_are_seen(tmp_path: Path) -> None:
    """An exact scene: what pycolmap projects is what the model says."""
    rng = np.random.default_rng(1)
    xyz, pose = rng.uniform(-1, 1, (12, 3)), np.c_[np.eye(3), [0.1, -0.2, 4]]
    seen = xyz @ pose[:, :3].T + pose[:, 3]
    xy = seen[:, :2] / seen[:, 2:] * [90, 95] + [50, 40]
    made = colmap.make_model(
        names=("a.jpg",), cameras=[colmap.Camera("PINHOLE", 100, 80, (90, 95, 50, 40))], camera_of=np.zeros(1),
        cam_from_world=pose[None], point_ids=np.arange(12), xyz=xyz, rgb=np.zeros((12, 3)), image=np.zeros(12, int),
        point=np.arange(12), xy=xy,
    )  # fmt: skip
    colmap.write_model(tmp_path, made)
    image = pycolmap.Reconstruction(str(tmp_path)).images[1]
    for k in range(12):
        np.testing.assert_allclose(np.asarray(image.project_point(xyz[k])), image.points2D[k].xy, atol=1e-4)


def test_models_as_other_tools_write_them(model: Model, tmp_path: Path) -> None:
    """With rigs and frames (new), points3d.txt (the release), comments and blank lines, points of no image."""
    colmap.write_model(tmp_path / "a", model)
    for kind in ("text", "binary"):
        folder = tmp_path / kind
        folder.mkdir()
        whole = pycolmap.Reconstruction(str(tmp_path / "a"))
        getattr(whole, f"write_{kind}")(str(folder))
        assert len(list(folder.iterdir())) == 5, "rigs and frames"
        found = colmap.read_model(folder)
        assert found.xy.shape == model.xy.shape
        assert_equal(found, model)
    (tmp_path / "text/points3D.txt").rename(tmp_path / "text/points3d.txt")
    points = tmp_path / "text/points3d.txt"
    points.write_text("# a comment\n\n" + points.read_text() + "500 1 2 3 4 5 6 0.5\n")
    images = tmp_path / "text/images.txt"
    lines = images.read_text().split("\n")
    lines[5] += " 3.5 4.5 -1"  # a keypoint without a point
    images.write_text("\n".join(lines))
    found = colmap.read_model(tmp_path / "text")
    assert found.point_ids[-1] == 500
    assert found.names == model.names
    assert found.points.tolist() == model.points.tolist()


def replace(name: str, pattern: str, new: str) -> Callable[[Path], None]:
    """Change the first match in a text file."""

    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        assert re.search(pattern, text, re.MULTILINE)
        (folder / name).write_text(re.sub(pattern, new, text, count=1, flags=re.MULTILINE))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "images.txt").unlink(), r"not a COLMAP model: no images.txt"),
        (
            lambda f: [file.unlink() for file in f.iterdir()],
            r"not a COLMAP model: no cameras.bin, images.bin",
        ),
        (replace("cameras.txt", "PINHOLE", "FOO"), r"Camera model does not exist"),
        (
            replace("cameras.txt", "^1 PINHOLE 100", "1 PINHOLE wide"),
            r"cameras.txt:\d: expected CAMERA_ID MODEL",
        ),
        (replace("images.txt", "^2 ", "2 x"), r"images.txt:\d: expected IMAGE_ID QW QX .*found '2 x"),
        (
            replace("images.txt", r" 1 4/1/pictures/W", " 9 4/1/pictures/W"),
            r"images.txt:\d: camera 9, which cameras",
        ),
        (
            replace("points3D.txt", r" 1 \d+ 2 ", " 77 0 2 "),
            r"points3D.txt:\d+: the track of point \d+ names image 77",
        ),
        (replace("points3D.txt", r" 1 \d+ 2 ", " 1 999 2 "), r"names 2D point 999 of image 1, which has \d+"),
        (replace("points3D.txt", r" 1 (\d+) 2 (\d+)", r" 1 \2 2 \1"), r"not a whole COLMAP model"),
        (lambda f: (f / "points3D.txt").write_text("12 1.5 2"), r"points3D.txt:1: expected POINT3D_ID X Y Z"),
        (
            replace("cameras.txt", "^1 PINHOLE 100 80", "1 PINHOLE 20 20"),
            r"keypoints lie outside .* another scene",
        ),
        (replace("cameras.txt", "^1 PINHOLE 100 80", "1 PINHOLE 0 80"), r"a camera of 0 pixels"),
        (replace("images.txt", r"^1 \S+", "1 1e999"), r"images.txt|not finite|whole"),
        (lambda f: (f / "points3D.txt").write_text(""), r"sees point \d+, which points3D does not have"),
        (lambda f: [(f / f"{p}.txt").write_text("") for p in colmap.PARTS], r"without images"),
    ],
)
def test_damaged_text_is_one_line(
    model: Model,
    tmp_path: Path,
    change: Callable[[Path], None],
    message: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    colmap.write_model(tmp_path, model, binary=False)
    change(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        colmap.read_model(tmp_path)
    assert str(tmp_path) in str(caught.value), "names the file or the folder that the user gave"
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == "", "pycolmap's own log stays silent"


def test_damaged_binary_never_ends_the_process(model: Model, tmp_path: Path) -> None:
    """Every file cut at many places, lengthened, overwritten with noise: pycolmap would hang or abort on some."""
    whole, rng, refused = tmp_path / "whole", np.random.default_rng(2), 0
    colmap.write_model(whole, model)
    for part in colmap.PARTS:
        content = (whole / f"{part}.bin").read_bytes()
        cuts = [
            content[:n] for n in sorted({0, 3, 8, len(content) // 3, len(content) // 2, len(content) - 1})
        ]
        for number, damaged in enumerate([*cuts, content + b"\0", rng.bytes(3000), b"\xff" * 64]):
            folder = tmp_path / f"{part}{number}"
            shutil.copytree(whole, folder)
            (folder / f"{part}.bin").write_bytes(damaged)
            with pytest.raises(InputError, match=f"{folder}/{part}.bin: "):
                colmap.read_model(folder)
            refused += 1
    assert refused >= 24


def test_numbers_that_are_not_finite(model: Model, tmp_path: Path) -> None:
    xyz = model.xyz.copy()
    xyz[3, 1] = np.nan
    colmap.write_model(tmp_path, dataclasses.replace(model, xyz=xyz))
    with pytest.raises(InputError, match="xyz of points: not finite"):
        colmap.read_model(tmp_path)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder, expected a COLMAP model"):
        colmap.read_model(tmp_path / "nowhere")


def test_point_labels(model: Model, tmp_path: Path) -> None:
    chosen = model.point_ids[[4, 1, 8]]
    colmap.write_point_labels(tmp_path, chosen, np.array([3, 0, 255]))
    expected = np.full(9, 255)
    expected[[4, 1]] = 3, 0
    assert colmap.read_point_labels(tmp_path, model).tolist() == expected.tolist()
    assert colmap.read_point_labels(tmp_path / colmap.POINT_LABELS, model).dtype == np.uint8


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"ids": np.array([1000, 1001]), "labels": np.array([1, 2])},
            "2 of 2 point ids .* labels of another scene",
        ),
        ({"ids": np.array([1000])}, "no array 'labels'"),
        ({"ids": np.array([1, 2]), "labels": np.array([1])}, "two lists of integers of equal length"),
        ({"ids": np.array([1]), "labels": np.array([300])}, "labels from 300 to 300, expected 0 to 255"),
    ],
)
def test_wrong_point_labels(
    model: Model, tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    save_npz(tmp_path / colmap.POINT_LABELS, **arrays)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        colmap.read_point_labels(tmp_path, model)
