"""The entry eval.py: a model's masks and scores, folders of masks, several processes, bad input."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from projects.babel import eval as entry
from projects.babel import infer, masks, trained
from projects.babel.data import DataSet
from projects.babel.model_evaluation import Protocol, class_scores, protocols
from projects.babel.segmentation_scores import SegmentationScores, confusion
from projects.babel.splits import read_segmentation_list
from shared.errors import InputError
from shared.runtime import Runtime
from tests.babel.inference_runs import assert_one_line, command, inside, results, run, write_run

Mini = tuple[Path, Path]
CONCEPTS = "concepts=[facade,window,chapel,tower,portal,statue]"


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory, mini_root: Path) -> Mini:
    return write_run(tmp_path_factory.mktemp("eval") / "run", mini_root), mini_root


def test_a_model_is_scored_as_the_masks_that_it_writes(
    tmp_path: Path, mini: Mini, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """eval.py model=... is infer.py and then eval.py masks=..., for each protocol; and the numbers are right."""
    run_dir, root = mini
    done = run("eval.py", tmp_path, f"model={run_dir}", "background_powers=[4,1]")
    assert done.returncode == 0, done.stderr
    found = results(tmp_path)["metrics"]
    pairs = read_segmentation_list(root / "wikiscenes_val.txt")
    for labels, power in (("best", 4), ("all", 1)):
        given = [
            f"model={run_dir}",
            f"labels={labels}",
            f"background_power={power}",
            "examples=0",
            "vis=none",
        ]
        code, _, err = inside(infer, monkeypatch, capsys, tmp_path / "infer", *given)
        assert code == 0, err
        folder = tmp_path / "infer" / "out" / "masks"
        counts = sum(
            confusion(masks.read_mask(folder / f"{p.stem}.png"), masks.read_mask(t), 7) for p, t in pairs
        )
        expected = SegmentationScores(np.asarray(counts)).iou
        protocol = found["protocols"]["val"][f"{labels}-{power}"]
        np.testing.assert_allclose(list(protocol["iou"].values()), expected, atol=0.05)
        if (labels, power) == ("best", 4):
            assert protocol == found["segmentation"]["val"]
            given = [f"masks={folder}", f"lists=[{root / 'wikiscenes_val.txt'}]", CONCEPTS]
            code, out, err = inside(entry, monkeypatch, capsys, tmp_path / "files", *given)
            assert code == 0, err
            again = results(tmp_path / "files")["metrics"]["segmentation"]["wikiscenes_val"]
            np.testing.assert_allclose(list(again["iou"].values()), expected, rtol=1e-12)
            assert f"mIoU: {expected[1:].mean():.2f}" in out
            log = (tmp_path / "files" / "out" / "scores.log").read_text().splitlines()
            assert log[0] == "background"
            assert sum(" | " in line for line in log) == sum(
                len(np.unique(masks.read_mask(truth))) for _, truth in pairs
            )
    assert set(found["segmentation"]) == {"val", "dev", "val_easy"}
    assert len(found["protocols"]["dev"]) == 6
    assert (tmp_path / "out" / "scores.log").is_file()
    check_classification(run_dir, found["classification"])


def check_classification(run_dir: Path, found: dict) -> None:
    model = trained.load(run_dir)
    data = DataSet(**model.settings["data"])
    assert set(found) == {"val_easy", "dev", "val"}
    for name, numbers in found.items():
        split = data.open(name)
        best = []
        for i in range(len(split)):
            plan = type("Plan", (), {"indices": np.array([i]), "epoch": 0})
            with torch.inference_mode():
                best.append(int(model.model(split.fetch_val(plan).images).scores.argmax()))
        assert numbers["acc"] == pytest.approx(np.mean(np.array(best) == split.first))
        easy = np.mean([split.labels[i, b] > 0 for i, b in enumerate(best)])
        assert numbers["easy_acc"] == pytest.approx(easy)
        assert numbers["images"] == len(split)


def test_the_foreground_asks_for_the_concept_alone(
    tmp_path: Path, mini: Mini, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    given = [f"model={mini[0]}", "lists=[dev]", "splits=[]", "labels=[all]"]
    code, out, err = inside(entry, monkeypatch, capsys, tmp_path, *given)
    assert code == 0, err
    found = results(tmp_path)["metrics"]
    assert "classification" not in found
    foreground = found["foreground"]["dev"]
    assert foreground["pixels"]["background"] == 0
    assert foreground["iou"]["background"] == 0
    everything = found["segmentation"]["dev"]["pixels"]
    assert foreground["pixels"] == {**everything, "background": 0}
    assert "dev: all-4" in out


def test_two_processes_share_the_pictures(
    tmp_path: Path, mini: Mini, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    given = [f"model={mini[0]}", "lists=[dev]", "splits=[val]"]
    code, _, err = inside(entry, monkeypatch, capsys, tmp_path / "one", *given)
    assert code == 0, err
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    both = subprocess.run(
        [*torchrun, *command("eval.py", tmp_path / "two", *given)],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert both.returncode == 0, both.stderr
    assert results(tmp_path / "two")["metrics"] == results(tmp_path / "one")["metrics"]
    log = [(tmp_path / name / "out" / "scores.log").read_text() for name in ("one", "two")]
    assert log[0] == log[1]


def test_pictures_that_cannot_be_evaluated_are_counted(
    tmp_path: Path, mini: Mini, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    run_dir, root = mini
    lines = []
    for picture, truth in read_segmentation_list(root / "wikiscenes_val.txt")[:3]:
        lines.append(f"{picture} {truth}")
    masks.write_mask(tmp_path / "small.png", np.zeros((5, 5), np.uint8))
    lines.append(f"{lines[0].split()[0]} {tmp_path / 'small.png'}")
    lines.append(f"{tmp_path / 'gone.jpg'} {tmp_path / 'gone.png'}")
    file = tmp_path / "list.txt"
    file.write_text("\n".join(lines).replace(f" {tmp_path}/", " ").replace(f"{tmp_path}/", ""))
    file.write_text("\n".join(absolute(line, tmp_path) for line in lines))
    given = [f"model={run_dir}", f"lists=[{file}]", "splits=[]", "labels=[best]"]
    code, _, err = inside(entry, monkeypatch, capsys, tmp_path, *given)
    assert_one_line(code, err, "a mask of 5 x 5 pixels for a picture of")
    code, out, err = inside(entry, monkeypatch, capsys, tmp_path, *given, "unreadable=skip")
    assert code == 0, err
    found = results(tmp_path)
    assert found["metrics"]["segmentation"]["list"]["images"] == 3
    assert found["metrics"]["segmentation"]["list"]["skipped"] == 2
    assert len(found["left_out"]["list"]) == 2
    assert out.count("left out: ") == 2


def absolute(line: str, folder: Path) -> str:
    """The line relative to `folder`, where the list lies (a leading slash means its folder)."""
    return " ".join(os.path.relpath(name, folder) for name in line.split())


BAD = [
    (["lists=[tset]"], "lists: expected files or some of val, dev, val_easy, found 'tset'"),
    (["splits=[tset]", "lists=[]"], "split: expected one of"),
    (["labels=[most]"], "labels: expected some of best, all, ground_truth, found 'most'"),
    (["background_powers=x"], "background_powers: expected a positive number, found 'x'"),
    (["background_powers=[]"], "expected at least one of each"),
    (["lists=[]", "splits=[]"], "nothing to evaluate"),
    (["oracle_from=[4,4]"], "needs masks=FOLDER"),
    (["masks={bad}", "oracle_from=[4]", "lists=[{bad}/x.txt]"], "oracle_from: expected [height,width]"),
    (["masks={bad}/absent", "lists=[{bad}/x.txt]"], "absent: no such folder of masks"),
    (["masks={bad}"], "lists: expected files"),
    (["masks={bad}", "lists=[{bad}/x.txt]"], "a.png: no such mask"),
    (["masks={bad}", "lists=[{bad}/x.txt]", "unreadable=skip"], "no image was evaluated, 1 left out"),
    (["masks={bad}", "lists=[{bad}/x.txt]", "unreadable=no"], "unreadable: expected one of error, skip"),
    (["model={bad}/absent"], "no such run folder or checkpoint"),
]


@pytest.mark.parametrize(("given", "words"), BAD)
def test_bad_input_is_one_line(
    tmp_path: Path,
    mini: Mini,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    given: list[str],
    words: str,
) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "x.txt").write_text("a.jpg a.png")
    asked = [text.format(bad=bad) for text in given]
    code, _, err = inside(entry, monkeypatch, capsys, tmp_path, f"model={mini[0]}", *asked)
    assert_one_line(code, err, words.format(bad=bad))
    assert not (tmp_path / "out" / "results.json").exists()


def test_protocols_are_named_without_dots() -> None:
    assert [one.name for one in protocols(["best", "all"], [4, 0.5])] == [
        "best-4", "best-0_5", "all-4", "all-0_5",
    ]  # fmt: skip
    assert protocols(["all"], [1]) == [Protocol("all", 1.0)]


def test_a_model_that_breaks_is_noticed(mini: Mini) -> None:
    from projects.babel.segmenting import Predictor, ViewPlan

    model = trained.load(mini[0])
    with torch.no_grad():
        next(model.model.parameters()).fill_(float("nan"))
    predictor = Predictor(model.model, Runtime(torch.device("cpu")), ViewPlan())
    with pytest.raises(InputError, match="not finite"):
        predictor(np.zeros((32, 32, 3), np.uint8))
    split = DataSet(**model.settings["data"]).open("dev")
    assert np.isnan(class_scores(model.model, split, predictor.runtime, workers=0)).any()
