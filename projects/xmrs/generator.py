"""The generator: an image from a recipe embedding and noise (paper section 3.3; one stage of StackGAN++).

B: batch   D: joint space   Z: noise   C: condition   S: side of the image

    recipe [B, D] -> mu, log variance -> c [B, C] (conditioning augmentation)
    c, noise [B, Z] -> 4 x 4 -> ... -> S/2 x S/2 -> joined with c, residual blocks -> S x S, tanh

Parameters have the released names and shapes. Enlarging convolutions run as `upsampling` says.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from projects.xmrs.upsampling import conv3x3, tiled_conv3x3, upsampled_conv3x3
from shared.errors import InputError

FIRST_SIDE = 4  # of the feature map that the noise becomes


class GLU(nn.Module):
    """Gated linear unit over the channels: a * sigmoid(b) of [B, 2K, ...] = [a; b]."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, 2K, ...] -> [B, K, ...]."""
        return functional.glu(x, 1)


class UpBlock(nn.Sequential):
    """Enlarge by two, 3 x 3 convolution, batch norm, GLU: [B, I, H, W] -> [B, O, 2H, 2W]."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(
            nn.Upsample(scale_factor=2, mode="nearest"),
            conv3x3(channels_in, 2 * channels_out),
            nn.BatchNorm2d(2 * channels_out),
            GLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, I, H, W] -> [B, O, 2H, 2W]."""
        gated: Tensor = self[3](self[2](upsampled_conv3x3(x, self.get_parameter("1.weight"))))
        return gated


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions around an identity: [B, K, H, W] -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            conv3x3(channels, 2 * channels),
            nn.BatchNorm2d(2 * channels),
            GLU(),
            conv3x3(channels, channels),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, K, H, W] -> [B, K, H, W]."""
        return x + self.block(x)


class ConditioningAugmentation(nn.Module):
    """A Gaussian around the recipe: D -> mu [B, C], log variance [B, C]."""

    def __init__(self, embed_dim: int, condition_dim: int) -> None:
        super().__init__()
        self.condition_dim = condition_dim
        self.fc = nn.Linear(embed_dim, 4 * condition_dim)

    def forward(self, recipes: Tensor) -> tuple[Tensor, Tensor]:
        """[B, D] -> mu [B, C], log variance [B, C]."""
        mu, log_variance = functional.glu(self.fc(recipes), 1).split(self.condition_dim, 1)
        return mu, log_variance


class FirstStage(nn.Module):
    """Condition and noise -> features [B, K, S/2, S/2]."""

    def __init__(self, condition_dim: int, noise_dim: int, width: int, doublings: int) -> None:
        super().__init__()
        self.channels, self.doublings = width << doublings, doublings
        size = self.channels * FIRST_SIDE**2
        self.fc = nn.Sequential(
            nn.Linear(condition_dim + noise_dim, 2 * size, bias=False), nn.BatchNorm1d(2 * size), GLU()
        )
        for level in range(1, doublings + 1):
            self.add_module(f"upsample{level}", UpBlock(self.channels >> (level - 1), self.channels >> level))

    def forward(self, condition: Tensor, noise: Tensor) -> Tensor:
        """[B, C], [B, Z] -> [B, K, S/2, S/2]."""
        x = self.fc(torch.cat([condition, noise], 1)).view(-1, self.channels, FIRST_SIDE, FIRST_SIDE)
        for level in range(1, self.doublings + 1):
            x = self.get_submodule(f"upsample{level}")(x)
        return x


class SecondStage(nn.Module):
    """Features joined with the condition -> features of the image: [B, K, S/2, S/2] -> [B, K/2, S, S]."""

    def __init__(self, condition_dim: int, width: int, residual_blocks: int) -> None:
        super().__init__()
        self.condition_dim = condition_dim
        self.jointConv = nn.Sequential(
            conv3x3(condition_dim + width, 2 * width), nn.BatchNorm2d(2 * width), GLU()
        )
        self.residual = nn.Sequential(*(ResidualBlock(width) for _ in range(residual_blocks)))
        self.upsample = UpBlock(width, width // 2)

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        """[B, K, S/2, S/2], [B, C] -> [B, K/2, S, S]."""
        weight: Tensor = self.jointConv.get_parameter("0.weight")
        of_condition, of_features = weight.split([self.condition_dim, features.shape[1]], 1)
        joined = functional.conv2d(features, of_features, padding=1)
        joined = joined + tiled_conv3x3(condition, of_condition, *features.shape[2:])
        return self.upsample(self.residual(self.jointConv[1:](joined)))


class ToImage(nn.Module):
    """Features -> an image of ImageNet-normalised colours: [B, K, S, S] -> [B, 3, S, S] in (-1, 1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.img = nn.Sequential(conv3x3(channels, 3), nn.Tanh())

    def forward(self, features: Tensor) -> Tensor:
        """[B, K, S, S] -> [B, 3, S, S]."""
        return self.img(features)


class Generator(nn.Module):
    """Recipe embedding and noise -> image.

    Args:
        embed_dim: D, of the recipe embeddings.
        width: GF_DIM, channels of the feature map at half the image's side.
        noise_dim: Z_DIM.
        condition_dim: EMBEDDING_DIM, C.
        residual_blocks: R_NUM.
        side: S, a power of two of at least 16.
    """

    def __init__(
        self,
        *,
        embed_dim: int = 1024,
        width: int = 64,
        noise_dim: int = 100,
        condition_dim: int = 128,
        residual_blocks: int = 2,
        side: int = 128,
    ) -> None:
        super().__init__()
        if side < 4 * FIRST_SIDE or side & (side - 1):
            raise InputError(f"side: expected a power of two of at least {4 * FIRST_SIDE}, found {side}")
        if width < 2 or width % 2:
            raise InputError(f"generator.width: expected an even number, found {width}")
        doublings = (side // (2 * FIRST_SIDE)).bit_length() - 1
        self.embed_dim, self.noise_dim, self.condition_dim, self.side = (
            embed_dim, noise_dim, condition_dim, side,
        )  # fmt: skip
        self.ca_net = ConditioningAugmentation(embed_dim, condition_dim)
        self.h_net1 = FirstStage(condition_dim, noise_dim, width, doublings)
        self.h_net2 = SecondStage(condition_dim, width, residual_blocks)
        self.img_net2 = ToImage(width // 2)

    def forward(self, recipes: Tensor, noise: Tensor, draws: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images, and the Gaussian that their condition came from.

        Args:
            recipes: embeddings [B, D].
            noise: z [B, Z].
            draws: standard normal [B, C] that move the condition, also in evaluation: c = mu + draws * sigma.

        Returns:
            images [B, 3, S, S] of ImageNet-normalised colours, mu [B, C], log variance [B, C].
        """
        mu, log_variance = self.ca_net(recipes)
        condition = mu + draws * (0.5 * log_variance).exp()
        features = self.h_net2(self.h_net1(condition, noise), condition)
        return self.img_net2(features), mu, log_variance


def settings_of(state: dict[str, Any]) -> dict[str, int]:
    """Keyword arguments of the `Generator` whose state dict this is, read off the shapes.

    KeyError or AttributeError when it is not one.
    """
    condition_dim, embed_dim = state["ca_net.fc.weight"].shape[0] // 4, state["ca_net.fc.weight"].shape[1]
    doublings = sum(name.startswith("h_net1.upsample") and name.endswith(".1.weight") for name in state)
    blocks = sum(name.startswith("h_net2.residual.") and name.endswith(".block.0.weight") for name in state)
    return {
        "embed_dim": embed_dim,
        "width": state["h_net2.upsample.1.weight"].shape[1],
        "noise_dim": state["h_net1.fc.0.weight"].shape[1] - condition_dim,
        "condition_dim": condition_dim,
        "residual_blocks": blocks,
        "side": 2 * FIRST_SIDE << doublings,
    }
