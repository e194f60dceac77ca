"""The two rules for the GAN's learning rates.

fixed: a tenth after a given epoch, separately for generator and discriminator (released default: epochs 1-31
at 1e-4, then 1e-5). auto: half of it when the best epoch lies too far back, at most so many times; nothing
resets the waiting, so that the halvings come in consecutive epochs, as released.
"""

import torch

DROP = 0.1
AUTO_DROP = 0.5


def fixed_rate(base: float, epoch: int, drop_epoch: int) -> float:
    """The learning rate of an epoch counted from 0."""
    return base * DROP if epoch > drop_epoch else base


def automatic_drop(epoch: int, best_epoch: int, drops: int, *, times: int, after_epochs: int) -> bool:
    """Whether to halve after `epoch`; the epochs are counted alike, `drops` is how often it has happened."""
    return drops < times and epoch - best_epoch > after_epochs


def rates(
    epoch: int,
    drops: int,
    *,
    learning_rate: float,
    auto_drop: bool,
    drop_generator_epoch: int,
    drop_discriminator_epoch: int,
) -> tuple[float, float]:
    """The learning rates of generator and discriminator in an epoch counted from 0.

    drops: how often the automatic rule has halved them so far; with it the fixed one is off.
    """
    if auto_drop:
        return (learning_rate * AUTO_DROP**drops,) * 2
    return (
        fixed_rate(learning_rate, epoch, drop_generator_epoch),
        fixed_rate(learning_rate, epoch, drop_discriminator_epoch),
    )


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group of the optimizer this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate
