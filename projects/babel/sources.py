"""Where the pictures of an inference come from: photographs, a list, or a split."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from projects.babel.data import DataSet
from projects.babel.expectations import expect_positive
from projects.babel.inference import Item, Writing, list_items, photo_items, split_items
from projects.babel.merging import BACKGROUND_POWER
from projects.babel.segmenting import ViewPlan
from projects.babel.splits import read_segmentation_list
from projects.babel.trained import Trained
from shared.errors import InputError

DEFAULT_LIST = "val"
RELEASED_SIDE = 224  # of the crops that the released nets were trained on


@dataclass(frozen=True)
class Source:
    """What is segmented, and the defaults that fit it.

    Attributes:
        title: of the page.
        photos: the user's photographs, not pictures of a data set.
        side: shorter side that the pictures are reduced to; None: as they are.
    """

    title: str
    items: list[Item]
    photos: bool = False
    side: int | None = None

    def adapted(self, plan: ViewPlan) -> ViewPlan:
        """The plan with the side of these pictures where it says none."""
        return plan if plan.side is not None else dataclasses.replace(plan, side=self.side)

    def unreadable(self, given: str | None) -> str:
        """What becomes of a picture that cannot be read."""
        return given if given is not None else "skip" if self.photos else "error"

    def writing(self, settings: Mapping[str, Any], run_dir: Path) -> Writing:
        """What is written, and where; InputError as in `Writing.check`."""
        power = settings["background_power"]
        if power is None:
            power = default_power(settings["views"]["method"])
        expect_positive("background_power", power)
        how = Writing(
            folder=Path(settings["output"] or run_dir / "masks").expanduser(),
            labels=settings["labels"],
            background_power=float(power),
            crf=settings["crf"],
            vis=settings["vis"],
            upright=self.photos,
        )
        how.check()
        return how


def default_power(method: str) -> float:
    """Power of the background in the released protocols."""
    return 1.0 if method == "crops" else BACKGROUND_POWER


def pictures(settings: Mapping[str, Any], model: Trained) -> Source:
    """The pictures that the settings `photos`, `list` and `split` ask for.

    InputError: more than one of them, or none and no list in the data; a file that is missing or damaged.
    """
    asked = [name for name in ("photos", "list", "split") if settings[name] is not None]
    if len(asked) > 1:
        raise InputError(f"{' and '.join(asked)}: expected one of photos, list and split")
    if settings["photos"] is not None:
        return Source("Photographs", photo_items(settings["photos"]), True, training_side(model))
    if settings["split"] is not None:
        data = data_set(settings.get("data"), model)
        return Source(f"Split {settings['split']}", split_items(data.open(settings["split"])))
    name = settings["list"] or DEFAULT_LIST
    file = list_file(name, settings.get("data"), model)
    return Source(f"List {name}", list_items(read_segmentation_list(file)))


def training_side(model: Trained) -> int:
    """Side of the crops that the model was trained on; the released one where nobody says."""
    return int((model.settings.get("data") or {}).get("size") or RELEASED_SIDE)


def data_set(given: Mapping[str, Any] | None, model: Trained) -> DataSet:
    """The `data` settings, or those of the training run; made on first use if embedded."""
    settings = given or model.settings.get("data")
    if not settings or "root" not in settings:
        raise InputError(f"{model.path}: says nothing about its data: add data=wikiscenes data.root=FOLDER")
    data = DataSet(**settings)
    data.prepare()
    return data


def list_file(name: str, given: Mapping[str, Any] | None, model: Trained) -> Path:
    """A list file by its path, or by its name among the data's lists."""
    if Path(name).suffix:
        return Path(name).expanduser()
    lists = data_set(given, model).segmentation or {}
    if name not in lists:
        raise InputError(f"list: expected a file or one of {', '.join(lists) or 'no list'}, found {name!r}")
    return Path(lists[name])


def find_model(path: str) -> Path:
    """The path; InputError with what to do when nothing is there."""
    found = Path(str(path)).expanduser()
    if not found.exists():
        raise InputError(
            f"model: {found}: no such run folder or checkpoint (python train.py makes runs/mini)"
        )
    return found
