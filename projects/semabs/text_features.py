"""Text features of labels, each text encoded once."""

from collections.abc import MutableMapping, Sequence

import torch
from torch import Tensor

from projects.semabs.clip_weights import LoadedClip
from shared.errors import InputError

Cache = MutableMapping[str, Tensor]
BATCH = 64


def text_embeddings(clip: LoadedClip, texts: Sequence[str], *, cache: Cache | None = None) -> Tensor:
    """CLIP's features of texts as they are: no prompt, not normalised; float32 [n, E] on the CPU.

    cache: features by text, kept between calls. InputError: a text with more tokens than CLIP reads.
    """
    known = {} if cache is None else cache
    missing = sorted({text for text in texts if text not in known}, key=lambda text: (len(text), text))
    device = clip.model.text_projection.device
    for first in range(0, len(missing), BATCH):  # of similar lengths
        batch = missing[first : first + BATCH]
        with torch.no_grad():
            features = clip.model.encode_text(clip.tokenizer(batch).to(device)).float().cpu()
        known.update(zip(batch, features, strict=True))
    if not texts:
        return torch.empty(0, clip.model.text_projection.shape[1])
    return torch.stack([known[text] for text in texts])


def label_features(
    clip: LoadedClip, labels: Sequence[str], prompts: Sequence[str], *, cache: Cache | None = None
) -> Tensor:
    """Features of labels put into the prompts: normalised for each prompt, then averaged as released.

    With one prompt rows have norm 1, with several a little less. Returns float32 [L, E].
    InputError: no prompt, a prompt without {}, an empty label.
    """
    if not prompts:
        raise InputError("prompts: expected at least one, with {} for the label")
    for prompt in prompts:
        if "{}" not in prompt:
            raise InputError(f"prompts: expected {{}} for the label in {prompt!r}")
    for label in labels:
        if not label.strip():
            raise InputError("labels: found an empty label")
    texts = [prompt.replace("{}", label) for label in labels for prompt in prompts]
    features = torch.nn.functional.normalize(text_embeddings(clip, texts, cache=cache), dim=-1)
    return features.unflatten(0, (len(labels), len(prompts))).mean(1)


def mean_feature(features: Tensor) -> Tensor:
    """The feature stored with the mean map: the normalised mean of the labels' [L, E] -> [E]."""
    return torch.nn.functional.normalize(features.mean(0), dim=-1)
