"""How the CLIP stand-in learns: names against pictures, and names against the patches of pictures.

The second part is more than captions: it says which patch shows what ("region-text" training, in the manner of
GLIP and RegionCLIP). `regions="captions"` leaves it out: a name then need only fit its best patches.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from projects.semabs.clip_model import CLIP
from projects.semabs.clip_tokenizer import Tokenizer
from projects.semabs.mini_clip_pictures import IGNORED, Batch, Pictures
from projects.semabs.mini_names import NAMES, SYNONYMS
from shared.errors import InputError

PROMPTS = (
    "{}",
    "a photo of a {}",
    "a picture of a {} in a room",
    "a render of a {} in a game engine.",
    "a photograph of a {} in a home.",
)
LATERAL = ("on the left of", "on the right of")
OTHER_RELATIONS = ("behind", "in front of", "on", "in")
REGIONS = ("names", "captions")
_SCALE = 15.0  # of cosines, as logits
_TEXT_TO_IMAGE = 0.3
_REGION_WEIGHT = 2.0
_SENTENCE_WEIGHT = 0.3
_POOLING = 5.0  # sharpness of the soft maximum over patches, "captions" only


@dataclass(frozen=True)
class Progress:
    """What `train` tells after each step."""

    step: int
    steps: int
    loss: float


def train(
    model: CLIP,
    tokenizer: Tokenizer,
    pictures: Pictures,
    *,
    steps: int,
    batch_size: int,
    seed: int,
    regions: str = "names",
    muon_lr: float = 3e-3,
    adamw_lr: float = 1.5e-3,
    after_step: Callable[[Progress], None] = lambda progress: None,
) -> None:
    """Train in place for `steps` batches; cosine learning rate, gradients clipped to norm 1."""
    if regions not in REGIONS:
        raise InputError(f"clip.regions: expected one of {', '.join(REGIONS)}, found {regions!r}")
    background = nn.Parameter(0.1 * torch.randn(model.text_projection.shape[1]))
    optimizers = _optimizers(model, background, muon_lr, adamw_lr)
    parameters = [*model.parameters(), background]
    model.train()
    for step in range(steps):
        rng = np.random.default_rng([seed, 30, step])
        loss = batch_loss(model, tokenizer, background, pictures.batch(rng, batch_size), rng, regions)
        if not math.isfinite(float(loss.detach())):
            raise InputError(f"the stand-in's training: loss {float(loss.detach())} at step {step}")
        model.zero_grad(set_to_none=True)
        background.grad = None
        loss.backward()
        nn.utils.clip_grad_norm_([one for one in parameters if one.grad is not None], 1.0)
        factor = _rate(step, steps)
        for optimizer, highest in zip(optimizers, (muon_lr, adamw_lr), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = highest * factor
            optimizer.step()
        after_step(Progress(step + 1, steps, float(loss.detach())))
    model.eval()


def batch_loss(
    model: CLIP,
    tokenizer: Tokenizer,
    background: Tensor,
    batch: Batch,
    rng: np.random.Generator,
    regions: str,
) -> Tensor:
    """The whole loss of a batch: pictures and names, patches and names, pictures and sentences."""
    tokens = model.visual.trunk(batch.images)
    images = F.normalize(model.visual.head(tokens), dim=-1)
    names = [_called(rng, name) for name in NAMES]
    sentences, owners = _sentences(rng, batch.pairs)
    texts = [_prompted(rng, text) for text in [*names, *sentences]]
    features = F.normalize(model.encode_text(tokenizer(texts)), dim=-1)
    named, told = features[: len(NAMES)], features[len(NAMES) :]
    loss = contrast(_SCALE * images @ named.T, batch.shown)
    patches = F.normalize(model.visual.project(tokens[:, 1:]), dim=-1)
    against = torch.cat([named, F.normalize(background, dim=0)[None]])
    loss = loss + _REGION_WEIGHT * region_loss(_SCALE * patches @ against.T, batch, regions)
    if len(told) > 1:
        # a sentence fits the pictures that show both of its objects (CLIP's captions hold sentences, too)
        both = torch.stack([batch.shown[:, first] & batch.shown[:, second] for _, first, second in owners], 1)
        loss = loss + _SENTENCE_WEIGHT * contrast(_SCALE * images @ told.T, both)
    return loss


def contrast(logits: Tensor, positive: Tensor) -> Tensor:
    """Softmax loss with several positives: image to text + 0.3 x text to image.

    logits [B, T], positive bool [B, T]; rows (and columns) without a positive are left out.
    """
    total = logits.new_zeros(())
    for weight, scores, fits in ((1.0, logits, positive), (_TEXT_TO_IMAGE, logits.T, positive.T)):
        count = fits.sum(1)
        logs = scores.log_softmax(1)
        per_row = -(logs * fits).sum(1) / count.clamp(min=1)
        total = total + weight * per_row.sum() / (count > 0).sum().clamp(min=1)
    return total


def region_loss(logits: Tensor, batch: Batch, regions: str) -> Tensor:
    """Patches against names: logits [B, patches, names + 1], the last one for background.

    "names": cross-entropy with the name of each patch. "captions": each name's soft maximum over the patches
    against what the picture shows (multiple instances), no patch being told what it is.
    """
    if regions == "names":
        return F.cross_entropy(logits.flatten(0, 1), batch.patches.flatten(), ignore_index=IGNORED)
    names = logits[..., :-1]
    pooled = torch.logsumexp(_POOLING * names, 1).div(_POOLING)
    return contrast(pooled, batch.shown)


def _called(rng: np.random.Generator, name: str) -> str:
    """The name, or in half of the cases its synonym."""
    return SYNONYMS[name] if name in SYNONYMS and rng.random() < 0.5 else name


def _prompted(rng: np.random.Generator, text: str) -> str:
    return PROMPTS[rng.integers(len(PROMPTS))].format(text)


def _sentences(
    rng: np.random.Generator, pairs: Sequence[tuple[int, int, int]]
) -> tuple[list[str], list[tuple[int, int, int]]]:
    """A sentence for each pair of objects beside each other: true left or right, or another relation."""
    sentences = []
    for _, left, right in pairs:
        first, second = _called(rng, NAMES[left]), _called(rng, NAMES[right])
        other = OTHER_RELATIONS[rng.integers(len(OTHER_RELATIONS))]
        relation = other if rng.random() < 0.4 else LATERAL[0]
        if rng.random() < 0.5:
            first, second = second, first
            relation = LATERAL[1] if relation == LATERAL[0] else relation
        sentences.append(f"{first} {relation} a {second}")
    return sentences, list(pairs)


def _rate(step: int, steps: int) -> float:
    """Up over the first 3 %, then down along a cosine."""
    rise = max(1, round(0.03 * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def _optimizers(
    model: CLIP, background: Tensor, muon_lr: float, adamw_lr: float
) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Muon (Jordan et al., 2024) for the matrices of the blocks, AdamW for everything else."""
    matrices: list[Tensor] = []
    others: list[Tensor] = [background]
    for name, parameter in model.named_parameters():
        if name == "logit_scale":
            continue  # CLIP's own; cosines have a fixed scale here
        (matrices if "resblocks" in name and parameter.ndim == 2 else others).append(parameter)
    muon = torch.optim.Muon(matrices, lr=muon_lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    return muon, torch.optim.AdamW(others, lr=adamw_lr, weight_decay=0.01)
