"""The embedded data: small procedural image-caption sets, written in the released on-disk formats.

Three variants of precomputed region features (64-d, sets of 12 to 36 rows); each calls for another pooling:

* `sparse`: as detector regions; each concept of the image is in one region, the rest is background.
* `mixed`: a true concept is in several regions, a wrong and stronger one in a few: the maximum finds the
  wrong ones, the average drowns the true ones.
* `dense`: as grid features; every row carries a weak trace of all concepts under heavy-tailed noise.

Splits are separate random draws over one world (concept vectors and words). The raw-image set is in
`mini_pictures`.

    python -m projects.vseinfty.mini --variant all --root DIR
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from projects.vseinfty import mini_cxc, vocabulary
from shared.errors import InputError
from shared.made_once import make_once

FORMAT = 1  # raised whenever the same settings give other data
VARIANTS = ("mixed", "sparse", "dense")
FEATURE_DIM = 64
NUM_STUFF = 20
CONCEPTS_PER_IMAGE = 4
CONCEPTS_PER_CAPTION = 3
CAPTIONS_PER_IMAGE = 5
MIN_REGIONS, MAX_REGIONS = 12, 36
FIXED_SIZES = (12, 18, 24, 36)  # dev and test sets of one size each, for the claim about size augmentation
TRAIN_SIZE = 24
VOCABULARY = "mini_precomp_vocab.json"

# Two words for each concept: a caption uses either, so the words must be learnt from the images.
CONCEPTS = """
dog hound|cat kitten|horse pony|cow cattle|sheep lamb|bird sparrow|fish trout|bear cub|duck goose|rabbit hare
man guy|woman lady|boy lad|girl lass|baby infant|crowd people|child kid|doctor nurse|farmer peasant
singer vocalist|car automobile|bus coach|train locomotive|bike bicycle|boat ship|plane aircraft|truck lorry
tractor plough|sled sledge|cart wagon|house home|bridge viaduct|tower spire|fence railing|street road
beach shore|forest woods|lake pond|hill mountain|garden lawn|table desk|chair stool|sofa couch|bed mattress
lamp lantern|clock watch|phone telephone|book novel|cup mug|bottle flask|apple pear|bread loaf|cake pastry
pizza pie|carrot turnip|ball sphere|kite glider|hat cap|coat jacket|guitar banjo
"""
FILLERS = """
a the one some this that there here is are was with and by near on in at of while very quite also just
"""
DEFAULT_SIZES = {"train": 1500, "dev": 500, "test": 1000}  # images; each has five captions


@dataclass(frozen=True)
class World:
    """What the splits share: unit vectors [60, 64] and [20, 64], two words for each concept, fillers."""

    concepts: np.ndarray
    stuff: np.ndarray
    words: list[tuple[str, str]]
    fillers: list[str]


def ensure(
    root: Path | str,
    *,
    variant: str,
    seed: int | None = None,
    train: int | None = None,
    dev: int | None = None,
    test: int | None = None,
) -> Path:
    """Make a variant's folder `root` on first use, in one step; return `root`.

    A setting left out takes its default in a new folder (seed 0, `DEFAULT_SIZES`), any value in an old one.

    Raises:
        InputError: `variant` is unknown, or `root` holds something else than this variant so set.
    """
    if variant not in VARIANTS:
        raise InputError(f"data.variant: expected one of {', '.join(VARIANTS)}, found {variant!r}")
    asked = {"format": FORMAT, "variant": variant, "seed": seed, "train": train, "dev": dev, "test": test}
    return make_once(Path(root), asked, {"seed": 0, **DEFAULT_SIZES}, _write_variant)


def make_world(seed: int) -> World:
    """The concept and background directions of a set, isotropic on the sphere."""
    rng = np.random.default_rng([seed, 0])
    words = [tuple(pair.split()) for pair in CONCEPTS.strip().replace("\n", "|").split("|")]
    directions = rng.standard_normal((len(words) + NUM_STUFF, FEATURE_DIM))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    concepts, stuff = np.split(directions, [len(words)])
    return World(concepts, stuff, [(first, second) for first, second in words], FILLERS.split())


def _write_variant(folder: Path, settings: dict[str, Any]) -> None:
    variant, seed = settings["variant"], settings["seed"]
    world = make_world(seed)
    plan = [(split, settings[split], MIN_REGIONS, MAX_REGIONS) for split in DEFAULT_SIZES]
    if variant == "mixed":
        plan.append((f"train{TRAIN_SIZE}", settings["train"], TRAIN_SIZE, TRAIN_SIZE))
        plan += [
            (f"{split}{size}", settings[split], size, size)
            for split in ("dev", "test")
            for size in FIXED_SIZES
        ]
    captions: dict[str, list[str]] = {}
    for number, (name, count, fewest, most) in enumerate(plan, start=1):
        rng = np.random.default_rng([seed, number])  # its own stream: splits do not depend on each other
        captions[name] = write_split(folder / "precomp", name, variant, world, count, fewest, most, rng)
    if variant == "mixed":
        named = named_concepts(world, captions["test"])
        shown = named.reshape(-1, CAPTIONS_PER_IMAGE, len(world.concepts)).max(axis=1)
        mini_cxc.write(folder / "cxc_annots", "test", shown, named, np.random.default_rng([seed, 99]))
    write_vocabulary(folder / "vocab" / VOCABULARY, captions["train"] + captions["dev"])


def write_split(
    folder: Path,
    name: str,
    variant: str,
    world: World,
    count: int,
    fewest: int,
    most: int,
    rng: np.random.Generator,
) -> list[str]:
    """Write one split's arrays and captions; returns the captions, five per image in a row."""
    folder.mkdir(parents=True, exist_ok=True)
    make_rows = {"sparse": sparse_rows, "mixed": mixed_rows, "dense": dense_rows}[variant]
    features = np.zeros((count, most, FEATURE_DIM), np.float32)
    lengths = rng.integers(fewest, most + 1, size=count)
    captions = []
    for image, length in enumerate(lengths):
        shown = rng.choice(len(world.concepts), CONCEPTS_PER_IMAGE, replace=False)
        rows = make_rows(world, shown, int(length), rng)
        features[image, :length] = rows[rng.permutation(length)]
        captions += [make_caption(world, shown, rng) for _ in range(CAPTIONS_PER_IMAGE)]
    np.save(folder / f"{name}_ims.npy", features)
    if fewest != most:
        np.save(folder / f"{name}_lengths.npy", lengths.astype(np.int64))
    write_lines(folder / f"{name}_caps.txt", captions)
    write_lines(folder / f"{name}_ids.txt", [str(index) for index in range(count)])
    return captions


