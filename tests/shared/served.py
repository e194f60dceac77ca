"""Entries as processes of their own, forked from one that has imported the libraries already."""

import atexit
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


class RunServer:
    """The process of run_server.py, started on first use and ended with this one."""

    def __init__(self, *preloaded: str) -> None:
        """preloaded: modules of a project that its entries import."""
        self.preloaded = preloaded
        self.process: subprocess.Popen[str] | None = None

    def run(self, **request: Any) -> list[int]:
        """Exit codes of the ranks."""
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("run_server.py")), *self.preloaded],
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

    def entry(
        self,
        script: Path,
        run_dir: Path,
        *overrides: str,
        arguments: tuple[str, ...] = (),
        env: dict[str, str] | None = None,
        **options: Any,
    ) -> subprocess.CompletedProcess[str]:
        """`python <script> ...` with its run folder at `run_dir`; stdout and stderr as text, of all ranks.

        options: of run_server.py. The exit code is the first rank's that is not 0.
        """
        with tempfile.TemporaryDirectory() as folder:
            files = {name: str(Path(folder) / name) for name in ("stdout", "stderr")}
            given = [*arguments, f"hydra.run.dir={run_dir}", *overrides]
            codes = self.run(script=str(script), arguments=given, environment=env or {}, **files, **options)
            texts = [
                "".join(path.read_text() for path in sorted(Path(folder).glob(f"{name}*"))) for name in files
            ]
        return subprocess.CompletedProcess(given, next((code for code in codes if code), 0), *texts)
