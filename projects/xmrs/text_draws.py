"""Which text of a recipe is read: language row, parts, masked words; and the ids that the encoder gets.

Translations are the paper's regulariser: at every draw the text is the English original, one of its
back-translations, or a machine translation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from projects.xmrs.tokens import LANGUAGES, MASK, PARTS, SEP
from shared.errors import InputError

PART_SUBSETS = [names for count in (1, 2, 3) for names in combinations(PARTS, count)]
ENGLISH = LANGUAGES.index("en")
BACK_TRANSLATIONS = (LANGUAGES.index("de-en"), LANGUAGES.index("ru-en"))
TRANSLATIONS = {name: LANGUAGES.index(name) for name in ("de", "ru", "fr")}
AUGMENTATIONS = ("english", *TRANSLATIONS, "textinput", "mask")
MASKED_SHARE = 0.25  # at most this share of a text's tokens is masked

Choose = Callable[[Sequence[int]], int]


@dataclass(frozen=True)
class TextAugmentation:
    """What a training text is drawn from (released `--textAug`).

    Attributes:
        english: draw English back-translations too.
        languages: rows of the translations that are drawn.
        parts: draw the parts of the recipe (any of the 7 non-empty subsets).
        mask: replace up to a quarter of the tokens by [MASK].
    """

    english: bool = False
    languages: tuple[int, ...] = ()
    parts: bool = False
    mask: bool = False


def parse_parts(names: str | Sequence[str]) -> tuple[str, ...]:
    """`"title,ingr"` or a list of parts, in the order in which they are read; InputError for another name."""
    given = _names(names)
    for name in given:
        if name not in PARTS:
            raise InputError(f"text_inputs: expected some of {', '.join(PARTS)}, found {name!r}")
    if not given:
        raise InputError(f"text_inputs: expected at least one of {', '.join(PARTS)}, found none")
    return tuple(name for name in PARTS if name in given)


def parse_augmentation(names: str | Sequence[str]) -> TextAugmentation:
    """`"english,de,ru,fr"` or a list; empty = none. InputError for another name."""
    given = _names(names)
    for name in given:
        if name not in AUGMENTATIONS:
            raise InputError(
                f"text_augmentation: expected some of {', '.join(AUGMENTATIONS)}, found {name!r}"
            )
    languages = tuple(row for name, row in TRANSLATIONS.items() if name in given)
    return TextAugmentation("english" in given, languages, "textinput" in given, "mask" in given)


def _names(names: str | Sequence[str]) -> list[str]:
    listed = names.split(",") if isinstance(names, str) else names
    return [str(name).strip() for name in listed if str(name).strip()]


def draw_row(choose: Choose, augmentation: TextAugmentation, original: int = ENGLISH) -> int:
    """The language row of a training text.

    With everything on: English 1/4, each back-translation 1/8, each of three translations 1/6. `choose` picks
    one of several numbers uniformly; the calls are those of the released code, in its order.
    """
    row = original
    if augmentation.english:
        row = choose((row, choose(BACK_TRANSLATIONS)))
    if augmentation.languages:
        row = choose((row, choose(augmentation.languages)))
    return row


def chooser(rng: np.random.Generator) -> Choose:
    """Uniform choice by a generator."""
    return lambda options: options[int(rng.integers(len(options)))]


def legacy_draws(
    random: np.random.RandomState, num_images: int, max_images: int, augmentation: TextAugmentation
) -> tuple[int, int]:
    """(image index, language row) as the released loader draws them from NumPy's global generator.

    For comparisons with the released code only: training here draws from a generator of each item.
    """

    def choose(options: Sequence[int]) -> int:
        return int(random.choice(options))

    image = choose(range(min(max_images, num_images)))
    return image, draw_row(choose, augmentation)


def training_ids(
    row: np.ndarray,
    lengths: np.ndarray,
    kept: Sequence[str],
    rng: np.random.Generator,
    augmentation: TextAugmentation,
    *,
    max_tokens: int = 512,
    separator: bool = False,
) -> np.ndarray:
    """Token ids [n <= max_tokens] of a training text; a new array.

    Args:
        row: stored ids, [CLS] first.
        lengths: [3] tokens of the title, the ingredients and the instructions.
        kept: the parts to read, unless the augmentation draws them.
        rng: the item's generator.
        augmentation: see `TextAugmentation`.
        max_tokens: longer texts are cut.
        separator: end with [SEP] as evaluation does; the released training does not.
    """
    if augmentation.parts:
        kept = PART_SUBSETS[int(rng.integers(len(PART_SUBSETS)))]
    ids = _chosen(row, lengths, kept, max_tokens)
    if separator:
        ids = _ended(ids, max_tokens)
    most = int(MASKED_SHARE * len(ids))
    if augmentation.mask and most > 0:  # a text of up to 3 tokens stays as it is; the released code fails
        count = int(rng.integers(most))
        ids[rng.integers(len(ids), size=count)] = MASK
    return ids


def evaluation_ids(
    row: np.ndarray, lengths: np.ndarray, kept: Sequence[str], *, max_tokens: int = 512
) -> np.ndarray:
    """[n <= max_tokens] ids of a text at evaluation: [CLS], the parts, [SEP] (in the last place if full).

    Arguments and result as in `training_ids`.
    """
    return _ended(_chosen(row, lengths, kept, max_tokens), max_tokens)


def _chosen(row: np.ndarray, lengths: np.ndarray, kept: Sequence[str], max_tokens: int) -> np.ndarray:
    """[CLS] and the tokens of the parts."""
    if len(kept) == len(PARTS):
        return row[:max_tokens].copy()
    ends = [1, *(1 + np.cumsum(lengths)).tolist()]
    pieces = [row[ends[k] : ends[k + 1]] for k, name in enumerate(PARTS) if name in kept]
    return np.concatenate([row[:1], *pieces])[:max_tokens]


def _ended(ids: np.ndarray, max_tokens: int) -> np.ndarray:
    if len(ids) < max_tokens:
        return np.append(ids, ids.dtype.type(SEP))
    ids[-1] = SEP
    return ids
