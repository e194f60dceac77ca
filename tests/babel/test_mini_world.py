"""What the embedded photos are made of: cathedrals with every concept, names, captions, other things."""

from collections import Counter

import numpy as np
import pytest

from projects.babel import mini_landmark, mini_names, mini_objects, mini_photos
from projects.babel.concept_words import ConceptWords
from projects.babel.distillation import labels_of
from projects.babel.mini_elements import CONCEPTS, PART, Element
from shared.scenes import Scene


@pytest.fixture(scope="module")
def landmarks() -> list[mini_landmark.Landmark]:
    return [mini_landmark.build(np.random.default_rng([7, number])) for number in range(6)]


def test_a_cathedral_has_its_concepts(landmarks: list[mini_landmark.Landmark]) -> None:
    for landmark in landmarks:
        mesh = landmark.scene.mesh
        named = {element.concept for element in landmark.elements}
        assert set(CONCEPTS) - {"tower"} <= named <= set(CONCEPTS)
        assert set(np.unique(mesh.part)) == {0, *(PART[name] for name in named)}
        for number, element in enumerate(landmark.elements, 1):
            mine = mesh.instance == number
            assert set(mesh.part[mine]) == {PART[element.concept]}, "an instance is of one concept"
            vertices = mesh.vertices[mesh.faces[mine]].reshape(-1, 3)
            low, high = vertices.min(0) - 0.6, vertices.max(0) + 0.6
            assert (low <= element.centre).all()
            assert (element.centre <= high).all(), "the photographer aims at the element"
        assert (mesh.part[mesh.instance == 0] == 0).all()
        assert 0 < landmark.solid.mean() < 1
    shapes = {len(landmark.scene.mesh.faces) for landmark in landmarks}
    assert len(shapes) == len(landmarks), "no two are alike"


def test_photos_show_what_they_are_aimed_at(landmarks: list[mini_landmark.Landmark]) -> None:
    shares = []
    for number, landmark in enumerate(landmarks):
        rng = np.random.default_rng(number)
        subjects = mini_photos.subjects(landmark, rng, 9)
        assert [element.concept for element in subjects].count("facade") >= 4
        for element in subjects[:6]:
            shot = mini_photos.take(landmark, element, rng, side=32, hard=0.5)
            assert shot.rgb.dtype == shot.mask.dtype == np.uint8
            assert shot.rgb.shape == (*shot.mask.shape, 3)
            shares.append((shot.mask == PART[element.concept]).mean())
    assert np.mean(shares) > 0.15
    assert np.mean(np.array(shares) > 0.02) > 0.95


def test_what_is_said_tells_the_concept() -> None:
    """In the categories or the caption, in any language; a wrong category tells another concept."""
    rng = np.random.default_rng(0)
    words = ConceptWords(CONCEPTS)
    told, languages = Counter[str](), Counter[str]()
    for number in range(400):
        name = mini_names.draw_name(rng)
        concept = CONCEPTS[number % len(CONCEPTS)]
        element = Element(
            concept, np.zeros(3), 1.0, 1.0, place=str(rng.choice(["", "portal", "chapel", "rose"]))
        )
        wrong = number % 10 == 0
        entry = mini_names.describe(name, element, number, rng, wrong=wrong)
        labels, source = labels_of(entry.categories, entry.caption, words, entry.language)
        assert labels[0] == entry.concept, entry
        assert (entry.concept != concept) == wrong
        assert "/" not in entry.file
        assert ":" not in entry.file
        told[source] += 1
        languages[entry.language] += 1
    assert set(told) == {"leaf", "caption", "ancestor"}
    assert told["leaf"] > 250
    assert set(languages) == set(mini_names.LANGUAGES)


def test_things_for_pretraining_have_dense_parts_and_none_of_our_concepts() -> None:
    assert not {word for part in mini_objects.PARTS for word in part.split()} & set(CONCEPTS)
    pictures = list(mini_objects.draw_pictures(24, seed=3, side=32))
    again = list(mini_objects.draw_pictures(5, seed=3, side=32))
    for first, second in zip(pictures, again, strict=False):
        np.testing.assert_array_equal(first.rgb, second.rgb)
        np.testing.assert_array_equal(first.parts, second.parts)
    shown = Counter[int]()
    for picture in pictures:
        assert picture.rgb.shape == (*picture.parts.shape, 3)
        assert max(picture.parts.shape) == 32
        shown.update(np.unique(picture.parts).tolist())
    assert max(shown) < len(mini_objects.PARTS)
    assert len(shown) > 15
    assert np.mean([(picture.parts > 0).mean() for picture in pictures]) > 0.1
    assert not np.array_equal(pictures[0].rgb, next(iter(mini_objects.draw_pictures(1, seed=4, side=32))).rgb)


def test_every_thing_has_named_parts() -> None:
    for thing in mini_objects._THINGS:
        for seed in range(4):
            parts = thing(np.random.default_rng(seed))
            assert {name for name, _ in parts} <= set(mini_objects.PARTS[1:])
            assert all(len(piece.faces) for _, piece in parts)
    scene, places = mini_objects.build(np.random.default_rng(0))
    assert isinstance(scene, Scene)
    assert len(places) == scene.mesh.instance.max()


def test_framing_makes_all_concepts_show_as_many_metres() -> None:
    """Without it a photo of a facade shows far more than one of a window, and nearness tells the concept."""
    landmark = mini_landmark.build(np.random.default_rng(3), free_statues=3)
    square = [element for element in landmark.elements if element.place == "square"]
    assert len(square) == 3
    statues = [
        element
        for element in mini_photos.subjects(landmark, np.random.default_rng(0), 40, framing=1.0)
        if element.concept == "statue"
    ]
    assert {element.place for element in statues} == {"square"}

    def metres(concept: str, framing: float) -> float:
        rng = np.random.default_rng(5)
        element = next(one for one in landmark.elements if one.concept == concept)
        shots = [
            mini_photos.take(landmark, element, rng, side=16, hard=0.5, framing=framing) for _ in range(25)
        ]
        ahead = [shot.camera.rotation[2] @ (element.centre - shot.camera.position) for shot in shots]
        return float(np.median([z * 16 / shot.camera.focal for z, shot in zip(ahead, shots, strict=True)]))

    assert metres("facade", 0.0) > 5 * metres("window", 0.0)
    assert metres("facade", 1.0) < 2.5 * metres("window", 1.0)
