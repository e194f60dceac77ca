"""A tiny set in the layout that create_lmdb.py leaves behind, whose photos and texts can be learnt from."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from projects.xmrs import lmdb_store, recipe1m
from shared.files import save_npy

SPECIAL = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}
VOCABULARY = 400  # entries; words are 110 and up, each language has its own
WORDS = 40  # of a language


def make_set(root: Path, *, train: int = 60, val: int = 20, test: int = 20, seed: int = 0) -> Path:
    """ROOT/images, ROOT/loader_data and ROOT/vocab.txt: photos of three coloured bands, texts that name them."""
    rng = np.random.default_rng(seed)
    names = [SPECIAL.get(index, f"w{index}") for index in range(VOCABULARY)]
    (root / "loader_data").mkdir(parents=True)
    (root / "vocab.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    seen = {101, 102}
    for partition, size in (("train", train), ("val", val), ("test", test)):
        values = {}
        for index in range(size):
            recipe = f"{'tvs'[('train', 'val', 'test').index(partition)]}{index:09x}"
            colours = rng.integers(0, 12, 3)
            rows, lengths = texts(colours, rng)
            seen.update(np.concatenate(rows).tolist())
            photos = [{"id": f"{rng.integers(1 << 40):010x}.jpg", "url": ""} for _ in range(1 + index % 3)]
            for photo in photos:
                write_photo(recipe1m.image_path(root / "images", partition, photo["id"]), colours, rng)
            packed = [row[1:].astype("<u4").tobytes() for row in rows]
            values[recipe] = lmdb_store.pack(packed, lengths, index % 5, json.dumps(photos).encode())
        write_store(root / "loader_data", partition, values)
    save_npy(root / "loader_data" / "corpus_tokens.npy", np.array(sorted(seen)))
    return root


def texts(colours: np.ndarray, rng: np.random.Generator) -> tuple[list[np.ndarray], np.ndarray]:
    """Six rows of ids (a title, then a word per band, then 1 to 9 others), and the tokens of each part [6, 3]."""
    rows, lengths = [], []
    for language in range(6):
        first = 110 + WORDS * language
        others = first + 12 + rng.integers(0, WORDS - 12, rng.integers(1, 10))
        rows.append(np.array([101, first + 39, *(first + colours), *others], np.int32))
        lengths.append((1, 3, len(others)))
    return rows, np.array(lengths, np.int32)


def write_photo(path: Path, colours: np.ndarray, rng: np.random.Generator) -> None:
    """48 x 40 pixels in three bands."""
    palette = np.array([(r, g, b) for r in (40, 200) for g in (30, 120, 220) for b in (50, 210)])
    pixels = palette[colours].repeat(16, 0)[:, None].repeat(40, 1) + rng.integers(-20, 21, (48, 40, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)


def write_store(data_root: Path, partition: str, values: dict[str, bytes]) -> None:
    """The database of a split and its keys file."""
    import lmdb

    folder = data_root / f"{partition}_lmdb"
    with (
        lmdb.open(str(folder), map_size=1 << 26) as environment,
        environment.begin(write=True) as transaction,
    ):
        for recipe, value in values.items():
            transaction.put(recipe.encode(), value)
    recipe1m.write_keys(data_root / f"{partition}_keys.pkl", values)
