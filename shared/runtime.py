"""Device, precision, threads, seeds, and the group of processes that `torchrun` starts.

The same script runs under `python` and under `torchrun`: `start` joins the group when torchrun's environment
is there, and every function here is a no-op in a single process.

A rank that fails alone tells the others why it left. They do not wait for ever: a lost connection breaks the
collective they wait in, torchrun ends the rest, and otherwise the group's timeout does.
"""

import contextlib
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from shared.collectives import (
    all_gather_rows,
    all_gather_with_grad,
    all_reduce_gradients,
    all_reduce_sum_with_grad,
    barrier,
    gather_objects,
)
from shared.errors import InputError

__all__ = [
    "Runtime",
    "all_gather_rows",
    "all_gather_with_grad",
    "all_reduce_gradients",
    "all_reduce_sum_with_grad",
    "available_cores",
    "barrier",
    "default_threads",
    "gather_objects",
    "rng_state",
    "seed_everything",
    "set_rng_state",
    "start",
]

GROUP_TIMEOUT = timedelta(minutes=30)  # the longest that one rank may work alone, e.g. write or evaluate
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_FAILURE = "wordsight/failed"


@dataclass(frozen=True)
class Runtime:
    """Where and how a run computes; made by `start`."""

    device: torch.device
    precision: str = "fp32"
    rank: int = 0
    local_rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which prints and writes."""
        return self.rank == 0

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Run matrix products in the run's precision; parameters stay float32. Nothing for fp32."""
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=_DTYPES[self.precision])

    def grad_scaler(self) -> torch.amp.GradScaler:
        """Loss scaling, which fp16 needs; a disabled one for the other precisions."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")


@contextlib.contextmanager
def start(
    *,
    device: str = "auto",
    precision: str = "fp32",
    threads: int | None = None,
    tf32: bool = False,
    deterministic: bool = False,
    seed: int = 0,
) -> Iterator[Runtime]:
    """Set the process up and yield its `Runtime`; leave the group of processes at the end.

    device: auto (a GPU if there is one), cpu, cuda, cuda:<n>. precision: fp32, bf16, fp16. threads: of this
    process, None = `default_threads()`. tf32: let float32 products on a GPU use TF32. deterministic: refuse
    or replace operations whose result differs from run to run. seed: of python, numpy and torch, the same on
    every rank. InputError for a device or precision that this machine does not have.
    """
    rank, local_rank, world_size = _ranks()
    place = _device(device, local_rank, world_size)
    runtime = Runtime(place, _checked_precision(precision, place), rank, local_rank, world_size)
    if threads is not None and threads < 1:
        raise InputError(f"runtime.threads: expected at least 1, found {threads}")
    with _torch_settings(threads or default_threads(), tf32 and place.type == "cuda", deterministic):
        if place.type == "cuda":
            torch.cuda.set_device(place)
        seed_everything(seed)
        with _process_group(runtime) if world_size > 1 else contextlib.nullcontext():
            yield runtime


def seed_everything(seed: int) -> None:
    """Seed python, numpy's global generator and torch on every device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def available_cores() -> int:
    """CPU cores that this process may use: of the machine, its affinity, and its container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, max(1, round(int(quota) / int(period))))
    return cores


def default_threads() -> int:
    """OMP_NUM_THREADS where the user set it, else the cores of this machine shared out among its ranks.

    torchrun sets OMP_NUM_THREADS=1 by itself, which would leave cores idle: under torchrun a 1 does not
    count.
    """
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdecimal() and int(wanted) > 0 and not (wanted == "1" and "TORCHELASTIC_RUN_ID" in os.environ):
        return int(wanted)
    return max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def rng_state() -> dict[str, Any]:
    """The state of every random generator of this process, in types that `torch.load(weights_only=True)`
    takes.
    """
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    state = {
        "python": random.getstate(),
        "numpy": (str(kind), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore what `rng_state` gave; the part of a GPU only where there is one."""
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


