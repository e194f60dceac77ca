"""What changes in the course of a run: learning rates, trainable stages of the CNN, form of the loss."""

from dataclasses import dataclass
from typing import TypedDict

import torch

from projects.vseinfty import optim
from projects.vseinfty.model import VSEModel
from shared.data import TrainSampler


class LossForm(TypedDict):
    """Keyword arguments of `engine.train_step`."""

    margin: float
    hardest: bool
    loss_scale: float


@dataclass(frozen=True)
class Schedule:
    """The released schedules (spec section 7), functions of the position: resumed, a run is where it was.

    Attributes:
        model, optimizer, sampler: what is scheduled, and how many steps an epoch has.
        lr_update: epoch from which on learning rates are a tenth; parts of an epoch are allowed.
        margin: of the loss.
        max_violation: hardest negatives from the start.
        vse_mean_warmup_epochs: else all negatives until then, hardest ones from then on; parts are allowed.
        embedding_warmup_epochs: grid models: the CNN is frozen; the loss then grows linearly for one epoch.
        backbone_warmup_epochs: grid models: length of each stage of unfreezing.
    """

    model: VSEModel
    optimizer: torch.optim.Optimizer
    sampler: TrainSampler
    lr_update: float
    margin: float
    max_violation: bool
    vse_mean_warmup_epochs: float
    embedding_warmup_epochs: int
    backbone_warmup_epochs: int

    def start_epoch(self, epoch: int) -> None:
        """Freeze and unfreeze stages of the CNN."""
        optim.freeze_stages(self.model, epoch, self.embedding_warmup_epochs, self.backbone_warmup_epochs)

    def start_step(self, epoch: int, step: int) -> LossForm:
        """Set the learning rates; returns the form of this step's loss."""
        now = epoch + step / self.sampler.steps_per_epoch
        optim.set_learning_rates(self.optimizer, now, self.lr_update)
        hardest = optim.uses_hardest(now, self.max_violation, self.vse_mean_warmup_epochs)
        scale = optim.loss_scale(
            self.model,
            epoch,
            step,
            num_items=self.sampler.num_items,
            batch_size=self.sampler.batch_size,
            embedding_warmup_epochs=self.embedding_warmup_epochs,
        )
        return {"margin": self.margin, "hardest": hardest, "loss_scale": scale}
