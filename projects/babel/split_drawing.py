"""Which labelled pictures go into which split file.

What the released files show: some landmarks are held out whole ("val"); of the others at most 1,000 pictures a class
are kept, and a tenth of these is "val_easy", the rest "train".
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from projects.babel.splits import Row, landmark_of
from shared.errors import InputError

# the landmarks that hold 1,915 of the 1,939 rows of the released file of unseen landmarks
RELEASED_UNSEEN = ("9", "37", "24", "66", "21", "96", "70")


@dataclass(frozen=True)
class Drawn:
    """Rows of the three split files in a random order, and the landmarks that were held out."""

    train: list[Row]
    val: list[Row]
    val_easy: list[Row]
    unseen: tuple[str, ...]

    def files(self) -> dict[str, list[Row]]:
        """Split -> rows."""
        return {"train": self.train, "val": self.val, "val_easy": self.val_easy}


def draw(
    rows: Sequence[Row],
    *,
    unseen: int | Sequence[str | int] = RELEASED_UNSEEN,
    per_concept: int | None = 1000,
    easy_share: float = 0.1,
    seed: int = 0,
) -> Drawn:
    """Divide rows by landmark and class.

    unseen: landmarks to hold out, or how many to draw. per_concept: at most so many rows a class for train and
    val_easy together; None: all. InputError: an unknown landmark, none left to train on.
    """
    rng = np.random.default_rng([seed, 0x5B17])
    landmarks = sorted({landmark_of(row.path) for row in rows}, key=lambda name: (len(name), name))
    held_out = _held_out(landmarks, unseen, rng)
    order = [rows[at] for at in rng.permutation(len(rows)).tolist()]
    val = [row for row in order if landmark_of(row.path) in held_out]
    taken: Counter[str] = Counter()
    seen = []
    for row in order:
        concept = row.labels[0]
        if landmark_of(row.path) not in held_out and (per_concept is None or taken[concept] < per_concept):
            taken[concept] += 1
            seen.append(row)
    if not seen:
        raise InputError(
            "split.unseen: every landmark with a labelled picture is held out; none is left to train on"
        )
    easy = round(easy_share * len(seen))
    return Drawn(seen[easy:], val, seen[:easy], held_out)


def _held_out(
    landmarks: Sequence[str], unseen: int | Sequence[str | int], rng: np.random.Generator
) -> tuple[str, ...]:
    if isinstance(unseen, int):
        if not 0 <= unseen < max(1, len(landmarks)):
            raise InputError(
                f"split.unseen: expected 0 to {len(landmarks) - 1} of the {len(landmarks)} landmarks, found {unseen}"
            )
        return tuple(landmarks[at] for at in sorted(rng.permutation(len(landmarks))[:unseen].tolist()))
    names = tuple(str(name) for name in unseen)
    for name in names:
        if name not in landmarks:
            raise InputError(
                f"split.unseen: landmark {name!r} has no labelled picture; there are {_some(landmarks)}"
            )
    return names


def _some(names: Sequence[str], most: int = 20) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
