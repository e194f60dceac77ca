"""Which words become concepts: nouns of leaf category names that many landmarks share and that hang together in 3D.

The paper distils its concepts so; it publishes the ten that came out, not the thresholds.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from projects.babel.concept_words import normalise
from projects.babel.graph import Neighbours
from projects.babel.tree import Picture

_WORD = re.compile(r"[^\W\d_]+")
_SHORTEST = 4  # letters
# No nouns for a part of a building: kinds of church, ways of taking a picture, directions, materials, articles.
_OTHER = """
abbey about and any archbishop archdiocese are back baroque basilica bishop black blue brick bronze building
catedral cathedral cathedrale cathedralis cathédrale cattedrale central century christ christian church city
collection construction court dame dans das degli del dell della delle dello der des detail die different
diocese dom domkirche duomo east eastern eglise element exterior for from front general glass gold golden
gothic great green guide het high his historic history holy image indoor inner inside interior its jesus king
lady large las left les looking los lower madonna main marble maria mary medieval middle modern mother
municipal museum music near new night north northeast northern northwest notre object of old other outdoor
outer outside over panorama part people photo photograph picture plan pope postcard priest queen red
restoration right royal saint sainte saints san sanctuary sant santa santi santo set side silver small sous
south southeast southern southwest stained stone sur the their this town und under unidentified upper van
various view virgin visit von west western white with within without wood wooden world year
"""
_OTHER_WORDS = frozenset(_OTHER.split())


@dataclass(frozen=True)
class Candidate:
    """A word of leaf names.

    landmarks, pictures: how many have a leaf that it is a word of. captions: pictures of these whose caption has it
    too. coherence: of the links in the graph from pictures with it, the share that lead to a picture with it; None
    without correspondences, or where no such picture has a link. kept: whether it is a concept.
    """

    word: str
    landmarks: int
    pictures: int
    captions: int
    coherence: float | None
    kept: bool = False


@dataclass(frozen=True)
class Choice:
    """What a word must have to become a concept.

    size: at most so many concepts, those of most landmarks. min_landmarks: share of the landmarks that must have the
    word. min_pictures: with it. min_coherence: tested where the coherence is known.
    """

    size: int = 10
    min_landmarks: float = 0.2
    min_pictures: int = 100
    min_coherence: float = 0.3


def find_candidates(pictures: Sequence[Picture], neighbours: Neighbours | None = None) -> list[Candidate]:
    """The nouns of leaf names, those of most landmarks first.

    neighbours: the graph whose rows are the pictures.
    """
    rows: dict[str, list[int]] = defaultdict(list)
    for row, picture in enumerate(pictures):
        for word in nouns(picture.categories[-1] if picture.categories else ""):
            rows[word].append(row)
    found = []
    for word, members in rows.items():
        landmarks = {pictures[row].landmark for row in members}
        captions = sum(word in nouns(pictures[row].caption) for row in members) if len(landmarks) > 1 else 0
        coherence = _coherence(members, neighbours) if neighbours and len(landmarks) > 1 else None
        found.append(Candidate(word, len(landmarks), len(members), captions, coherence))
    return sorted(found, key=lambda one: (-one.landmarks, -one.pictures, one.word))


def choose(candidates: Iterable[Candidate], choice: Choice, *, num_landmarks: int) -> list[Candidate]:
    """The candidates with those marked that become concepts."""
    chosen, kept = [], 0
    for one in candidates:
        fits = (
            kept < choice.size
            and one.landmarks >= max(2, choice.min_landmarks * num_landmarks)
            and one.pictures >= choice.min_pictures
            and (one.coherence is None or one.coherence >= choice.min_coherence)
        )
        kept += fits
        chosen.append(replace(one, kept=fits))
    return chosen


def table(candidates: Sequence[Candidate], most: int = 100) -> list[dict[str, Any]]:
    """The first candidates for a report."""
    return [asdict(one) for one in candidates[:most]]


def nouns(text: str) -> set[str]:
    """Words of a text in the singular that may name a part of a building."""
    words = (singular(word) for word in _WORD.findall(normalise(text)))
    return {word for word in words if len(word) >= _SHORTEST and word not in _OTHER_WORDS}


def singular(word: str) -> str:
    """The singular of a regular English plural."""
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if re.search(r"(?:ss|x|zz|ch|sh)es$", word):
        return word[:-2]
    return word[:-1] if re.search(r"[^siu]s$", word) else word


def _coherence(members: Sequence[int], neighbours: Neighbours) -> float | None:
    inside = np.zeros(len(neighbours), bool)
    inside[members] = True
    links = [neighbours.of(row) for row in members]
    owners = np.repeat(members, [len(found) for found in links])
    others = np.concatenate([np.zeros(0, np.int32), *links])
    others = others[others != owners]
    return float(inside[others].mean()) if len(others) else None
