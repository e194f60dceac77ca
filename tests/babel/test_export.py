"""export.py on the tiny embedded set: arrays, the released pickles, sheets; each value against the net itself."""

import json
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pytest
import torch

from projects.babel import export, exports, masks, trained, views
from projects.babel.classification_scores import classification_scores
from projects.babel.correspondence import Correspondence
from projects.babel.mini import CONCEPTS
from projects.babel.pickled_dict import write_pickled_dict
from projects.babel.splits import Row, image_id, multi_hot, read_split, write_split
from shared.files import load_npz, open_npy, read_image
from shared.untrusted import load_pickle
from tests.babel import inference_runs
from tests.babel.inference_runs import assert_one_line

Inside = Callable[..., tuple[int, str, str]]
SIZE = 48


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory, mini_root: Path) -> Path:
    return inference_runs.write_run(tmp_path_factory.mktemp("export") / "a run", mini_root)


@pytest.fixture
def inside(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, run_folder: Path
) -> Inside:
    def call(*overrides: str) -> tuple[int, str, str]:
        given = (f"model={run_folder}", "workers=0", "batch_size=3", *overrides)
        return inference_runs.inside(export, monkeypatch, capsys, tmp_path, *given)

    return call


@pytest.fixture(scope="module")
def rows(mini_root: Path) -> list[Row]:
    return read_split(mini_root / "val.txt", CONCEPTS)


@pytest.fixture(scope="module")
def outputs(mini_root: Path, run_folder: Path, rows: list[Row]) -> list[Any]:
    """Of the net for each image by itself."""
    net = trained.load(run_folder).model
    found = []
    for row in rows:
        picture = views.resized(read_image(mini_root / row.path, exif=False), (SIZE, SIZE))
        pixels = torch.from_numpy(views.normalised(picture).transpose(2, 0, 1).copy())[None]
        with torch.no_grad():
            found.append(net(pixels, layers=("decoder", "backbone")))
    return found


def written(out: str) -> list[Path]:
    """The files that the command says it has written."""
    return [Path(line) for line in out.splitlines() if line.startswith("/")]


def at(maps: torch.Tensor, rowcol: np.ndarray) -> np.ndarray:
    """[M, D] by grid_sample."""
    grid = torch.from_numpy(rowcol[:, ::-1].copy())[None, None] * 2 - 1
    return torch.nn.functional.grid_sample(maps, grid, align_corners=True)[0, :, 0].T.numpy()


@pytest.mark.parametrize("kind", ["kp_feature", "kp_score"])
def test_keypoints(inside: Inside, mini_root: Path, rows: list[Row], outputs: list[Any], kind: str) -> None:
    """Arrays and the released dictionary say the same, and what the net says at the keypoints."""
    code, out, err = inside(f"task={kind}")
    assert code == 0, err
    vectors_file, index_file = written(out)
    base = f"{kind}/landmarkval/export_{kind}_val_tiny_last"
    assert str(vectors_file).endswith(f"/out/{base}_vectors.npy")
    vectors, index = open_npy(vectors_file, ndim=2, dtype="float32"), load_npz(index_file)
    correspondence = Correspondence.open(mini_root / "correspondence.json", silent=True)
    expected: dict[str, list[np.ndarray]] = {}
    start = 0
    for n, (row, output) in enumerate(zip(rows, outputs, strict=True)):
        assert index["images"][n].decode() == image_id(row.path)
        place = correspondence.index_of(image_id(row.path))
        if place is None:
            assert n not in index["rows"]
            continue
        points, rowcol = correspondence.keypoints(place)
        part = slice(start, start + len(points))
        start += len(points)
        assert (index["rows"][part] == n).all()
        naive = at(output.masks if kind == "kp_score" else output.features["decoder"], rowcol)
        if kind == "kp_feature":
            naive = naive / (np.linalg.norm(naive, axis=1, keepdims=True) + 1e-6)
        np.testing.assert_allclose(vectors[part], naive, atol=2e-5)
        names = [correspondence.point_id(point) for point in points.tolist()]
        assert [index["point_ids"][p].decode() for p in index["points"][part]] == names
        for name, vector in zip(names, vectors[part], strict=True):
            expected.setdefault(name, []).append(vector)
    assert start == len(vectors) > 50
    code, out, err = inside(f"task={kind}", "format=pickle")
    assert code == 0, err
    (file,) = written(out)
    assert file.name == f"export_{kind}_val_tiny_last.pkl"
    found = load_pickle(file)
    assert sorted(found) == sorted(expected)
    assert max(map(len, found.values())) > 1, "a vector per image that sees the point"
    for name, own in expected.items():
        assert np.array_equal(np.stack(found[name]), np.stack(own)), name


