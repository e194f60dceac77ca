"""What the nets return, and what those that segment have in common."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn

from projects.babel.backbone import Backbone, Maps
from shared.errors import InputError


@dataclass(frozen=True, slots=True)
class Output:
    """Result of a net for images [B, 3, H, W].

    Attributes:
        scores: class scores [B, C], foreground only, before any sigmoid.
        logits: [B, 1 + C, h, w], the background first; None for classifiers.
        masks: softmax of the logits (of the CAM baseline: its activations); None for classifiers.
        features: the maps that were asked for, by name.
    """

    scores: Tensor
    logits: Tensor | None = None
    masks: Tensor | None = None
    features: dict[str, Tensor] = field(default_factory=dict)


class Net(nn.Module):
    """Base of all nets.

    Attributes:
        concepts: number C of concepts.
        settings: keyword arguments of `build_model` that make it again.
        pretrained_layers: top-level names of the layers that start from other weights; the rest is new.
        frozen_layers: of these, the ones that never change.
        bias_rate: learning rate of biases in units of the weights'.
        feature_names: names of the maps that `forward(layers=...)` can keep.
    """

    feature_names: tuple[str, ...] = ()

    def __init__(
        self,
        concepts: int,
        *,
        pretrained: Collection[str] = (),
        frozen: Collection[str] = (),
        bias_rate: int = 1,
    ) -> None:
        super().__init__()
        if concepts < 1:
            raise InputError(f"data.concepts: expected at least one concept, found {concepts}")
        self.concepts = concepts
        self.pretrained_layers, self.frozen_layers = tuple(pretrained), tuple(frozen)
        self.bias_rate = bias_rate
        self.settings: dict[str, Any] = {}

    @staticmethod
    def chosen(found: Mapping[str, Tensor], layers: Collection[str]) -> dict[str, Tensor]:
        """The maps of these names; InputError for another one."""
        if unknown := set(layers) - set(found):
            expected = ", ".join(found)
            raise InputError(f"feature layer: expected one of {expected}, found {', '.join(sorted(unknown))}")
        return {name: found[name] for name in layers}


class Segmenter(Net):
    """A net whose top-level layers are its backbone's and its head's."""

    def __init__(self, backbone: Backbone, concepts: int) -> None:
        super().__init__(
            concepts, pretrained=backbone.layers, frozen=backbone.frozen, bias_rate=backbone.bias_rate
        )
        self._encode = backbone.encode
        for name, layer in backbone.layers.items():
            self.add_module(name, layer)
        for name in backbone.frozen:
            self.get_submodule(name).requires_grad_(False)

    def encode(self, images: Tensor) -> Maps:
        """The backbone's shallow and deep map."""
        return self._encode(self, images)

    def train(self, mode: bool = True) -> Self:
        """As of any module; frozen layers stay in evaluation mode."""
        super().train(mode)
        for name in self.frozen_layers:
            self.get_submodule(name).eval()
        return self

    def draw_head(self) -> None:
        """He's initialisation of the new convolutions; norms start as the identity."""
        for name, layer in self.named_children():
            if name in self.pretrained_layers:
                continue
            for module in layer.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight)

    def upsampled_masks(self, output: Output, size: torch.Size) -> Tensor:
        """Masks [B, 1 + C, H, W] at the images' size, for inference."""
        raise NotImplementedError
