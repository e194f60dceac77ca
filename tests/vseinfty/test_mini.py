"""The embedded data: what it promises statistically; that the readers take it; that making it is atomic."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from projects.vseinfty import correlation, cxc, mini, mini_pictures, vocabulary
from projects.vseinfty.captions import build_tokenizer
from projects.vseinfty.data import open_split
from shared.data import BatchPlan
from shared.errors import InputError

SMALL = {"train": 40, "dev": 12, "test": 16}


@pytest.fixture(scope="module")
def roots(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("mini")
    return {v: mini.ensure(folder / f"mini-{v}", variant=v, seed=3, **SMALL) for v in mini.VARIANTS}


def shown_concepts(root: Path, split: str) -> list[list[int]]:
    """The concepts that each image's captions name, read back from the files."""
    captions = (root / "precomp" / f"{split}_caps.txt").read_text().splitlines()
    images = [" ".join(captions[i : i + 5]) for i in range(0, len(captions), 5)]
    return [np.flatnonzero(row).tolist() for row in mini.named_concepts(mini.make_world(3), images)]


def sorted_traces(root: Path) -> tuple[np.ndarray, np.ndarray]:
    """For every named concept of every training image: the rows' projections on it, descending; set sizes."""
    world, features = mini.make_world(3), np.load(root / "precomp" / "train_ims.npy")
    lengths = np.load(root / "precomp" / "train_lengths.npy")
    traces, sizes = [], []
    for image, concepts in enumerate(shown_concepts(root, "train")):
        rows = features[image, : lengths[image]]
        for concept in concepts:
            trace = np.full(mini.MAX_REGIONS, np.nan)
            trace[: len(rows)] = -np.sort(-(rows @ world.concepts[concept]))
            traces.append(trace)
            sizes.append(lengths[image])
    return np.array(traces), np.array(sizes)


def test_sparse_shows_each_concept_in_one_region(roots):
    traces, _ = sorted_traces(roots["sparse"])
    assert 0.85 < np.median(traces[:, 0]) < 1.25
    assert np.median(traces[:, 1]) < 0.5


def test_mixed_has_no_rank_that_fits_all_sizes(roots):
    root = roots["mixed"]
    traces, sizes = sorted_traces(root)
    small, large = traces[sizes <= 16], traces[sizes >= 34]
    assert np.median(small[:, 1]) > 0.8  # two copies at least
    assert np.median(small[:, 4]) < 0.5  # and no fifth one
    assert np.median(large[:, 4]) > 0.7  # five in a large set
    world, features = mini.make_world(3), np.load(root / "precomp" / "train_ims.npy")
    strongest = np.array([np.sort((image @ world.concepts.T).max(axis=0))[-4:] for image in features])
    assert np.median(strongest) > 1.8  # the four wrong concepts lead under the maximum
    named = shown_concepts(root, "train")
    leaders = [set(np.argsort((image @ world.concepts.T).max(axis=0))[-4:]) for image in features]
    assert np.mean([len(lead & set(n)) for lead, n in zip(leaders, named, strict=True)]) < 0.5


def test_dense_shows_all_concepts_weakly_everywhere(roots):
    traces, sizes = sorted_traces(roots["dense"])
    assert 0.11 < np.nanmean(traces) < 0.18
    assert np.nanmedian(traces[:, 0]) > 0.3  # the extremes are noise: far above the signal of 0.14
    first = np.load(roots["dense"] / "precomp" / "train_ims.npy")[0, : sizes[0]]
    norms = np.linalg.norm(first, axis=1)
    assert 0.6 < np.median(norms) < 1.4


