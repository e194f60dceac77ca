"""infer.py: the user's own picture and depth, the page, and the one line for bad input."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from projects.semabs import infer as entry
from projects.semabs import own_picture
from projects.semabs.geometry import back_project
from shared.errors import InputError
from shared.files import load_npz, read_image, read_json
from tests.semabs.tiny_models import PROMPT, scene_dict, write_clip, write_run

PROJECT = Path(own_picture.__file__).parent
BOUNDS = np.array([[-1, -1, -0.1], [1, 1, 1.9]])
TINY = ("grid=14", "points=400", "runtime.device=cpu", "runtime.threads=1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photograph `<b>.png` of 120 x 90, its depth in three forms, a CLIP, a network."""
    folder = tmp_path_factory.mktemp("picture")
    content = scene_dict()
    Image.fromarray(content["rgb"].repeat(3, 0).repeat(3, 1)).save(folder / "<b>.png")
    np.save(folder / "depth.npy", content["depth"])
    np.save(folder / "wide.npy", np.ones((30, 40), np.float32))
    np.save(folder / "nan.npy", np.full((40, 30), np.nan, np.float32))
    np.save(folder / "camera.npy", np.array([[105.0, 0, 45], [0, 105, 60], [0, 0, 1]]))
    Image.fromarray((content["depth"] * 1000).astype(np.uint16)).save(folder / "depth.png")
    Image.fromarray(content["rgb"]).save(folder / "colours.png")
    (folder / "broken.png").write_bytes(b"\x89PNG cut")
    (folder / "words.txt").write_text("one two\n")
    clip = write_clip(folder / "clip.pt")
    write_run(folder / "ovssc", clip)
    write_run(folder / "vool", clip, task="vool")
    return folder


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, out: Path, *overrides: str
) -> tuple[int, str, str]:
    argv = [str(PROJECT / "infer.py"), *TINY, f"hydra.run.dir={out / 'run'}", *overrides]
    monkeypatch.setattr("sys.argv", argv)
    code = 0
    try:
        entry.main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_relevancies_of_a_photograph(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    given = [f"picture='{folder / '<b>.png'}'", "labels=[table,'<i>chair</i>',poster]", "augmentations=0"]
    given += [f"clip={folder / 'clip.pt'}", f"prompts=['{PROMPT}']", "side=60"]
    code, out, err = run(monkeypatch, capsys, tmp_path, *given)
    assert code == 0, err
    arrays = load_npz(tmp_path / "run" / "relevancies.npz")
    assert arrays["labels"].tolist() == ["<i>chair</i>", "poster", "table"]
    assert arrays["maps"].shape == (3, 80, 60)
    np.testing.assert_allclose(arrays["maps"].mean(0), 0, atol=1e-6)
    results = read_json(tmp_path / "run" / "results.json")
    for card, relevancy in zip(results["labels"], arrays["maps"], strict=True):
        column, row = card["at"]
        assert relevancy[row, column] == relevancy.max() == pytest.approx(card["strongest"])
        assert read_image(tmp_path / "run" / card["file"]).shape == (80, 60, 3)
        assert f"{card['label']}: strongest at" in out
    text = (tmp_path / "run" / "index.html").read_text()
    assert "<i>" not in text
    assert "&lt;i&gt;chair&lt;/i&gt;" in text
    assert "<title>Semantic Abstraction: &lt;b&gt;</title>" in text
    assert text.count("<img") == 4
    assert "http" not in text
    assert "Completion" not in text


def test_a_photograph_with_depth_is_completed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    given = [
        f"picture='{folder / '<b>.png'}'",
        "labels=[table,chair]",
        f"model={folder / 'ovssc'}",
        "cutoff=-9",
    ]
    given += [
        f"depth={folder / 'depth.npy'}",
        f"intrinsics={folder / 'camera.npy'}",
        "film={frames: 2, size: 64}",
    ]
    code, _, err = run(monkeypatch, capsys, tmp_path, *given)
    assert code == 0, err
    note = read_json(tmp_path / "run" / "results.json")["completion"]
    assert note["labels"] == ["chair", "table"]
    assert note["files"]
    for name in note["files"].values():
        assert (tmp_path / "run" / "completion" / name).is_file()
    assert (tmp_path / "run" / "completion" / "completion.mp4").is_file()
    text = (tmp_path / "run" / "index.html").read_text()
    assert text.count("<img") == 3 + 3
    assert "completion/chair.obj" in text


def test_depth_files_mean_the_same(folder: Path) -> None:
    expected = scene_dict()["depth"].repeat(2, 0).repeat(2, 1)
    np.testing.assert_array_equal(own_picture.read_depth(folder / "depth.npy", (80, 60)), expected)
    np.testing.assert_allclose(own_picture.read_depth(folder / "depth.png", (80, 60)), expected, atol=1e-3)
    half = own_picture.read_depth(folder / "depth.npy", (40, 30), unit=0.5)
    np.testing.assert_allclose(half, scene_dict()["depth"] / 2)


def test_intrinsics_follow_the_size_of_the_picture(folder: Path) -> None:
    expected = np.array([[52.5, 0, 22.5], [0, 52.5, 30], [0, 0, 1]])
    for given in (str(folder / "camera.npy"), [105, 105, 45, 60]):
        found = own_picture.read_intrinsics(given, (60, 45), full=(120, 90), field_of_view=1)
        np.testing.assert_allclose(found, expected)
    found = own_picture.read_intrinsics(None, (60, 100), full=(60, 100), field_of_view=90)
    np.testing.assert_allclose(found, [[50, 0, 49.5], [0, 50, 29.5], [0, 0, 1]])


@pytest.mark.parametrize("tilt", [0, 20, -10])
@pytest.mark.parametrize("far", [0.5, 1, 4])
def test_an_upright_view_fills_the_box(tilt: float, far: float) -> None:
    """A floor seen from above stays level, and what is seen lies in the box, shrunk if it must be."""
    rng = np.random.default_rng(0)
    depth = (rng.uniform(1, 2, (30, 40)) * far).astype(np.float32)
    camera = own_picture.read_intrinsics(None, (30, 40), full=(30, 40), field_of_view=60)
    pose = own_picture.upright(depth, camera, BOUNDS, tilt=tilt)
    points = back_project(depth, camera, pose)
    inside = ((points >= BOUNDS[0] - 0.05) & (points <= BOUNDS[1] + 0.05)).all(1)
    assert inside.mean() > 0.97
    scale = np.cbrt(np.linalg.det(pose[:3, :3]))
    assert scale == pytest.approx(1) if far == 0.5 else scale < 1
    np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, scale**2 * np.eye(3), atol=1e-9)
    forward, down = pose[:3, 2] / scale, pose[:3, 1] / scale
    np.testing.assert_allclose(forward, [np.cos(np.deg2rad(tilt)), 0, -np.sin(np.deg2rad(tilt))], atol=1e-9)
    assert down[2] < 0


