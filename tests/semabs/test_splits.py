"""Split files are pickles that execute nothing; lists of names; what is refused, in one line."""

import pickle
import pickletools
from pathlib import Path
from typing import Any

import pytest

from projects.semabs import splits, vocabulary
from projects.semabs.scene_arrays import Descriptions
from shared.errors import InputError


def test_splits_survive_a_round_trip_as_plain_containers(tmp_path: Path) -> None:
    path = tmp_path / "ssc_split.pkl"
    given = {"train": ["00000|FloorPlan1_physics.hdf5", "a/b.hdf5"], "unseen_instances": [], "other": ["c"]}
    splits.write_splits(path, given)
    assert splits.read_splits(path) == given
    assert pickle.loads(path.read_bytes()) == given
    assert not [op.name for op, _, _ in pickletools.genops(path.read_bytes()) if "GLOBAL" in op.name]


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("was_here"),))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train": [Evil()]}, "refused: the pickle asks for"),
        (["a.hdf5"], "expected a dict of splits, found list"),
        ({"train": "a.hdf5"}, "train: expected a list of file names, found str"),
        ({"train": [3]}, "train: expected file names, found 3"),
        ({"train": ["../a.hdf5"]}, "train: expected names below the data folder, found '../a.hdf5'"),
        ({"train": ["/etc/passwd"]}, "below the data folder"),
    ],
)
def test_what_is_no_split_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "ssc_split.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(InputError, match=message) as caught:
        splits.read_splits(path)
    assert str(path) in str(caught.value)
    assert not (tmp_path / "was_here").exists()


def test_scenes_of_a_split_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "a.hdf5").touch()
    splits.write_splits(tmp_path / "vool_split.pkl", {"train": ["a.hdf5"], "val": ["a.hdf5", "b.hdf5"]})
    assert splits.scene_paths(tmp_path, "vool", "train") == [tmp_path / "a.hdf5"]
    with pytest.raises(InputError, match=r"b.hdf5: no such scene file \(1 of val in"):
        splits.scene_paths(tmp_path, "vool", "val")
    with pytest.raises(InputError, match="no split 'test'; it holds train, val"):
        splits.scene_paths(tmp_path, "vool", "test")
    with pytest.raises(InputError, match=r"ssc_split.pkl: no such file"):
        splits.scene_paths(tmp_path, "ovssc", "train")


def test_names_of_splits_say_what_is_different() -> None:
    assert splits.uses_randomized_images(splits.NOVEL_VISUAL)
    assert splits.uses_synonyms(splits.NOVEL_VOCABULARY)
    assert not splits.uses_randomized_images(splits.NOVEL_ROOMS)
    assert not splits.uses_synonyms(splits.NOVEL_CLASSES)


def test_lists_of_names(tmp_path: Path) -> None:
    path = tmp_path / vocabulary.TEST_ROOMS_FILE
    path.write_text("FloorPlan26_physics\r\n\nFloorPlan27_physics \n")
    assert vocabulary.read_test_rooms(path) == ["FloorPlan26_physics", "FloorPlan27_physics"]
    path.write_text("\n")
    with pytest.raises(InputError, match="expected names of classes, one in a line, found none"):
        vocabulary.read_novel_classes(path)
    assert len(vocabulary.TEST_ROOMS) == 20
    assert {"FloorPlan26_physics", "FloorPlan230_physics", "FloorPlan430_physics"} < set(
        vocabulary.TEST_ROOMS
    )


def test_a_synonym_of_two_classes_stands_for_the_later() -> None:
    assert vocabulary.synonym("desktop") == vocabulary.synonym("laptop") == "computer"
    assert vocabulary.CLASS_OF_SYNONYM["computer"] == "laptop"
    assert vocabulary.synonym("wall") == "wall"


def test_labels_are_names_sentences_and_their_synonyms() -> None:
    given = Descriptions(("mug", "sofa"), ("on", "behind"), ("sofa", "wall"), target_ids=None)  # type: ignore[arg-type]
    found = vocabulary.labels_of_scene(["laptop[3]", "unlabelled", "", " wall "], given)
    sentences = ["mug on a sofa", "mug on a couch", "sofa behind a wall", "couch behind a wall"]
    assert found == sorted(["laptop", "computer", "wall", "mug", "sofa", "couch", *sentences])


def test_unknown_relations_are_refused() -> None:
    vocabulary.check_relations([*vocabulary.RELATIONS, "[pad]"], "a.hdf5")
    with pytest.raises(
        InputError, match=r"a\.hdf5: spatial_relation_name: expected one of in, .*, found 'under'"
    ):
        vocabulary.check_relations(["on", "under"], "a.hdf5")
