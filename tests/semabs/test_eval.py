"""eval.py from a trained run to rows, tables and numbers; through kills, on two processes, on bad input."""

import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from projects.semabs import evaluation, nyu, trained
from projects.semabs.completion_metrics import completion_scores
from projects.semabs.data import Split, open_split
from projects.semabs.evaluation import evaluate_split
from projects.semabs.evaluation_metrics import RELATIONS
from projects.semabs.losses import ignored_points
from projects.semabs.splits import SPLIT_FILES, read_splits
from projects.semabs.stats import NAMES, Stats, read_stats
from projects.semabs.vocabulary import NOVEL_CLASSES, SYNONYMS
from shared import checkpoint
from shared.data import BatchPlan
from shared.errors import InputError
from tests.semabs.evaluation_runs import (
    CUTOFFS,
    ONE,
    error_line,
    evaluate,
    evaluated,
    metrics,
    rows,
    same_rows,
    write_run,
)
from tests.semabs.training_runs import PROJECT
from tests.shared.runs import KILL_DRIVER

SPLITS = ("unseen_instances", "unseen_instances_dr", "unseen_instances_synonyms", "unseen_classes", "val")
METRIC = "voxel32x32x32_iou"


@pytest.fixture(scope="module")
def ovssc(rooms_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of OVSSC."""
    return write_run(tmp_path_factory.mktemp("model") / "ovssc", rooms_root)


@pytest.fixture(scope="module")
def vool(rooms_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of VOOL."""
    return write_run(tmp_path_factory.mktemp("model") / "vool", rooms_root, task="vool")


@pytest.fixture(scope="module")
def whole(ovssc: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The evaluation of all of its splits."""
    return evaluated(ovssc, tmp_path_factory.mktemp("eval") / "whole")


def opened(model: Path, split: str) -> Split:
    """A split as eval.py opens it."""
    found = trained.load(model)
    data, items, net = (found.settings[name] for name in ("data", "items", "model"))
    still = items | {"domain_randomization": False, "balance_spatial_sampling": False}
    return open_split(
        root=data["root"], split=split, task=found.task, items=still,
        network_inputs=["rgb"] if found.approach == "semantic_aware" else net["network_inputs"],
        voxel_shape=net["voxel_shape"], seed=0,
    )  # fmt: skip


def plainly(model: Path, split: str, number: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A scene's batch and scores: the whole network at once on every point of every patch."""
    found = trained.load(model)
    data = opened(model, split)
    batch = data.fetch_eval(BatchPlan(0, 0, np.array([number])))
    with torch.no_grad():
        logits = found.network(**batch)
    padding = batch["patch_labels" if found.task == "ovssc" else "spatial_relation_name"]
    outside = batch["out_of_bounds_pts"], batch["out_of_frustum_pts_mask"]
    ignored = ignored_points(found.task, padding, *outside)
    scores = completion_scores(
        logits, batch["output_label_pts"], ignored, batch["output_xyz_pts"],
        bounds=data.settings.scene_bounds, cutoffs=CUTOFFS, grids=(8, 32), observed=batch["input_xyz_pts"],
    )  # fmt: skip
    return batch, scores


def check_scene(
    stats: Stats, batch: dict[str, Any], scores: dict[str, np.ndarray], split: str, task: str
) -> None:
    """The rows of a scene are its scores, cutoff by cutoff."""
    own = stats.where((stats["scene_id"] == batch["scene_id"][0]) & (stats["split"] == split))
    names = (
        {"label": batch["patch_labels"]} if task == "ovssc" else {name: batch[name] for name in NAMES[task]}
    )
    for name, texts in names.items():
        assert own[name].tolist() == texts[0] * len(CUTOFFS)
    np.testing.assert_array_equal(own["cutoff"], np.repeat(CUTOFFS, len(texts[0])))
    assert set(own["epoch"].tolist()) == {7}
    for name, values in scores.items():
        np.testing.assert_allclose(own[name], values[0].T.reshape(-1), atol=2e-3, err_msg=name)


def test_rows_are_those_of_the_whole_network(ovssc: Path, whole: Path, rooms_root: Path) -> None:
    stats = rows(whole)
    listed = read_splits(rooms_root / SPLIT_FILES["ovssc"])
    assert list(dict.fromkeys(stats["split"].tolist())) == list(SPLITS)
    for split in SPLITS:
        scenes = dict.fromkeys(stats["scene_id"][stats["split"] == split].tolist())
        assert list(scenes) == [Path(name).stem for name in listed[split]]
    for split, number in (("unseen_instances", 1), ("unseen_instances_dr", 0), ("val", 0)):
        batch, scores = plainly(ovssc, split, number)
        check_scene(stats, batch, scores, split, "ovssc")
    same_rows(read_stats(whole / "ovssc_eval_stats.csv"), stats, but=["epoch"])
    renamed = stats["label"][stats["split"] == "unseen_instances_synonyms"]
    assert not set(renamed.tolist()) & set(SYNONYMS)


def test_numbers_of_results_json_follow_from_the_rows(whole: Path) -> None:
    found, stats = metrics(whole), rows(whole)
    assert found["rows"] == len(stats)
    assert list(found["scenes"]) == list(SPLITS)
    is_val = stats["split"] == "val"
    for name, chosen_on in (("test_tuned", ~is_val), ("validation_tuned", is_val)):
        means = {
            cutoff: np.nanmean(stats[METRIC][chosen_on & (stats["cutoff"] == cutoff)]) for cutoff in CUTOFFS
        }
        best = max(means, key=lambda cutoff: means[cutoff])
        assert found[name]["cutoff"] == best
        at = (stats["cutoff"] == best) & ~is_val
        assert list(found[name]["splits"]) == list(SPLITS[:-1])
        for split, numbers in found[name]["splits"].items():
            own = at & (stats["split"] == split)
            assert numbers["iou"] == pytest.approx(100 * np.nanmean(stats[METRIC][own]))
            assert numbers["occluded"] == pytest.approx(100 * np.nanmean(stats[f"occluded_{METRIC}"][own]))
        labels = np.isin(stats["split"], ["unseen_instances", "unseen_classes"]) & at
        for group, mask in (("novel", np.isin(stats["label"], NOVEL_CLASSES)), ("train", None)):
            mask = labels & (~np.isin(stats["label"], NOVEL_CLASSES) if mask is None else mask)
            of_label = [
                np.nanmean(stats[METRIC][mask & (stats["label"] == one)]) for one in set(stats["label"][mask])
            ]
            assert found[name]["class_mean"][group] == pytest.approx(100 * np.nanmean(of_label))
    assert set(found["test_tuned"]["table"]) == {"novel_room", "novel_visual", "novel_vocab", "novel_class"}
    assert found["validation"]["cutoff"] == found["validation_tuned"]["cutoff"]


def test_killed_evaluation_does_the_missing_scenes_only(ovssc: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    for point, count in (("projects.semabs.evaluation:_scene", 3), ("projects.semabs.stats:Stats.write", 2)):
        arguments = (str(PROJECT / "eval.py"), point, str(count))
        finished = evaluate(ovssc, out, script=KILL_DRIVER, arguments=arguments)
        assert finished.returncode == -signal.SIGKILL, finished.stderr[-2000:]
        assert not (out / "results.json").exists()
    done = {path: path.stat().st_mtime_ns for path in sorted(out.glob("rows/*/*.npz"))}
    assert len(done) == 3
    evaluated(ovssc, out)
    assert all(path.stat().st_mtime_ns == time for path, time in done.items())
    same_rows(rows(out), rows(whole))
    assert metrics(out) == metrics(whole)
    assert not list(out.rglob("*.tmp*"))


def test_two_processes_find_the_same(ovssc: Path, whole: Path, tmp_path: Path) -> None:
    out = evaluated(ovssc, tmp_path / "two", ranks=2)
    same_rows(rows(out), rows(whole))
    assert metrics(out) == metrics(whole)


def test_another_state_of_the_model_is_evaluated_anew(ovssc: Path, whole: Path, tmp_path: Path) -> None:
    model = shutil.copytree(ovssc, tmp_path / "model")
    how = ("splits=[unseen_classes]", "validation_split=null")
    out = evaluated(model, tmp_path / "out", *how)
    first = rows(out)
    assert set(first["split"].tolist()) == {"unseen_classes"}
    assert set(metrics(out)) == {"test_tuned", "rows", "scenes"}
    content = checkpoint.load(model / "last.pt")
    changed = {name: value * 1.3 for name, value in content["modules"]["model"].items()}
    torch.save(content | {"modules": {"model": changed}}, model / "new.pt")
    (model / "new.pt").replace(model / "last.pt")  # the old one is mapped
    evaluated(model, out, *how)
    assert not np.array_equal(rows(out)[METRIC], first[METRIC], equal_nan=True)
    finished = evaluate(model, out, *how, "occluded=false")
    assert "made with other settings (occluded: True, now False)" in error_line(finished)


def test_controls(ovssc: Path, whole: Path, tmp_path: Path) -> None:
    """Relevancies of the next label; relevancies without a network."""
    split = opened(ovssc, "unseen_instances")
    found = trained.load(ovssc).network
    how: dict[str, Any] = {"task": "ovssc", "cutoffs": CUTOFFS, "runtime": ONE, "workers": 0}
    permuted = evaluate_split(found, split, permuted=True, **how)
    batches = [split.fetch_eval(BatchPlan(0, 0, np.array([number]))) for number in range(len(split))]
    batch = max(batches, key=lambda one: len(one["patch_labels"][0]))
    patches = len(batch["patch_labels"][0])
    assert patches >= 3
    order = [*range(1, patches), 0]
    with torch.no_grad():
        logits = found(**batch | {"input_feature_pts": batch["input_feature_pts"][:, order]})
    first = permuted.where(permuted["scene_id"] == batch["scene_id"][0])
    kept = ~batch["out_of_frustum_pts_mask"][0, 0]
    guess, truth = (logits[0] > CUTOFFS[0])[:, kept], batch["output_label_pts"][0][:, kept]
    expected = ((guess & truth).sum(1) / (guess | truth).sum(1)).numpy()
    np.testing.assert_allclose(first["point_iou"][:patches], expected, atol=2e-3)

    out = evaluated(
        ovssc, tmp_path / "flat", "back_projection=1", "splits=[unseen_instances]", "cutoffs=[0.1,0.2]"
    )
    flat = rows(out)
    assert sorted(set(flat["cutoff"].tolist())) == [0.1, 0.2]
    at = flat.where((flat["cutoff"] == 0.1) & (flat["split"] == "unseen_instances"))
    assert at.mean(METRIC) > permuted.mean(METRIC)


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch, network: torch.nn.Module) -> Iterator[list[int]]:
    """How many maps go through the U-Net."""
    passes: list[int] = []
    net = network.get_submodule("completion_net.vol_feature_extractor")
    handle = net.register_forward_pre_hook(lambda _, inputs: passes.append(len(inputs[0])))
    yield passes
    handle.remove()


def test_vool_encodes_each_name_once(vool: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Targets and references repeat among the descriptions of a scene."""
    network, split = trained.load(vool).network, opened(vool, "unseen_instances")
    batches = [split.fetch_eval(BatchPlan(0, 0, np.array([number]))) for number in range(len(split))]
    pairs = [zip(one["target_obj_name"][0], one["reference_obj_name"][0], strict=True) for one in batches]
    described = [list(one) for one in pairs]
    names = [{name for pair in one for name in pair} for one in described]
    monkeypatch.setattr(evaluation, "ROWS_AT_ONCE", 3000)  # points are decoded in several parts
    with counted(monkeypatch, network) as passes:
        stats = evaluate_split(
            network, split, task="vool", cutoffs=CUTOFFS, runtime=ONE, epoch=7, workers=0, grids=(8, 32), occluded=True,
        )  # fmt: skip
    assert sum(passes) <= sum(map(len, names)) < sum(2 * len(one) for one in described)
    batch, scores = plainly(vool, "unseen_instances", 0)
    check_scene(stats, batch, scores, "unseen_instances", "vool")


def test_vool_from_run_to_numbers(vool: Path, tmp_path: Path) -> None:
    out = evaluated(vool, tmp_path / "vool")
    found, stats = metrics(out), rows(out, "vool")
    assert list(stats.columns)[:4] == [
        "scene_id",
        "target_obj_name",
        "reference_obj_name",
        "spatial_relation_name",
    ]
    table = found["test_tuned"]["table"]
    assert {"mean", "lateral", "left", "right"} <= set(table) <= {*RELATIONS.values(), "lateral"}
    sides = [table[side]["novel_room"] for side in ("left", "right")]
    assert table["lateral"]["novel_room"] == pytest.approx(np.mean(sides))
    at = stats["cutoff"] == found["test_tuned"]["cutoff"]
    left = at & (stats["split"] == "unseen_instances") & (stats["spatial_relation_name"] == "on the left of")
    expected = 100 * np.nanmean(stats[METRIC][left])
    assert found["test_tuned"]["relations"]["unseen_instances"]["left"] == pytest.approx(expected)


def test_nyu_merges_names(ovssc: Path, tmp_path: Path) -> None:
    out = evaluated(ovssc, tmp_path / "nyu", "nyu=true", "splits=[unseen_instances]")
    stats = rows(out)
    assert "voxel60x60x60_iou" in stats
    assert METRIC not in stats
    assert set(stats["label"].tolist()) <= set(nyu.CLASSES)
    assert set(metrics(out)["test_tuned"]["table"]) == {*set(stats["label"].tolist()), "mean"}


def test_merged_classes() -> None:
    for name, kind in (
        ("ceiling", "ceiling"), ("coffee table", "table"), ("wooden coffee table", "table"),
        ("night stand", "furn"), ("arm chair", "chair"), ("Television", "tvs"), ("tennis racket", "objs"),
        ("book-shelf", "furn"), ("book", "objs"),
    ):  # fmt: skip
        assert nyu.merged_class(name) == kind, name
    logits = torch.tensor([[[1.0, -1.0], [0.0, 2.0], [5.0, 5.0], [-3.0, 0.5]]])
    labels = torch.tensor([[[1, 0], [0, 1], [1, 1], [0, 0]]]).bool()
    ignored = torch.tensor([[[0, 0], [0, 0], [1, 1], [0, 0]]]).bool()
    found = nyu.merge(["sofa", "couch", "", "floor"], logits, labels, ignored)
    assert found[0] == ["floor", "sofa"]
    assert found[1].tolist() == [[[-3.0, 0.5], [1.0, 2.0]]]
    assert found[2].tolist() == [[[False, False], [True, True]]]
    assert not found[3].any()
    assert nyu.merge([""], logits[:, :1], labels[:, :1], ignored[:, :1])[3].all()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["splits=[unseen]"], "splits: expected some of train, "),
        (["grids=[1]"], "grids: expected voxels per axis"),
        (["cutoffs={start:1,stop:0,step:0.1}"], "cutoffs.stop: expected a number above cutoffs.start"),
        (["cutoffs=[]"], "cutoffs: expected numbers"),
        (["occluded=2"], "occluded: expected true or false"),
        (["model=nothing/here"], "nothing/here: no such checkpoint"),
        (
            ["+items.eval_input_pts=many"],
            "items.eval_input_pts: expected a whole number, at least 1, or -1 for all",
        ),
        (["+items.relevancy_scael=1"], "items.relevancy_scael: no such setting"),
    ],
)
def test_bad_settings(ovssc: Path, tmp_path: Path, overrides: list[str], message: str) -> None:
    assert message in error_line(evaluate(ovssc, tmp_path / "out", *overrides))


def test_bad_models_and_scenes(ovssc: Path, rooms_root: Path, tmp_path: Path) -> None:
    cut = shutil.copytree(ovssc, tmp_path / "cut") / "last.pt"
    cut.write_bytes(cut.read_bytes()[:-2000])
    assert str(cut) in error_line(evaluate(cut, tmp_path / "a"))
    root = shutil.copytree(rooms_root, tmp_path / "rooms")
    scene = root / read_splits(root / SPLIT_FILES["ovssc"])["unseen_classes"][0]
    scene.write_bytes(scene.read_bytes()[:3000])
    given = ("data=mini", "data.variant=null", f"data.root={root}", "splits=[unseen_classes]")
    assert str(scene) in error_line(evaluate(ovssc, tmp_path / "b", *given))


def test_logits_that_are_not_finite(ovssc: Path) -> None:
    network = trained.load(ovssc).network
    with torch.no_grad():
        network.get_parameter("visual_sampler.mlp.2.bias").fill_(torch.nan)
    with pytest.raises(InputError, match="logits are not all finite"):
        evaluate_split(network, opened(ovssc, "val"), task="ovssc", cutoffs=CUTOFFS, runtime=ONE, workers=0)


def test_a_released_checkpoint(ovssc: Path, rooms_root: Path, tmp_path: Path) -> None:
    """A .pth under the released names with its flags: 25 cutoffs, and the data have to be named."""
    from projects.semabs import snapshots

    found = trained.load(ovssc)
    folder = tmp_path / "ours" / "ovssc"
    folder.mkdir(parents=True)
    path = folder / "ovssc.pth"
    snapshots.write(path, network=found.network.state_dict(), optimizer={}, epochs=200)
    full = {"snapshots": {"every": 1}, "resume_from": None, **found.settings}
    snapshots.write_arguments("ovssc", full, folder)
    assert "says nothing about its data: add data=thor" in error_line(evaluate(path, tmp_path / "a"))
    given = ("data=mini", "data.variant=null", f"data.root={rooms_root}", "splits=[unseen_classes]")
    out = evaluated(path, tmp_path / "b", *given, "data.max_items=1", "+items.eval_input_pts=200")
    stats = rows(out)
    assert len(set(stats["cutoff"].tolist())) == 25
    assert set(stats["epoch"].tolist()) == {200}
