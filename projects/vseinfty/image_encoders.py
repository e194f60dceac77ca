"""Image encoders: region features or CNN grids -> one image embedding, under the released key names."""

import math

import torch
from torch import Tensor, nn

from projects.vseinfty.augmentation import drop_grids
from projects.vseinfty.backbones import Backbone
from projects.vseinfty.pooling import inside
from shared.packed_linear import affine

NORM_EPS = 1e-8


def l2_normalize(x: Tensor) -> Tensor:
    """x / (||x|| + 1e-8) over the last axis; the epsilon stands outside the root, as in the release."""
    return x / (x.pow(2).sum(dim=-1, keepdim=True).sqrt() + NORM_EPS)


def init_linear(layer: nn.Linear) -> None:
    """Xavier-uniform weight, zero bias."""
    bound = math.sqrt(6.0 / (layer.in_features + layer.out_features))
    nn.init.uniform_(layer.weight, -bound, bound)
    nn.init.zeros_(layer.bias)


class RegionMLP(nn.Module):
    """Linear -> batch norm -> ReLU -> linear over rows [R, D].

    The zero rows that pad the batch count in the statistics (spec quirk 2). As they are all alike they need
    not be there: `num_padding` says how many they are. `bns.1` exists in the released weights and is never
    applied (quirk 3).
    """

    def __init__(self, dim: int, hidden: int, embed_size: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(dim, hidden), nn.Linear(hidden, embed_size)])
        self.bns = nn.ModuleList([nn.BatchNorm1d(hidden), nn.BatchNorm1d(embed_size)])

    def forward(self, x: Tensor, num_padding: int = 0) -> Tensor:
        """[R, D] -> [R, E]."""
        first, second = self.layers
        hidden = affine(x, *_parameters(first))
        if num_padding and self.training:
            of_zeros = first.get_parameter("bias").to(hidden.dtype).expand(num_padding, -1)
            hidden = self.bns[0](torch.cat([hidden, of_zeros]))[: len(x)]
        else:
            hidden = self.bns[0](hidden)
        return affine(torch.relu(hidden), *_parameters(second))


class RegionEncoder(nn.Module):
    """Region features: fc(x) + mlp(x) -> pooling -> L2 norm."""

    def __init__(
        self, *, image_dim: int, hidden: int, embed_size: int, pooling: nn.Module, normalize: bool = True
    ) -> None:
        super().__init__()
        self.fc = nn.Linear(image_dim, embed_size)
        self.mlp = RegionMLP(image_dim, hidden, embed_size)
        self.gpool = pooling
        self.normalize = normalize
        init_linear(self.fc)

    def forward(self, regions: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Regions [B, N, D], lengths [B] (None: all N) -> embeddings [B, E], pooling weights [B, N] or None.

        Rows beyond the length must be zero.
        """
        features = self.local_features(regions, lengths)
        pooled, weights = self.gpool(features, _lengths(regions, lengths))
        return l2_normalize(pooled) if self.normalize else pooled, weights

    def local_features(self, regions: Tensor, lengths: Tensor | None = None) -> Tensor:
        """[B, N, D] -> [B, N, E]; with lengths the padding rows may come out as zeros."""
        rows = regions.flatten(0, 1)
        # On a GPU finding the rows would cost more than it saves.
        if lengths is None or regions.device.type != "cpu" or torch.compiler.is_compiling():
            return (self.fc(rows) + self.mlp(rows)).unflatten(0, regions.shape[:2])
        total = len(rows)
        where = inside(lengths, regions.shape[1]).flatten().nonzero().squeeze(1)
        rows = rows.index_select(0, where) if len(where) < total else rows
        features = affine(rows, self.fc.weight, self.fc.bias) + self.mlp(rows, num_padding=total - len(rows))
        if len(rows) < total:
            features = features.new_zeros(total, features.shape[1]).index_copy(0, where, features)
        return features.unflatten(0, regions.shape[:2])


class GridHead(nn.Module):
    """What follows the CNN: fc -> pooling -> L2 norm."""

    def __init__(
        self, *, image_dim: int, embed_size: int, pooling: nn.Module, normalize: bool = True
    ) -> None:
        super().__init__()
        self.fc = nn.Linear(image_dim, embed_size)
        self.gpool = pooling
        self.normalize = normalize
        init_linear(self.fc)

    def forward(self, grids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor | None]:
        """Grids [B, G, C], lengths [B] -> embeddings [B, E] and pooling weights [B, G] or None."""
        pooled, weights = self.gpool(self.fc(grids), lengths)
        return l2_normalize(pooled) if self.normalize else pooled, weights


class GridEncoder(nn.Module):
    """Raw images: CNN -> grid features -> (training) grid dropping -> fc -> pooling -> L2 norm."""

    def __init__(self, *, backbone: Backbone, head: GridHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.image_encoder = head

    def forward(
        self, pixels: Tensor, lengths: Tensor | None = None, grid_draws: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Pixels [B, 3, H, W]; draws r1 [B, G], r2 [B] of grid dropping (None: keep all) -> [B, E], weights.

        `lengths` is taken for the sake of one signature and must be None.
        """
        assert lengths is None, "the number of grids follows from the image size"
        grids = self.backbone(pixels)
        if grid_draws is None:
            return self.image_encoder(grids, _lengths(grids, None))
        return self.image_encoder(*drop_grids(grids, *grid_draws))


def _parameters(layer: nn.Module) -> tuple[Tensor, Tensor]:
    return layer.get_parameter("weight"), layer.get_parameter("bias")


def _lengths(features: Tensor, lengths: Tensor | None) -> Tensor:
    if lengths is not None:
        return lengths
    return torch.full((features.shape[0],), features.shape[1], dtype=torch.int64, device=features.device)
