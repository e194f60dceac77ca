"""Large batches in little memory, with every in-batch negative kept (gradient caching).

The loss compares each image with each caption of the batch, so adding up the losses of small batches would be
another loss. But it needs only the embeddings, and those are small:

1. encode the batch chunk by chunk without a graph, remembering the random state each chunk started from;
2. take the loss over all embeddings, and its gradient with respect to them;
3. encode each chunk again, with a graph and the same random state (the same dropout masks), and
   back-propagate its part of that gradient.

The gradients are those of one pass over the whole batch, for a second forward pass of time and the activations
of one chunk of memory. Batch norm in training mode sees one chunk at a time, as each replica of the released
multi-GPU runs did; its running statistics move once per step, by the mean of the chunks' statistics.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class CachedEmbeddings:
    """Embeddings [B, E] of a batch, whose graph is rebuilt chunk by chunk in `backward`.

    Use: put `.embeddings`, a leaf tensor, into the loss; call the loss's backward; call `.backward()`.

    Args:
        encode: rows of the batch -> their embeddings [b, E]; does the same when called again with the same
            random state.
        chunks: the rows of each pass, in order.
        device: whose random state counts, besides the CPU's.
    """

    def __init__(
        self, encode: Callable[[slice], Tensor], chunks: Sequence[slice], device: torch.device
    ) -> None:
        self._encode, self._chunks, self._device = encode, list(chunks), device
        self._random_states: list[tuple[Tensor, Tensor | None]] = []
        parts = []
        with torch.no_grad():
            for rows in self._chunks:
                self._random_states.append(_random_state(device))
                parts.append(encode(rows))
        self.embeddings = torch.cat(parts).requires_grad_()

    def backward(self, statistics: "RunningStatistics | None" = None) -> None:
        """Add to the parameters' `.grad` what the loss's gradient with respect to the embeddings gives."""
        gradient = self.embeddings.grad
        assert gradient is not None, "the loss has not been back-propagated to the embeddings"
        with torch.random.fork_rng(devices=[self._device] if self._device.type == "cuda" else []):
            for number, (rows, state) in enumerate(zip(self._chunks, self._random_states, strict=True)):
                _restore_random_state(state, self._device)
                if statistics is not None:
                    statistics.enter_chunk(number)
                embeddings = self._encode(rows)
                if embeddings.requires_grad:
                    embeddings.backward(gradient[rows])


class RunningStatistics:
    """Keeps batch norm's running statistics to one update per step, while a batch passes twice, in chunks.

    With momentum m and C chunks, the momentum of chunk c (from 1) is (m/C) / (1 - m + c m/C): after all of
    them the old value weighs 1 - m and the statistics of every chunk m/C.
    """

    def __init__(self, module: nn.Module, num_chunks: int) -> None:
        self._norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
        self._momenta = [norm.momentum for norm in self._norms]
        self._num_chunks = num_chunks

    @contextmanager
    def paused(self) -> Iterator[None]:
        """No updates inside: the pass without a graph."""
        for norm in self._norms:
            norm.track_running_stats = False
        try:
            yield
        finally:
            for norm in self._norms:
                norm.track_running_stats = True

    @contextmanager
    def one_update(self) -> Iterator[None]:
        """All chunks inside make one update together; `enter_chunk` comes before each."""
        counts = [norm.num_batches_tracked for norm in self._norms]
        before = [None if count is None else count.clone() for count in counts]
        try:
            yield
        finally:
            for norm, momentum in zip(self._norms, self._momenta, strict=True):
                norm.momentum = momentum
            for count, old in zip(counts, before, strict=True):
                if count is not None and old is not None:
                    count.copy_(torch.minimum(count, old + 1))

    def enter_chunk(self, number: int) -> None:
        """Set the momentum of the chunk with this number (from 0)."""
        for norm, momentum in zip(self._norms, self._momenta, strict=True):
            if momentum is not None:
                share = momentum / self._num_chunks
                norm.momentum = share / (1 - momentum + (number + 1) * share)


def chunk_slices(num_rows: int, chunk_size: int) -> list[slice]:
    """Slices of at most `chunk_size` rows, as equal as can be: 10 rows by 4 -> 4, 3, 3."""
    num_chunks = max(1, -(-num_rows // chunk_size))
    short, longer = divmod(num_rows, num_chunks)
    bounds = [0]
    for number in range(num_chunks):
        bounds.append(bounds[-1] + short + (number < longer))
    return [slice(start, stop) for start, stop in pairwise(bounds)]


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), on_device


def _restore_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    on_cpu, on_device = state
    torch.set_rng_state(on_cpu)
    if on_device is not None:
        torch.cuda.set_rng_state(on_device, device)
