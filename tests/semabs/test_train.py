"""The entries train_ovssc.py and train_vool.py: what a run leaves behind, its options, the released runs' settings."""

from pathlib import Path
from typing import Any

import pytest
import torch

from projects.semabs import snapshots
from projects.semabs.checks import check_training
from projects.semabs.stats import read_stats
from shared import checkpoint, config, untrusted
from tests.semabs.training_runs import PROJECT, TASKS, metrics, results, settings, train, trained

EXPERIMENTS = {
    task: sorted(path.stem for path in (PROJECT / "configs/experiment").glob(f"{task}_*.yaml"))
    for task in TASKS
}


@pytest.fixture(scope="module")
def run(rooms_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs; all its snapshots are kept."""
    run_dir = tmp_path_factory.mktemp("runs") / "plain"
    finished = train(run_dir, *settings(rooms_root, "optim.kind=lamb", "snapshots.keep=null"))
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert "trained for 4 steps" in finished.stdout
    assert finished.stdout.count("epochs done: validation IoU") == 2
    return run_dir


def test_a_run_leaves_checkpoint_snapshots_numbers_and_a_result(run: Path) -> None:
    lines = metrics(run)
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    assert [line["epoch"] for line in steps] == [0, 0, 1, 1]
    assert steps[0]["lr"] == 0, "the warm-up starts from 0"
    assert steps[1]["lr"] == pytest.approx(3e-3)
    assert 0 < steps[3]["lr"] < steps[2]["lr"]
    assert all(0 < line["gradnorm"] <= 2.0 for line in steps)
    means = [line for line in lines if "train/loss_mean" in line]
    assert [line["step"] for line in means] == [2, 4]
    assert means[1]["train/loss_mean"] == pytest.approx((steps[2]["loss"] + steps[3]["loss"]) / 2)
    validations = [line for line in lines if "val/cutoff" in line]
    assert [line["val/epoch"] for line in validations] == [1, 2]
    found = results(run)["metrics"]
    assert found["epoch"] == 2
    assert found["voxel32x32x32_iou"] == validations[-1]["val/voxel32x32x32_iou"]
    assert checkpoint.load(run / "last.pt")["progress"]["epoch"] == 2
    assert not list(run.rglob("*tmp*"))


def test_the_result_is_at_the_cutoff_that_is_best_in_the_rows(run: Path) -> None:
    rows, found = read_stats(run / "detailed_stats.npz"), results(run)["metrics"]
    assert sorted(set(rows["cutoff"].tolist())) == [-1, -0.5, 0, 0.5, 1]
    means = {
        cutoff: rows.where(rows["cutoff"] == cutoff).mean("voxel32x32x32_iou") for cutoff in rows["cutoff"]
    }
    assert found["voxel32x32x32_iou"] == max(means.values()) == means[found["cutoff"]]
    assert found["point_iou_mean"] == rows.mean("point_iou")
    assert set(rows["split"]) == {"val"}
    assert set(rows["epoch"]) == {2}
    assert len(read_stats(run / "detailed_stats.csv")) == len(rows)


def test_released_files_have_the_released_form(run: Path) -> None:
    names = sorted(path.name for path in run.glob("*.pth"))
    assert names == ["ckpt_1.pth", "ckpt_2.pth", "latest.pth"]
    saved = torch.load(run / "latest.pth", weights_only=True)
    assert set(saved) == {"net", "optimizer", "epochs"}
    assert saved["epochs"] == 2
    state = checkpoint.load(run / "last.pt")["modules"]["model"]
    assert set(saved["net"]) == {f"module.{name}" for name in state}
    assert all(torch.equal(saved["net"][f"module.{name}"], value) for name, value in state.items())
    assert float(saved["net"]["module.steps"]) == 4
    first = torch.load(run / "ckpt_1.pth", weights_only=True)
    assert first["epochs"] == 1
    assert any(not torch.equal(value, saved["net"][name]) for name, value in first["net"].items())


def test_args_pkl_has_every_released_flag(run: Path) -> None:
    found = vars(untrusted.load_pickle(run / snapshots.ARGUMENTS))
    assert set(found) == RELEASED_FLAGS
    assert found["voxel_shape"] == [8, 8, 8]
    assert found["unet_num_levels"] == 2
    assert found["unet_f_maps"] == 4
    assert found["approach"] == "semantic_abstraction"
    assert found["task"] == "ovssc"
    assert found["log"] == str(run)
    assert found["lr_scheduler_type"] == "cosine"


# every flag of the released training commands, and eval's `task`
RELEASED_FLAGS = {
    "file_path", "voxel_shape", "load", "batch_size", "num_warmup_steps", "save_freq", "eval_freq", "gpus",
    "seed", "epochs", "num_descs", "saliency_vmin", "lr", "weight_decay", "grad_max_norm", "xyz_pts_noise",
    "num_input_pts", "num_output_pts", "pointing_dim", "unet_f_maps", "unet_num_channels", "unet_num_groups",
    "unet_num_levels", "num_patches", "patch_mask_cutoff", "domain_randomization", "use_pts_feat_extractor",
    "subtract_mean_relevancy", "balance_spatial_relations", "balance_spatial_sampling",
    "decoder_concat_xyz_pts", "offset_patch_mask", "balance_positive_negative", "always_replace_subsample_pts",
    "use_amp", "pts_feat_extractor_hidden_dim", "num_workers", "dr_pos", "dr_orn", "dr_scale", "scene_bounds",
    "device", "pointing_method", "saliency_config", "network_inputs", "lr_scheduler_type", "reduce_method",
    "log", "approach", "task",
}  # fmt: skip


def test_tensorboard_has_the_released_names(run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    released = {"loss", "accuracy", "point_iou", "voxel32x32x32_iou", "gradnorm"}
    assert tags >= released | {f"train/{name}_mean" for name in released}
    assert tags >= {"val/point_iou_mean", "val/voxel32x32x32_iou_mean"}


@pytest.mark.parametrize(
    ("task", "overrides"),
    [
        pytest.param("ovssc", ("model.approach=semantic_aware", "items.saliency_config=chefer_et_al"), id="aware"),
        pytest.param(
            "ovssc",
            ("model.network_inputs=[patch_masks,saliency,tsdf]", "items.saliency_config=chefer_et_al",
             "items.offset_patch_mask=true", "items.saliency_vmin=0.001", "items.mean_of=rgb_ours",
             "loss.balance_positive_negative=true", "loss.mean_over=scenes", "runtime.precision=bf16",
             "model.mirrored_decoder=true", "model.divide_by_shape=true", "model.checkpointing=1"),
            id="inputs, balance, bf16",
        ),
        pytest.param(
            "ovssc",
            ("model.use_pts_feat_extractor=false", "model.decoder_concat_xyz=false",
             "items.subtract_mean_relevancy=false", "items.balance_spatial_sampling=false",
             "items.domain_randomization=false", "items.always_replace_subsample_pts=true",
             "items.xyz_pts_noise=0.01", "items.sampling=choice", "model.pool=max"),
            id="switched off",
        ),
        pytest.param("vool", (), id="vool"),
        pytest.param("vool", ("model.approach=clip_spatial", "items.saliency_config=chefer_et_al",
                              "items.augmentation=released", "items.balance_spatial_relations=false"),
                     id="clip_spatial"),
        pytest.param("vool", ("model.pointing_method=dot_product", "optim.schedule=linear", "optim.clip=null"),
                     id="pointing"),
    ],
)  # fmt: skip
def test_options_train(task: str, overrides: tuple[str, ...], rooms_root: Path, tmp_path: Path) -> None:
    """Each runs two steps; a validation follows, and no snapshot."""
    short = ("optim.epochs=5", "optim.steps=2", "data.max_items=2", "snapshots.keep=0", "log_every=1")
    run_dir = trained(tmp_path / "run", *settings(rooms_root, *short, *overrides), task=task)
    steps = [line for line in metrics(run_dir) if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2]
    assert results(run_dir)["metrics"]["epoch"] == 2
    assert not list(run_dir.glob("*.pth"))
    assert results(run_dir)["config"]["task"] == task


def test_part_of_an_epoch_without_validation(rooms_root: Path, tmp_path: Path) -> None:
    options = settings(rooms_root, "optim.steps=3", "validation.every=0", "snapshots.every=2", "save_every=1")
    run_dir = trained(tmp_path / "run", *options)
    assert [line["step"] for line in metrics(run_dir) if "loss" in line] == [1, 2, 3]
    assert not [line for line in metrics(run_dir) if "val/cutoff" in line]
    assert sorted(path.name for path in run_dir.glob("*.pth")) == ["ckpt_2.pth", "latest.pth"]
    assert checkpoint.load(run_dir / "last.pt")["modules"]["schedule"]["steps"] == 3
    before = metrics(run_dir), (run_dir / "last.pt").stat().st_mtime_ns
    trained(run_dir, *options, "workers=1", "log_every=7", "snapshots.keep=5")
    assert (metrics(run_dir), (run_dir / "last.pt").stat().st_mtime_ns) == before, "it was finished"


def composed(task: str, name: str) -> dict[str, Any]:
    return config.section(config.compose(PROJECT, f"train_{task}", [f"experiment={name}"]))


def flat(given: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in given.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


# defaults of the released command line, by our keys; the recipe is that of 8 processes with one scene each
RELEASED = {
    "model.voxel_shape": [128, 128, 128], "optim.warmup": 1024, "snapshots.every": 1, "validation.every": 5, "seed": 0,
    "optim.epochs": 200, "items.num_descs": 4, "items.saliency_vmin": None, "optim.lr": 1e-3,
    "optim.weight_decay": 1e-5, "optim.clip": 2.0, "items.xyz_pts_noise": 0, "items.num_input_pts": 80000,
    "items.num_output_pts": 400000, "model.pointing_dim": 64, "model.unet.f_maps": 16, "model.unet.channels": 16,
    "model.unet.groups": 8, "model.unet.levels": 6, "items.num_patches": 4, "items.patch_mask_cutoff": 0.004,
    "items.domain_randomization": True, "model.use_pts_feat_extractor": True, "items.subtract_mean_relevancy": True,
    "items.balance_spatial_relations": True, "items.balance_spatial_sampling": True, "model.decoder_concat_xyz": True,
    "items.offset_patch_mask": False, "loss.balance_positive_negative": False,
    "items.always_replace_subsample_pts": False, "model.pts_feat_hidden": 128, "items.dr_pos": 0.1,
    "items.dr_orn": 0.3, "items.dr_scale": 0.1, "items.scene_bounds": [[-1, -1, -0.1], [1, 1, 1.9]],
    "model.pointing_method": "cosine_sim", "model.network_inputs": ["saliency"], "optim.kind": "lamb",
    "optim.schedule": "cosine_with_restarts", "model.pool": "mean", "optim.batch_size": 8, "optim.schedule_batch": 1,
    "loss.mean_over": "scenes", "model.mirrored_decoder": True, "model.divide_by_shape": True,
    "items.mean_of": "rgb_ours", "items.relevancy_scale": 50.0, "items.augmentation": "released",
    "model.text_dim": 512, "runtime.precision": "fp32", "items.eval_input_pts": -1,
    "items.moved_frustum": False, "items.scaled_masks": True, "items.all_synonyms": False,
    "items.synonym_sentences": False,
}  # fmt: skip
RUNS = {
    "ovssc_semabs": ("semantic_abstraction", "ours"),
    "ovssc_semabs_chefer": ("semantic_abstraction", "chefer_et_al"),
    "ovssc_semaware": ("semantic_aware", "ours"),
    "ovssc_semabs_nyu": ("semantic_abstraction", "ours"),
    "vool_semabs": ("semantic_abstraction", "ours"),
    "vool_semabs_chefer": ("semantic_abstraction", "chefer_et_al"),
    "vool_semaware": ("semantic_aware", "ours"),
    "vool_clipspatial": ("clip_spatial", "ours"),
}


def test_there_is_an_experiment_for_every_released_run() -> None:
    assert {name for names in EXPERIMENTS.values() for name in names} == set(RUNS)


@pytest.mark.parametrize("name", RUNS)
def test_released_runs_have_the_released_defaults(name: str) -> None:
    task = name.split("_")[0]
    own = composed(task, name)
    check_training(task, own)
    approach, saliency_config = RUNS[name]
    assert (own["name"], own["model"]["approach"], own["items"]["saliency_config"]) == (
        name, approach, saliency_config,
    )  # fmt: skip
    assert own["data"]["name"] == ("nyu" if name.endswith("nyu") else "thor")
    values = flat(own)
    assert {key: values[key] for key in RELEASED} == RELEASED
