"""prepare.py and convert_sbd.py as commands: what they write, that they refuse to write over, faults in one line."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from projects.babel import preparation, sbd
from projects.babel.concepts import CONCEPTS
from projects.babel.splits import Row, landmark_of, read_split, write_split
from projects.babel.tree import write_tree
from shared.errors import InputError
from tests.babel.training_runs import train

PROJECT = Path(preparation.__file__).parent


def prepare(run_dir: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return train(run_dir, *overrides, script=PROJECT / "prepare.py")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six landmarks of mosques: 10 pictures each, in three languages, one file missing; a WikiScenes of its own."""
    root = tmp_path_factory.mktemp("tree")
    pictures = []
    for landmark in range(6):
        for number in range(10):
            word = ("Minarets", "Domes")[number % 2]
            categories = (f"Exterior of {landmark}", f"{word} of {landmark}") if number < 8 else ("Details",)
            caption, language = ("A dome: from below", "en") if number == 8 else ("Un minaret", "fr")
            pictures.append((str(landmark), categories, f"é {number}.jpg", caption, "https://x", [language]))
    for path in write_tree(root, pictures, "mosques"):
        (root / path).write_bytes(b"picture")
    return root


def settings(root: Path) -> list[str]:
    return [
        "data=wikiscenes", f"data.root={root}", "category=mosques", "concepts=[minaret,dome]", "split.unseen=[4,5]",
        f"output={root.parent / 'out'}",
    ]  # fmt: skip


