"""Bidirectional GRU over sequences of different lengths, with the parameters and results of `torch.nn.GRU`.

On a CPU torch back-propagates step by step, and adds a full weight gradient (12 MB at 1024 units) at each
step of each direction. Here the backward pass is written out: the recurrence carries only the state's
gradient, and the weight gradient is one matrix product over all steps. Tokens are packed by time, so padding
costs nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from shared.packed_linear import affine, product_with


def bidirectional_states(
    gru: nn.GRU, embed: Callable[[Tensor], Tensor], ids: Tensor, lengths: Tensor
) -> Tensor:
    """States of the two directions of `gru` (batch_first, bidirectional), zero beyond the length.

    Args:
        gru: any number of layers.
        embed: what the GRU reads of an id, [...] -> [..., I].
        ids: [B, L].
        lengths: [B], in any order.

    Returns:
        [B, L, 2, H].
    """
    if ids.device.type == "cpu":
        return _states_cpu(gru, embed, ids, lengths)
    packed = pack_padded_sequence(embed(ids), lengths.cpu(), batch_first=True, enforce_sorted=False)
    states, _ = pad_packed_sequence(gru(packed)[0], batch_first=True, total_length=ids.shape[1])
    return states.unflatten(-1, (2, -1))


@torch.compiler.disable
def _states_cpu(gru: nn.GRU, embed: Callable[[Tensor], Tensor], ids: Tensor, lengths: Tensor) -> Tensor:
    batch, longest = ids.shape
    order = torch.argsort(lengths, descending=True, stable=True)
    active = (torch.arange(longest)[:, None] < lengths[order]).sum(1)
    batch_sizes = [size for size in active.tolist() if size]
    times = torch.repeat_interleave(torch.arange(longest), active)
    rows = order[torch.cat([torch.arange(size) for size in batch_sizes])]
    parameters = dict(gru.named_parameters())
    packed = embed(ids[rows, times])
    for layer in range(gru.num_layers):
        states = []
        for suffix in (f"_l{layer}", f"_l{layer}_reverse"):
            projected = affine(packed, parameters[f"weight_ih{suffix}"], parameters[f"bias_ih{suffix}"])
            weight, bias = parameters[f"weight_hh{suffix}"], parameters[f"bias_hh{suffix}"]
            steps = _steps(batch_sizes, reverse=suffix.endswith("reverse"))
            states.append(_Direction.apply(projected, weight, bias, steps))
        packed = torch.cat(states, dim=1)
    padded = packed.new_zeros(batch, longest, packed.shape[1])
    return padded.index_put((rows, times), packed).unflatten(-1, (2, -1))


@dataclass(frozen=True)
class _Step:
    """Rows of one time step, and of the step before it those whose sequences go on."""

    now: slice
    before: slice

    @property
    def num_carried(self) -> int:
        return self.before.stop - self.before.start


def _steps(batch_sizes: list[int], reverse: bool) -> list[_Step]:
    """The steps in the order of a direction. Sequences are sorted by length, so those that go on come first."""
    ends = np.cumsum(batch_sizes).tolist()
    rows = [slice(end - size, end) for end, size in zip(ends, batch_sizes, strict=True)]
    if reverse:
        rows.reverse()
    steps = [_Step(rows[0], slice(0, 0))]
    for earlier, now in pairwise(rows):
        carried = min(earlier.stop - earlier.start, now.stop - now.start)
        steps.append(_Step(now, slice(earlier.start, earlier.start + carried)))
    return steps


class _Direction(torch.autograd.Function):
    """One direction of one layer: projected inputs [R, 3H] (gates r, z, n), packed by time -> states [R, H].

    Products are taken in the dtype of the inputs (bfloat16 under autocast), states and gates in float32 or
    more.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor, steps: list[_Step]) -> Tensor:
        hidden = weight.shape[1]
        recur = product_with(weight.to(inputs.dtype), max(1, *(step.num_carried for step in steps)))
        precision = torch.promote_types(inputs.dtype, torch.float32)
        bias = bias.to(precision)
        before = torch.zeros(len(inputs), hidden, dtype=precision)
        gates = torch.empty(len(inputs), 3 * hidden, dtype=precision)  # r, z, n
        recurrent = torch.empty(len(inputs), 3 * hidden, dtype=precision)
        states = torch.empty(len(inputs), hidden, dtype=precision)
        with torch.autocast("cpu", enabled=False):
            for step in steps:
                gate, part, earlier = gates[step.now], recurrent[step.now], before[step.now]
                carried = earlier[: step.num_carried].copy_(states[step.before])
                part[step.num_carried :] = bias  # a sequence that begins has state 0
                torch.add(recur(carried.to(inputs.dtype)), bias, out=part[: step.num_carried])
                of_gates, of_candidate = inputs[step.now].split([2 * hidden, hidden], dim=1)
                torch.add(part[:, : 2 * hidden], of_gates, out=gate[:, : 2 * hidden]).sigmoid_()
                r, z, n = gate.split(hidden, dim=1)
                torch.addcmul(of_candidate.to(precision), r, part[:, 2 * hidden :], out=n).tanh_()
                torch.lerp(n, earlier, z, out=states[step.now])
        ctx.save_for_backward(before, gates, recurrent[:, 2 * hidden :], weight)
        ctx.steps, ctx.dtype = steps, inputs.dtype
        return states

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        before, gates, of_candidate, weight = ctx.saved_tensors
        hidden = weight.shape[1]
        widest = max(1, *(step.num_carried for step in ctx.steps))
        recur_back = product_with(weight.to(ctx.dtype).t(), widest)
        total = gradients[0].to(before.dtype).clone()  # gradient of the state after each step
        of_inputs = torch.empty_like(gates)
        of_recurrent = torch.empty_like(gates)
        with torch.autocast("cpu", enabled=False):
            for step in reversed(ctx.steps):
                r, z, n = gates[step.now].split(hidden, dim=1)
                by_input, by_recurrent, state = of_inputs[step.now], of_recurrent[step.now], total[step.now]
                kept = state * z
                candidate = torch.mul(state - kept, 1 - n * n, out=by_input[:, 2 * hidden :])
                torch.mul(candidate, r, out=by_recurrent[:, 2 * hidden :])
                torch.mul(candidate * of_candidate[step.now], r - r * r, out=by_input[:, :hidden])
                torch.mul((before[step.now] - n).mul_(state), z - z * z, out=by_input[:, hidden : 2 * hidden])
                by_recurrent[:, : 2 * hidden] = by_input[:, : 2 * hidden]
                back = recur_back(by_recurrent[: step.num_carried].to(ctx.dtype))
                total[step.before] += kept[: step.num_carried] + back
            first = ctx.steps[0].now.stop if ctx.steps[0].now.start == 0 else 0  # its states before are zero
            flat = of_recurrent[first:].to(ctx.dtype)
            of_weight = torch.mm(flat.t(), before[first:].to(ctx.dtype)).to(weight.dtype)
        return of_inputs.to(ctx.dtype), of_weight, of_recurrent.sum(0).to(weight.dtype), None
