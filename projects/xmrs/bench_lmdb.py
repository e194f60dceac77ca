"""Bench cases of the LMDB build, on synthetic corpora (bench_corpus.py): the rate, and how memory grows."""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from projects.xmrs import bench_corpus
from projects.xmrs.lmdb_store import RecipeStore
from projects.xmrs.lmdb_writer import write_stores
from projects.xmrs.recipe1m import PARTITIONS
from projects.xmrs.tokens import Tokenizer, build_tokenizer
from shared.bench import Case, Sides, Target

RELEASED = "released: slow tokenizer, list look-ups, a transaction a recipe"
_folders: list[tempfile.TemporaryDirectory[str]] = []  # until the bench ends


def building(quick: bool) -> Sides:
    """1,500 recipes in six languages, everything read from the JSON files."""
    root, tokenizer = corpus(20 if quick else 1500)
    return {
        RELEASED: partial(
            _afresh,
            root / "released",
            lambda to: bench_corpus.build_as_released(root, to, tokenizer.pieces),
        ),
        "ours": partial(_afresh, root / "ours", partial(_build, root=root, tokenizer=tokenizer)),
    }


def check_building(outputs: Mapping[str, Any]) -> str:
    """Every token, part, class and picture of every recipe, in both databases."""
    ours, released = outputs["ours"], outputs[RELEASED]
    compared = 0
    for split in PARTITIONS:
        keys = ours / f"{split}_keys.pkl"
        left, right = RecipeStore(ours / f"{split}_lmdb"), RecipeStore(released / f"{split}_lmdb", keys)
        for index in range(len(left)):
            one, other = left.entry(index), right.entry(index)
            assert all(a.tolist() == b.tolist() for a, b in zip(one.rows, other.rows, strict=True)), left.ids[
                index
            ]
            assert (one.lengths == other.lengths).all(), left.ids[index]
            assert (one.class_index, one.images) == (other.class_index, other.images), left.ids[index]
            compared += 1
    return f"all fields of {compared} recipes are equal"


def growth(quick: bool) -> Sides:
    """The same build at growing sizes, ours alone."""
    sizes = (20, 40) if quick else (5_000, 15_000, 50_000)
    sides: Sides = {}
    for size in sizes:
        root, tokenizer = corpus(size)
        build = partial(_build, root=root, tokenizer=tokenizer)
        sides[f"{size:,} recipes"] = partial(_afresh, root / "ours", build)
    return sides


def check_growth(outputs: Mapping[str, Any]) -> str:
    """The number of recipes, and that the last one can be read."""
    for side, output in outputs.items():
        stores = [RecipeStore(output / f"{split}_lmdb") for split in PARTITIONS]
        assert f"{sum(map(len, stores)):,} recipes" == side, side
        assert all(store.entry(len(store) - 1).images for store in stores)
    files = [[output / f"{split}_lmdb/data.mdb" for split in PARTITIONS] for output in outputs.values()]
    sizes = [sum(file.stat().st_size for file in of_one) >> 20 for of_one in files]
    return f"databases of {', '.join(map(str, sizes))} MiB"


def corpus(num_recipes: int) -> tuple[Path, Tokenizer]:
    """A synthetic corpus in a temporary folder, and its tokenizer."""
    _folders.append(tempfile.TemporaryDirectory(prefix="xmrs-bench-"))
    root = Path(_folders[-1].name)
    bench_corpus.write_corpus(root, num_recipes)
    return root, build_tokenizer(bench_corpus.write_vocabulary(root / "vocab.txt"))


def _build(to: Path, *, root: Path, tokenizer: Tokenizer) -> None:
    write_stores(root, to, tokenizer, silent=True)


def _afresh(output: Path, build: Callable[[Path], object]) -> Path:
    """Build into an empty folder."""
    shutil.rmtree(output, ignore_errors=True)
    build(output)
    return output


CASES = [
    Case(
        "lmdb",
        "the LMDBs of 1,500 recipes x 6 languages (about 225 tokens each) from the JSON files",
        building,
        check_building,
        (Target("ours", RELEASED, 8.0),),
    ),
    Case(
        "lmdb_growth",
        "the same for 5,000, 15,000 and 50,000 recipes: time and memory",
        growth,
        check_growth,
        memory=True,
    ),
]