def test_a_vector_per_image(inside: Inside, rows: list[Row], outputs: list[Any]) -> None:
    code, out, err = inside("task=features", "layer=backbone")
    assert code == 0, err
    vectors = open_npy(written(out)[0], ndim=2)
    expected = np.concatenate([output.features["backbone"].mean(dim=(2, 3)).numpy() for output in outputs])
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    code, out, err = inside("task=features", "layer=backbone", "format=pickle")
    found = load_pickle(written(out)[0])
    assert list(found) == [image_id(row.path) for row in rows]
    assert np.array_equal(np.stack(list(found.values())), vectors)


def test_scores_of_concepts(inside: Inside, rows: list[Row], outputs: list[Any]) -> None:
    logits = np.concatenate([output.scores.numpy() for output in outputs])
    hot = multi_hot(rows, CONCEPTS)
    labels = np.zeros((len(rows), len(CONCEPTS)))
    for row, own in zip(labels, hot, strict=True):
        row[list(own)] = 1
    expected = classification_scores(logits, np.array([own[0] for own in hot]), labels)
    code, out, err = inside("task=AP")
    assert code == 0, err
    (file,) = written(out)
    assert file.name == "export_AP_val_tiny_last.xlsx"
    sheet = list(openpyxl.load_workbook(file)["AP"].values)
    assert sheet[0] == ("concept", "AP", "accuracy", "images")
    assert [row[0] for row in sheet[1:]] == [*CONCEPTS, "mean"]
    for row, ap, accuracy in zip(sheet[1:-1], expected.ap, expected.class_acc, strict=True):
        assert row[1] == (None if np.isnan(ap) else pytest.approx(100 * ap))
        assert row[2] == (None if np.isnan(accuracy) else pytest.approx(100 * accuracy))
    assert sheet[-1][1] == pytest.approx(100 * expected.mean_ap)
    assert f"mAP: {100 * expected.mean_ap:.2f} %" in out
    code, out, err = inside("task=acc")
    assert code == 0, err
    record = json.loads(written(out)[0].read_text())
    assert record["acc"] == pytest.approx(expected.acc)
    predictions = [record["predictions"][image_id(row.path)] for row in rows]
    assert [one["predicted"] for one in predictions] == [CONCEPTS[best] for best in logits.argmax(1)]
    assert [one["first"] for one in predictions] == [row.labels[0] for row in rows]
    assert np.mean([one["right"] for one in predictions]) == pytest.approx(expected.acc)


def test_masks(inside: Inside, mini_root: Path, rows: list[Row]) -> None:
    code, out, err = inside("task=segmentation", "labels=all", "background_power=1")
    assert code == 0, err
    (folder,) = written(out)
    code, out, err = inside("task=segmentation", "labels=all", "background_power=1", "format=pickle")
    assert code == 0, err
    found = load_pickle(written(out)[0])
    for row in rows:
        name = image_id(row.path)
        mask = masks.read_mask((folder / name).with_suffix(".png"))
        assert mask.shape == read_image(mini_root / row.path, exif=False).shape[:2]
        assert np.array_equal(found[name], mask)
    assert len(found) == len(rows)
    assert len({int(label) for mask in found.values() for label in np.unique(mask)}) > 1