def test_a_tree_becomes_split_files(tree: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    shutil.copytree(tree, root)
    done = prepare(tmp_path / "run", *settings(root))
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    rows = {
        name: read_split(out / f"{name}.txt", ("minaret", "dome")) for name in ("train", "val", "val_easy")
    }
    assert {name: len(found) for name, found in rows.items()} == {"train": 36, "val": 20, "val_easy": 4}
    assert {landmark_of(row.path) for row in rows["val"]} == {"4", "5"}
    labels = {row.path.rsplit("/", 1)[1]: row.labels for row in rows["val"]}
    assert labels["é 0.jpg"] == ("minaret",)
    assert labels["é 8.jpg"] == ("dome",)
    assert labels["é 9.jpg"] == ("minaret",)
    assert all((root / row.path).is_file() for row in rows["train"])
    report = json.loads((out / "prepared.json").read_text(encoding="utf-8"))
    assert report["splits"]["train"]["rows"] == 36
    assert report["unseen landmarks"] == ["4", "5"]
    assert report["pictures"]["class from the leaf"] == 48
    assert report["pictures"]["class from the caption"] == 12
    assert f"{out}/val.txt: 20 pictures" in done.stdout

    # the same again is fine; another drawing is refused, unless asked for
    before = {path: path.read_bytes() for path in out.glob("*.txt")}
    assert prepare(tmp_path / "run", *settings(root)).returncode == 0
    other = prepare(tmp_path / "run", *settings(root), "seed=1")
    assert other.returncode == 2
    assert "holds another split" in other.stderr
    assert {path: path.read_bytes() for path in out.glob("*.txt")} == before
    released = out / "val.txt"
    again = prepare(
        tmp_path / "run",
        *settings(root),
        "seed=1",
        "overwrite=true",
        f"compare=[{released}]",
        "split.unseen=2",
    )
    assert again.returncode == 0, again.stderr
    assert "'rows': 20, 'missing': 0, 'class': 100.0" in again.stdout


def test_concepts_are_found(tree: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    shutil.copytree(tree, root)
    done = prepare(
        tmp_path / "run", *settings(root), "concepts=null", "vocabulary.min_pictures=10", "split.easy_share=0"
    )
    assert done.returncode == 0, done.stderr
    assert "concepts: dome, minaret" in done.stdout
    report = json.loads((tmp_path / "out/prepared.json").read_text(encoding="utf-8"))
    words = {one["word"]: one["kept"] for one in report["vocabulary"]}
    assert words["dome"]
    assert words["minaret"]
    assert report["splits"]["val_easy"]["rows"] == 0


def test_faults_are_one_line(tree: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    shutil.copytree(tree, root)
    victim = next(root.rglob("é 3.jpg"))
    victim.unlink()
    for overrides, says in (
        ([], f"{victim}: no such picture (1 of 60 are not there)"),
        (["category=synagogues"], "no such folder"),
        (["landmarks=[9]"], "no such landmark"),
        (["concepts=[crypt]"], "no picture names one of crypt"),
        (["concepts=[rose window]"], "words without blanks"),
        (["data.skip_missing=true", "split.unseen=[8]"], "landmark '8' has no labelled picture"),
        (["data.skip_missing=true", f"compare=[{tmp_path}/none.txt]"], "none.txt: no such file"),
        (["concepts=null"], "no word of the category names fits"),
        (["split.per_concpet=3"], "no such setting"),
        (["split.per_concept=many"], "split.per_concept: expected a whole number"),
        (["split.easy_share=2"], "split.easy_share: expected a number from 0 to below 1"),
        (["split.unseen=two"], "split.unseen: expected how many landmarks, or a list"),
        (["languages=[fr,xx]"], "languages: expected some of ca, de, es"),
        (["landmarks=3"], "landmarks: expected a list or null"),
    ):
        done = prepare(tmp_path / "run", *settings(root), *overrides)
        assert done.returncode == 2, (overrides, done.stdout, done.stderr)
        [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert says in line, (overrides, line)
        assert not list((tmp_path / "out").glob("*"))
    done = prepare(tmp_path / "run", *settings(root), "data.skip_missing=true")
    assert done.returncode == 0, done.stderr
    assert "left out: not on the disk: 1" in done.stdout


def test_the_embedded_set_is_distilled_to_its_own_labels(mini_root: Path, tmp_path: Path) -> None:
    concepts = ["facade", "window", "chapel", "tower", "portal", "statue"]
    pictures = preparation.read_tree(mini_root, "cathedrals")
    labelled = preparation.label(pictures, mini_root, concepts=concepts)
    ours = {row.path: row for row in labelled.rows}
    for name in ("train", "val_easy", "val"):
        for row in read_split(mini_root / f"{name}.txt", concepts):
            assert ours[row.path].labels == row.labels
            assert ours[row.path].tags == row.tags
    drawn = preparation.write(labelled, tmp_path, unseen=1, seed=3)
    assert len(drawn.train) + len(drawn.val) + len(drawn.val_easy) == len(labelled.rows)


def test_rows_that_the_tree_lacks_are_counted(tmp_path: Path) -> None:
    [path] = write_tree(tmp_path, [("0", ("Naves",), "a.jpg", "", "", [])])
    (tmp_path / path).write_bytes(b"x")
    pictures = preparation.read_tree(tmp_path, "cathedrals")
    labelled = preparation.label(pictures, tmp_path, concepts=CONCEPTS)
    other = Row("WikiScenes/cathedrals/0/9/pictures/b.jpg", ("nave",), "", "")
    write_split(tmp_path / "released.txt", [*labelled.rows, other])
    found = preparation.compare(labelled, pictures, [tmp_path / "released.txt"])["released.txt"]
    assert found["not in the tree"] == 1
    assert found["rows"] == 1
    assert found["class"] == 100
    write_split(tmp_path / "foreign.txt", [other])
    with pytest.raises(InputError, match="none of its 1 pictures"):
        preparation.compare(labelled, pictures, [tmp_path / "foreign.txt"])


# --- Semantic Boundaries Dataset


def write_mat(path: Path, mask: np.ndarray, field: str = "Segmentation") -> None:
    import scipy.io

    path.parent.mkdir(parents=True, exist_ok=True)
    boundaries = np.zeros((1, 1), object)
    scipy.io.savemat(path, {"GTcls": {"Boundaries": boundaries, field: mask, "CategoriesPresent": [1, 4]}})


def test_masks_of_matlab_become_pngs(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    masks = {f"2008_{n:06}": rng.integers(0, 21, (9 + n, 12)).astype(np.uint8) for n in range(3)}
    for name, mask in masks.items():
        write_mat(tmp_path / "cls" / f"{name}.mat", mask)
    done = train(
        tmp_path / "run", f"input={tmp_path}/cls", f"output={tmp_path}/png", script=PROJECT / "convert_sbd.py"
    )
    assert done.returncode == 0, done.stderr
    for name, mask in masks.items():
        with Image.open(tmp_path / "png" / f"{name}.png") as image:
            assert image.mode == "L"
            assert (np.asarray(image) == mask).all()


def test_faulty_matlab_files(tmp_path: Path) -> None:
    folder = tmp_path / "cls"
    with pytest.raises(InputError, match="no such folder"):
        sbd.convert(folder, tmp_path / "png")
    folder.mkdir()
    with pytest.raises(InputError, match="found none"):
        sbd.convert(folder, tmp_path / "png")
    file = folder / "a.mat"
    write_mat(file, np.zeros((2, 2), np.uint8), "Other")
    with pytest.raises(InputError, match=r"expected GTcls\.Segmentation, found GTcls"):
        sbd.read_mask(file)
    write_mat(file, np.full((2, 2), 300.0))
    with pytest.raises(InputError, match="class ids 0 to 255"):
        sbd.read_mask(file)
    write_mat(file, np.zeros((9, 9), np.uint8))
    file.write_bytes(file.read_bytes()[:150])
    with pytest.raises(InputError, match="not a readable MATLAB file"):
        sbd.read_mask(file)
    file.write_bytes(b"no matlab")
    with pytest.raises(InputError, match="not a readable MATLAB file"):
        sbd.read_mask(file)
