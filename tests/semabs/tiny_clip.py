"""Small CLIPs with drawn weights, for tests of relevancy."""

from functools import cache

import torch

from projects.semabs.clip_model import CLIP, build_clip
from projects.semabs.clip_tokenizer import WordTokenizer, split_words
from projects.semabs.clip_weights import LoadedClip
from projects.semabs.mini_names import NAMES, SYNONYMS
from projects.semabs.vocabulary import RELATIONS

SIZES = {
    "image_size": 32,
    "patch": 8,
    "width": 32,
    "layers": 4,
    "heads": 4,
    "text_width": 16,
    "text_layers": 1,
}
TEXTS = (*NAMES, *SYNONYMS.values(), *RELATIONS, "a render of a {} in a game engine")
WORDS = [word for text in TEXTS for word in split_words(text)]


def tiny_model(vocabulary: int, context: int, **sizes: int | str) -> CLIP:
    """Drawn weights, larger than CLIP starts with, so that attention and nonlinearities matter."""
    torch.manual_seed(0)
    shape = {**SIZES, "text_heads": 2, "embedding": 24, **sizes}
    model = build_clip(vocabulary=vocabulary, context=context, **shape)  # type: ignore[arg-type]
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 and "embedding" not in name:
            parameter.data += 0.2 * torch.randn_like(parameter)
        elif parameter.ndim == 2 and "embedding" not in name:
            parameter.data *= 2
    return model.requires_grad_(False).eval()


@cache
def tiny_clip() -> LoadedClip:
    """A CLIP of 32 pixels, 4 x 4 patches; it knows the words of the embedded rooms. Not to be changed."""
    tokenizer = WordTokenizer(WORDS, 24)
    return LoadedClip(tiny_model(tokenizer.vocabulary, 24), tokenizer, "tiny", SIZES["image_size"])
