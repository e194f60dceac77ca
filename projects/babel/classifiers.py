"""Classifiers ("cls"): torchvision's nets with a last layer of C concepts, and one inner map as feature."""

from collections.abc import Callable, Collection
from typing import Any

from torch import Tensor, nn

from projects.babel.outputs import Net, Output
from shared.errors import InputError

HOOKED = {  # the layer whose output is the feature of the correspondence loss
    "resnet18": "layer4",
    "resnet50": "layer4",
    "squeezenet": "features.5.squeeze_activation",
    "mobilenet_v2": "features.4.conv.0",
}
FEATURE = "feature"


class Classifier(Net):
    """[B, 3, H, W] -> scores [B, C]; no masks. All its layers train at one rate."""

    feature_names = (FEATURE,)

    def __init__(self, name: str, *, concepts: int = 10) -> None:
        super().__init__(concepts)
        if name not in HOOKED:
            raise InputError(
                f"model.backbone: expected one of {', '.join(HOOKED)} for kind cls, found {name!r}"
            )
        self.model_ft = _network(name)
        _replace_last(self.model_ft, concepts)
        self._kept: list[Tensor] = []
        self.model_ft.get_submodule(HOOKED[name]).register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self._kept.append(output)

    def forward(self, images: Tensor, *, layers: Collection[str] = (), keep: Tensor | None = None) -> Output:
        """Scores of normalised images [B, 3, H, W]."""
        try:
            scores = self.model_ft(images).float()
            found = self.chosen({FEATURE: self._kept[-1]}, layers)
        finally:
            self._kept.clear()
        return Output(scores, features=found)


def _network(name: str) -> nn.Module:
    from torchvision import models

    builders: dict[str, Callable[..., nn.Module]] = {
        "resnet18": models.resnet18,
        "resnet50": models.resnet50,
        "squeezenet": models.squeezenet1_0,
        "mobilenet_v2": models.mobilenet_v2,
    }
    return builders[name](weights=None)


def _replace_last(network: nn.Module, concepts: int) -> None:
    """The last linear layer, or squeezenet's last 1x1 convolution."""
    name = "fc" if hasattr(network, "fc") else "classifier.1"
    last = network.get_submodule(name)
    if isinstance(last, nn.Linear):
        network.set_submodule(name, nn.Linear(last.in_features, concepts))
    elif isinstance(last, nn.Conv2d):
        network.set_submodule(name, nn.Conv2d(last.in_channels, concepts, 1))