@pytest.mark.parametrize("variant", mini.VARIANTS)
def test_real_reader_takes_every_split(roots, variant):
    root = roots[variant]
    tokenizer = build_tokenizer(text_encoder="bigru", vocab_path=root / "vocab" / mini.VOCABULARY)
    splits = dict(SMALL)
    if variant == "mixed":
        splits |= {"train24": SMALL["train"]}
        splits |= {f"{name}{size}": SMALL[name] for name in ("dev", "test") for size in mini.FIXED_SIZES}
    for name, count in splits.items():
        split = open_split(
            root=root, name="mini", split=name, tokenizer=tokenizer, image_dim=mini.FEATURE_DIM
        )
        assert (split.num_images, split.num_captions) == (count, 5 * count)
        batch = split.fetch_images(BatchPlan(0, 0, np.arange(count)))
        lengths = batch.image_lengths.numpy()
        if name[-1].isdigit():
            assert set(lengths) == {int(name[-2:])}
        else:
            assert lengths.min() >= mini.MIN_REGIONS
            assert lengths.max() <= mini.MAX_REGIONS
            assert len(set(lengths)) > 4
        for features, length in zip(batch.images.numpy(), lengths, strict=True):
            assert np.abs(features[:length]).sum(axis=1).min() > 0
            assert not features[length:].any()
        assert split.fetch_train(BatchPlan(0, 0, np.arange(5))).images.shape[2] == mini.FEATURE_DIM


def test_captions_survive_the_tokeniser_and_name_shown_concepts_only(tmp_path):
    root = mini.ensure(tmp_path / "m", variant="sparse", train=400, dev=20, test=20)
    words = vocabulary.read(root / "vocab" / mini.VOCABULARY)
    tokenizer = build_tokenizer(text_encoder="bigru", vocab_path=root / "vocab" / mini.VOCABULARY)
    captions = (root / "precomp" / "train_caps.txt").read_text().splitlines()
    ids = [tokenizer.encode(caption) for caption in captions]
    for caption, found in zip(captions, ids, strict=True):
        assert len(found) == len(caption.split()) + 2  # <start>, <end>
        assert caption.isascii()
        assert caption == caption.lower()
    unknown = np.mean([index == words.unknown_id for row in ids for index in row])
    assert unknown < 0.001
    vocabulary_words = set(words.words)
    assert {word for pair in mini.make_world(0).words for word in pair} <= vocabulary_words
    every_word = [w for pair in mini.make_world(0).words for w in pair] + mini.make_world(0).fillers
    assert len(every_word) == len(set(every_word)) == 144
    concepts = shown_concepts(root, "train")
    assert all(3 <= len(found) <= mini.CONCEPTS_PER_IMAGE for found in concepts)


def test_same_seed_same_bytes_and_splits_do_not_depend_on_each_other(tmp_path, roots):
    again = mini.ensure(tmp_path / "again", variant="mixed", seed=3, train=20, dev=12, test=16)
    for name in ("dev_ims.npy", "test_ims.npy", "test_caps.txt", "dev_lengths.npy", "test36_ims.npy"):
        assert (again / "precomp" / name).read_bytes() == (roots["mixed"] / "precomp" / name).read_bytes()
    train, dev = (np.load(again / "precomp" / f"{name}_ims.npy") for name in ("train", "dev"))
    assert not np.isclose(train[:12], dev[:12]).all(axis=(1, 2)).any()
    other = mini.ensure(tmp_path / "other", variant="mixed", seed=4, **SMALL)
    assert (other / "precomp/dev_caps.txt").read_text() != (again / "precomp/dev_caps.txt").read_text()


def test_second_call_changes_nothing_and_other_settings_are_refused(tmp_path):
    root = mini.ensure(tmp_path / "m", variant="dense", **SMALL)
    before = (root / "precomp" / "train_ims.npy").stat().st_mtime_ns
    assert mini.ensure(root, variant="dense") == root  # sizes left out: as they are
    assert (root / "precomp" / "train_ims.npy").stat().st_mtime_ns == before
    with pytest.raises(InputError, match=r"mini.json.*train is 40, expected 41"):
        mini.ensure(root, variant="dense", train=41)
    with pytest.raises(InputError, match="variant is 'dense', expected 'sparse'"):
        mini.ensure(root, variant="sparse")
    with pytest.raises(InputError, match="mixed, sparse, dense"):
        mini.ensure(root, variant="thick")
    foreign = tmp_path / "f"
    foreign.mkdir()
    (foreign / "file").write_text("mine")
    with pytest.raises(InputError, match=r"found no mini\.json"):
        mini.ensure(foreign, variant="dense")
    assert [p.name for p in foreign.iterdir()] == ["file"]