def test_labels_come_as_text_or_list() -> None:
    assert own_picture.labels_of(" chair, coffee  table\nmug,, chair") == ["chair", "coffee table", "mug"]
    assert own_picture.labels_of(["a", 3]) == ["a", "3"]
    for given in ("", " , ", [], ["a", ""], 7):
        with pytest.raises(InputError, match="labels: "):
            own_picture.labels_of(given)


DEPTH = ["labels=[a,b]", "model={f}/ovssc"]
BAD: list[tuple[list[str], str]] = [
    (["labels=null"], "labels: expected what to look for"),
    (["labels=[table]", "clip={f}/clip.pt"], "labels: expected at least two"),
    (["labels=[a,b]", "clip={f}/absent.pt"], "absent.pt"),
    (["picture={f}/absent.png", "labels=[a,b]", "clip={f}/clip.pt"], "absent.png: no such image"),
    (["picture={f}/broken.png", "labels=[a,b]", "clip={f}/clip.pt"], "broken.png"),
    (["labels=[a,b]", "depth={f}/depth.npy"], "model: expected a network for ovssc"),
    (["labels=[a,b]", "model={f}/vool"], "model: expected a network for ovssc, found one for vool"),
    ([*DEPTH, "depth={f}/wide.npy"], "wide.npy: depth: expected the sides of the picture"),
    ([*DEPTH, "depth={f}/nan.npy"], "nan.npy: depth: expected finite metres"),
    ([*DEPTH, "depth={f}/depth.npy", "depth_unit=1000"], "expected metres, found a median"),
    ([*DEPTH, "depth={f}/colours.png"], "colours.png: depth: expected one channel of 16 bits"),
    ([*DEPTH, "depth={f}/broken.png"], "broken.png: depth: expected .npy or a 16-bit .png"),
    (
        [*DEPTH, "depth={f}/depth.npy", "intrinsics=[500,500,320,240]"],
        "intrinsics: intrinsics: the principal point",
    ),
    ([*DEPTH, "depth={f}/depth.npy", "intrinsics={f}/words.txt"], "words.txt: expected a matrix of numbers"),
    (
        [*DEPTH, "depth={f}/depth.npy", "pose={f}/camera.npy"],
        "camera.npy: pose: expected finite numbers [4, 4]",
    ),
    ([*DEPTH, "depth={f}/depth.npy", "tilt=steep"], "tilt: expected degrees between"),
    (["picture=null", "labels=[a,b]", "depth={f}/depth.npy"], "depth: expected a picture that it belongs to"),
    (["labels=[a,b]", "side=0"], "side: expected a whole number, at least 1"),
]


@pytest.mark.parametrize(
    ("given", "words"), BAD, ids=lambda part: " ".join(part) if isinstance(part, list) else ""
)
def test_bad_input_is_one_line(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    given: list[str],
    words: str,
) -> None:
    asked: list[Any] = [text.format(f=folder) for text in given]
    if not any(text.startswith("picture=") for text in asked):
        asked.append(f"picture='{folder / '<b>.png'}'")
    code, _, err = run(monkeypatch, capsys, tmp_path, *asked)
    assert code == 2, err
    assert err.startswith("error: "), err
    assert "\n" not in err.strip(), err
    assert words in err, err
    assert not (tmp_path / "run").exists()
