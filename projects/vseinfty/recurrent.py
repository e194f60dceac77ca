"""Bidirectional GRU over sequences of different lengths, with the parameters and results of `torch.nn.GRU`.

On a CPU torch back-propagates step by step, and adds a full weight gradient (12 MB at 1024 units) at each
step of each direction. Here the backward pass is written out: the recurrence carries only the state's
gradient, and the weight gradient is one matrix product over all steps. Tokens are packed by time, so padding
costs nothing.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from projects.vseinfty.compiling import not_compiled


def bidirectional_states(gru: nn.GRU, inputs: Tensor, lengths: Tensor) -> Tensor:
    """States of the two directions of `gru` (batch_first, bidirectional), zero beyond the length.

    Args:
        gru: any number of layers.
        inputs: [B, L, I].
        lengths: [B], in any order.

    Returns:
        [B, L, 2, H].
    """
    if inputs.device.type == "cpu":
        return _states_cpu(gru, inputs, lengths)
    packed = pack_padded_sequence(inputs, lengths.cpu(), batch_first=True, enforce_sorted=False)
    states, _ = pad_packed_sequence(gru(packed)[0], batch_first=True, total_length=inputs.shape[1])
    return states.unflatten(-1, (2, -1))


@not_compiled
def _states_cpu(gru: nn.GRU, inputs: Tensor, lengths: Tensor) -> Tensor:
    batch, longest = inputs.shape[:2]
    order = torch.argsort(lengths, descending=True, stable=True)
    active = (torch.arange(longest)[:, None] < lengths[order]).sum(1)
    batch_sizes = [size for size in active.tolist() if size]
    steps = torch.repeat_interleave(torch.arange(longest), active)
    rows = order[torch.cat([torch.arange(size) for size in batch_sizes])]
    parameters = dict(gru.named_parameters())
    packed = inputs[rows, steps]
    for layer in range(gru.num_layers):
        states = []
        for suffix in (f"_l{layer}", f"_l{layer}_reverse"):
            projected = F.linear(packed, parameters[f"weight_ih{suffix}"], parameters[f"bias_ih{suffix}"])
            weight, bias = parameters[f"weight_hh{suffix}"], parameters[f"bias_hh{suffix}"]
            reverse = suffix.endswith("reverse")
            states.append(_Direction.apply(projected, weight, bias, batch_sizes, reverse))
        packed = torch.cat(states, dim=1)
    padded = packed.new_zeros(batch, longest, packed.shape[1])
    return padded.index_put((rows, steps), packed).unflatten(-1, (2, -1))


class _Direction(torch.autograd.Function):
    """One direction of one layer: projected inputs [R, 3H] (gates r, z, n), packed by time -> states [R, H].

    Products are taken in the dtype of the inputs (bfloat16 under autocast), states and gates in float32 or
    more.
    """

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor, batch_sizes: list[int], reverse: bool
    ) -> Tensor:
        hidden = weight.shape[1]
        transposed = weight.to(inputs.dtype).t()
        precision = torch.promote_types(inputs.dtype, torch.float32)
        bias = bias.to(precision)
        before = torch.zeros(len(inputs), hidden, dtype=precision)
        gates = torch.empty(len(inputs), 3 * hidden, dtype=precision)  # r, z, n
        recurrent = torch.empty(len(inputs), 3 * hidden, dtype=precision)
        states = torch.empty(len(inputs), hidden, dtype=precision)
        with torch.autocast("cpu", enabled=False):
            for now, previous in _steps(batch_sizes, reverse):
                if previous is not None:
                    carried = min(previous.stop - previous.start, now.stop - now.start)
                    before[now.start : now.start + carried] = states[
                        previous.start : previous.start + carried
                    ]
                part, gate = recurrent[now], gates[now]
                if precision == inputs.dtype:
                    torch.addmm(bias, before[now], transposed, out=part)
                else:
                    torch.add(bias, torch.mm(before[now].to(inputs.dtype), transposed), out=part)
                torch.add(part[:, : 2 * hidden], inputs[now, : 2 * hidden], out=gate[:, : 2 * hidden])
                r, z, n = gate.split(hidden, dim=1)
                gate[:, : 2 * hidden].sigmoid_()
                torch.addcmul(
                    inputs[now, 2 * hidden :].to(precision), r, part[:, 2 * hidden :], out=n
                ).tanh_()
                torch.lerp(n, before[now], z, out=states[now])
        ctx.save_for_backward(before, gates, recurrent[:, 2 * hidden :], weight)
        ctx.steps, ctx.dtype = _steps(batch_sizes, reverse), inputs.dtype
        return states

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        before, gates, of_candidate, weight = ctx.saved_tensors
        hidden = weight.shape[1]
        recurrent_weight = weight.to(ctx.dtype)
        total = gradients[0].to(before.dtype).clone()  # gradient of the state after each step
        of_inputs = torch.empty_like(gates)
        of_recurrent = torch.empty_like(gates)
        with torch.autocast("cpu", enabled=False):
            for now, previous in reversed(ctx.steps):
                r, z, n = gates[now].split(hidden, dim=1)
                by_input, by_recurrent, state = of_inputs[now], of_recurrent[now], total[now]
                kept = state * z
                candidate = torch.mul(state - kept, 1 - n * n, out=by_input[:, 2 * hidden :])
                torch.mul(candidate, r, out=by_recurrent[:, 2 * hidden :])
                torch.mul(candidate * of_candidate[now], r - r * r, out=by_input[:, :hidden])
                torch.mul((before[now] - n).mul_(state), z - z * z, out=by_input[:, hidden : 2 * hidden])
                by_recurrent[:, : 2 * hidden] = by_input[:, : 2 * hidden]
                if previous is not None:
                    carried = min(previous.stop - previous.start, now.stop - now.start)
                    back = torch.mm(by_recurrent[:carried].to(ctx.dtype), recurrent_weight)
                    total[previous.start : previous.start + carried] += kept[:carried] + back
            flat = of_recurrent.to(ctx.dtype)
            of_weight = torch.mm(flat.t(), before.to(ctx.dtype)).to(weight.dtype)
        return of_inputs.to(ctx.dtype), of_weight, of_recurrent.sum(0).to(weight.dtype), None, None


def _steps(batch_sizes: list[int], reverse: bool) -> list[tuple[slice, slice | None]]:
    """Rows of each step in the order of the direction, each with the rows of the step before it."""
    ends = torch.tensor(batch_sizes).cumsum(0).tolist()
    rows = [slice(end - size, end) for end, size in zip(ends, batch_sizes, strict=True)]
    if reverse:
        rows.reverse()
    return list(zip(rows, [None, *rows[:-1]], strict=True))
