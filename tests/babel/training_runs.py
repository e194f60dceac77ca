"""Tiny training runs for the tests: real files on disk, the real entry in a process of its own."""

import atexit
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from projects.babel import data
from tests.babel.tiny_wikiscenes import CONCEPTS
from tests.shared import runs
from tests.shared.runs import metrics, results, weights

__all__ = [
    "PROJECT",
    "SERVER",
    "TRAIN",
    "assert_same_run",
    "metrics",
    "results",
    "settings",
    "train",
    "trained",
    "weights",
]
PROJECT = Path(data.__file__).parent
TRAIN = PROJECT / "train.py"
SMALL = (
    f"data.concepts=[{','.join(CONCEPTS)}]",
    "data.size=32",
    "data.graph_threshold=5",
    "model.width=8",
    "model.head_width=8",
    "model.skip_width=4",
    "model.pamr.dilations=[1,2]",
    "model.pamr.iterations=2",
    "optim.epochs=2",
    "optim.batch_size=4",
    "optim.pretrain=1",
    "optim.milestones=[1]",
    "validation.every=1",
    "log_every=1",
    "save_every=2",
    "workers=0",
    "runtime.device=cpu",
    "runtime.threads=1",
)


def settings(root: Path, *overrides: str) -> list[str]:
    """Overrides that train a small net on a set made by `make_set`, as if it were a real one."""
    return ["data=mini", "data.variant=null", f"data.root={root}", *SMALL, *overrides]


class RunServer:
    """The process of run_server.py, started on first use and ended with this one."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def run(self, **request: Any) -> list[int]:
        """Exit codes of the ranks."""
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("run_server.py"))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            atexit.register(self.process.kill)
            assert self._answer() == "ready"
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        codes: list[int] = self._answer()
        return codes

    def _answer(self) -> Any:
        assert self.process is not None
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the run server has ended"
        return json.loads(line)


SERVER = RunServer()


def train(
    run_dir: Path,
    *overrides: str,
    script: Path = TRAIN,
    arguments: tuple[str, ...] = (),
    env: dict[str, str] | None = None,
    **options: Any,
) -> subprocess.CompletedProcess[str]:
    """`python train.py ...` with its run folder at `run_dir`; stdout and stderr as text, of all ranks.

    options: of run_server.py. The exit code is the first rank's that is not 0.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = {name: str(Path(folder) / name) for name in ("stdout", "stderr")}
        given = [*arguments, f"hydra.run.dir={run_dir}", *overrides]
        codes = SERVER.run(script=str(script), arguments=given, environment=env or {}, **files, **options)
        texts = [
            "".join(path.read_text() for path in sorted(Path(folder).glob(f"{name}*"))) for name in files
        ]
    return subprocess.CompletedProcess(given, next((code for code in codes if code), 0), *texts)


def trained(run_dir: Path, *overrides: str, **options: Any) -> Path:
    """`train`, which must succeed."""
    finished = train(run_dir, *overrides, **options)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return run_dir


def assert_same_run(actual: Path, expected: Path) -> None:
    """Bit for bit the same weights, optimizer state, numbers over time and result."""
    runs.assert_same_run(actual, expected, ("last.pt",))
