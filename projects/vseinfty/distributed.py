"""What several processes must agree on so that they train like one: padding, batch-norm statistics, buffers.

Each process holds its share of the global batch. The loss is taken over the embeddings of all ranks, and the
gradients are summed (see `shared.collectives`); nothing else couples the ranks but what is here.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from shared.collectives import all_reduce_sum_with_grad, world_size


class SynchronizedBatchNorm1d(nn.BatchNorm1d):
    """Batch norm whose training statistics are those of the rows of all ranks: [R, D] -> [R, D], any device.

    Exact: mean and variance are sums over all rows, reduced with gradients, so that one process on the whole
    batch computes the same. (torch's SyncBatchNorm needs a GPU.) The released code normalises each GPU's
    replica by itself: that is what stays without this class.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise by the statistics of all ranks' rows; in eval mode by the running ones."""
        if not self.training or world_size() == 1:
            return super().forward(x)
        rows = x.float()
        count = torch.tensor(float(len(x)), device=x.device)
        totals = all_reduce_sum_with_grad(torch.cat([rows.sum(0), count[None]]))
        num_rows = totals[-1].detach()
        mean = totals[:-1] / num_rows
        centred = rows - mean
        variance = all_reduce_sum_with_grad((centred * centred).sum(0)) / num_rows
        if self.track_running_stats:
            self._update_running_statistics(mean.detach(), variance.detach(), num_rows)
        normalized = centred * torch.rsqrt(variance + self.eps)
        if self.affine:
            normalized = normalized * self.weight + self.bias
        return normalized.to(x.dtype)

    def _update_running_statistics(self, mean: Tensor, variance: Tensor, num_rows: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        unbiased = variance * (num_rows / (num_rows - 1).clamp(min=1))
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)


def synchronize_batch_norm(module: nn.Module) -> None:
    """Make each BatchNorm1d inside `module` synchronised, in place; parameters and key names stay."""
    for child in module.modules():
        for name, norm in list(child.named_children()):
            if type(norm) is nn.BatchNorm1d:
                setattr(child, name, _synchronized(norm))


def _synchronized(norm: nn.BatchNorm1d) -> SynchronizedBatchNorm1d:
    momentum = norm.momentum
    replacement = SynchronizedBatchNorm1d(norm.num_features, norm.eps, momentum, norm.affine)
    for name in ("weight", "bias"):
        setattr(replacement, name, getattr(norm, name))
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        setattr(replacement, name, getattr(norm, name))
    return replacement.train(norm.training)


def pad_to_global_maximum(images: Tensor) -> Tensor:
    """Zero rows at the end of [b, N, D] up to the largest N of all ranks.

    Batch norm sees the padding (spec, quirk 2), and one process pads the whole batch to its one maximum.
    """
    if world_size() == 1:
        return images
    length = torch.tensor(images.shape[1], device=images.device)
    dist.all_reduce(length, op=dist.ReduceOp.MAX)
    return F.pad(images, (0, 0, 0, int(length) - images.shape[1]))


def broadcast_buffers(module: nn.Module) -> None:
    """Give every rank rank 0's buffers (running statistics), before validating or saving.

    With unsynchronised batch norm each rank has its own; the released code keeps those of replica 0.
    """
    if world_size() == 1:
        return
    for buffer in module.buffers():
        dist.broadcast(buffer, src=0)
