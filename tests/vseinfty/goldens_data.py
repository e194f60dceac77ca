"""Golden calls of the data side: what `call` names in cases.yaml -> a function of ours."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from projects.vseinfty import augmentation, images, vocabulary, wordpiece
from projects.vseinfty.captions import BertTokenizer, BiGRUTokenizer, Tokenizer, TokenTable
from projects.vseinfty.precomp import RegionFile
from tests.goldens.case import Case


def captions_bert(case: Case) -> None:
    """Basic tokenisation, WordPiece, and word dropping for given draws."""
    expected = case.json()
    tokenizer = BertTokenizer(expected["vocab"])
    index = {token: i for i, token in enumerate(expected["vocab"])}
    for row in expected["train"]:
        assert wordpiece.basic_words(row["caption"]) == row["words"]
    check_tokenizer(tokenizer, expected, lambda row: [index[token] for token in row["random_tokens"]])


def captions_bigru(case: Case) -> None:
    """Vocabulary, nltk words, and word dropping for given draws."""
    expected = case.json()
    tokenizer = BiGRUTokenizer(vocabulary.read(case.path(case.data["vocabulary"])))
    assert tokenizer.vocab_size == expected["vocab_len"]
    assert tokenizer.mask_id == expected["mask_id"]
    check_tokenizer(tokenizer, expected, lambda row: row["random_ids"])


def vocabulary_file(case: Case) -> None:
    """A released vocabulary file read and written again is the same; `<mask>` comes after its words."""
    words = vocabulary.read(case.path(case.data["file"]))
    content = case.json()
    assert len(words) == content["idx"] + 1
    assert words.words[-1] == vocabulary.MASK
    assert {word: words.id(word) for word in content["word2idx"]} == content["word2idx"]
    with tempfile.TemporaryDirectory() as folder:
        vocabulary.write(Path(folder) / "again.json", words)
        assert Case(case.data, Path(folder)).json("again.json") == content


def check_tokenizer(
    tokenizer: Tokenizer, expected: dict[str, Any], replacements: Callable[[dict[str, Any]], list[int]]
) -> None:
    """Evaluation ids one by one; training ids one by one and all captions as one batch."""
    for row in expected["eval"]:
        assert tokenizer.encode(row["caption"]) == row["eval_ids"], row["caption"]
    rows = expected["train"]
    for batch in [*([row] for row in rows), rows]:
        table = TokenTable.build(tokenizer, [row["caption"] for row in batch])
        drawn = np.array([token for row in batch for token in replacements(row)], np.int64)
        ids, lengths = table.dropped_by_draws(
            np.arange(len(batch)),
            np.array([draw for row in batch for draw in row["uniforms"]]),
            lambda counts, drawn=drawn: drawn[: counts.sum()],
        )
        for row, own, length in zip(batch, ids, lengths, strict=True):
            assert own[:length].tolist() == row["train_ids"], row["caption"]
            assert not own[length:].any()


class GivenIds(Tokenizer):
    """A caption is its ids, written out."""

    def __init__(self) -> None:
        super().__init__([str(index) for index in range(1000)], unknown_id=0, mask_id=0)

    def words(self, caption: str) -> list[list[int]]:
        return [[int(word)] for word in caption.split()]


def collate(case: Case) -> None:
    """Padding of regions and ids; the released BiGRU order (by length, stable) gives the same rows."""
    expected = case.npz()
    regions = [
        case.input(f"col/r{i}", (n, case.data["dim"])) for i, n in enumerate(case.data["region_lengths"])
    ]
    captions = [1 + np.arange(n) + 10 * i for i, n in enumerate(case.data["caption_lengths"])]
    table = TokenTable.build(GivenIds(), [" ".join(map(str, ids)) for ids in captions])
    with tempfile.TemporaryDirectory() as folder:
        file = write_regions(Path(folder), regions)
        orders = {"bert": np.arange(len(captions)), "gru": np.argsort(-table.lengths, kind="stable")}
        for prefix, order in orders.items():
            features, lengths = file.fetch(order)
            ids, caption_lengths = table.padded(order)
            case.close(order, expected[f"{prefix}_ids"], what="order")
            case.close(features, expected[f"{prefix}_images"], what="images")
            case.close(lengths, expected[f"{prefix}_img_lengths"], what="image lengths")
            case.close(ids, expected[f"{prefix}_targets"], what="ids")
            case.close(caption_lengths, expected[f"{prefix}_lengths"], what="caption lengths")
            assert ids.dtype == expected[f"{prefix}_targets"].dtype


def write_regions(folder: Path, regions: Sequence[np.ndarray]) -> RegionFile:
    """Sets of different sizes as a feature file with its lengths."""
    lengths = np.array([len(rows) for rows in regions])
    padded = np.full(
        (len(regions), lengths.max(), regions[0].shape[1]), 7.0, np.float32
    )  # what lies beyond is not read
    for row, features in zip(padded, regions, strict=True):
        row[: len(features)] = features
    np.save(folder / "any_ims.npy", padded)
    np.save(folder / "any_lengths.npy", lengths)
    return RegionFile(folder / "any_ims.npy")


def image_preproc(case: Case) -> None:
    """Resizing, crop, flip and normalisation for given draws, of every array in the file."""
    expected = case.npz()
    rows, columns = case.data["subsample"]
    for key, wanted in expected.items():
        if key.endswith("_draws"):
            continue
        mode, source, scale, shape = key.split("_")
        draws = None
        if mode == "train":
            crop, x, y, flip = expected[f"{key}_draws"].tolist()
            draws = images.Draws(crop=crop, x=int(x), y=int(y), flip=flip)
        side = int(case.data["base_side"] * float(scale))
        image = golden_image(case, tuple(int(size) for size in shape.split("x")))
        pixels = images.preprocess(image, side, backbone=source, draws=draws)
        assert pixels.shape == (3, side, side)
        assert pixels.dtype == np.float32
        atol = case.data["atol_detector"] if source == "detector" else case.data["atol"]
        case.close(pixels[:, ::rows, ::columns], wanted, atol=atol, what=key)


def golden_image(case: Case, shape: tuple[int, ...]) -> np.ndarray:
    """uint8(255 * (.3 * U + .7 * R)) with R = .5 + .5 * sin(6y + 9x)."""
    noise = case.input("img/" + "x".join(map(str, shape)), shape, kind="uniform")
    y, x = np.linspace(0, 1, shape[0])[:, None], np.linspace(0, 1, shape[1])[None, :]
    waves = 0.5 + 0.5 * np.sin(6 * y + 9 * x)
    if len(shape) == 3:
        waves = waves[:, :, None]
    return (255 * (0.3 * noise + 0.7 * waves)).astype(np.uint8)


def size_aug(case: Case) -> None:
    """Region and grid dropping for given draws."""
    expected = case.npz()
    regions = case.input("aug/region", (len(expected["region_u"]), case.data["dim"]))
    case.close(
        regions[augmentation.kept_regions(expected["region_u"])], expected["region_kept"], what="regions"
    )
    with tempfile.TemporaryDirectory() as folder:
        fetched, _ = write_regions(Path(folder), [regions]).fetch(
            np.zeros(1, np.int64), augmentation.kept_regions(expected["region_u"][None])
        )
    case.close(fetched[0], expected["region_kept"], what="regions through the file")

    row_draws, sample_draws = expected["grid_r1"], expected["grid_r2"]
    grids = torch.from_numpy(case.input("aug/grid", (*row_draws.shape, case.data["dim"])))
    kept, lengths = augmentation.drop_grids(
        grids, torch.from_numpy(row_draws), torch.from_numpy(sample_draws)
    )
    case.close(kept, expected["grid_features"], what="grids")
    case.close(lengths, expected["grid_lengths"], what="grid lengths")
    everything, lengths = augmentation.drop_grids(
        grids,
        torch.from_numpy(row_draws),
        torch.zeros(len(sample_draws)),  # r2 <= 0.2 keeps all, as evaluation does
    )
    case.close(everything, grids.numpy(), what="all grids")
    case.close(lengths, expected["eval_lengths"], what="lengths in evaluation")


CALLS: dict[str, Callable[[Case], None]] = {
    "captions_bert": captions_bert,
    "captions_bigru": captions_bigru,
    "vocabulary_file": vocabulary_file,
    "collate": collate,
    "image_preproc": image_preproc,
    "size_aug": size_aug,
}