def test_a_user_runs_it_and_mistakes_are_one_line(inside: Inside, tmp_path: Path, run_folder: Path) -> None:
    done = inference_runs.run("export.py", tmp_path, f"model={run_folder}", "split=val_easy", "workers=1")
    assert done.returncode == 0, done.stderr
    assert all(file.is_file() for file in written(done.stdout))
    assert len(written(done.stdout)) == 2
    for overrides, words in (
        (
            ("task=ap",),
            "task: expected one of features, kp_score, AP, segmentation, acc, kp_feature, found 'ap'",
        ),
        (("format=csv",), "format: expected one of npy, pickle, found 'csv'"),
        (("labels=ground_truth",), "labels: expected one of best, all"),
        (("background_power=0", "task=segmentation"), "background_power: expected a positive number"),
        (("layer=[conv3,fc8]",), "layer: expected one, found 2"),
        (("size=large",), "size: expected a whole number, at least 1, or null"),
        (("layer=fc9",), "feature layer: expected one of"),
        (("split=test",), "split: expected one of train, val_easy, dev, val"),
        (("split=12",), "split: expected one of train, val_easy, dev, val"),
    ):
        code, _, err = inside(*overrides)
        assert_one_line(code, err, words)
    left = [file.name for file in (tmp_path / "out").rglob("*") if file.name.endswith(".tmp")]
    assert left == []


def test_what_is_left_out_is_counted(
    inside: Inside, mini_root: Path, tmp_path: Path, rows: list[Row]
) -> None:
    listed = [*rows, Row("WikiScenes/cathedrals/4/none.jpg", ("tower",), "", "")]
    write_split(tmp_path / "val.txt", listed)
    options = ("data=mini", f"data.root={mini_root}", f"data.val={tmp_path / 'val.txt'}", "task=acc")
    code, out, err = inside(*options)
    assert_one_line(code, err, f"1 of its {len(rows) + 1} images are not in")
    code, out, err = inside(*options, "data.skip_missing=true")
    assert code == 0, err
    assert "left out: 1 missing images" in out
    assert len(json.loads(written(out)[0].read_text())["predictions"]) == len(rows)


def test_pickles_are_readable_by_old_numpy_and_written_piece_by_piece(tmp_path: Path) -> None:
    drawn: list[int] = []

    def items() -> Any:
        for i in range(5):
            drawn.append(i)
            yield f"ключ {i}", [np.arange(i, dtype=np.float32), np.full((2, 2), i, np.uint8)]
        yield "text", {"a": [1, 2.5, None, True]}

    path = tmp_path / "x.pkl"
    assert write_pickled_dict(path, items()) == 6
    found = load_pickle(path)
    assert list(found) == [*(f"ключ {i}" for i in range(5)), "text"]
    assert found["text"] == {"a": [1, 2.5, None, True]}
    for i in range(5):
        assert found[f"ключ {i}"][0].tolist() == list(range(i))
        assert found[f"ключ {i}"][1].tolist() == [[i, i], [i, i]]
    names = {argument for code, argument, _ in pickletools.genops(path.read_bytes()) if code.name == "GLOBAL"}
    assert names == {"numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype"}
    assert {code.name for code, _, _ in pickletools.genops(path.read_bytes())}.isdisjoint(
        {"FRAME", "MEMOIZE"}
    )
    assert load_pickle(write_empty(tmp_path / "empty.pkl")) == {}


def write_empty(path: Path) -> Path:
    assert write_pickled_dict(path, []) == 0
    return path


def test_a_sheet_holds_no_formulas(tmp_path: Path) -> None:
    exports.write_sheet(tmp_path / "x.xlsx", "AP", [["a", "=1+1"], ["b", 2.5]])
    sheet = openpyxl.load_workbook(tmp_path / "x.xlsx")["AP"]
    assert sheet["B1"].value == "=1+1"
    assert sheet["B1"].data_type in ("s", "inlineStr")
    assert sheet["B2"].value == 2.5
