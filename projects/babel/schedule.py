"""Learning rate over the epochs."""

from collections.abc import Collection

DECAY = 0.1


def learning_rate(base: float, milestones: Collection[int], epoch: int) -> float:
    """Rate of an epoch (counted from 0): base * 0.1 ** (number of milestones m <= epoch).

    This is what PyTorch 1.0.1 gave the released code, which stepped its MultiStepLR at the start of each epoch;
    later versions of PyTorch would decay one epoch early with the same calls.
    """
    return float(base * DECAY ** sum(milestone <= epoch for milestone in milestones))
