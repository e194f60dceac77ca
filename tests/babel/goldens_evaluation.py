"""Golden calls of inference and evaluation: views, merging, CRF, files, masks' metrics, classification."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from projects.babel import dense_crf, inference, masks, merging
from projects.babel.classification_scores import classification_scores
from projects.babel.concepts import CONCEPTS
from projects.babel.mask_evaluation import MaskTally
from projects.babel.segmentation_scores import SegmentationScores, confusion
from projects.babel.segmenting import Prediction
from projects.babel.views import Views, crop_views, whole_views
from tests.babel.pick import picked
from tests.goldens.case import Case


def count_acc(case: Case) -> None:
    """Every scalar of a validation, by its TensorBoard tag."""
    images, concepts = case.data["images"], case.data["concepts"]
    scores = torch.sigmoid(torch.from_numpy(case.input("acc/score", (images, concepts)))).numpy()
    scores[3] = scores[2]
    first = case.input("acc/y", (images,), kind="int", high=concepts)
    first[:concepts] = np.arange(concepts)
    labels = np.eye(concepts)[first]
    rows = np.arange(0, images, 3)
    labels[rows, case.input("acc/y2", (images,), kind="int", high=concepts)[rows]] = 1
    found = classification_scores(scores, first, labels, multi_label=case.data["multi_label"])
    scalars, expected = found.scalars(CONCEPTS), case.json()
    assert set(expected) == {*scalars, *case.data["absent"]}
    for tag, value in scalars.items():
        case.close(value, expected[tag], what=tag)


def eval_seg(case: Case) -> None:
    """Counts of every image together, the printed table and scores.log, letter for letter."""
    expected, texts = case.npz(), case.json(case.data["texts"])
    tally = MaskTally(CONCEPTS)
    for i, (height, width) in enumerate(case.data["sizes"]):
        small = case.input(f"eval/gt/{i}", (5, 5), kind="int", high=case.data["labels"])
        truth = nearest(np.where(small == case.data["ignored"], 255, small), height, width)
        other = case.input(f"eval/alt/{i}", truth.shape, kind="int", high=case.data["alternatives"])
        noise = case.input(f"eval/noise/{i}", truth.shape, kind="uniform")
        prediction = np.where(noise < case.data["noise"], other, np.where(truth == 255, 0, truth))
        tally.add(f"{i}.JPG", confusion(prediction.astype(np.uint8), truth, len(CONCEPTS) + 1))
        wide = confusion(prediction, truth.astype(np.int64), len(expected["conf"]))  # the other way to count
        expected["conf"] = expected["conf"] - wide
    np.testing.assert_array_equal(expected["conf"], 0)
    assert texts["stdout"].endswith(tally.table())
    assert "".join(f"{line}\n" for line in tally.log.lines(CONCEPTS)) == texts["scores_log"]


def mask_metrics(case: Case) -> None:
    """IoU, precision and recall of one class, also of empty masks; AP over the classes that occur."""
    shape, expected = tuple(case.data["shape"]), case.npz()
    truth = case.input("metric/gt", shape, kind="uniform") > case.data["above"]
    truth[:, case.data["empty"]], truth[:, case.data["full"]] = False, True
    scores = case.input("metric/p", shape, kind="uniform")
    none = np.zeros(shape)

    def of(first: np.ndarray, second: np.ndarray) -> SegmentationScores:
        return SegmentationScores(confusion(second.astype(np.uint8), first.astype(np.uint8), 2))

    both = of(truth, scores > case.data["threshold"])
    found = [both.iou, both.precision, both.recall, of(none, none).iou]
    found += [of(truth, none).precision, of(none, truth).recall]
    case.close([values[1] / 100 for values in found], expected["iou_prec_rec"])
    mean_ap = classification_scores(scores, truth.argmax(1), truth, multi_label=True).mean_ap
    case.close(mean_ap, expected["class_ap"])


def jaccard(case: Case) -> None:
    """Per class of a batch of masks, with pixels that are ignored and a class that nobody has."""
    shape = tuple(case.data["shape"])
    prediction, truth = (
        case.input(f"jac/{name}", shape, kind="int", high=case.data["labels"]) for name in ("p", "g")
    )
    truth[0, 0] = 255  # a row of the first mask
    found = SegmentationScores(confusion(prediction, truth, case.data["classes"]))
    case.close(np.stack([found.iou, found.precision, found.recall]) / 100, case.npz()["jaccard"])


def loaders(case: Case) -> None:
    """Every view that the released loaders hand to the network, where it lies, and the labels of its mask."""
    expected = case.npz()
    for mode, settings in case.data["modes"].items():
        made = [views(pixels, settings) for pixels in pictures(case)]
        count = len(made[0].images)
        assert sum(len(one.images) for one in made) == expected[f"{mode}_len"]
        numbers = [
            int(key[len(mode) : -3]) for key in expected if key.startswith(mode) and key.endswith("_in")
        ]
        assert len(numbers) == 4
        for number in numbers:
            key, one, view = f"{mode}{number}", made[number // count], number % count
            image = one.images[view]
            assert tuple(image.shape) == tuple(expected[f"{key}_shape"])
            case.close(picked(f"infer/{key}", image, 1024), expected[f"{key}_in"], what=key)
            np.testing.assert_array_equal(place(one, view), expected[f"{key}_pads"])
            truth = true_mask(case, number // count)
            labels = merging.mask_labels(truth, len(CONCEPTS))
            np.testing.assert_array_equal(labels, expected[f"{key}_labels"] > 0)


def place(one: Views, view: int) -> list[int]:
    """Where a view lies, in the order of the released tuples."""
    top, left, height, width = one.boxes[view].tolist()
    if one.padding is None:
        return [top, left, height, width]
    return [top, top + height, left, left + width, *one.padding]


def merging_of_views(case: Case) -> None:
    """The merged masks of each way to look at a picture."""
    expected = case.npz()
    for mode in case.data["modes"]:
        merged = merged_mask(case, mode)
        key = f"merge_{mode}"
        close_to_spread(case, picked(f"infer/{key}", merged, 4096), expected[key], key)
    found = merging.label_map(merged_mask(case, "single"))
    np.testing.assert_array_equal(found, expected["single_argmax"])
    np.testing.assert_array_equal(np.bincount(found.ravel(), minlength=11), expected["merge_single_hist"])
    np.testing.assert_array_equal(np.packbits(found == 0), expected["merge_single_pred"])  # its background


def label_choice(case: Case) -> None:
    """The one concept that a mask may hold."""
    scores = torch.from_numpy(case.input("infer/scores", tuple(case.data["shape"])))
    np.testing.assert_array_equal(merging.choose_labels("best", scores), case.npz()["labels_pred"])


def crf(case: Case) -> None:
    """Class probabilities after one and ten iterations."""
    expected, pixels = case.npz(), pictures(case)[0]
    merged = merged_mask(case, "single").numpy()
    for key, iterations in (("crf_q_t1", 1), ("crf_q", dense_crf.ITERATIONS)):
        found = dense_crf.refine(pixels, merged, iterations=iterations)
        case.close(picked("infer/crf", found, 4096), expected[key], what=key)
    assert (found.argmax(0) == expected["crf_argmax"]).mean() >= case.data["equal"]
    histogram = np.bincount(found.argmax(0).ravel(), minlength=11)
    assert np.abs(histogram - expected["crf_hist"]).sum() <= 2 * (1 - case.data["equal"]) * histogram.sum()


def written_files(case: Case) -> None:
    """Names and contents of what an inference leaves."""
    expected, pixels = case.npz(), pictures(case)[0]
    mean = merging.average(view_masks(case, "single", pixels.shape[:2]), whole_views(pixels))
    logits = torch.full((2, 10), -1.0)
    logits[:, case.data["chosen"]] = 1.0  # two best concepts: both are allowed
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        how = inference.Writing(folder, crf=True, vis="released", background_power=case.data["power"])
        inference.write(
            inference.Item("im0", folder / "im0.jpg"), pixels, Prediction(pixels, logits, mean), how
        )
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        assert files == sorted(expected["files"].tolist())
        found = {path: np.asarray(Image.open(folder / path)) for path in files}
    np.testing.assert_array_equal(found["im0.png"], expected["file_pred"])
    assert (found["crf/im0.png"] == expected["file_crf"]).mean() >= case.data["equal"]
    np.testing.assert_array_equal(picked("infer/vis", found["vis/im0_pred.png"], 1024), expected["file_vis"])


def palettes(case: Case) -> None:
    """Colours of the released pictures."""
    expected = case.npz()["labelcolormap"]
    np.testing.assert_array_equal(masks.released_colours(len(expected)), expected)
    np.testing.assert_array_equal(masks.voc_colours(22), case.npz()["voc_colormap_22"])


def pictures(case: Case) -> list[np.ndarray]:
    """Smooth random pictures, uint8 [H, W, 3]."""
    found = []
    for i, (height, width) in enumerate(case.data["sizes"]):
        small = case.input(f"infer/image/{i}", (6, 8, 3), kind="int", high=256).astype(np.uint8)
        resized = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
        found.append(np.asarray(resized))
    return found


def true_mask(case: Case, index: int) -> np.ndarray:
    """A mask of few labels, ignored pixels, and two corners of known labels."""
    small = case.input(f"infer/mask/{index}", (4, 4), kind="int", high=case.data["labels"])
    mask = nearest(np.where(small == case.data["ignored"], 255, small), *case.data["sizes"][index])
    mask[:5, :5], mask[-5:, -5:] = 0, case.data["last"]
    return mask


def nearest(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Enlarged by Pillow."""
    image = Image.fromarray(labels.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST)
    return np.array(image)


