"""Recipe1M's pairs, as `create_lmdb.py` leaves them and the image tree, as batches for training and evaluation.

B: batch   S: image side   L: tokens of the batch's longest text
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from projects.xmrs import images, text_draws
from projects.xmrs.lmdb_store import RecipeStore
from projects.xmrs.recipe1m import image_path
from projects.xmrs.tokens import LANGUAGES
from projects.xmrs.vocabulary import find_vocabulary, read_vocabulary
from shared.data import BatchPlan, item_generator, pad_sequences
from shared.errors import InputError
from shared.files import open_npy

MBERT_VOCABULARY = 119_547  # entries of multilingual cased BERT's
CORPUS_TOKENS = "corpus_tokens.npy"
SPLITS = ("train", "val", "test")
NO_IMAGE = "the recipe has no image"


@dataclass
class Batch:
    """A training batch: row i of the images and row i of the recipes belong together."""

    images: Tensor  # [B, 3, S, S] float32, normalised
    tokens: Tensor  # [B, L] int64, right-padded with 0
    lengths: Tensor  # [B] int64
    classes: Tensor  # [B] int64; 0 = background
    indices: Tensor  # [B] int64, in the split


@dataclass
class ImageBatch:
    """The first image of recipes, for evaluation."""

    images: Tensor  # as in Batch
    indices: Tensor


@dataclass
class RecipeBatch:
    """Texts of recipes, for evaluation."""

    tokens: Tensor  # as in Batch
    lengths: Tensor
    indices: Tensor


@dataclass(frozen=True)
class DataSet:
    """The `data` section of a config: where the set is, and how its items are read. One field per key.

    Attributes:
        name: for messages and run folders.
        root: folder of the embedded data (variant), else not used.
        image_root: holds train/ val/ test/ with the photos (released `--img_path`).
        data_root: holds {train,val,test}_lmdb and the keys (released `--data_path`).
        vocab: WordPiece vocabulary (vocab.txt); None = the multilingual BERT's of the Hugging Face cache.
        variant: "kitchen" for the embedded data, made on first use; None = a real set.
        strata: file that names parts of the test split which are evaluated apart, where the set has one.
        side, resize: of the crop and of the photo before it, in pixels.
        max_images: training draws one of the first so many photos of a recipe.
        text_inputs: parts of the recipe that are read.
        text_augmentation: what training texts are drawn from; empty = the row `language` alone.
        language: row of the text at evaluation (0 en, 1 de-en, 2 ru-en, 3 de, 4 ru, 5 fr).
        max_tokens: longer texts are cut.
        separator_in_training: end training texts with [SEP] as evaluation does; the released code does not.
        max_items: use only the first so many pairs of a split.
    """

    name: str
    image_root: str
    data_root: str
    root: str | None = None
    vocab: str | None = None
    variant: str | None = None
    strata: str | None = None
    train_split: str = "train"
    val_split: str = "val"
    side: int = 224
    resize: int = 256
    max_images: int = 5
    text_inputs: str | Sequence[str] = ("title", "ingr", "inst")
    text_augmentation: str | Sequence[str] = ("english", "de", "ru", "fr")
    language: int = 0
    max_tokens: int = 512
    separator_in_training: bool = False
    max_items: int | None = None

    def prepare(self) -> None:
        """Make the embedded data on first use; InputError where a real set is not there."""
        if self.variant not in (None, "kitchen"):
            raise InputError(f"data.variant: expected kitchen or null, found {self.variant!r}")
        if self.variant is not None:
            from projects.xmrs import mini

            mini.make(Path(str(self.root)))
            return
        if not Path(self.data_root).is_dir():
            raise InputError(
                f"{self.data_root}: no such folder; data.data_root must hold what create_lmdb.py writes"
            )
        if not Path(self.image_root).is_dir():
            raise InputError(f"{self.image_root}: no such folder; data.image_root must hold the image tree")

    def vocab_size(self) -> int:
        """Entries of the vocabulary: ids are below it. InputError when the file is not there."""
        if self.vocab is None:
            return MBERT_VOCABULARY
        return len(read_vocabulary(find_vocabulary(Path(self.vocab), self.vocab)))

    def corpus_tokens(self) -> np.ndarray | None:
        """The ids that occur in the set's texts, int64, sorted; None where create_lmdb.py left no list.

        InputError for a list that is none, or that the vocabulary does not hold.
        """
        path = Path(self.data_root) / CORPUS_TOKENS
        if not path.is_file():
            return None
        tokens = np.asarray(open_npy(path, ndim=1)).astype(np.int64)
        size = self.vocab_size()
        if len(tokens) and not 0 <= tokens.min() <= tokens.max() < size:
            raise InputError(
                f"{path}: token ids up to {tokens.max()}, but the vocabulary has {size} entries "
                f"(data.vocab: {self.vocab}); the texts were made with another one"
            )
        return tokens

    def open(self, split: str, *, seed: int = 0, language: int | None = None) -> "Split":
        """One of its splits (see `open_split`), texts at evaluation in `language` (None: the set's own)."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in ("name", "root", "vocab", "variant", "strata", "train_split", "val_split"):
            del own[name]
        if language is not None:
            own["language"] = language
        return open_split(split=split, seed=seed, **own)


@dataclass(frozen=True)
class Reading:
    """How the items of a split are read; see `DataSet`."""

    side: int
    resize: int
    max_images: int
    parts: tuple[str, ...]
    augmentation: text_draws.TextAugmentation
    language: int
    max_tokens: int
    separator_in_training: bool
    seed: int


class Split:
    """The pairs of one split, in the order of its keys file.

    Attributes:
        name: train, val or test.
        ids: recipe ids.
        store: the recipes' texts, classes and lists of images.
        reading: how items are read.
    """

    def __init__(self, name: str, store: RecipeStore, image_root: Path, reading: Reading, size: int):
        self.name, self.store, self.reading = name, store, reading
        self.ids = store.ids[:size]
        self._image_root = image_root
        # shared memory: data workers mark what they cannot read, and this process reports it
        self._unreadable = torch.zeros(size, reading.max_images, dtype=torch.bool).share_memory_()
        self._reported = torch.zeros_like(self._unreadable)
        self._texts: tuple[np.ndarray, np.ndarray] | None = None  # ids of all texts, and where each begins

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def unreadable(self) -> int:
        """How many photos could not be read so far (by any process of this one); a white one stood in."""
        return int(self._unreadable.sum())

    def newly_unreadable(self) -> list[str]:
        """One line for each photo that could not be read and that no earlier call told of."""
        new = (self._unreadable & ~self._reported).nonzero().tolist()
        self._reported |= self._unreadable
        return [self._cause(item, image) for item, image in new]

    def state_dict(self) -> dict[str, Any]:
        """What was reported, so that a resumed run counts a photo once."""
        return {"unreadable": self._unreadable.clone(), "reported": self._reported.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        if state["unreadable"].shape == self._unreadable.shape:
            self._unreadable.copy_(state["unreadable"])
            self._reported.copy_(state["reported"])

    def fetch_train(self, plan: BatchPlan) -> Batch:
        """Pairs with drawn image, crop and text; every pair from its own generator (seed, epoch, index)."""
        how, indices = self.reading, np.asarray(plan.indices, np.int64)
        pixels = torch.empty(len(indices), 3, how.side, how.side)
        texts, classes = [], np.empty(len(indices), np.int64)
        for b, index in enumerate(indices.tolist()):
            rng, entry = item_generator(how.seed, plan.epoch, index), self.store.entry(index)
            choices = min(how.max_images, len(entry.images))
            chosen = int(rng.integers(choices)) if choices else 0
            row = text_draws.draw_row(text_draws.chooser(rng), how.augmentation, how.language)
            texts.append(
                text_draws.training_ids(
                    entry.rows[row], entry.lengths[row], how.parts, rng, how.augmentation,
                    max_tokens=how.max_tokens, separator=how.separator_in_training,
                )
            )  # fmt: skip
            photo = self._photo(index, chosen, entry.images)
            pixels[b] = images.training_image(photo, rng, side=how.side, resize=how.resize)
            classes[b] = entry.class_index
        tokens, lengths = _padded(texts)
        return Batch(pixels, tokens, lengths, torch.from_numpy(classes), torch.from_numpy(indices))

    def fetch_images(self, plan: BatchPlan) -> ImageBatch:
        """The first image of each recipe, centre crop."""
        how, indices = self.reading, np.asarray(plan.indices, np.int64)
        pixels = torch.empty(len(indices), 3, how.side, how.side)
        for b, index in enumerate(indices.tolist()):
            photo = self._photo(index, 0, self.store.entry(index).images)
            pixels[b] = images.evaluation_image(photo, side=how.side, resize=how.resize)
        return ImageBatch(pixels, torch.from_numpy(indices))

    def fetch_recipes(self, plan: BatchPlan) -> RecipeBatch:
        """The texts of recipes in the row `language`, ended by [SEP]."""
        indices = np.asarray(plan.indices, np.int64)
        tokens, lengths = _padded([self.tokens(index) for index in indices.tolist()])
        return RecipeBatch(tokens, lengths, torch.from_numpy(indices))

    def recipe_lengths(self) -> np.ndarray:
        """[N] tokens of each text as `fetch_recipes` gives it, for buckets of texts of like length.

        The texts are kept from then on (4 bytes a token): none is read twice.
        """
        if self._texts is None:
            texts = [self.tokens(index) for index in range(len(self))]
            ends = np.cumsum([0, *(len(text) for text in texts)], dtype=np.int64)
            self._texts = np.concatenate(texts), ends
        return np.diff(self._texts[1])

    def tokens(self, index: int) -> np.ndarray:
        """[n] token ids of one text as `fetch_recipes` gives it."""
        if self._texts is not None:
            ids, ends = self._texts
            return ids[ends[index] : ends[index + 1]]
        how, entry = self.reading, self.store.entry(index)
        row, lengths = entry.rows[how.language], entry.lengths[how.language]
        return text_draws.evaluation_ids(row, lengths, how.parts, max_tokens=how.max_tokens)

    def picture(self, index: int, image: int = 0) -> Path | None:
        """The file of a recipe's photo; None when it has no such photo."""
        names = self.store.entry(index).images
        return image_path(self._image_root, self.name, names[image]) if image < len(names) else None

    def photo(self, index: int, image: int = 0) -> Any:
        """A recipe's photo (PIL, RGB), or the white one that stands in for it and is counted."""
        return self._photo(index, image, self.store.entry(index).images)

    def _photo(self, index: int, image: int, names: Sequence[str]) -> Any:
        if not names:
            self._unreadable[index, 0] = True
            return images.blank_photo(self.reading.side)
        path = image_path(self._image_root, self.name, names[image])
        photo, reason = images.read_photo(path, blank_side=self.reading.side)
        if reason is not None:
            self._unreadable[index, image] = True
        return photo

    def _cause(self, index: int, image: int) -> str:
        path = self.picture(index, image)
        if path is None:
            return f"recipe {self.ids[index]}: {NO_IMAGE}"
        return images.read_photo(path)[1] or f"{path}: could not be read before, but can be now"


def open_split(
    *,
    image_root: str | Path,
    data_root: str | Path,
    split: str,
    side: int = 224,
    resize: int = 256,
    max_images: int = 5,
    text_inputs: str | Sequence[str] = ("title", "ingr", "inst"),
    text_augmentation: str | Sequence[str] = ("english", "de", "ru", "fr"),
    language: int = 0,
    max_tokens: int = 512,
    separator_in_training: bool = False,
    max_items: int | None = None,
    seed: int = 0,
) -> Split:
    """Open a split; the arguments are fields of `DataSet`, and `seed` is that of all draws.

    Raises:
        InputError: the store is missing, empty or of another layout; a setting that makes no sense.
    """
    if split not in SPLITS:
        raise InputError(f"split: expected one of {', '.join(SPLITS)}, found {split!r}")
    if not 0 <= language < len(LANGUAGES):
        rows = ", ".join(f"{row} {name}" for row, name in enumerate(LANGUAGES))
        raise InputError(f"data.language: expected a row of the recipe texts ({rows}), found {language!r}")
    if not 32 <= side <= resize:
        raise InputError(f"data.side: expected 32 to data.resize = {resize} pixels, found {side}")
    for name, value, least in (("max_images", max_images, 1), ("max_tokens", max_tokens, 2)):
        if value < least:
            raise InputError(f"data.{name}: expected at least {least}, found {value}")
    reading = Reading(
        side, resize, max_images, text_draws.parse_parts(text_inputs),
        text_draws.parse_augmentation(text_augmentation), language, max_tokens, separator_in_training, seed,
    )  # fmt: skip
    folder = Path(data_root)
    store = RecipeStore(folder / f"{split}_lmdb", folder / f"{split}_keys.pkl")
    size = len(store) if max_items is None else min(max_items, len(store))
    if size < 1:
        raise InputError(f"{folder / f'{split}_lmdb'}: expected at least one pair, found {size}")
    return Split(split, store, Path(image_root), reading, size)


def _padded(texts: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Token ids as one int64 tensor [B, L] that is as long as the longest text, and the lengths [B]."""
    ids, lengths = pad_sequences(texts)
    return torch.from_numpy(ids.astype(np.int64)), torch.from_numpy(lengths)
