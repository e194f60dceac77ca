"""Batch norm over the rows of all processes, on any device."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from shared.collectives import all_reduce_sum_with_grad, world_size


class SynchronizedBatchNorm(_BatchNorm):
    """Batch norm whose training statistics are those of all ranks: [R, C], [R, C, L] or [R, C, H, W].

    Exact: mean and variance are sums over all rows, reduced with gradients, so that one process on the whole
    batch computes the same. (torch's SyncBatchNorm needs a GPU.) Without this class each rank normalises its
    own rows by themselves.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() not in (2, 3, 4):
            raise ValueError(f"expected [R, C], [R, C, L] or [R, C, H, W], found {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        """Normalise by the statistics of all ranks' rows; in eval mode by the running ones."""
        if not self.training or world_size() == 1:
            return super().forward(input)
        rows = input.float()
        others = [dim for dim in range(rows.dim()) if dim != 1]
        shape = [-1 if dim == 1 else 1 for dim in range(rows.dim())]
        count = torch.tensor(float(rows.numel() // rows.shape[1]), device=rows.device)
        totals = all_reduce_sum_with_grad(torch.cat([rows.sum(others), count[None]]))
        num_rows = totals[-1].detach()
        mean = totals[:-1] / num_rows
        centred = rows - mean.view(shape)
        variance = all_reduce_sum_with_grad((centred * centred).sum(others)) / num_rows
        if self.track_running_stats:
            self._update_running_statistics(mean.detach(), variance.detach(), num_rows)
        normalized = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            normalized = normalized * self.weight.view(shape) + self.bias.view(shape)
        return normalized.to(input.dtype)

    def _update_running_statistics(self, mean: Tensor, variance: Tensor, num_rows: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        unbiased = variance * (num_rows / (num_rows - 1).clamp(min=1))
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)


def synchronize_batch_norm(
    module: nn.Module, kinds: tuple[type[_BatchNorm], ...] = (nn.BatchNorm1d, nn.BatchNorm2d)
) -> None:
    """Make each batch norm of these kinds inside `module` synchronised, in place; key names stay."""
    for child in list(module.modules()):
        for name, norm in list(child.named_children()):
            if isinstance(norm, _BatchNorm) and type(norm) in kinds:
                setattr(child, name, _synchronized(norm))


def _synchronized(norm: _BatchNorm) -> SynchronizedBatchNorm:
    replacement = SynchronizedBatchNorm(norm.num_features, norm.eps, norm.momentum, norm.affine)
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        setattr(replacement, name, getattr(norm, name))
    return replacement.train(norm.training)