def views(pixels: np.ndarray, settings: dict) -> Views:
    """The views of one of the modes."""
    pad = tuple(settings["pad"]) if "pad" in settings else None
    if "crop" in settings:
        return crop_views(pixels, crop=tuple(settings["crop"]), grid=tuple(settings["grid"]), pad=pad)
    return whole_views(pixels, scales=settings["scales"], pad=pad)


def view_masks(case: Case, mode: str, size: tuple[int, ...]) -> Tensor:
    """What a network could say of the views: softmax masks [n, 11, h, w]."""
    count = {"single": 2, "multi": 6, "crop": 8}[mode]
    coarse = torch.from_numpy(case.input(f"infer/{mode}_masks", (count, 11, 5, 6)))
    return torch.softmax(3 * F.interpolate(coarse, size=size, mode="bilinear", align_corners=True), 1)


def merged_mask(case: Case, mode: str) -> Tensor:
    """The masks of a mode merged, [11, H, W]."""
    pixels = pictures(case)[0]
    settings = case.data.get("modes", {}).get(
        mode, {"scales": [1], "size": pixels.shape[:2], "power": case.data.get("power")}
    )
    labels = torch.zeros(10, dtype=torch.bool)
    labels[case.data["chosen"]] = True
    mean = merging.average(view_masks(case, mode, tuple(settings["size"])), views(pixels, settings))
    return merging.restrict(mean, labels, background_power=settings["power"])


def close_to_spread(case: Case, found: np.ndarray, expected: np.ndarray, what: str) -> None:
    """Relative to the larger of each number and the array's standard deviation."""
    case.close(found, expected, atol=case.data["rtol"] * float(expected.std()), what=what)


CALLS: dict[str, Callable[[Case], None]] = {
    "count_acc": count_acc,
    "eval_seg": eval_seg,
    "mask_metrics": mask_metrics,
    "jaccard": jaccard,
    "loaders": loaders,
    "merging": merging_of_views,
    "label_choice": label_choice,
    "crf": crf,
    "written_files": written_files,
    "palettes": palettes,
}
