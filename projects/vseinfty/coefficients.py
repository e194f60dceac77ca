"""GPO's coefficients theta(k, L) for many set sizes L at once (paper eq. 4-6).

The input at position k is the same whatever the size, so the sizes of a batch share one recurrence, aligned
by position: the forward direction is one and the same sequence, and the backward direction of size L joins at
position L - 1 with a zero state. On a CPU torch's GRU spends its time on the bookkeeping of its many tiny
steps; here both directions advance together in a handful of operations, with the backward pass written out.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from projects.vseinfty.compiling import not_compiled


def positional_encoding(length: int, dim: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[length, dim]: sin(k w_j) in column 2j, cos(k w_j) in 2j+1, w_j = 10000^(-2j/dim), k from 0 (eq. 5)."""
    positions = torch.arange(length, dtype=torch.float32)[:, None]
    frequencies = torch.exp(torch.arange(0, dim, 2, dtype=torch.float32) * (-math.log(10000.0) / dim))
    angles = positions * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).to(device=device, dtype=dtype)


def coefficients(gru: nn.GRU, linear: nn.Linear, sizes: list[int], temperature: float) -> Tensor:
    """theta for each of the sizes [U] -> [U, max size], zero beyond the size.

    Args:
        gru: one bidirectional layer over the positional encoding; its directions are averaged.
        linear: states to scores, without bias.
        sizes: set sizes, ascending.
        temperature: of the softmax over positions.
    """
    weight = linear.weight
    positions = positional_encoding(sizes[-1], gru.input_size, weight.dtype, weight.device)
    states = (_states_cpu if weight.device.type == "cpu" else _states_packed)(gru, positions, sizes)
    scores = linear(states).squeeze(-1)
    outside = torch.arange(sizes[-1]) >= torch.tensor(sizes)[:, None]
    return torch.softmax(scores.masked_fill(outside.to(weight.device), -math.inf) / temperature, dim=1)


def _states_packed(gru: nn.GRU, positions: Tensor, sizes: list[int]) -> Tensor:
    """Mean of the two directions' states [U, n, H], by torch's GRU."""
    sequences = positions.expand(len(sizes), -1, -1)
    packed = pack_padded_sequence(sequences, torch.tensor(sizes), batch_first=True, enforce_sorted=False)
    forward, backward = pad_packed_sequence(gru(packed)[0], batch_first=True)[0].chunk(2, dim=-1)
    return (forward + backward) / 2


@not_compiled
def _states_cpu(gru: nn.GRU, positions: Tensor, sizes: list[int]) -> Tensor:
    """The same by `_Recurrence`; step t is position t forward and position n - 1 - t backward."""
    p = dict(gru.named_parameters())
    forward = torch.addmm(p["bias_ih_l0"], positions, p["weight_ih_l0"].t())
    backward = torch.addmm(p["bias_ih_l0_reverse"], positions, p["weight_ih_l0_reverse"].t())
    inputs = torch.stack([forward, backward.flip(0)], dim=1)[:, :, None]
    weight = torch.stack([p["weight_hh_l0"], p["weight_hh_l0_reverse"]])
    bias = torch.stack([p["bias_hh_l0"], p["bias_hh_l0_reverse"]])
    n = sizes[-1]
    joined = torch.arange(n)[:, None] >= n - torch.tensor(sizes)
    active = torch.stack([torch.ones_like(joined), joined], dim=1)[..., None].to(positions.dtype)
    states = _Recurrence.apply(inputs, weight, bias, active)
    return ((states[:, 0] + states[:, 1].flip(0)) / 2).transpose(0, 1)


class _Recurrence(torch.autograd.Function):
    """GRU over n steps of 2 directions x U sequences, from projected inputs (gates in the order r, z, n).

    inputs [n, 2, 1, 3H], weight [2, 3H, H], bias [2, 3H], active [n, 2, U, 1] of 0 or 1 -> states [n, 2, U,
    H]; a sequence that is not active has state 0.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor, active: Tensor) -> Tensor:
        steps, directions, sequences, _ = active.shape
        hidden = weight.shape[2]
        states = inputs.new_zeros(steps + 1, directions, sequences, hidden)
        gates = inputs.new_empty(steps, directions, sequences, 2 * hidden)  # r, z
        candidates = inputs.new_empty(steps, directions, sequences, hidden)  # n
        recurrent = inputs.new_empty(steps, directions, sequences, 3 * hidden)
        transposed, bias = weight.transpose(1, 2), bias[:, None, :]
        of_gates, of_candidate = inputs[..., : 2 * hidden], inputs[..., 2 * hidden :]
        rows = zip(
            states, states[1:], gates, candidates, recurrent, of_gates, of_candidate, active, strict=False
        )
        for before, after, gate, candidate, rec, in_gates, in_candidate, mask in rows:
            torch.baddbmm(bias, before, transposed, out=rec)
            torch.add(rec[..., : 2 * hidden], in_gates, out=gate).sigmoid_()
            torch.addcmul(in_candidate, gate[..., :hidden], rec[..., 2 * hidden :], out=candidate).tanh_()
            torch.lerp(candidate, before, gate[..., hidden:], out=after).mul_(mask)
        ctx.save_for_backward(states, gates, candidates, recurrent, weight, active)
        return states[1:]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        states, gates, candidates, recurrent, weight, active = ctx.saved_tensors
        hidden = weight.shape[2]
        before, r, z = states[:-1], gates[..., :hidden], gates[..., hidden:]
        # All that does not wait for the recurrence, for all steps at once: derivatives by the state after
        # the step.
        by_candidate = (1 - z) * (1 - candidates * candidates)
        by_r = by_candidate * recurrent[..., 2 * hidden :] * r * (1 - r)
        by_z = (before - candidates) * z * (1 - z)
        factors = torch.stack([by_r, by_z, by_candidate * r], dim=-2)  # of the recurrent projections r, z, n
        upstream = gradients[0] * active
        carried = torch.zeros_like(upstream[0])
        total = torch.empty_like(upstream)
        of_recurrent = torch.empty_like(factors)
        for step in reversed(range(len(total))):
            torch.addcmul(upstream[step], carried, active[step], out=total[step])
            torch.mul(total[step].unsqueeze(-2), factors[step], out=of_recurrent[step])
            carried = torch.baddbmm(total[step] * z[step], of_recurrent[step].flatten(-2), weight)
        of_recurrent = of_recurrent.flatten(-2)
        of_inputs = torch.cat([of_recurrent[..., : 2 * hidden], total * by_candidate], dim=-1)
        flat = of_recurrent.transpose(0, 1).flatten(1, 2)  # [2, n U, 3H]
        of_weight = torch.bmm(flat.transpose(1, 2), before.transpose(0, 1).flatten(1, 2))
        return of_inputs.sum(dim=2, keepdim=True), of_weight, flat.sum(dim=1), None