def _ranks() -> tuple[int, int, int]:
    """(rank, rank on this machine, number of ranks) from torchrun's environment, else (0, 0, 1)."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if "RANK" not in os.environ or world_size == 1:
        return 0, 0, 1
    return int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0")), world_size


def _device(name: str, local_rank: int, world_size: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"runtime.device: expected auto, cpu, cuda or cuda:<n>, found {name!r}") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"runtime.device: expected auto, cpu, cuda or cuda:<n>, found {name!r}")
    if device.type == "cpu":
        return torch.device("cpu")
    index = local_rank if world_size > 1 else device.index or 0
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index >= count:
        wanted = f"{name} for rank {local_rank} of this machine" if world_size > 1 else name
        raise InputError(
            f"runtime.device: {wanted} asked for, but this machine has {count} GPUs that torch can use"
        )
    return torch.device("cuda", index)


def _checked_precision(precision: str, device: torch.device) -> str:
    if precision not in _DTYPES:
        raise InputError(f"runtime.precision: expected {', '.join(_DTYPES)}, found {precision!r}")
    if precision == "fp32":
        return precision
    supported = (
        device.type == "cpu" or precision != "bf16" or torch.cuda.is_bf16_supported(including_emulation=False)
    )
    if not supported or not _autocast_works(device, _DTYPES[precision]):
        raise InputError(f"runtime.precision: {precision} is not supported on {device} here; use fp32")
    return precision


def _autocast_works(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether autocast computes in `dtype`: where it cannot, torch only warns and goes on in float32."""
    import warnings

    one = torch.ones(1, 1, device=device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with torch.autocast(device.type, dtype=dtype):
                return (one @ one).dtype == dtype
        except RuntimeError:
            return False


@contextlib.contextmanager
def _torch_settings(threads: int, tf32: bool, deterministic: bool) -> Iterator[None]:
    """Global switches of torch, put back at the end."""
    before = (
        torch.get_num_threads(),
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
        torch.are_deterministic_algorithms_enabled(),
    )
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    _apply(threads, "high" if tf32 else "highest", tf32, deterministic)
    try:
        yield
    finally:
        _apply(*before)


def _apply(threads: int, matmul_precision: str, cudnn_tf32: bool, deterministic: bool) -> None:
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(matmul_precision)
    torch.backends.cudnn.allow_tf32 = cudnn_tf32
    if deterministic != torch.are_deterministic_algorithms_enabled():  # the call imports the compiler: 1.3 s
        torch.use_deterministic_algorithms(deterministic)


@contextlib.contextmanager
def _process_group(runtime: Runtime) -> Iterator[None]:
    on_gpu = runtime.device.type == "cuda"
    store, _, _ = next(dist.rendezvous("env://", runtime.rank, runtime.world_size, timeout=GROUP_TIMEOUT))
    try:
        dist.init_process_group(
            "nccl" if on_gpu else "gloo",
            store=dist.PrefixStore("group", store),
            rank=runtime.rank,
            world_size=runtime.world_size,
            timeout=GROUP_TIMEOUT,
            device_id=runtime.device if on_gpu else None,
        )
        yield
    except Exception as error:
        _announce(error, store)
        if not on_gpu:  # NCCL would wait for collectives that no longer end; leaving the process ends them
            with contextlib.suppress(Exception):
                dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def _announce(error: Exception, store: dist.Store) -> None:
    """Let one rank speak: the first that failed with an error of the user's.

    Another rank that meets the same error is told not to print it (`first_of_ranks`); one whose connection to
    the first broke leaves silently.
    """
    expected = isinstance(error, InputError | OSError)
    first = False
    with contextlib.suppress(Exception):  # the store is gone: rank 0 kept it, and has failed before
        first = store.add(_FAILURE, 1 if expected else 0) == (1 if expected else 0)
    if isinstance(error, InputError | OSError):
        error.first_of_ranks = first  # type: ignore[union-attr]
    elif not first and isinstance(error, RuntimeError):
        raise SystemExit(2) from None
