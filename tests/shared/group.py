"""Start a script as a group of processes: under torchrun, or (faster) with the environment it would set."""

import os
import socket
import subprocess
import sys
from pathlib import Path

Finished = subprocess.CompletedProcess[str]


def torchrun(*arguments: str | Path, ranks: int = 2, cwd: Path | None = None) -> Finished:
    """`torchrun --standalone`, with stdout and stderr as text."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    return subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, timeout=300, check=False
    )


def processes(*arguments: str | Path, ranks: int = 2, cwd: Path | None = None) -> list[Finished]:
    """The ranks as plain processes; what each returned and printed."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    shared = {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = []
    for rank in range(ranks):
        environment = {
            name: str(value) for name, value in {**shared, "RANK": rank, "LOCAL_RANK": rank}.items()
        }
        started.append(
            subprocess.Popen(
                [sys.executable, *map(str, arguments)],
                env={**os.environ, **environment},
                cwd=cwd,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        return [
            subprocess.CompletedProcess(process.args, process.wait(), *texts)
            for process in started
            for texts in [process.communicate(timeout=300)]
        ]
    finally:
        for process in started:
            process.kill()
