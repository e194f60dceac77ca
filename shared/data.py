"""Batches: seeded plans that resume anywhere, per-item random generators, prefetching, collation.

A batch is named by a `BatchPlan` before it is loaded, and every random number of an item comes from the
item's own generator: the result depends on (seed, epoch, index) only, not on workers, ranks or where a run
was resumed.
"""

import dataclasses
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.random.bit_generator import ISeedSequence
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from shared.errors import InputError

T = TypeVar("T")
_WORD = (1 << 64) - 1
_ITEM, _SHUFFLE = 0, 1  # separate streams of the same (seed, epoch)


class _Key(ISeedSequence):
    """Hands Philox its key as it is: NumPy's own `key=` first hashes a seed that it then throws away."""

    def __init__(self, key: np.ndarray) -> None:
        self.key = key

    def generate_state(self, n_words: int, dtype: Any = np.uint64) -> np.ndarray:
        """The two 64-bit words of the key."""
        return self.key


def item_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The generator of one item in one epoch: Philox with key (seed, epoch) and counter (0, 0, index, 0).

    Distinct triples give disjoint parts of one counter sequence (2**128 values each), so they cannot overlap.
    """
    return _philox(seed, epoch, index, _ITEM)


def _philox(seed: int, epoch: int, index: int, stream: int) -> np.random.Generator:
    key: Any = _Key(np.array([seed & _WORD, epoch & _WORD], np.uint64))
    counter = np.array([0, 0, index & _WORD, stream], np.uint64)
    return np.random.Generator(np.random.Philox(key, counter=counter))


@dataclass(frozen=True)
class BatchPlan:
    """What a batch holds: the items `indices` (int64, this rank's share) of step `step` in epoch `epoch`."""

    epoch: int
    step: int
    indices: np.ndarray


class TrainSampler:
    """Batches of an epoch: a seeded permutation in batches, each cut into contiguous shares of the ranks.

    batch_size: over all ranks. drop_last=False keeps a smaller last batch, if it has an item for every rank.
    InputError when the set has fewer items than one batch needs.
    """

    def __init__(
        self,
        num_items: int,
        batch_size: int,
        *,
        seed: int,
        shuffle: bool = True,
        drop_last: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size < world_size:
            raise InputError(
                f"batch_size {batch_size} is smaller than the {world_size} processes that share it"
            )
        least = batch_size if drop_last else world_size
        if num_items < least:
            raise InputError(f"{num_items} training items are fewer than the {least} of one batch")
        self.num_items, self.batch_size, self.seed, self.shuffle = num_items, batch_size, seed, shuffle
        self.rank, self.world_size = rank, world_size
        full, rest = divmod(num_items, batch_size)
        self.steps_per_epoch = full + (not drop_last and rest >= world_size)

    def plans(self, epoch: int, first_step: int = 0) -> Iterator[BatchPlan]:
        """The batches of `epoch` from `first_step` on, the same as those of an uninterrupted epoch."""
        order = (
            _philox(self.seed, epoch, 0, _SHUFFLE).permutation(self.num_items)
            if self.shuffle
            else np.arange(self.num_items)
        ).astype(np.int64, copy=False)
        for step in range(first_step, self.steps_per_epoch):
            batch = order[step * self.batch_size : (step + 1) * self.batch_size]
            share = _share(len(batch), self.rank, self.world_size)
            yield BatchPlan(epoch, step, batch[share])


def eval_plans(num_items: int, batch_size: int, *, rank: int = 0, world_size: int = 1) -> list[BatchPlan]:
    """Batches in order that hold each item exactly once over all ranks; a rank's items are contiguous.

    batch_size: per rank. A rank may have no batch when there are fewer items than ranks.
    """
    share = _share(num_items, rank, world_size)
    starts = range(share.start, share.stop, batch_size)
    return [
        BatchPlan(0, step, np.arange(start, min(start + batch_size, share.stop), dtype=np.int64))
        for step, start in enumerate(starts)
    ]


def _share(count: int, rank: int, world_size: int) -> slice:
    return slice(rank * count // world_size, (rank + 1) * count // world_size)


def load(
    fetch: Callable[[BatchPlan], T],
    plans: Iterable[BatchPlan],
    *,
    workers: int | None = None,
    pin_memory: bool = False,
) -> Iterator[T]:
    """`fetch(plan)` for each plan, in order, prefetched by worker processes; their number changes nothing.

    workers: 0 fetches inline; None chooses (`choose_workers`). Workers are forked where the system can, so
    `fetch` may hold memory maps but must open LMDB and HDF5 files itself. pin_memory: tensors in page-locked
    memory, for copies to a GPU that overlap. An InputError of a worker arrives as that InputError.
    """
    workers = choose_workers() if workers is None else workers
    plans = list(plans)
    if workers == 0 or not plans:
        for plan in plans:
            batch = fetch(plan)
            yield _pin(batch) if pin_memory else batch
        return
    loader: DataLoader[Any] = DataLoader(
        _Fetches(fetch, plans),
        batch_size=None,
        num_workers=min(workers, len(plans)),
        pin_memory=pin_memory,
        worker_init_fn=_single_threaded,
        generator=torch.Generator(),  # its own: the global one must not move, or a resumed epoch would differ
    )
    batches = iter(loader)
    try:
        while (fetched := _next(batches, workers)) is not None:
            if fetched.error is not None:
                raise InputError(fetched.error)
            yield fetched.batch
    finally:
        del batches  # stops the workers now, also when a traceback keeps this frame alive


class Clock:
    """Seconds of a step: `data_time` until its batch was there, `batch_time` so far."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self.data_time = 0.0

    @property
    def batch_time(self) -> float:
        """Seconds since the step began."""
        return time.perf_counter() - self._start


def timed_batches(
    fetch: Callable[[BatchPlan], T],
    plans: Iterable[BatchPlan],
    device: torch.device,
    *,
    workers: int | None = None,
) -> Iterator[tuple[T, Clock]]:
    """The batches of `load` on the device, each with the clock of its step, which ends with the next batch."""
    loaded = load(fetch, plans, workers=workers, pin_memory=device.type == "cuda")
    clock = Clock()
    for batch in loaded:
        clock.data_time = clock.batch_time
        yield to_device(batch, device), clock
        clock = Clock()


def _next(batches: Iterator["_Fetched"], workers: int) -> "_Fetched | None":
    try:
        return next(batches, None)
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker (pid"):
            raise
        raise InputError(
            "a data loading worker died (out of memory, or /dev/shm too small?): "
            f"set workers to 0, or to fewer than {workers}"
        ) from error


def choose_workers() -> int:
    """Worker processes of this rank: 0 on one or two cores, else its share of the cores but one, up to 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores //= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(cores - 1, 8) if cores > 2 else 0


@dataclass
class _Fetched:
    batch: Any = None
    error: str | None = None

    def pin_memory(self) -> "_Fetched":
        """Called by the DataLoader's pinning thread."""
        return _Fetched(_pin(self.batch), self.error)


class _Fetches(Dataset[_Fetched]):
    def __init__(self, fetch: Callable[[BatchPlan], Any], plans: Sequence[BatchPlan]) -> None:
        self.fetch, self.plans = fetch, plans

    def __len__(self) -> int:
        return len(self.plans)

    def __getitem__(self, position: int) -> _Fetched:
        try:
            return _Fetched(self.fetch(self.plans[position]))
        except InputError as error:  # the DataLoader would wrap it in a traceback of many lines
            return _Fetched(error=str(error))


def _single_threaded(_: int) -> None:
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(0)


def to_device(batch: T, device: torch.device | str) -> T:
    """The batch on `device`: tensors in dataclasses, dicts, lists, tuples at any depth; the rest as it is."""
    return _map_tensors(batch, lambda tensor: tensor.to(device, non_blocking=True))


def _pin(batch: T) -> T:
    return _map_tensors(batch, lambda tensor: tensor.pin_memory())


def _map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        changed = {f.name: _map_tensors(getattr(value, f.name), function) for f in fields if f.init}
        return dataclasses.replace(value, **changed)
    if isinstance(value, dict):
        return {name: _map_tensors(part, function) for name, part in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_map_tensors(part, function) for part in value))
    if isinstance(value, (list, tuple)):
        return type(value)(_map_tensors(part, function) for part in value)
    return value


def pad_sequences(
    sequences: Sequence[np.ndarray] | Sequence[Sequence[int]], value: float = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Sequences of different length, padded at the end: ([B, L, ...], lengths int64 [B]), L = the longest.

    Elements may be numbers (lists become int64) or arrays of one shape ([n_i, D] -> [B, L, D]).
    """
    arrays = [s if isinstance(s, np.ndarray) else np.asarray(s, np.int64) for s in sequences]
    lengths = np.array([len(array) for array in arrays], np.int64)
    longest = int(lengths.max(initial=0))
    if not arrays:
        return np.zeros((0, 0), np.int64), lengths
    padded = np.full((len(arrays), longest, *arrays[0].shape[1:]), value, arrays[0].dtype)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    return padded, lengths
