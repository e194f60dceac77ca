"""Masks against the truth: counts, scores, logs; folders of masks; oracle sizes; colours and files of masks."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from projects.babel import masks
from projects.babel.mask_evaluation import MaskTally, evaluate_files, oracle_mask
from projects.babel.score_log import ScoreLog
from projects.babel.segmentation_scores import SegmentationScores, confusion
from shared.errors import InputError

CLASSES = 5
NAMES = ("facade", "window", "chapel", "organ")


def drawn(seed: int = 0, shape: tuple[int, int] = (17, 23)) -> tuple[np.ndarray, np.ndarray]:
    """Prediction and truth with ignored pixels; the last class occurs nowhere."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, CLASSES - 1, shape).astype(np.uint8)
    prediction = np.where(rng.random(shape) < 0.6, truth, rng.integers(0, CLASSES - 1, shape)).astype(
        np.uint8
    )
    truth[rng.random(shape) < 0.2] = 255
    return prediction, truth


def counted_by_hand(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    counts = np.zeros((CLASSES, CLASSES), int)
    for p, t in zip(prediction.ravel().tolist(), truth.ravel().tolist(), strict=True):
        if t != 255:
            counts[t, p] += 1
    return counts


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_confusion_is_the_pixel_loop(dtype: type) -> None:
    prediction, truth = drawn()
    found = confusion(prediction.astype(dtype), truth.astype(dtype), CLASSES)
    np.testing.assert_array_equal(found, counted_by_hand(prediction, truth))


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_pixels_without_a_class_and_other_sizes_are_refused(dtype: type) -> None:
    prediction, truth = (mask.astype(dtype) for mask in drawn())
    with pytest.raises(
        InputError, match=r"x\.png: predicted mask of 17 x 22 pixels, ground truth of 17 x 23"
    ):
        confusion(prediction[:, 1:], truth, CLASSES, source="x.png")
    wrong = truth.copy()
    wrong[3, 3] = 7
    with pytest.raises(InputError, match="ground truth has label 7, expected 0 to 4"):
        confusion(prediction, wrong, CLASSES)
    wrong = prediction.copy()
    wrong[truth == 255] = 9  # does not count
    assert confusion(wrong, truth, CLASSES).sum() == (truth != 255).sum()
    wrong[np.nonzero(truth != 255)[0][0], np.nonzero(truth != 255)[1][0]] = 9
    with pytest.raises(InputError, match="predicted mask has label 9"):
        confusion(wrong, truth, CLASSES)


def test_scores_are_their_definitions() -> None:
    prediction, truth = drawn()
    scores = SegmentationScores(counted_by_hand(prediction, truth))
    kept = truth != 255
    for label in range(CLASSES):
        p, t = (prediction == label) & kept, (truth == label) & kept
        union = (p | t).sum()
        assert scores.iou[label] == pytest.approx(100 * (p & t).sum() / union if union else 0)
        assert scores.precision[label] == pytest.approx(100 * (p & t).sum() / p.sum() if p.any() else 0)
        assert scores.recall[label] == pytest.approx(100 * (p & t).sum() / t.sum() if t.any() else 0)
        assert scores.pixels[label] == t.sum()
    numbers = scores.metrics(NAMES)
    assert numbers["miou"] == pytest.approx(scores.iou[1:].mean())
    assert numbers["with_background"]["miou"] == pytest.approx(scores.iou.mean())
    assert numbers["present"] == {
        **{k: pytest.approx(v) for k, v in scores.means(np.array([1, 2, 3])).items()}, "concepts": 3,
    }  # fmt: skip
    assert numbers["present"]["miou"] > numbers["miou"]
    assert numbers["iou"]["background"] == pytest.approx(scores.iou[0])


def test_a_ground_truth_without_concepts_has_no_present_mean() -> None:
    numbers = SegmentationScores(np.diag([9, 0, 0, 0, 0])).metrics(NAMES)
    assert numbers["present"] == {"concepts": 0}
    assert numbers["miou"] == 0


def test_the_log_ranks_images_of_each_class() -> None:
    log, counts = ScoreLog(), {}
    for name in ("a", "b", "c\nd"):
        counts[name] = counted_by_hand(*drawn(ord(name[0])))
        log.add(name, counts[name])
    lines = list(log.lines(NAMES))
    start, end = lines.index("facade"), lines.index("window")
    expected = {}
    for name, one in counts.items():
        hits = one[1, 1]
        expected[name] = hits - (one[1].sum() - hits) - (one[:, 1].sum() - hits)
    found = [(int(line[:5]), line[8:]) for line in lines[start + 1 : end]]
    assert found == sorted(((score, name) for name, score in expected.items()), reverse=True)
    assert lines[-1] == "organ"  # no image has it


def written(folder: Path, count: int = 4) -> list[tuple[Path, Path]]:
    """A list's pictures and masks, and predictions in folder/masks."""
    (folder / "masks").mkdir(parents=True)
    pairs = []
    for i in range(count):
        prediction, truth = drawn(i, (12 + i, 15))
        pairs.append((folder / f"{i}.JPG", folder / f"gt-{i}.png"))
        masks.write_mask(folder / "masks" / f"{i}.png", prediction)
        image = Image.fromarray(truth, "P") if i % 2 else Image.fromarray(truth)
        if i % 2:
            image.putpalette([3 * v % 256 for v in range(768)])
        image.save(pairs[-1][1])
    return pairs


def test_a_folder_of_masks(tmp_path: Path) -> None:
    pairs = written(tmp_path)
    tally = evaluate_files(pairs, tmp_path / "masks", NAMES)
    expected = sum(counted_by_hand(*drawn(i, (12 + i, 15))) for i in range(4))
    np.testing.assert_array_equal(tally.confusion, expected)
    assert tally.metrics()["images"] == 4
    assert tally.table().startswith("# of images: 4\n       Class |")
    joined = MaskTally.joined(
        [evaluate_files(part, tmp_path / "masks", NAMES) for part in (pairs[:3], pairs[3:])]
    )
    np.testing.assert_array_equal(joined.confusion, expected)
    assert list(joined.log.lines(NAMES)) == list(tally.log.lines(NAMES))


def test_masks_that_do_not_fit_are_named_or_counted(tmp_path: Path) -> None:
    pairs = written(tmp_path)
    (tmp_path / "masks" / "0.png").unlink()
    masks.write_mask(tmp_path / "masks" / "1.png", np.zeros((3, 3), np.uint8))
    Image.new("RGB", (15, 14)).save(tmp_path / "masks" / "2.png")
    for index, words in enumerate(("0.png: no such mask", "1.png: predicted mask of 3 x 3", "found colours")):
        with pytest.raises(InputError, match=words):
            evaluate_files(pairs[index : index + 1], tmp_path / "masks", NAMES)
    tally = evaluate_files(pairs, tmp_path / "masks", NAMES, unreadable="skip")
    assert tally.images == 1
    assert len(tally.skipped) == tally.metrics()["skipped"] == 3
    np.testing.assert_array_equal(tally.confusion, counted_by_hand(*drawn(3, (15, 15))))
    with pytest.raises(InputError, match=r"no image was evaluated, 3 left out; the first: .*0\.png"):
        _ = evaluate_files(pairs[:3], tmp_path / "masks", NAMES, unreadable="skip").scores
    with pytest.raises(InputError, match="no such folder"):
        evaluate_files(pairs, tmp_path / "absent", NAMES)
    twice = [*pairs, (tmp_path / "other" / "3.png", pairs[0][1])]
    with pytest.raises(InputError, match=r"share the mask 3\.png"):
        evaluate_files(twice, tmp_path / "masks", NAMES)


def test_an_oracle_of_the_full_size_is_the_truth(tmp_path: Path) -> None:
    _, truth = drawn()
    found = oracle_mask(truth, CLASSES, truth.shape)
    np.testing.assert_array_equal(found[truth != 255], truth[truth != 255])
    assert (found[truth == 255] == 0).all()
    halves = np.zeros((8, 8), np.uint8)
    halves[:, 4:] = 2
    np.testing.assert_array_equal(oracle_mask(halves, CLASSES, (4, 4)), halves)
    thin = np.zeros((8, 8), np.uint8)
    thin[::4] = 3  # fills a quarter of each cell
    assert not oracle_mask(thin, CLASSES, (2, 2)).any()
    tally = evaluate_files(written(tmp_path), tmp_path / "masks", NAMES, oracle_from=(3, 3))
    assert tally.metrics()["miou"] < 100


def test_masks_on_disk_and_on_pictures(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 1], [0, 2, 255]], np.uint8)
    masks.write_mask(tmp_path / "a.png", labels)
    np.testing.assert_array_equal(masks.read_mask(tmp_path / "a.png"), labels)
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    with pytest.raises(InputError, match=r"cut\.png: not a readable mask"):
        masks.read_mask(tmp_path / "cut.png")
    Image.fromarray(np.full((2, 2), 300, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(InputError, match="labels from 300 to 300"):
        masks.read_mask(tmp_path / "deep.png")
    picture = np.full((4, 6, 3), 100, np.uint8)
    shown = np.zeros((4, 6), np.uint8)
    shown[:, 3:] = 1
    colours = np.array([[0, 0, 0], [200, 0, 0]], np.uint8)
    tinted = masks.overlay(picture, shown, colours)
    np.testing.assert_array_equal(tinted[:, :3], picture[:, :3])
    assert tinted[0, 5].tolist() == [150, 50, 50]
    assert tinted[0, 3].tolist() == [200, 0, 0]  # the outline
