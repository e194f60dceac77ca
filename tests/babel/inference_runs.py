"""Entries infer.py and eval.py over a tiny network with random weights, on the tiny embedded set."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from projects.babel.model import build_model
from shared import checkpoint, config
from shared.runtime import Runtime

PROJECT = Path(__file__).resolve().parents[2] / "projects" / "babel"
MODEL: dict[str, Any] = {
    "kind": "ae", "backbone": "resnet18", "width": 16, "output_stride": 8, "head_width": 24, "skip_width": 12,
    "dilations": [1, 2], "pamr": {"dilations": [1, 2], "iterations": 2},
}  # fmt: skip
FIXED = ("runtime.device=cpu", "runtime.threads=1")


def write_run(folder: Path, root: Path, **model: Any) -> Path:
    """A run folder as train.py leaves it, with random weights that tell pixels and pictures apart."""
    overrides = ["data=mini", f"data.root={root}", "data.size=48"]
    data = config.section(config.compose(PROJECT, "infer", overrides).data)
    torch.manual_seed(1)
    net = build_model(**{**MODEL, **model}, concepts=len(data["concepts"]))
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.startswith("last_conv.0") and parameter.ndim == 4:
                parameter.mul_(6)
            if name == "last_conv.0.bias":
                parameter.fill_(-1)
    settings = {"name": "tiny", "seed": 0, "model": {**MODEL, **model}, "data": data}
    folder.mkdir(parents=True)
    checkpoint.save(
        folder,
        runtime=Runtime(torch.device("cpu")),
        modules={"model": net},
        progress={"epoch": 3},
        config=settings,
    )
    return folder


def command(entry: str, folder: Path, *overrides: str) -> list[str]:
    """Arguments of an entry whose run folder is `folder`/out."""
    return [str(PROJECT / entry), *FIXED, f"hydra.run.dir={folder / 'out'}", *overrides]


def run(entry: str, folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """Run an entry as a user does."""
    return subprocess.run(
        [sys.executable, *command(entry, folder, *overrides)],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def inside(
    module: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    folder: Path,
    *overrides: str,
) -> tuple[int, str, str]:
    """Run an entry in this process: exit code, stdout, stderr."""
    name = Path(str(module.__file__)).name
    monkeypatch.setattr(sys, "argv", command(name, folder, *overrides))
    code = 0
    try:
        module.main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def results(folder: Path) -> dict[str, Any]:
    """results.json."""
    found: dict[str, Any] = json.loads((folder / "out" / "results.json").read_text())
    return found


def assert_one_line(code: int, err: str, words: str) -> None:
    """An error of the user: exit code 2 and one line."""
    lines = [line for line in err.splitlines() if line.strip() and not line.startswith("masks ")]
    assert code == 2, err
    assert len(lines) == 1, err
    assert lines[0].startswith("error: "), err
    assert words in lines[0], err
