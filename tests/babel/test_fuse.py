"""fuse.py on the tiny embedded set: a net's views, masks that are known to be right, and what can be wrong."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from projects.babel import colmap, fuse, fusing, masks, mini, reconstructions, trained
from projects.babel.fusion import sample_scores
from projects.babel.segmenting import Predictor, ViewPlan
from shared import runtime
from shared.errors import InputError
from shared.files import read_image, save_npz
from tests.babel import inference_runs
from tests.babel.inference_runs import assert_one_line, results
from tests.babel.ply import vertices

LANDMARK = "4"  # the one of val
Inside = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory, mini_root: Path) -> Path:
    return inference_runs.write_run(tmp_path_factory.mktemp("fuse") / "tiny", mini_root)


@pytest.fixture
def inside(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, run_folder: Path
) -> Inside:
    def call(*overrides: str) -> tuple[int, str, str]:
        given = (f"model={run_folder}", *overrides)
        return inference_runs.inside(fuse, monkeypatch, capsys, tmp_path, *given)

    return call


def folder_of(mini_root: Path) -> Path:
    return mini_root / "WikiScenes3D" / LANDMARK / "0"


def true_masks(mini_root: Path, to: Path, *, wrong: float = 0.0) -> Path:
    """Masks that have a point's true class where it is seen; at some keypoints another one."""
    model = colmap.read_model(folder_of(mini_root))
    truth = colmap.read_point_labels(folder_of(mini_root), model)
    rng = np.random.default_rng(0)
    for i, name in enumerate(model.names):
        height, width = model.size(i)
        mask = np.full((height, width), 255, np.uint8)
        points, rowcol = model.observations(i)
        labels = np.where(rng.random(len(points)) < wrong, rng.integers(0, 7, len(points)), truth[points])
        places = np.minimum((rowcol * [height, width]).astype(int), [height - 1, width - 1])
        mask[places[:, 0], places[:, 1]] = labels
        masks.write_mask((to / name).with_suffix(".png"), mask)
    return to


def test_points_of_the_unseen_landmark(tmp_path: Path, mini_root: Path, run_folder: Path) -> None:
    """As a user runs it; the classes are those of the net's masks at the keypoints, averaged by hand."""
    done = inference_runs.run("fuse.py", tmp_path, f"model={run_folder}", "format=ascii", "labels=best")
    assert done.returncode == 0, done.stderr
    assert "points seen in" in done.stdout
    cloud = vertices(tmp_path / "out" / f"{LANDMARK}-0.ply")
    model = colmap.read_model(folder_of(mini_root))
    with runtime.start(device="cpu", threads=1) as rt:
        predictor = Predictor(trained.load(run_folder).model, rt, ViewPlan())
        sums, seen = np.zeros((len(model.point_ids), 7)), np.zeros(len(model.point_ids), int)
        for i, name in enumerate(model.names):
            picture = read_image(mini_root / "WikiScenes/cathedrals" / name, exif=False)
            points, rowcol = model.observations(i)
            sampled = sample_scores(predictor(picture).restricted("best", 4.0), rowcol)
            for point, scores in zip(points.tolist(), sampled, strict=True):
                sums[point] += scores / scores.sum()
                seen[point] += 1
    assert len(cloud) == (seen > 0).sum()
    assert cloud["label"].tolist() == sums[seen > 0].argmax(axis=1).tolist()
    assert cloud["views"].tolist() == seen[seen > 0].tolist()
    found = results(tmp_path)
    truth = colmap.read_point_labels(folder_of(mini_root), model)
    right = 100 * np.mean(sums.argmax(axis=1)[seen > 0] == truth[seen > 0])
    assert found["metrics"]["fusion"]["mean"]["accuracy"] == pytest.approx(right)
    assert found["metrics"]["fusion"]["views"] == len(model.names)
    assert found["metrics"]["fusion"]["keypoints"] == len(model.points)
    page = (tmp_path / "out/index.html").read_text()
    assert page.count("<img ") == 3, "photograph, predicted and true"
    assert "single view" in page
    assert "http" not in page


def test_right_masks_give_right_points_and_fusing_mends_wrong_ones(
    inside: Inside, tmp_path: Path, mini_root: Path
) -> None:
    given = true_masks(mini_root, tmp_path / "masks")
    code, _, err = inside(f"masks={given}", "kind=majority")
    assert code == 0, err
    found = results(tmp_path)["metrics"]["fusion"]
    assert found["majority"]["accuracy"] > 95, "all but points that share a pixel"
    given = true_masks(mini_root, tmp_path / "wrong", wrong=0.4)
    code, _, err = inside(f"masks={given}", "kind=majority", f"reconstruction={folder_of(mini_root)}")
    assert code == 0, err
    found = results(tmp_path)["metrics"]["fusion"]
    assert found["single_view"]["accuracy"] < 75
    assert found["majority"]["accuracy"] > found["single_view"]["accuracy"] + 5
    cloud = vertices(tmp_path / "out" / f"{LANDMARK}-0.ply")
    assert (cloud["confidence"] <= 1).all()
    assert "majority" in (tmp_path / "out/index.html").read_text()


