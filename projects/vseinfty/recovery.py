"""Recovering known pooling operators from synthetic sets (paper, supplementary table 6).

A coefficient encoder is shown nothing but pooled vectors: sets of N Gaussian vectors are sorted per dimension
and weighted by theta(N), and the mean squared error to the target operator's output trains it. How well theta
was found is the root mean square error to the operator's own coefficients.

An encoder is a position encoding {index, cos_sin} and a decoder {mlp, transformer, bigru}; GPO's is cos_sin +
bigru. theta depends on N only, so an encoder runs once per distinct size of a batch; and the problem is tiny,
so one encoder's models for all operators and seeds are trained at once, stacked along a leading axis.

M: models   S: seeds   L: distinct sizes   T: positions   B: sets   N: set size   D: dimensions   H: units
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from shared.files import read_json, write_json

POSITION_ENCODINGS = ("index", "cos_sin")
DECODERS = ("mlp", "transformer", "bigru")
OPERATORS = ("average", "max", "max10", "top50", "linear")
PAPER_RMSE = {"cos_sin_bigru": {"average": 0.0, "max": 0.005, "max10": 0.010, "top50": 0.006, "linear": 0.0}}
MAX_SIZE = 128  # the index encoding is k / MAX_SIZE
TEMPERATURE = 0.1  # of GPO's softmax, for every encoder


def operator_coefficients(operator: str, size: int) -> Tensor:
    """Coefficients [size] of an operator for values sorted in descending order; they sum to 1."""
    rank = torch.arange(size, dtype=torch.float64)
    weights = {
        "average": torch.ones(size, dtype=torch.float64),
        "max": (rank < 1).double(),
        "max10": (rank < 10).double(),
        "top50": (rank < math.ceil(size / 2)).double(),
        "linear": size - rank,
    }[operator]
    return (weights / weights.sum()).float()


def encode_positions(kind: str, count: int, dim: int = 32) -> Tensor:
    """Encodings [count, dim] of ranks 0..count-1: GPO's sines and cosines, or the index in column 0."""
    rank = torch.arange(count, dtype=torch.float32)[:, None]
    if kind == "index":
        return nn.functional.pad(rank / MAX_SIZE, (0, dim - 1))
    frequency = 10000 ** (-torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    return torch.stack([torch.sin(rank * frequency), torch.cos(rank * frequency)], dim=-1).flatten(1)


class StackedLinear(nn.Module):
    """M linear layers side by side: [M, ..., in] -> [M, ..., out], each initialised as nn.Linear."""

    def __init__(self, models: int, inputs: int, outputs: int, bias: bool = True):
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(models, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(models, 1, outputs).uniform_(-bound, bound)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Apply model m's layer to x[m]."""
        flat = x.flatten(1, -2)
        out = flat @ self.weight if self.bias is None else torch.baddbmm(self.bias, flat, self.weight)
        return out.view(*x.shape[:-1], out.shape[-1])


class MLPDecoder(nn.Module):
    """A score per position from its own encoding, one hidden layer: it cannot know N."""

    def __init__(self, models: int, dim: int = 32):
        super().__init__()
        self.models = models
        self.hidden, self.score = StackedLinear(models, dim, dim), StackedLinear(models, dim, 1, bias=False)

    def forward(self, positions: Tensor, sizes: Tensor) -> Tensor:
        """positions [T, H], sizes [L] -> scores [M, L, T]."""
        x = positions.expand(self.models, *positions.shape)
        scores = self.score(self.hidden(x).relu()).squeeze(-1)  # [M, T]
        return scores[:, None].expand(-1, len(sizes), -1)


class TransformerDecoder(nn.Module):
    """One pre-norm self-attention block over the N positions: N shows in what attention averages."""

    def __init__(self, models: int, dim: int = 32, heads: int = 4):
        super().__init__()
        self.models, self.heads = models, heads
        self.qkv, self.out = StackedLinear(models, dim, 3 * dim), StackedLinear(models, dim, dim)
        self.widen, self.narrow = StackedLinear(models, dim, 2 * dim), StackedLinear(models, 2 * dim, dim)
        self.score = StackedLinear(models, dim, 1, bias=False)

    def forward(self, positions: Tensor, sizes: Tensor) -> Tensor:
        """positions [T, H], sizes [L] -> scores [M, L, T]."""
        length, dim = positions.shape
        q, k, v = (
            self.qkv(nn.functional.layer_norm(positions, (dim,)).expand(self.models, length, dim))
            .view(self.models, length, 3, self.heads, -1)
            .permute(2, 0, 3, 1, 4)
        )  # each [M, heads, T, H / heads]
        scores = q @ k.transpose(-1, -2) / math.sqrt(dim / self.heads)
        weights = (scores - scores.detach().amax(-1, keepdim=True)).exp()  # [M, heads, T, T]
        # Only the mask depends on N: the softmax over the first N keys is a ratio of two sums over them.
        inside = (torch.arange(length) < sizes[:, None]).float()  # [L, T]
        kept = torch.einsum("lt,mhtd->mhtld", inside, nn.functional.pad(v, (0, 1), value=1))
        sums = (weights @ kept.flatten(3)).unflatten(3, kept.shape[3:])  # [M, heads, T, L, H / heads + 1]
        attended = sums[..., :-1] / sums[..., -1:].clamp(min=1e-20)
        attended = attended.permute(0, 3, 2, 1, 4).flatten(3)  # [M, L, T, H]
        x = positions.expand(self.models, len(sizes), length, dim)
        x = x + self.out(attended)
        x = x + self.narrow(self.widen(nn.functional.layer_norm(x, (dim,))).relu())
        return self.score(x).squeeze(-1)


class BiGRUDecoder(nn.Module):
    """GPO's decoder, bidirectional GRU, mean of the directions, linear score, as 2M one-way GRUs."""

    def __init__(self, models: int, dim: int = 32):
        super().__init__()
        self.models = models
        bound = 1 / math.sqrt(dim)
        self.weight_ih, self.weight_hh = (
            nn.Parameter(torch.empty(2 * models, dim, 3 * dim)) for _ in range(2)
        )
        self.bias_ih, self.bias_hh = (nn.Parameter(torch.empty(2 * models, 1, 3 * dim)) for _ in range(2))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)
        self.score = StackedLinear(models, dim, 1, bias=False)

    def forward(self, positions: Tensor, sizes: Tensor) -> Tensor:
        """positions [T, H], sizes [L] -> scores [M, L, T]."""
        length, dim = positions.shape
        step = torch.arange(length)
        mirrored = (sizes[:, None] - 1 - step).clamp(min=0)  # [L, T]: the backward direction starts at N - 1
        gates = torch.baddbmm(self.bias_ih, positions.expand(2 * self.models, length, dim), self.weight_ih)
        forward_gates = gates[: self.models, None].expand(-1, len(sizes), -1, -1)
        backward_gates = gates[self.models :, mirrored]  # [M, L, T, 3H]
        states = self._run(torch.cat([forward_gates, backward_gates]))  # [2M, L, T, H]
        backward = states[self.models :].gather(
            2, mirrored[None, :, :, None].expand(self.models, -1, -1, dim)
        )
        return self.score((states[: self.models] + backward) / 2).squeeze(-1)

    def _run(self, gates: Tensor) -> Tensor:
        """The GRU recurrence over axis 2 of the input gates [2M, L, T, 3H] -> states [2M, L, T, H]."""
        dim = gates.shape[-1] // 3
        state = gates.new_zeros(*gates.shape[:2], dim)
        states = []
        for step in gates.unbind(2):
            hidden = torch.baddbmm(self.bias_hh, state, self.weight_hh)
            reset, update = (step[..., : 2 * dim] + hidden[..., : 2 * dim]).sigmoid().chunk(2, dim=-1)
            new = torch.addcmul(step[..., 2 * dim :], reset, hidden[..., 2 * dim :]).tanh()
            state = torch.lerp(new, state, update)
            states.append(state)
        return torch.stack(states, dim=2)


class CoefficientEncoder(nn.Module):
    """M encoders theta = softmax(decoder(position encoding) / 0.1), one per operator and seed."""

    def __init__(self, positions: str, decoder: str, models: int):
        super().__init__()
        self.models, self.position_kind = models, positions
        build: dict[str, Callable[[int], nn.Module]] = {
            "mlp": MLPDecoder, "transformer": TransformerDecoder, "bigru": BiGRUDecoder
        }  # fmt: skip
        self.decoder = build[decoder](models)

    def forward(self, sizes: Tensor) -> Tensor:
        """Coefficients theta [M, L, T] of set sizes [L], T = the largest; zero beyond a set's size."""
        length = int(sizes.max())
        scores = self.decoder(encode_positions(self.position_kind, length), sizes)
        beyond = torch.arange(length) >= sizes[:, None]
        return (scores / TEMPERATURE).masked_fill(beyond, -torch.inf).softmax(-1)


def draw_sets(generator: torch.Generator, sizes: Tensor, dim: int) -> Tensor:
    """Gaussian sets [B, D, N] of sizes [B], each dimension in descending order, zero beyond the size."""
    length = int(sizes.max())
    values = torch.randn(len(sizes), dim, length, generator=generator)
    beyond = (torch.arange(length) >= sizes[:, None])[:, None]
    return values.masked_fill(beyond, -torch.inf).sort(-1, descending=True).values.masked_fill(beyond, 0)


def target_table(sizes: Tensor) -> Tensor:
    """The operators' coefficients [operators, L, T] for set sizes [L], zero beyond a set's size."""
    table = torch.zeros(len(OPERATORS), len(sizes), int(sizes.max()))
    for row, operator in enumerate(OPERATORS):
        for column, size in enumerate(sizes.tolist()):
            table[row, column, :size] = operator_coefficients(operator, size)
    return table


def errors(encoder: CoefficientEncoder, sizes: Sequence[int]) -> dict[str, list[float]]:
    """RMSE of theta per operator, one per seed: mean square over ranks, then over sizes, then the root."""
    length = torch.tensor(sizes)
    with torch.no_grad():
        theta = encoder(length).unflatten(0, (len(OPERATORS), -1))  # [operators, S, L, T]
    squared = (theta - target_table(length)[:, None]).square()
    rmse = (squared.sum(-1) / length).mean(-1).sqrt()
    return dict(zip(OPERATORS, rmse.tolist(), strict=True))


def train_encoder(
    positions: str,
    decoder: str,
    *,
    seeds: list[int],
    train_sizes: list[int],
    steps: int,
    batch_size: int,
    dim: int,
    learning_rate: float,
    grad_clip: float,
    after_step: Callable[[], None] = lambda: None,
) -> CoefficientEncoder:
    """Train one encoder's models for all operators and seeds; model index = operator * S + seed index."""
    torch.manual_seed(seeds[0])  # initial weights differ from model to model; the sets are those of each seed
    encoder = CoefficientEncoder(positions, decoder, len(OPERATORS) * len(seeds))
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    optimizer = torch.optim.Adam(encoder.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=learning_rate, total_steps=steps)
    all_targets, choices = target_table(torch.tensor(train_sizes)), torch.tensor(train_sizes)
    for _ in range(steps):
        chosen = torch.randint(len(choices), (batch_size,), generator=generators[0])
        sizes, which = choices[chosen].unique(return_inverse=True)  # one theta per distinct size
        sets = torch.stack([draw_sets(g, choices[chosen], dim) for g in generators])  # [S, B, D, N]
        targets = all_targets[:, torch.searchsorted(choices, sizes)][
            :, which, : sets.shape[-1]
        ]  # [operators, B, N]
        theta = encoder(sizes)[:, which].view(len(OPERATORS), len(seeds), batch_size, -1)
        error = torch.einsum("osbn,sbdn->osbd", theta - targets[:, None], sets)
        loss = error.square().mean((2, 3)).sum()  # models share nothing, so the gradient of each is its own
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        clip_each_model(encoder, grad_clip)
        optimizer.step()
        schedule.step()
        after_step()
    return encoder


def clip_each_model(encoder: CoefficientEncoder, max_norm: float) -> None:
    """Clip the gradient norm of every model on its own (the stacked tensors' leading axis is the model)."""
    gradients = [p.grad for p in encoder.parameters() if p.grad is not None]
    per_model = [g.view(-1, encoder.models, g[0].numel()) for g in gradients]  # [directions, M, rest], views
    norms = torch.stack([g.square().sum((0, 2)) for g in per_model]).sum(0).sqrt()  # [M]
    scale = (max_norm / (norms + 1e-6)).clamp(max=1)
    for gradient in per_model:
        gradient.mul_(scale[:, None])


class Finished:
    """The errors of the encoders that are done, kept in a file: a killed run goes on with the next one."""

    def __init__(self, path: Path):
        self.path = path
        self.errors: dict[str, dict[str, dict[str, list[float]]]] = read_json(path) if path.exists() else {}

    def __len__(self) -> int:
        return len(self.errors)

    def __contains__(self, name: str) -> bool:
        return name in self.errors

    def add(self, name: str, **errors: dict[str, list[float]]) -> None:
        """Record an encoder's errors on `seen` and `unseen` sizes."""
        self.errors[name] = errors
        write_json(self.path, self.errors)


def metrics(errors: dict[str, dict[str, dict[str, list[float]]]]) -> dict[str, dict[str, dict[str, float]]]:
    """Means over the seeds, encoder -> seen | unseen -> operator; `mean` and `worst` over the operators."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    for encoder, parts in errors.items():
        table[encoder] = {}
        for part, rows in parts.items():
            means = {operator: sum(values) / len(values) for operator, values in rows.items()}
            summary = {"mean": sum(means.values()) / len(means), "worst": max(means.values())}
            table[encoder][part] = {**means, **summary}
    return table


def table(errors: dict[str, dict[str, dict[str, list[float]]]]) -> str:
    """The errors as text, means over the seeds, with the paper's row."""
    lines = ["RMSE of theta (mean over seeds)" + "".join(f"{operator:>9}" for operator in OPERATORS)]
    for encoder, parts in metrics(errors).items():
        for part, row in parts.items():
            name = f"{encoder}, {part} sizes"
            lines.append(f"{name:31}" + "".join(f"{row[operator]:9.4f}" for operator in OPERATORS))
    for encoder, row in PAPER_RMSE.items():
        name = f"{encoder}, paper"
        lines.append(f"{name:31}" + "".join(f"{row[operator]:9.3f}" for operator in OPERATORS))
    return "\n".join(lines)
