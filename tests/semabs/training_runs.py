"""Tiny training runs for the tests: real scene files, the real entries in processes of their own."""

import subprocess
from pathlib import Path
from typing import Any

import torch

from projects.semabs import losses
from tests.shared import runs
from tests.shared.runs import metrics, results, weights
from tests.shared.served import RunServer

__all__ = [
    "PROJECT",
    "SERVER",
    "TASKS",
    "assert_same_run",
    "entry",
    "metrics",
    "results",
    "settings",
    "train",
    "trained",
    "weights",
]
PROJECT = Path(losses.__file__).parent
TASKS = ("ovssc", "vool")
SMALL = (
    "model.voxel_shape=[8,8,8]",
    "model.unet={f_maps:4,channels:8,groups:4,levels:2}",
    "model.pts_feat_hidden=8",
    "model.pointing_dim=8",
    "items.num_patches=2",
    "items.num_descs=2",
    "items.num_input_pts=200",
    "items.num_output_pts=100",
    "items.eval_input_pts=200",
    "optim.epochs=2",
    "optim.batch_size=2",
    "optim.warmup=1",
    "validation.every=1",
    "validation.cutoffs={start:-1,stop:1.1,step:0.5}",
    "log_every=1",
    "save_every=1",
    "workers=0",
    "runtime.device=cpu",
    "runtime.threads=1",
)


def entry(task: str) -> Path:
    """train_ovssc.py or train_vool.py."""
    return PROJECT / f"train_{task}.py"


def settings(root: Path, *overrides: str) -> list[str]:
    """Overrides that train a small network on the fixture `rooms_root`, as if it were a real set."""
    return ["data.variant=null", f"data.root={root}", *SMALL, *overrides]


SERVER = RunServer(
    "h5py",
    "projects.semabs.closing",
    "projects.semabs.sources",
    "projects.semabs.model",
    "projects.semabs.starting_point",
)


def train(
    run_dir: Path, *overrides: str, task: str = "ovssc", script: Path | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """`python train_<task>.py ...` with its run folder at `run_dir` (see `RunServer.entry`)."""
    return SERVER.entry(script or entry(task), run_dir, *overrides, **options)


def trained(run_dir: Path, *overrides: str, **options: Any) -> Path:
    """`train`, which must succeed."""
    finished = train(run_dir, *overrides, **options)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return run_dir


def assert_same_run(actual: Path, expected: Path) -> None:
    """Bit for bit the same weights, optimizer state, numbers over time, result, and released files."""
    runs.assert_same_run(actual, expected, ("last.pt",))
    for folder in (actual, expected):
        assert sorted(path.name for path in folder.glob("*.pth")) == ["ckpt_2.pth", "latest.pth"]
    for name in ("detailed_stats.csv", "detailed_stats.npz"):
        assert (actual / name).read_bytes() == (expected / name).read_bytes(), name
    for name in ("ckpt_2.pth", "latest.pth"):
        ours, theirs = (torch.load(folder / name, weights_only=True) for folder in (actual, expected))
        assert same(ours, theirs), name


def same(ours: Any, theirs: Any) -> bool:
    """Whether two nested structures are of the same values, bit for bit."""
    if isinstance(ours, torch.Tensor):
        return torch.equal(ours, theirs)
    if isinstance(ours, dict):
        return list(ours) == list(theirs) and all(same(value, theirs[key]) for key, value in ours.items())
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return bool(ours == theirs)