def _isotropic(rng: np.random.Generator, count: int, norm: float) -> np.ndarray:
    """Gaussian rows [count, 64] of expected norm `norm`."""
    return rng.standard_normal((count, FEATURE_DIM)) * (norm / np.sqrt(FEATURE_DIM))


def sparse_rows(world: World, shown: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    """[length, 64]: each concept in one row; the others are stuff of norm about 0.6, some more frequent."""
    rows = _isotropic(rng, length, norm=0.7)
    rows[: len(shown)] += world.concepts[shown] * rng.uniform(0.8, 1.2, (len(shown), 1))
    rest = length - len(shown)
    stuff = (rng.geometric(0.12, rest) - 1) % NUM_STUFF
    rows[len(shown) :] += world.stuff[stuff] * rng.uniform(0.4, 0.8, (rest, 1))
    return rows


def mixed_rows(world: World, shown: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    """[length, 64]: true concepts in 15 % of the rows each; four wrong ones, twice as strong, in 6 % each."""
    others = np.setdiff1d(np.arange(len(world.concepts)), shown)
    wrong = rng.choice(others, len(shown), replace=False)
    true_copies, wrong_copies = max(2, round(0.15 * length)), max(1, round(0.06 * length))
    concepts = np.concatenate([np.repeat(shown, true_copies), np.repeat(wrong, wrong_copies)])
    amplitude = np.concatenate([np.ones(len(shown) * true_copies), np.full(len(wrong) * wrong_copies, 2.0)])
    rows = _isotropic(rng, length, norm=1.3)
    rows[: len(concepts)] += world.concepts[concepts] * amplitude[:, None]
    rest = length - len(concepts)
    rows[len(concepts) :] += world.stuff[rng.integers(NUM_STUFF, size=rest)]
    return rows


def dense_rows(world: World, shown: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    """[length, 64]: a weak sum of all concepts in every row, under Student-t(3) noise of norm about 1."""
    weights = rng.uniform(0.5, 1.5, (length, len(shown)))
    noise = rng.standard_t(3, (length, FEATURE_DIM)) / np.sqrt(3 * FEATURE_DIM)  # variance of t(3) is 3
    return 0.14 * weights @ world.concepts[shown] + noise


def make_caption(world: World, shown: np.ndarray, rng: np.random.Generator) -> str:
    """Three of the four concepts in random order, each as either of its words; filler words between."""
    words: list[str] = []
    for concept in rng.choice(shown, CONCEPTS_PER_CAPTION, replace=False):
        words += [
            world.fillers[rng.integers(len(world.fillers))] for chance in (0.8, 0.3) if rng.random() < chance
        ]
        words.append(world.words[concept][rng.integers(2)])
    return " ".join(words)


def named_concepts(world: World, captions: list[str]) -> np.ndarray:
    """[captions, 60] bool: which concepts each caption names."""
    concept_of = {word: index for index, pair in enumerate(world.words) for word in pair}
    named = np.zeros((len(captions), len(world.concepts)), bool)
    for row, caption in enumerate(captions):
        named[row, [concept_of[word] for word in caption.split() if word in concept_of]] = True
    return named


def write_vocabulary(path: Path, captions: list[str]) -> None:
    """The vocabulary of these captions (their words are separated by blanks), as in the SCAN release."""
    path.parent.mkdir(parents=True, exist_ok=True)
    vocabulary.write(path, vocabulary.build(caption.split() for caption in captions))


def write_lines(path: Path, lines: list[str]) -> None:
    """One line each, UTF-8 (the folder is temporary until it is whole, so the file need not be atomic)."""
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def main() -> None:
    """Make the embedded data by hand; the entries make what they need themselves."""
    from projects.vseinfty import mini_pictures

    parser = argparse.ArgumentParser(prog="mini", description="Make the embedded data of vseinfty.")
    parser.add_argument("--variant", choices=[*VARIANTS, "pictures", "all"], default="all")
    parser.add_argument("--root", type=Path, required=True, help="folder that holds mini-<variant>")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    chosen = [*VARIANTS, "pictures"] if args.variant == "all" else [args.variant]
    try:
        for variant in chosen:
            root = args.root / f"mini-{variant}"
            if variant == "pictures":
                mini_pictures.ensure(root, seed=args.seed)
            else:
                ensure(root, variant=variant, seed=args.seed)
            print(root)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
