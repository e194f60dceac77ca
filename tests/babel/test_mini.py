"""The embedded data: read back through the readers of WikiScenes, true to the geometry, the same every time."""

import hashlib
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from projects.babel import colmap, mini, tree
from projects.babel.concept_words import ConceptWords
from projects.babel.correspondence import Correspondence
from projects.babel.distillation import distil
from projects.babel.graph import image_graph
from projects.babel.masks import read_mask
from projects.babel.splits import image_id, landmark_of, read_segmentation_list, read_split
from shared.errors import InputError
from shared.files import read_image, read_json
from shared.made_once import MARKER
from tests.babel.conftest import MINI_SIZES

REPOSITORY = Path(__file__).resolve().parents[2]
LANDMARKS = {"train": ["0", "1", "2"], "val_easy": ["0", "1", "2"], "dev": ["3"], "val": ["4"]}
PHOTOS = 5 * MINI_SIZES["views"]


def sums(root: Path) -> dict[str, str]:
    """Checksum of every file (but caches that readers leave beside the data)."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and "cache" not in path.relative_to(root).parts
    }


def test_the_layout_is_that_of_wikiscenes(mini_root: Path) -> None:
    pictures = {picture.path: picture for picture in tree.walk(mini_root)}
    assert len(pictures) == PHOTOS
    rows = {split: read_split(mini_root / f"{split}.txt", mini.CONCEPTS) for split in mini.SPLITS}
    paths = [row.path for split in rows.values() for row in split]
    assert len(set(paths)) == len(paths) == PHOTOS, "every photo is in one split"
    for split, landmarks in LANDMARKS.items():
        assert {landmark_of(row.path) for row in rows[split]} <= set(landmarks)
        for row in rows[split]:
            assert row.tags == ", ".join(pictures[row.path].categories)
            picture = read_image(mini_root / row.path)
            assert sorted(picture.shape) == [3, 48, 64]
    assert len(rows["val"]) == len(rows["dev"]) == MINI_SIZES["views"]
    assert {language for p in pictures.values() if (language := p.language)} > {"en"}
    assert any("," in name for p in pictures.values() for name in p.categories), "names with commas"
    assert any(":" in picture.caption for picture in pictures.values()), "captions with colons"
    assert len({picture.landmark_name for picture in pictures.values()}) > 1


def test_the_split_files_are_what_the_tree_distils_to(mini_root: Path) -> None:
    distilled = {row.path: row.labels for row in distil(tree.walk(mini_root), ConceptWords(mini.CONCEPTS))}
    written = {
        row.path: row.labels
        for split in mini.SPLITS
        for row in read_split(mini_root / f"{split}.txt", mini.CONCEPTS)
    }
    assert written == distilled
    assert len({labels[0] for labels in written.values()}) >= 5
    assert any(len(labels) > 1 for labels in written.values())


def test_masks_show_the_concept_of_the_photo(mini_root: Path) -> None:
    """Only true where no photo lies in a wrong category: in all splits but train."""
    for split, name in mini.LISTS.items():
        rows = read_split(mini_root / f"{split}.txt", mini.CONCEPTS)
        pairs = {
            hashlib.sha256(picture.read_bytes()).hexdigest(): mask
            for picture, mask in read_segmentation_list(mini_root / name)
        }
        assert len(pairs) == len(rows)
        for row in rows:
            mask = read_mask(pairs[hashlib.sha256((mini_root / row.path).read_bytes()).hexdigest()])
            assert mask.shape == read_image(mini_root / row.path).shape[:2]
            assert mask.max() <= len(mini.CONCEPTS)
            first = mini.CONCEPTS.index(row.labels[0]) + 1
            assert (mask == first).mean() > 0.004, row


def test_points_lie_where_the_cameras_see_them(mini_root: Path) -> None:
    correspondence = Correspondence.open(mini_root / "correspondence.json", silent=True)
    assert correspondence.num_outside == 0
    lists = [pair for name in mini.LISTS.values() for pair in read_segmentation_list(mini_root / name)]
    masks = {hashlib.sha256(p.read_bytes()).hexdigest(): read_mask(mask) for p, mask in lists}
    agree, seen = 0, 0
    for landmark in range(5):
        folder = mini_root / "WikiScenes3D" / str(landmark) / "0"
        model = colmap.read_model(folder)
        labels = colmap.read_point_labels(folder, model)
        assert labels.max() <= len(mini.CONCEPTS)
        assert (np.bincount(model.points) >= 2).all(), "a point has at least two sightings"
        for image, name in enumerate(model.names):
            mine = slice(*model.offsets[image : image + 2])
            points, xy = model.points[mine], model.xy[mine]
            camera = model.cameras[model.camera_of[image]]
            in_camera = model.cam_from_world[image] @ np.c_[model.xyz[points], np.ones(len(points))].T
            expected = in_camera[:2] / in_camera[2] * camera.params[0] + np.array([camera.params[2:]]).T
            error = np.linalg.norm(expected.T - xy, axis=1)
            assert error.mean() < 0.6, "a third of a pixel in each direction"
            assert error.max() < 2.5
            row = correspondence.index_of(name)
            assert row is not None
            ids, rowcol = correspondence.keypoints(row)
            named = np.array([int(correspondence.point_id(point)) for point in ids])
            order, other = np.argsort(named), np.argsort(model.point_ids[points])
            np.testing.assert_array_equal(named[order], model.point_ids[points][other])
            pixels = (xy / [camera.width, camera.height])[other]
            np.testing.assert_allclose(rowcol[order][:, ::-1], pixels, atol=1e-5)
            photo = (mini_root / "WikiScenes/cathedrals" / name).read_bytes()
            mask = masks.get(hashlib.sha256(photo).hexdigest())
            if mask is not None:
                padded = np.pad(mask, 1, mode="edge")  # the jitter may move a point to the next pixel
                at = np.minimum(xy.astype(int), [camera.width - 1, camera.height - 1])
                around = [padded[at[:, 1] + i, at[:, 0] + j] for i in range(3) for j in range(3)]
                agree += int((np.array(around) == labels[points]).any(0).sum())
                seen += len(points)
    assert seen > 300
    assert agree / seen > 0.98


def test_photos_of_a_landmark_are_connected(mini_root: Path) -> None:
    correspondence = Correspondence.open(mini_root / "correspondence.json", silent=True)
    rows = read_split(mini_root / "train.txt", mini.CONCEPTS)
    neighbours = image_graph(correspondence, correspondence.indices_of([image_id(row.path) for row in rows]))
    degrees = [len(neighbours.of(row)) for row in range(len(rows))]
    assert np.mean(degrees) > 1.5
    for row, one in enumerate(rows):
        for other in neighbours.of(row):
            assert landmark_of(rows[other].path) == landmark_of(one.path)


def test_made_by_hand_it_is_the_same_to_the_byte(mini_root: Path, tmp_path: Path) -> None:
    """Two processes race for one folder; both end well."""
    command = [sys.executable, "-m", "projects.babel.mini", "--root", str(tmp_path / "set")]
    command += [text for name, value in MINI_SIZES.items() for text in (f"--{name}", str(value))]
    both = [subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        assert process.communicate(timeout=300)[0].strip() == str(tmp_path / "set")
        assert process.returncode == 0
    assert sums(tmp_path / "set") == sums(mini_root)
    assert [path.name for path in tmp_path.iterdir()] == ["set"], "nothing is left over"


def test_a_folder_with_other_settings_is_refused(mini_root: Path) -> None:
    assert mini.make(mini_root) == mini_root
    assert mini.make(mini_root, views=MINI_SIZES["views"]) == mini_root
    with pytest.raises(InputError, match=r"seed is 0, expected 5.*remove"):
        mini.make(mini_root, seed=5)
    assert read_json(mini_root / MARKER)["side"] == MINI_SIZES["side"]


def test_wrong_categories_are_as_frequent_as_asked(tmp_path: Path) -> None:
    made = mini.make(
        tmp_path / "wrong", train=2, dev=0, test=0, views=12, side=32, points=200, wrong=1.0, seed=2
    )
    right = mini.make(
        tmp_path / "right", train=2, dev=0, test=0, views=12, side=32, points=200, wrong=0.0, seed=2
    )
    counts = [
        Counter(row.labels[0] for row in read_split(root / "train.txt", mini.CONCEPTS))
        for root in (made, right)
    ]
    assert counts[1]["facade"] >= 6, "four photos of each facade, and more where there is no tower"
    assert counts[0] != counts[1]
    assert not (right / "val.txt").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"side": 3}, "side: expected a whole number, at least 16, found 3"),
        ({"hard": 1.5}, "hard: expected 0 to 1, found 1.5"),
        ({"framing": -1}, "framing: expected 0 to 1, found -1"),
        ({"views": 2.5}, "views: expected a whole number, at least 1, found 2.5"),
        ({"train": 0, "dev": 0, "test": 0}, "expected at least one landmark"),
        ({"seed": -1}, "seed: expected a whole number, at least 0"),
    ],
)
def test_settings_that_make_no_sense(tmp_path: Path, setting: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        mini.make(tmp_path / "set", **setting)
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_too_few_points_for_a_reconstruction(tmp_path: Path) -> None:
    made = mini.make(tmp_path / "set", train=1, dev=0, test=0, views=2, side=16, points=1)
    assert read_json(made / "correspondence.json") == {}
    assert not (made / "WikiScenes3D").exists()
    assert len(list(tree.walk(made))) == 2