def test_interrupted_writing_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(
        mini, "write_vocabulary", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left"))
    )
    with pytest.raises(OSError, match="No space"):
        mini.ensure(tmp_path / "m", variant="dense", **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_two_processes_may_race(tmp_path):
    command = [
        sys.executable,
        "-m",
        "projects.vseinfty.mini",
        "--variant",
        "pictures",
        "--root",
        str(tmp_path),
    ]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert [path.name for path in tmp_path.iterdir()] == ["mini-pictures"]


def test_command_line_reports_errors_in_one_line(tmp_path):
    (tmp_path / "mini-sparse").write_text("a file")
    command = [sys.executable, "-m", "projects.vseinfty.mini", "--variant", "sparse", "--root", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "mini-sparse" in done.stderr


def test_a_reader_of_concepts_agrees_with_the_cxc_judgements(roots):
    root = roots["mixed"]
    annotations = cxc.read(root / "cxc_annots", split="test")
    captions = (root / "precomp" / "test_caps.txt").read_text().splitlines()
    named = mini.named_concepts(mini.make_world(3), captions).astype(np.float32)
    shown = named.reshape(len(named) // 5, 5, -1).max(axis=1)
    annotations.check_counts(len(shown), len(named))
    found = cxc.retrieval(shown, named, annotations)
    assert found["t2i"]["r1"] > 95  # ties aside, an image with all named concepts comes first
    assert found["i2t"]["r1"] > 95
    assert found["t2t"]["queries"] == len(named)
    assert 0 < found["i2i"]["queries"] <= len(shown)
    ids = {"image_ids": annotations.image_ids, "caption_ids": annotations.caption_ids}
    tasks = {task: root / "cxc_annots" / f"{task}_test.csv" for task in ("sts", "sis", "sits")}
    ratings = {task: correlation.read_ratings(path) for task, path in tasks.items()}
    rho = correlation.correlations(ratings, shown, named, samples=50, **ids)
    assert all(task["mean"] > 60 and task["missing"] == 0 for task in rho.values()), rho
    shuffled = correlation.correlations(ratings, shown[::-1], named, samples=50, **ids)
    assert shuffled["sits"]["mean"] < 40


def test_pictures_show_what_their_captions_say(tmp_path):
    root = mini_pictures.ensure(tmp_path / "mini-pictures", seed=1, train=10, dev=4, test=4, side=48)
    mapping = json.loads((root / "id_mapping.json").read_text())
    assert len(mapping) == 18
    split = open_split(
        root=root, name="mini", split="train", kind="pixels", image_side=64, backbone="imagenet"
    )
    pixels = split.fetch_images(BatchPlan(0, 0, np.arange(10))).images
    assert pixels.shape == (10, 3, 64, 64)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    for index, ids in enumerate(split.image_ids):
        assert (root / "images" / mapping[ids]).is_file()
        caption = split.texts[5 * index].split()
        colours = {name: rgb for name, rgb in mini_pictures.COLOURS.items() if name in caption}
        assert len(colours) == 2
        picture = 255 * (pixels[index].numpy().transpose(1, 2, 0) * std + mean)
        for rgb in colours.values():
            near = np.abs(picture - np.array(rgb)).max(axis=2) < 30
            assert near.mean() > 0.01
        first, second = (np.abs(picture - np.array(c)).max(axis=2) < 30 for c in list_in_order(caption))
        offset = np.argwhere(first).mean(axis=0) - np.argwhere(second).mean(axis=0)  # (down, right)
        place = {
            "left": offset[1] < 0,
            "right": offset[1] > 0,
            "above": offset[0] < 0,
            "below": offset[0] > 0,
        }
        assert place[next(word for word in caption if word in place)]


def list_in_order(words: list[str]) -> list[tuple[int, int, int]]:
    return [mini_pictures.COLOURS[word] for word in words if word in mini_pictures.COLOURS]