def test_missing_images_are_counted(inside: Inside, tmp_path: Path, mini_root: Path) -> None:
    pictures = tmp_path / "pictures"
    shutil.copytree(mini_root / "WikiScenes/cathedrals" / LANDMARK, pictures / LANDMARK)
    names = colmap.read_model(folder_of(mini_root)).names
    (pictures / names[1]).unlink()
    options = (f"reconstruction={folder_of(mini_root).parent}", f"images={pictures}")
    code, out, err = inside(*options)
    assert code == 0, err
    assert "1 images missing" in out
    found = results(tmp_path)
    assert found["metrics"]["fusion"]["missing_images"] == 1
    assert found["metrics"]["fusion"]["views"] == len(names) - 1


def test_own_pictures_are_reduced_to_the_training_size(run_folder: Path) -> None:
    model = trained.load(run_folder)
    settings = {"masks": None, "labels": "all", "background_power": 1}
    with runtime.start(device="cpu") as rt:
        sides = []
        for images, side in ((None, None), ("x", None), ("x", 30)):
            view = fusing.choose_view({**settings, "images": images}, model, rt, ViewPlan(side=side))
            assert isinstance(view, fusing.FromNet)
            sides.append(view.predictor.plan.side)
    assert sides == [None, 48, 30]


def test_a_model_of_another_scene(inside: Inside, tmp_path: Path, mini_root: Path) -> None:
    """Its images are not there; its labels are of other points."""
    (tmp_path / "empty").mkdir()
    code, _, err = inside(f"reconstruction={folder_of(mini_root)}", f"images={tmp_path / 'empty'}")
    assert_one_line(code, err, "a model of another scene?")
    other = mini_root / "WikiScenes3D/0/0" / colmap.POINT_LABELS
    code, _, err = inside(f"point_labels={other}")
    assert_one_line(code, err, "labels of another scene?")
    assert not (tmp_path / "out/results.json").exists()


def test_mistakes_are_one_line(inside: Inside, tmp_path: Path, mini_root: Path) -> None:
    small = true_masks(mini_root, tmp_path / "small")
    name = colmap.read_model(folder_of(mini_root)).names[0]
    file = (small / name).with_suffix(".png")
    mask = masks.read_mask(file)
    masks.write_mask(file, mask[: len(mask) // 2])
    outside = true_masks(mini_root, tmp_path / "outside")
    masks.write_mask((outside / name).with_suffix(".png"), np.full_like(mask, 9))
    bad = tmp_path / "bad/0"
    shutil.copytree(folder_of(mini_root), bad)
    points = next(bad.glob("points3D.*"))
    points.write_bytes(points.read_bytes()[:50])
    for overrides, words in (
        (("kind=best",), "kind: expected one of mean, majority, found 'best'"),
        (("labels=ground_truth",), "labels: expected best or all"),
        (("split=test",), "split: expected one of train, val_easy, dev, val, found 'test'"),
        (("format=obj",), "format: expected binary or ascii, found 'obj'"),
        ((f"masks={tmp_path / 'none'}",), "masks: "),
        ((f"masks={small}",), "expected the same proportions"),
        ((f"masks={outside}",), "label 9, expected 0 to 6"),
        ((f"reconstruction={tmp_path / 'none'}",), "no such folder"),
        ((f"reconstruction={tmp_path / 'small'}",), "no COLMAP model (cameras, images, points3D)"),
        ((f"reconstruction={bad}",), str(bad)),
    ):
        code, _, err = inside(*overrides)
        assert_one_line(code, re.sub(r"^views of .*\n", "", err), words)


def test_a_name_cannot_leave_its_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "secret.png").write_bytes(b"x")
    made = colmap.make_model(
        names=("../secret.png",), cameras=[colmap.Camera("PINHOLE", 8, 8, (8, 8, 4, 4))], camera_of=np.zeros(1),
        cam_from_world=np.eye(4)[None, :3], point_ids=np.arange(1), xyz=np.ones((1, 3)), rgb=np.zeros((1, 3)),
        image=np.zeros(1, int), point=np.zeros(1, int), xy=np.ones((1, 2)),
    )  # fmt: skip
    colmap.write_model(tmp_path / "m/0", made)
    with pytest.raises(InputError, match="none of its 1 images"):
        reconstructions.open_reconstruction(tmp_path / "m/0", [tmp_path / "a"])


def test_classes_that_the_net_does_not_have(tmp_path: Path, mini_root: Path) -> None:
    place = tmp_path / "4/0"
    shutil.copytree(folder_of(mini_root), place)
    model = colmap.read_model(place)
    save_npz(place / colmap.POINT_LABELS, ids=model.point_ids, labels=np.full(len(model.point_ids), 8))
    opened = reconstructions.open_reconstruction(place, [mini_root / "WikiScenes/cathedrals"])
    with pytest.raises(InputError, match="true class 8, expected 0 to 6"):
        fusing.fuse(opened, fusing.FromMasks(7), len(mini.CONCEPTS) + 1)
