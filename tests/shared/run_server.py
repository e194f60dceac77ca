"""Runs scripts in forks of a process that has imported the libraries already: seconds saved for each run.

Its arguments are modules to import beside the usual ones. A request is a line of JSON on stdin: {"script",
"arguments", "environment", "stdout", "stderr", "ranks", "max_file_bytes", "obey_modes"}; the answer a line with
the exit code of each rank (negative: the signal that ended it). Every run is a process of its own, with its own
memory, and can be killed like any other.
"""

import contextlib
import ctypes
import importlib
import json
import os
import resource
import runpy
import socket
import sys
import traceback
from typing import Any

PRELOADED = (
    "hydra",
    "cv2",
    "torch.utils.data",
    "torch._dynamo",
    "torch.utils.tensorboard",
    "torchvision.models",
    "tensorboard.summary.writer.event_file_writer",
    "shared.config",
)


def main() -> None:
    """Answer requests until stdin ends."""
    for name in (*PRELOADED, *sys.argv[1:]):
        importlib.import_module(name)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)


def run(request: dict[str, Any]) -> list[int]:
    """Fork a process for each rank, wait for all."""
    ranks = request.get("ranks", 1)
    group: dict[str, Any] = {}
    if ranks > 1:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        group = {
            "WORLD_SIZE": ranks,
            "LOCAL_WORLD_SIZE": ranks,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
    children = []
    for rank in range(ranks):
        own = {**group, "RANK": rank, "LOCAL_RANK": rank} if group else {}
        child = os.fork()
        if child == 0:
            become(request, own, suffix=f".{rank}" if rank else "")
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def become(request: dict[str, Any], group: dict[str, Any], suffix: str) -> None:
    """Be the script, in this (forked) process; does not return."""
    code = 1
    try:
        os.setsid()
        for descriptor, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(request[name] + suffix, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
        os.environ.update(
            {name: str(value) for name, value in {**request.get("environment", {}), **group}.items()}
        )
        if limit := request.get("max_file_bytes"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        if request.get("obey_modes") and os.geteuid() == 0:
            drop_from_bounding_set, cap_dac_override = 24, 1
            ctypes.CDLL(None).prctl(drop_from_bounding_set, cap_dac_override, 0, 0, 0)
            drop_capabilities()
        sys.argv = [request["script"], *request["arguments"]]
        code = outcome(request["script"])
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def outcome(script: str) -> int:
    """Run the script; its exit code."""
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return int(end.code or 0)
    return 0


def drop_capabilities() -> None:
    """Take root's right to ignore file modes from this process itself (it is not about to start another)."""

    class Header(ctypes.Structure):
        _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]

    words = (ctypes.c_uint32 * 6)()
    header = Header(0x20080522, 0)
    library = ctypes.CDLL(None, use_errno=True)
    assert library.capget(ctypes.byref(header), words) == 0
    for override in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        for half in (0, 1, 2):
            words[half] &= ~(1 << override) & 0xFFFFFFFF
    assert library.capset(ctypes.byref(header), words) == 0


if __name__ == "__main__":
    main()
