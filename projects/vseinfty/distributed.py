"""What several processes must agree on so that they train like one: padding, batch-norm statistics.

Each process holds its share of the global batch. The loss is taken over the embeddings of all ranks, and the
gradients are summed (see `shared.collectives`); nothing else couples the ranks but what is here.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from shared import batch_norm
from shared.collectives import world_size


def synchronize_batch_norm(module: nn.Module) -> None:
    """Make each BatchNorm1d inside `module` synchronised, in place; parameters and key names stay.

    The released code normalises each GPU's replica by itself: that is what stays without it.
    """
    batch_norm.synchronize_batch_norm(module, kinds=(nn.BatchNorm1d,))


def pad_to_global_maximum(images: Tensor) -> Tensor:
    """Zero rows at the end of [b, N, D] up to the largest N of all ranks.

    Batch norm sees the padding (spec, quirk 2), and one process pads the whole batch to its one maximum.
    """
    if world_size() == 1:
        return images
    length = torch.tensor(images.shape[1], device=images.device)
    dist.all_reduce(length, op=dist.ReduceOp.MAX)
    return F.pad(images, (0, 0, 0, int(length) - images.shape[1]))
