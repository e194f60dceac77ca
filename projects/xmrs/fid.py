"""The Frechet distance between two sets of images in the space of a feature network, and the Inception score.

FID is this distance in the space of Inception, whose weights are not part of this repository: `load_network`
takes them from a file of the user's. Without a file the distance is reported in the space of the retrieval
model's image encoder, under another name, and never compared with published FIDs.

N: images   F: features   K: classes
"""

import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
import torch
from torch import Tensor, nn
from torch.nn import functional

from shared.errors import InputError

NO_WEIGHTS = (
    "FID and Inception score are left out: they need the weights of an Inception network, which are not part "
    "of this repository. fid.network=FILE takes torchvision's inception_v3 state dict (its FID differs from that "
    "of the original TensorFlow weights), or a TorchScript Inception together with fid.trust_program=true"
)
INCEPTION_SIDE = 299
SCORE_SPLITS = 10

FeatureNetwork = Callable[[Tensor], tuple[Tensor, Tensor | None]]
"""uint8 images [B, 3, H, W] -> features [B, F], and class probabilities [B, K] where the network has them."""


class Statistics:
    """Mean and covariance of rows that come in batches, in float64, without keeping them."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = np.zeros(0)
        self._scatter = np.zeros((0, 0))

    def add(self, rows: np.ndarray | Tensor) -> None:
        """Take in rows [n, F]."""
        if isinstance(rows, Tensor):
            rows = rows.detach().cpu().numpy()
        rows = np.asarray(rows, np.float64)
        if not len(rows):
            return
        if not np.isfinite(rows).all():
            raise InputError("features hold NaN or infinity: no Frechet distance")
        if self.count == 0:
            self.mean, self._scatter = np.zeros(rows.shape[1]), np.zeros((rows.shape[1],) * 2)
        mean, total = rows.mean(0), self.count + len(rows)
        centred, shift = rows - mean, mean - self.mean
        self._scatter += centred.T @ centred + np.outer(shift, shift) * (self.count * len(rows) / total)
        self.mean = self.mean + shift * (len(rows) / total)
        self.count = total

    @property
    def covariance(self) -> np.ndarray:
        """[F, F], by N - 1. InputError for fewer than two rows."""
        if self.count < 2:
            raise InputError(f"a covariance needs at least two images, found {self.count}")
        return self._scatter / (self.count - 1)


def frechet_distance(first: Statistics, second: Statistics) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)).

    The trace of the root is the sum of the roots of the eigenvalues of C1^(1/2) C2 C1^(1/2), which is
    symmetric, so that singular covariances (fewer images than features) need no special care.
    """
    if first.mean.shape != second.mean.shape:
        raise InputError(f"features of {first.mean.shape} and {second.mean.shape}: of the same network?")
    of_first, of_second = first.covariance, second.covariance
    values, vectors = scipy.linalg.eigh(of_first)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    mixed = scipy.linalg.eigvalsh(root @ of_second @ root)
    trace = np.trace(of_first) + np.trace(of_second) - 2 * np.sqrt(mixed.clip(min=0)).sum()
    return float(((first.mean - second.mean) ** 2).sum() + trace)


def inception_score(probabilities: np.ndarray, splits: int = SCORE_SPLITS) -> tuple[float, float]:
    """exp of the mean divergence of p(class | image) from p(class): mean and deviation over `splits` parts.

    probabilities: [N, K].
    """
    if len(probabilities) < splits:
        raise InputError(
            f"the Inception score of {splits} parts needs as many images, found {len(probabilities)}"
        )
    scores = []
    for part in np.array_split(np.asarray(probabilities, np.float64), splits):
        logarithms = np.log(part.clip(min=1e-16)) - np.log(part.mean(0).clip(min=1e-16))
        scores.append(np.exp((part * logarithms).sum(1).mean()))
    return float(np.mean(scores)), float(np.std(scores))


@dataclass
class Score:
    """Statistics of one set of images under a feature network, and its class probabilities."""

    statistics: Statistics
    probabilities: list[np.ndarray]


def score(network: FeatureNetwork, batches: Iterable[Tensor]) -> Score:
    """Run uint8 batches [B, 3, H, W] through a network."""
    found = Score(Statistics(), [])
    for images in batches:
        with torch.inference_mode():
            features, probabilities = network(images)
        found.statistics.add(features.float())
        if probabilities is not None:
            found.probabilities.append(probabilities.float().cpu().numpy())
    return found


def load_network(
    path: str | Path, *, trust_program: bool = False, device: torch.device | str = "cpu"
) -> FeatureNetwork:
    """A feature network from a file.

    Args:
        path: torchvision's inception_v3 state dict, or a TorchScript program that maps uint8 images
            [B, 3, H, W] to features [B, F] (asked for `return_features=True` where it has that argument).
        trust_program: TorchScript is run, not only read: whoever made the file decides what it does.
        device: where it runs.

    Raises:
        InputError: no such file, neither of the two, or a program without `trust_program`.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise InputError(f"fid.network: no such file {path}")
    if not _is_program(path):
        return _Inception(_inception(path).to(device).eval())
    if not trust_program:
        raise InputError(
            f"fid.network: {path} is a TorchScript program, which would be run; fid.trust_program=true allows it"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", FutureWarning
            )  # torch.export replaces TorchScript; the files are here
            program = torch.jit.load(str(path), map_location=device).eval()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()
        raise InputError(f"fid.network: {path}: not a readable TorchScript program: {reason[0]}") from None
    return _Program(program)


def _is_program(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _inception(path: Path) -> nn.Module:
    from torchvision.models import inception_v3

    from shared.checkpoint import load_strictly
    from shared.untrusted import load_checkpoint

    content: Any = load_checkpoint(path)
    if not isinstance(content, Mapping):
        raise InputError(f"fid.network: {path}: expected a state dict, found {type(content).__name__}")
    network: nn.Module = inception_v3(weights=None, aux_logits=False, init_weights=False)
    unused = ("AuxLogits.*", "*.num_batches_tracked")
    load_strictly(network, content, source=str(path), allow_missing=unused, allow_unexpected=unused)
    return network


class _Inception:
    def __init__(self, network: Any) -> None:
        self.network, self.classifier = network, network.fc
        network.fc = nn.Identity()

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        place = self.classifier.weight.device
        pixels = images.to(place).float() / 127.5 - 1
        size = (INCEPTION_SIDE, INCEPTION_SIDE)
        features = self.network(functional.interpolate(pixels, size, mode="bilinear", antialias=True))
        return features, self.classifier(features).softmax(1)


class _Program:
    def __init__(self, program: Any) -> None:
        arguments = [argument.name for argument in program.forward.schema.arguments]
        self.program = program
        self.options = {"return_features": True} if "return_features" in arguments else {}
        self.device = next((p.device for p in program.parameters()), torch.device("cpu"))

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        features = self.program(images.to(self.device), **self.options)
        if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != len(images):
            raise InputError("fid.network: the program must return one row of features per image")
        return features, None
