"""The residual 3-D U-Net: every block normalises, convolves, and adds its first convolution to its last.

State-dict names are those of the released checkpoints.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from projects.semabs.norm_conv import norm_conv


class NormConv(nn.Module):
    """Group norm, a 3 x 3 x 3 convolution without bias, ReLU ([B, in, X, Y, Z] -> [B, out, X, Y, Z])."""

    def __init__(self, in_channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        self.groupnorm = nn.GroupNorm(groups if in_channels >= groups else 1, in_channels)
        self.conv = nn.Conv3d(in_channels, out_channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """The residual [B, out, X, Y, Z] is added before the ReLU."""
        norm = self.groupnorm
        return norm_conv(
            x,
            norm.weight,
            norm.bias,
            self.conv.weight,
            groups=norm.num_groups,
            eps=norm.eps,
            residual=residual,
        )


class ResidualBlock(nn.Module):
    """r = relu(conv1(x)); relu(conv3(relu(conv2(r))) + r), each convolution after a group norm."""

    def __init__(self, in_channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        self.conv1 = NormConv(in_channels, out_channels, groups)
        self.conv2 = NormConv(out_channels, out_channels, groups)
        self.conv3 = NormConv(out_channels, out_channels, groups)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, X, Y, Z] -> [B, out, X, Y, Z]."""
        residual = self.conv1(x)
        found: Tensor = self.conv3(self.conv2(residual), residual)
        return found


class Encoder(nn.Module):
    """A level downwards: halves the volume (not the first one), then the block."""

    def __init__(self, in_channels: int, out_channels: int, groups: int, *, pool: bool) -> None:
        super().__init__()
        self.pooling = nn.MaxPool3d(2) if pool else None
        self.basic_module = ResidualBlock(in_channels, out_channels, groups)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, X, Y, Z] -> [B, out, X, Y, Z], or of half the sides."""
        found: Tensor = self.basic_module(x if self.pooling is None else self.pooling(x))
        return found


class Upsampling(nn.Module):
    """Transposed convolution to the size of the level above."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose3d(in_channels, out_channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        """[B, in, ...] -> [B, out, *size]."""
        found: Tensor = self.upsample(x, output_size=list(size))
        return found


class Decoder(nn.Module):
    """A level upwards: upsampled + skipped, then the block."""

    def __init__(self, in_channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        self.upsampling = Upsampling(in_channels, out_channels)
        self.basic_module = ResidualBlock(out_channels, out_channels, groups)

    def forward(self, skipped: Tensor, x: Tensor) -> Tensor:
        """Skipped [B, out, X, Y, Z] and the volume from below [B, in, X / 2, Y / 2, Z / 2] -> [B, out, X, Y, Z]."""
        found: Tensor = self.basic_module(self.upsampling(x, skipped.shape[2:]).add_(skipped))
        return found


class ResidualUNet3D(nn.Module):
    """Residual U-Net over volumes; the widths double from level to level.

    Args:
        in_channels, out_channels: of the volumes that go in and come out.
        f_maps: width of the finest level.
        groups: of each group norm (1 where a level is narrower).
        levels: number of resolutions; the sides of a volume must be multiples of 2 ** (levels - 1).
        checkpoint_levels: so many of the finest levels keep no activations for the backward pass; they are
            computed again in it.
    """

    def __init__(
        self,
        in_channels: int = 16,
        out_channels: int = 16,
        *,
        f_maps: int = 16,
        groups: int = 8,
        levels: int = 6,
        checkpoint_levels: int = 0,
    ) -> None:
        super().__init__()
        widths = [f_maps * 2**level for level in range(levels)]
        self.checkpoint_levels = checkpoint_levels
        self.encoders = nn.ModuleList(
            Encoder(widths[level - 1] if level else in_channels, width, groups, pool=level > 0)
            for level, width in enumerate(widths)
        )
        self.decoders = nn.ModuleList(
            Decoder(widths[level + 1], widths[level], groups) for level in reversed(range(levels - 1))
        )
        self.final_conv = nn.Conv3d(f_maps, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, X, Y, Z] -> [B, out, X, Y, Z]."""
        skipped = []
        for level, encoder in enumerate(self.encoders):
            x = self._run(encoder, level, x)
            skipped.append(x)
        skipped.pop()
        for level, decoder in zip(reversed(range(len(skipped))), self.decoders, strict=True):
            x = self._run(decoder, level, skipped.pop(), x)
        final = self.final_conv
        found = F.linear(
            x.permute(0, 2, 3, 4, 1), final.weight.flatten(1), final.bias
        )  # quicker than a convolution
        return found.permute(0, 4, 1, 2, 3)

    def _run(self, module: nn.Module, level: int, *inputs: Tensor) -> Tensor:
        is_kept = level >= self.checkpoint_levels or not torch.is_grad_enabled()
        found: Tensor = module(*inputs) if is_kept else checkpoint(module, *inputs, use_reentrant=False)
        return found
