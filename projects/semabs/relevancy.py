"""Relevancy of image patches to labels (paper section 3.1; Chefer et al., ICCV 2021), without autograd.

Only the CLS row of the last block is read: r_j = mean_h max(0, dlogit/dA_h0j * A_h0j). Its gradient has a
closed form, dlogit/dA_h0j = <v_hj, (W_o^T u)_h> with u = dlogit/d(attention output of CLS), so that all labels
of a batch of tiles share one forward pass, and a label costs one row through the last MLP backwards.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from projects.semabs.clip_model import Block, FeedForward, VisionTransformer
from shared.errors import InputError

LOGIT_SCALE = 100.0
LABELS = 64  # at a time, to bound memory


def tile_relevancy(
    visual: VisionTransformer,
    tiles: Tensor,
    class_weights: Tensor,
    *,
    positive_only: bool = True,
    blocks: int = 1,
) -> Tensor:
    """Relevancy of each patch to each label.

    Args:
        visual: the image encoder.
        tiles: [T, 3, S, S], normalised.
        class_weights: text features by column [E, L].
        positive_only: negative parts of a head are cut off before the mean over heads.
        blocks: how many of the last blocks are rolled out, 1 as released (`num_layers=10` of 12).

    Returns:
        float32 [L, T, g, g].
    """
    depth = len(visual.transformer.resblocks)
    if not 1 <= blocks <= depth:
        raise InputError(f"relevancy.blocks: expected 1 to {depth}, found {blocks}")
    if blocks == 1:
        with torch.no_grad():
            rows = _last_block(visual, visual.trunk(tiles), class_weights.float(), positive_only)
    else:
        rows = _rolled_out(visual, tiles, class_weights.float(), positive_only, blocks)
    return rows.unflatten(-1, (visual.grid, visual.grid))


def _last_block(visual: VisionTransformer, tokens: Tensor, weights: Tensor, positive_only: bool) -> Tensor:
    """tokens entering the last block [T, N, D], weights [E, L] -> [L, T, g^2]."""
    softmax, gradient = cls_row(visual, tokens, weights)
    products = gradient[..., 1:].float() * softmax[None, :, :, 1:].float()
    return (products.clamp_(min=0) if positive_only else products).mean(2)


def cls_row(visual: VisionTransformer, tokens: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The CLS row of the last block's attention and the gradient of every label's logit with respect to it.

    tokens: entering the last block [T, N, D]; weights: [E, L]. Returns: [T, heads, N] and [L, T, heads, N].
    """
    block = visual.transformer.resblocks[-1]
    assert isinstance(block, Block)
    attention = block.attn
    mixed, softmax, values = attention.row(block.ln_1(tokens))
    after_attention = tokens[:, 0] + attention.out_proj(mixed[:, 0])
    after_norm = block.ln_2(after_attention)
    hidden = block.mlp.c_fc(after_norm.to(block.mlp.c_fc.weight.dtype))
    out = after_attention + block.mlp.c_proj(block.mlp.activate(hidden))
    features = visual.project(out)
    slope = _slope(hidden, block.mlp)

    def backward(labels: Tensor) -> Tensor:
        u = _logit_gradient(features, labels) @ visual.proj.T  # [T, L, D]
        u = _norm_backward(u, out, visual.ln_post)
        inner = (u.to(slope.dtype) @ block.mlp.c_proj.weight) * slope.unsqueeze(1)
        u = u + _norm_backward(inner @ block.mlp.c_fc.weight, after_attention, block.ln_2)
        u = u.to(attention.out_proj.weight.dtype) @ attention.out_proj.weight
        by_head = u.unflatten(-1, (attention.heads, -1)).transpose(1, 2)  # [T, heads, L, D / heads]
        return by_head @ values.transpose(-1, -2)

    gradient = torch.cat([backward(labels) for labels in weights.split(LABELS, 1)], 2)
    return softmax[:, :, 0], gradient.permute(2, 0, 1, 3)


def _logit_gradient(features: Tensor, weights: Tensor) -> Tensor:
    """d(100 <f / |f|, w_l>) / df: [T, E], [E, L] -> [T, L, E]."""
    length = features.norm(dim=-1, keepdim=True)
    unit = features / length
    along = (unit @ weights).unsqueeze(-1) * unit.unsqueeze(1)
    return (weights.T - along) * (LOGIT_SCALE / length).unsqueeze(-1)


def _norm_backward(gradient: Tensor, x: Tensor, norm: nn.LayerNorm) -> Tensor:
    """Gradient [T, L, D] w.r.t. the output of a layer norm of x [T, D] -> w.r.t. x."""
    variance, mean = torch.var_mean(x, dim=-1, keepdim=True, correction=0)
    scale = (variance + norm.eps).rsqrt()
    normalised = ((x - mean) * scale).unsqueeze(1)
    scaled = gradient * norm.weight
    shared = scaled.mean(-1, keepdim=True) + normalised * (scaled * normalised).mean(-1, keepdim=True)
    return (scaled - shared) * scale.unsqueeze(1)


def _slope(hidden: Tensor, mlp: FeedForward) -> Tensor:
    """Slope of the nonlinearity, which is elementwise: one backward pass gives it, in the MLP's precision."""
    with torch.enable_grad():
        leaf = hidden.detach().float().requires_grad_()
        (slope,) = torch.autograd.grad(mlp.activate(leaf).sum(), leaf)
    return slope.to(hidden.dtype)


def _rolled_out(
    visual: VisionTransformer, tiles: Tensor, weights: Tensor, positive_only: bool, blocks: int
) -> Tensor:
    """Relevancy propagated through the last `blocks` blocks, R = R + mean_h(dlogit/dA * A) R: [L, T, g^2]."""
    with torch.no_grad():
        tokens = visual.trunk(tiles, len(visual.transformer.resblocks) - blocks)
    maps = []
    with torch.enable_grad():
        x, recorded = tokens.detach().requires_grad_(), []
        for block in list(visual.transformer.resblocks)[-blocks:]:
            assert isinstance(block, Block)
            mixed, softmax, _ = block.attn.row(block.ln_1(x), x.shape[1])
            x = x + block.attn.out_proj(mixed)
            x = x + block.mlp(block.ln_2(x))
            recorded.append(softmax)
        logits = LOGIT_SCALE * F.normalize(visual.project(x[:, 0]), dim=-1) @ weights
        for label in range(weights.shape[1]):
            gradients = torch.autograd.grad(logits[:, label].sum(), recorded, retain_graph=True)
            maps.append(_roll(recorded, gradients, positive_only))
    return torch.stack(maps)


def _roll(softmax: list[Tensor], gradients: tuple[Tensor, ...], positive_only: bool) -> Tensor:
    tokens = softmax[0].shape[-1]
    rolled = torch.eye(tokens, device=softmax[0].device).expand(len(softmax[0]), -1, -1)
    for weights, gradient in zip(softmax, gradients, strict=True):
        products = weights.detach().float() * gradient.float()
        if positive_only:
            products = products.clamp(min=0)
        rolled = rolled + products.mean(1) @ rolled
    return rolled[:, 0, 1:]
