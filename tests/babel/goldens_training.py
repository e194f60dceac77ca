"""Golden calls of the training data, the settings and the snapshots: what `call` names -> a function of ours."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from projects.babel import augmentation, data, snapshots
from projects.babel.augmentation import Draw
from projects.babel.checks import check_training
from projects.babel.expectations import look_up
from shared import config
from shared.data import BatchPlan
from shared.errors import InputError
from shared.files import write_json
from tests.babel.pick import picked
from tests.goldens.case import Case

PROJECT = Path(data.__file__).parent


def dataset_items(case: Case) -> None:
    """Pictures, matches and labels of pairs with given crops and mirroring."""
    golden, arrays = case.json(), case.npz(case.data["arrays"])
    with tempfile.TemporaryDirectory() as folder:
        split = golden_split(case, Path(folder), golden)
        graph = {
            str(i): found.tolist()
            for i in range(len(split))
            if len(found := split._matching.neighbours.of(i))  # type: ignore[union-attr]
        }
        assert graph == golden["image_graph"]
        for number, item in enumerate(golden["items"]):
            check_item(case, split, item, number, arrays)


def golden_split(case: Case, root: Path, golden: Mapping[str, Any]) -> data.Split:
    """The golden set on disk, opened as a training split."""
    (root / "train.txt").write_text("\n".join(golden["split_lines"]) + "\n", encoding="utf-8")
    write_json(root / "correspondence.json", golden["correspondence"])
    for index, name in enumerate(golden["images"]):
        seeds = case.input(f"dataset/image/{index}", (6, 8, 3), kind="int", high=256).astype(np.uint8)
        size = (120 - 2 * index, 90 + 5 * index)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        resized = Image.fromarray(seeds).resize(size, Image.Resampling.BICUBIC)
        resized.save(root / name, "PNG")
    return data.open_split(
        name="train",
        file=root / "train.txt",
        root=root,
        correspondence=root / "correspondence.json",
        size=224,
    )


def check_item(
    case: Case, split: data.Split, item: Mapping[str, Any], number: int, arrays: Mapping[str, np.ndarray]
) -> None:
    """One pair: matches to 1e-6, pixels to two levels, labels and texts exactly."""
    pair = (item["index"], item["pair"])
    boxes = item["boxes_top_left_h_w"]
    draws = [
        Draw((box[0], box[1], box[2], box[3]), mirrored)
        for box, mirrored in zip(boxes, item["hflip"], strict=True)
    ]
    pictures = [split.picture(row) for row in pair]
    found = split.match(pair, [picture.shape for picture in pictures], draws)
    expected = np.array(list(item["corr"].values()))
    case.close(np.sort(found, 0), np.sort(expected, 0), atol=case.data["keypoints"], what=f"item {number}")
    order = lambda rows: rows[np.argsort(rows[:, 0])]  # noqa: E731
    case.close(order(found), order(expected), atol=case.data["keypoints"], what=f"matches of item {number}")
    keypoints = split._matching.correspondence.keypoints(int(split._matching.places[pair[0]]))  # type: ignore[union-attr]
    assert len(keypoints[0]) == item["n_kp"]
    for place, (picture, draw) in enumerate(zip(pictures, draws, strict=True)):
        name = f"item{number}_{place + 1}"
        pixels = augmentation.apply(picture, draw, 224)
        tolerance = case.data["levels"] / 255 / min(augmentation.IMAGENET_DEVIATIONS)
        case.close(
            picked(f"dataset/item{number}/{place + 1}", pixels, 2048), arrays[name], atol=tolerance, what=name
        )
        row = split.rows[pair[place]]
        assert split.labels[pair[place]].tolist() == item["related"][place]
        assert split.targets[pair[place]].tolist() == item["train_label"][place]
        assert f"captions: {row.caption}, tags: {row.tags}" == item["caption"][place]
    batch = split.fetch_train(BatchPlan(0, 0, np.array(pair)))
    assert batch.labels[:2].tolist() == item["train_label"]


# released cfg key -> ours; a function where the value is told in another way
CFG: dict[str, str | Callable[[Mapping[str, Any]], Any]] = {
    "TRAIN.BATCH_SIZE": "optim.batch_size",
    "TRAIN.NUM_EPOCHS": "optim.epochs",
    "TRAIN.PRETRAIN": "optim.pretrain",
    "DATASET.CROP_SIZE": "data.size",
    "DATASET.SCALE_FROM": "data.scale_from",
    "DATASET.SCALE_TO": "data.scale_to",
    "NET.MODEL": "model.kind",
    "NET.BACKBONE": "model.backbone",
    "NET.OPT": "optim.kind",
    "NET.LR": "optim.lr",
    "NET.BETA1": lambda settings: settings["optim"]["betas"][0],
    "NET.MOMENTUM": "optim.momentum",
    "NET.WEIGHT_DECAY": "optim.weight_decay",
    "NET.LOSS": "loss.classification",
    "NET.MASK_LOSS_BCE": "loss.mask_weight",
    "NET.BG_SCORE": "model.bg_score",
    "NET.FOCAL_P": "model.focal_p",
    "NET.FOCAL_LAMBDA": "model.focal_lambda",
    "NET.PAMR_KERNEL": "model.pamr.dilations",
    "NET.PAMR_ITER": "model.pamr.iterations",
    "NET.SG_PSI": "model.gate_alpha",
}
# read by nothing in the released training: options of inference (TEST), of other data, of the machine
UNREAD = ("TEST.", "NUM_GPUS", "TRAIN.NUM_WORKERS", "TRAIN.MASK_LOSS", "DATASET.PATH", "MASKS.", "CUDA", "DEBUG",
          "PYTORCH_VERSION", "NET.PRE_WEIGHTS_PATH")  # fmt: skip
# released command line flag -> ours
FLAGS: dict[str, str | Callable[[Mapping[str, Any]], Any]] = {
    "feature": "loss.correspondence.layer",
    "loss_3d": "loss.correspondence.weight",
    "triplet_margin": "loss.correspondence.margin",
    "use_triplet": lambda settings: settings["loss"]["correspondence"]["kind"] == "triplet",
    "use_contrastive": lambda settings: settings["loss"]["correspondence"]["kind"].startswith("contrastive"),
    "use_contrastive_easy": lambda settings: settings["loss"]["correspondence"]["kind"] == "contrastive_easy",
    "normalize_feature": "loss.correspondence.normalize",
    "num_negative": "loss.correspondence.negatives",
    "contrastive_tau": "loss.correspondence.tau",
    "multi_label": "data.multi_label",
    "lr_milestones": "optim.milestones",
    "resume": "resume_from",
    "pretrain": lambda settings: (
        -1 if (until := settings["loss"]["correspondence"]["until_epoch"]) is None else until
    ),
}
# names and places, told in another way; inference and export have entries of their own
ELSEWHERE = {"dataset", "exp", "run", "workers", "snapshot_dir", "logdir", "infer_list", "mask_output_dir",
             "export", "export_set", "cfg_file", "set_cfgs", "random_seed"}  # fmt: skip


def composed(*overrides: str) -> dict[str, Any]:
    return config.section(config.compose(PROJECT, "train", overrides))


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def agrees(ours: Mapping[str, Any], where: str | Callable[[Mapping[str, Any]], Any], released: Any) -> bool:
    found = look_up(ours, where) if isinstance(where, str) else where(ours)
    return bool(found == released)


def launch_configs(case: Case) -> None:
    """Our experiments hold the released configs, key by key, and the flags of the launch scripts."""
    golden = case.json()
    for released, launched in case.data["experiments"].items():
        ours = composed(f"experiment={launched['experiment']}")
        check_training(ours)
        same_config(golden[released], ours, released)
        flags = {**golden["argparse_defaults"], **case.data["flags"], **launched["flags"]}
        assert set(flags) == set(FLAGS) | ELSEWHERE, "a released flag that no key of ours stands for"
        for flag, where in FLAGS.items():
            skipped = (
                launched["experiment"] != "wiki_resnet50" and flag == "feature"
            )  # cls nets have one layer
            assert skipped or agrees(ours, where, flags[flag]), (released, flag, flags[flag])
        assert ours["optim"]["inclusive_epochs"], "the released loop runs one epoch more"


def same_config(released: Mapping[str, Any], ours: Mapping[str, Any], what: str) -> None:
    for key, value in flat(released).items():
        if key in CFG:
            assert agrees(ours, CFG[key], value), f"{what}: {key} = {value!r}"
        else:
            assert key.startswith(UNREAD), f"{what}: {key} is neither ours nor unread"


def set_options(case: Case) -> None:
    """What `--set` does, our overrides do; what it refuses, we refuse (a whole number may stand for 1.0)."""
    golden = case.json()
    ours = composed("experiment=wiki_resnet50", "optim.lr=0.001", "model.weights=x")
    same_config(golden[case.data["merged"]], ours, case.data["merged"])
    assert ours["model"]["weights"] == "x"
    for text, overrides in case.data["refused"].items():
        assert text in golden["set_errors"]
        with pytest.raises(Exception) as refusal:  # noqa: PT011
            check_training(composed(*overrides))
        assert isinstance(refusal.value, InputError) or "hydra" in type(refusal.value).__module__, text
    refused = {text for text in golden["set_errors"] if not text.startswith("TEST.")}
    assert refused == set(case.data["refused"]) | set(case.data["accepted"])
    for text, override in case.data["accepted"].items():
        assert text in golden["set_errors"]
        check_training(composed(override))


def snapshot_names(case: Case) -> None:
    """Names of snapshots, and what is read from a name."""
    golden = case.json()
    for given, name in golden["snapshots"].items():
        epoch, score = given.strip("()").split(", ")
        assert snapshots.suffix(int(epoch), float(score)) == name
    for name, parts in golden["snapshot_parse"].items():
        assert snapshots.parse(name) == (None if parts is None else tuple(parts)), name


CALLS: dict[str, Callable[[Case], None]] = {
    "dataset_items": dataset_items,
    "launch_configs": launch_configs,
    "set_options": set_options,
    "snapshot_names": snapshot_names,
}
