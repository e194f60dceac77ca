"""The semantic-aware baselines: coloured points make one volume, and text features point into it."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from projects.semabs.completion import Encoded, SemAbs3D, of_patches
from projects.semabs.pointing import CosinePointing, build_pointing
from shared.errors import InputError

TextEncoder = Callable[[Sequence[str]], Tensor]


class SemanticAwareOVSSC(SemAbs3D):
    """SemAbs3D whose decoder gives a vector for each point; a label's logit is how its text feature points to it.

    Args:
        text_dim: length of the text features.
        pointing_method: `pointing.build_pointing`'s; cosine similarity never forms the vectors of the points.
        **completion: of `SemAbs3D`.
    """

    def __init__(
        self, *, text_dim: int = 512, pointing_method: str = "cosine_sim", **completion: Any
    ) -> None:
        super().__init__(out_channels=text_dim, **completion)
        self.pointing = build_pointing(pointing_method, text_dim)

    def decode(
        self,
        encoded: Encoded,
        *,
        output_xyz_pts: Tensor,
        semantic_class_features: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """Logits [B, P, N] of query points [B, P, N, 3] for the labels' text features [B, P, D]."""
        if semantic_class_features is None:
            raise InputError(
                "semantic_class_features: wanted by the semantic_aware approach, not in the item"
            )
        points, rows = of_patches(output_xyz_pts, encoded.rows)
        inputs = self.visual_sampler.inputs(encoded.volumes, points, rows)
        keys = semantic_class_features.flatten(0, 1).to(inputs.dtype)
        return point_out(self.visual_sampler.mlp, self.pointing, inputs, keys).view(
            *output_xyz_pts.shape[:-1]
        )


def point_out(mlp: nn.Sequential, pointing: nn.Module, inputs: Tensor, keys: Tensor) -> Tensor:
    """Logits [R, N] of pointing keys [R, D] into mlp(inputs [R, N, H])."""
    if isinstance(pointing, CosinePointing):
        last = mlp[-1]
        assert isinstance(last, nn.Linear)
        return pointing.of_linear(mlp[:-1](inputs), last.weight, last.bias, keys)
    found: Tensor = pointing(mlp(inputs), keys)
    return found


class NameFeatures:
    """Text features of names as the text encoder gives them, un-prompted and un-normalised; each name once.

    Args:
        encode: names -> [n, D].
    """

    def __init__(self, encode: TextEncoder | None = None) -> None:
        self.encode = encode
        self.known: dict[str, Tensor] = {}

    def __call__(self, names: Sequence[str], like: Tensor) -> Tensor:
        """[n, D] on the device of `like`, in its type."""
        new = sorted({name for name in names if name not in self.known})
        if new:
            if self.encode is None:
                raise InputError(
                    "semantic_aware (vool): the network needs a text encoder for names: give "
                    "build_network(text_encoder=...) or set network.names.encode"
                )
            with torch.no_grad():
                found = self.encode(new)
            self.known.update(zip(new, found.detach().float().cpu(), strict=True))
        return torch.stack([self.known[name] for name in names]).to(like)
