"""A tiny retrieval run and tiny GAN runs for the tests: real files, the real entries in subprocesses."""

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from projects.xmrs.model import FoodSpaceNet
from shared import checkpoint
from shared.runtime import Runtime
from tests.xmrs.sets import VOCABULARY, make_set
from tests.xmrs.training_runs import PROJECT

CPU = Runtime(torch.device("cpu"))
GAN_TRAIN, GAN_TEST = PROJECT / "gan_train.py", PROJECT / "gan_test.py"
DATA = ("data.variant=null", "data.strata=null", "data.side=32", "data.resize=36", "data.max_tokens=32")
MACHINE = ("workers=0", "runtime.device=cpu", "runtime.threads=1")
SMALL = (
    "generator.width=4",
    "generator.noise_dim=8",
    "generator.condition_dim=8",
    "generator.residual_blocks=1",
    "discriminator.width=2",
    "optim.epochs=2",
    "optim.batch_size=12",
    "validation.medr=10",
    "validation.every=1",
    "log_every=1",
    "save_every=2",
)
MODEL: dict[str, Any] = {
    "embed_dim": 16,
    "head_dim": 16,
    "image": {"backbone": "resnet18", "width": 4},
    "text": {
        "kind": "average",
        "vocab_size": VOCABULARY,
        "hidden": 16,
    },
}


@functools.lru_cache(maxsize=1)
def world(folder: Path) -> Path:
    """FOLDER/set and FOLDER/retrieval: the tiny set, and the run folder of an untrained model; made once."""
    root = folder / "xmrs-gan"
    make_set(root / "set")
    torch.manual_seed(0)
    model = FoodSpaceNet(**MODEL).eval()
    checkpoint.save(
        root / "retrieval",
        runtime=CPU,
        modules={"model": model},
        progress={"epoch": 1},
        config={"name": "retrieval", "model": MODEL, "data": {"vocab": str(root / "set" / "vocab.txt")}},
        best=True,
    )
    return root


def settings(root: Path, *overrides: str) -> list[str]:
    """Overrides of gan_train.py that make it tiny."""
    return [*DATA, f"data.root={root / 'set'}", f"encoder={root / 'retrieval'}", *SMALL, *MACHINE, *overrides]


def run(
    script: Path, run_dir: Path, *overrides: str, arguments: tuple[str, ...] = (), **options: Any
) -> subprocess.CompletedProcess[str]:
    """An entry with its run folder at `run_dir`; stdout and stderr as text."""
    command = [sys.executable, str(script), *arguments, f"hydra.run.dir={run_dir}", *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300, env=environment, **options
    )


def trained(root: Path, run_dir: Path, *overrides: str) -> Path:
    """gan_train.py, which must succeed."""
    finished = run(GAN_TRAIN, run_dir, *settings(root, *overrides))
    assert finished.returncode == 0, finished.stderr[-3000:]
    return run_dir


def states(run_dir: Path, name: str = "last.pt") -> dict[str, torch.Tensor]:
    """Every tensor of networks and optimizers in a checkpoint."""
    modules = torch.load(run_dir / name, weights_only=True)["modules"]
    found: dict[str, torch.Tensor] = {}
    for part in ("generator", "discriminator"):
        found |= {f"{part}.{key}": value for key, value in modules[part].items()}
        for index, state in modules[f"of_{part}"]["state"].items():
            found |= {f"of_{part}.{index}.{key}": value for key, value in state.items()}
    return found
