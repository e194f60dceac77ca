"""What surrounds the epochs of a run: the splits it opens, and the validation and snapshot between epochs."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from projects.babel import snapshots, validation
from projects.babel.data import DataSet, Split
from projects.babel.objective import Objective
from projects.babel.outputs import Net
from projects.babel.run_state import Progress
from projects.babel.splits import landmark_of
from shared.log import Run
from shared.runtime import Runtime

SNAPSHOTS = "snapshots"  # folder of the run


def open_splits(dataset: DataSet, *, seed: int) -> tuple[Split, dict[str, Split]]:
    """The training split, and those to validate on: val_easy (where there is one), then val.

    The embedded data are made on first use. `seed` is that of all draws.

    Raises:
        InputError: the set or a file of it is missing or does not fit.
    """
    dataset.prepare()
    train = dataset.open("train", seed=seed)
    names = [name for name in ("val_easy", validation.MAIN) if getattr(dataset, name) is not None]
    return train, {name: dataset.open(name, seed=seed) for name in names}


def report_data(run: Run, train: Split, validated: Mapping[str, Split]) -> None:
    """Count what the data lack as warnings; say how many images of "unseen" landmarks are seen ones (released: 21)."""
    for split in (train, *validated.values()):
        for path in split.missing:
            run.warn("missing image", f"{path}: left out of {split.name}")
        for _ in range(split.num_outside):
            run.warn("keypoint outside its image", "left out")
    landmarks = {landmark_of(row.path) for row in train.rows}
    unseen = validated[validation.MAIN]
    count = sum(landmark_of(row.path) in landmarks for row in unseen.rows)
    if count:
        run.info(
            f"{unseen.name}: {count} of its {len(unseen)} images are of landmarks that train has as well"
        )


class EndOfEpoch:
    """Validates before every `validation.every`-th epoch and at the end, and writes the snapshot of that moment.

    Args:
        run, runtime, model, optimizer: of this run.
        splits: to validate on, by name.
        settings: of the run.
        epochs: how many there are in all.
    """

    def __init__(
        self,
        run: Run,
        runtime: Runtime,
        model: Net,
        optimizer: torch.optim.Optimizer,
        splits: Mapping[str, Split],
        settings: Mapping[str, Any],
        *,
        epochs: int,
    ) -> None:
        self.run, self.runtime, self.model, self.optimizer = run, runtime, model, optimizer
        self.splits, self.settings, self.epochs = splits, settings, epochs
        self.concepts = tuple(settings["data"]["concepts"])

    def is_due(self, epoch: int) -> bool:
        """Whether `epoch` epochs done are a moment to validate."""
        when = self.settings["validation"]
        if epoch == 0 and not when["initial"]:
            return False
        return epoch % when["every"] == 0 or epoch == self.epochs

    def validate(self, at: Progress, aim: Objective) -> None:
        """Validate where due: numbers into the run's files and `at.found`, weights into a snapshot."""
        if not self.is_due(at.epoch):
            return
        found = {
            name: validation.validate(
                self.model,
                split,
                aim,
                self.runtime,
                multi_label=self.settings["data"]["multi_label"],
                random_crops=self.settings["validation"]["random_crops"],
                epoch=at.epoch,
                batch_size=self.settings["optim"]["batch_size"],
                workers=self.settings["workers"],
            )
            for name, split in self.splits.items()
        }
        score = validation.record(self.run, at, found, self.concepts)
        at.found = validation.metrics(found, self.concepts, epoch=at.epoch)
        for name, one in found.items():
            if not self.settings["data"]["multi_label"]:
                self.run.image(at.step, f"{name}/confusion_matrix", _as_picture(one.scores.confusion))
        self.run.info(f"{at.epoch} epochs done: {validation.summary(found)}")
        keep = self.settings["snapshots"]
        if keep != 0 and self.runtime.is_main:
            folder = self.run.dir / SNAPSHOTS
            states = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
            snapshots.write(folder, at.epoch, score, **states)
            if keep is not None:
                snapshots.remove_old(folder, keep)


def _as_picture(confusion: np.ndarray) -> np.ndarray:
    """RGB uint8 of counts [C, C], 16 pixels each: white = none of the row's images, black = all of them."""
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    pixels = np.rint(255 * (1 - shares)).astype(np.uint8).repeat(16, axis=0).repeat(16, axis=1)
    return np.stack([pixels] * 3, axis=-1)
