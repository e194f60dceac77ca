"""For the tests of eval.py and infer.py: a run folder with random weights, and both entries run in this process."""

import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from projects.xmrs import data
from projects.xmrs.data import DataSet
from projects.xmrs.model import FoodSpaceNet
from shared import checkpoint, config
from shared.runtime import Runtime
from tests.xmrs.training_runs import settings

PROJECT = Path(data.__file__).parent
FIXED = ("runtime.device=cpu", "runtime.threads=1", "workers=0")


def write_run(folder: Path, root: Path, *overrides: str) -> Path:
    """A run folder as train.py leaves it, on a set of `sets.make_set`, with random weights."""
    cfg = config.section(config.compose(PROJECT, "train", [*settings(root), *overrides]))
    cfg["model"]["text"]["vocab_size"] = DataSet(**cfg["data"]).vocab_size()
    torch.manual_seed(0)
    model = FoodSpaceNet(**cfg["model"])
    for norm in model.modules():  # statistics of no data: embeddings that differ from item to item
        if isinstance(norm, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            norm.running_var.mul_(0.05)
    for parameter in model.textMLP.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.4)
    folder.mkdir(parents=True)
    runtime = Runtime(torch.device("cpu"))
    checkpoint.save(folder, runtime=runtime, modules={"model": model}, progress={}, config=cfg, best=True)
    return folder


def command(entry: str, folder: Path, *overrides: str) -> list[str]:
    """Arguments of an entry whose run folder is `folder`/out."""
    places = [f"hydra.run.dir={folder / 'out'}"]
    places += [f"cache={folder / 'cache'}"] if entry == "infer.py" else []
    return [str(PROJECT / entry), *FIXED, *places, *overrides]


def run(entry: str, folder: Path, *overrides: str, ranks: int = 1) -> subprocess.CompletedProcess[str]:
    """An entry as the user starts it."""
    start = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] if ranks > 1 else []
    return subprocess.run(
        [sys.executable, *start, *command(entry, folder, *overrides)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


def inside(
    module: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    folder: Path,
    *overrides: str,
) -> tuple[int, str, str]:
    """The same in this process, which is quicker: exit status, stdout, stderr."""
    entry = Path(str(module.__file__)).name
    monkeypatch.setattr(sys, "argv", command(entry, folder, *overrides))
    try:
        module.main()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    return code, *capsys.readouterr()


def assert_one_line(code: int, err: str, words: str) -> None:
    """An error of the user: exit status 2, one line, no traceback."""
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2, err
    assert len(lines) == 1, err
    assert words in lines[0]
    assert "Traceback" not in err


def results(folder: Path) -> dict[str, Any]:
    """out/results.json."""
    found: dict[str, Any] = json.loads((folder / "out" / "results.json").read_text())
    return found


class Page(HTMLParser):
    """Balanced tags, nothing that reaches outside, pictures counted, text collected."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.images = 0
        self.text = ""
        self.feed(text)
        assert not self.stack

    def handle_starttag(self, tag: str, attrs: list) -> None:
        assert tag != "script"
        if tag not in ("meta", "br", "img"):
            self.stack.append(tag)
        for name, value in attrs:
            assert not name.startswith("on")
            assert name not in ("src", "href") or value.startswith(("data:image/", "#"))
        self.images += tag == "img"

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
