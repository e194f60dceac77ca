"""Split files: read and written as released; every fault is one line that names the line of the file."""

from collections.abc import Callable
from pathlib import Path

import pytest

from projects.babel.concepts import CONCEPTS, check_concepts
from projects.babel.splits import (
    Row,
    image_id,
    landmark_of,
    multi_hot,
    read_segmentation_list,
    read_split,
    write_split,
)
from shared.errors import InputError

AuthorData = Callable[[str], Path]
PLACE = "WikiScenes/cathedrals/4/1/13/pictures/a.jpg"


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def released_parse(line: str) -> tuple[str, list[str], str, str]:
    """As the format was read: four fields by colons, labels by blanks."""
    path, labels, caption, tags = line.split(":")
    return path, [word.strip("',") for word in labels.strip("[]").split(" ")], caption, tags


def test_rows_survive_a_round_trip_that_the_released_parser_can_read(tmp_path: Path) -> None:
    rows = [
        Row(PLACE, ("statue", "chapel"), "Détail «statue», 'x' [y]", "Interior of X, Chapels (X, Y)"),
        Row("WikiScenes/mosques/0/pictures/Ünï  (1).JPG", ("nave",), "", "A, B"),
    ]
    file = tmp_path / "split.txt"
    assert write_split(file, rows) == 2
    assert read_split(file) == rows
    parsed = [released_parse(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert parsed == [(row.path, list(row.labels), row.caption, row.tags) for row in rows]


def test_captions_lose_what_would_break_a_line(tmp_path: Path) -> None:
    row = Row(PLACE, ("nave",), "a:b\nc\u2028d\r" + "x" * 200, "t:u\nv")
    write_split(tmp_path / "split.txt", [row])
    [read] = read_split(tmp_path / "split.txt")
    assert read.caption == "a b c d " + "x" * 92
    assert len(read.caption) == 100
    assert read.tags == "t u v"


def test_the_real_files(author_data: AuthorData) -> None:
    """Counts of lines, landmarks, labels, first labels; written again they are the same bytes."""
    expected = {
        "train_10classes_20639_63landmark_balanced.txt": (
            84,
            [676, 842, 935, 628, 901, 927, 941, 933, 947, 944],
            [7584, 1064, 26],
        ),
        "val_10classes_20639_7landmark.txt": (23, [473, 582, 108, 59, 124, 81, 305, 64, 65, 78], None),
    }
    for name, (landmarks, first, by_number) in expected.items():
        path = author_data(f"babel/{name}")
        rows = read_split(path)
        assert len({landmark_of(row.path) for row in rows}) == landmarks
        labels = multi_hot(rows)
        assert [sum(one[0] == index for one in labels) for index in range(10)] == first
        if by_number:
            assert [sum(len(one) == number for one in labels) for number in (1, 2, 3)] == by_number


def test_real_rows_are_written_as_they_were(author_data: AuthorData, tmp_path: Path) -> None:
    path = author_data("babel/val_10classes_20639_7landmark.txt")
    write_split(tmp_path / "again.txt", read_split(path))
    assert (tmp_path / "again.txt").read_bytes().rstrip(b"\n") == path.read_bytes().rstrip(b"\n")


def test_the_real_list_of_segmented_pictures(author_data: AuthorData) -> None:
    path = author_data("babel/wikiscenes_val.txt")
    pairs = read_segmentation_list(path)
    assert len(pairs) == 237
    assert pairs[0] == (path.parent / "val_seg/images/0.jpeg", path.parent / "val_seg/masks/0.png")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (f"{PLACE}:['nave']:a: b:tags", "found 4 colons"),
        (f"{PLACE}:['nave']:caption", "found 2 colons"),
        (f"{PLACE}:nave:caption:tags", "labels: expected a list"),
        (f"{PLACE}:[]:caption:tags", "at least one concept"),
        (f"{PLACE}:['nave', 'nave']:caption:tags", "a concept is there twice"),
        (f"{PLACE}:['crypt']:caption:tags", "unknown concept 'crypt'"),
        ("4/1/a.jpg:['nave']:caption:tags", "expected WikiScenes/<category>/"),
        ("WikiScenes/cathedrals/4/1/pictures/b.jpg:['nave']:caption:tags", "is there twice (line 1)"),
    ],
)
def test_a_faulty_line_is_named(tmp_path: Path, line: str, says: str) -> None:
    good = "WikiScenes/cathedrals/4/1/pictures/b.jpg:['nave']:caption:tags"
    file = write(tmp_path / "split.txt", good, line)
    with pytest.raises(InputError) as caught:
        read_split(file)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    if "WikiScenes/<" not in says:
        assert f"{file}:2:" in str(caught.value)


def test_an_empty_split_and_other_concepts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found none"):
        read_split(write(tmp_path / "empty.txt", "", ""))
    file = write(tmp_path / "mosques.txt", "WikiScenes/mosques/0/pictures/b.jpg:['minaret']:caption:tags")
    assert read_split(file, ("minaret", "dome"))[0].labels == ("minaret",)
    assert read_split(file, None)[0].labels == ("minaret",)
    with pytest.raises(InputError, match="unknown concept"):
        read_split(file)


def test_what_cannot_be_written(tmp_path: Path) -> None:
    for row, says in (
        (Row("WikiScenes/cathedrals/4/pictures/a:b.jpg", ("nave",), "", ""), "colons"),
        (Row(PLACE, ("rose window",), "", ""), "without blanks"),
        (Row(PLACE, (), "", ""), "found none"),
    ):
        with pytest.raises(InputError, match=says):
            write_split(tmp_path / "split.txt", [row])
        assert not any(tmp_path.iterdir())


def test_concepts_and_ids() -> None:
    assert check_concepts(["a", "b"]) == ("a", "b")
    assert len(CONCEPTS) == 10
    for wrong, says in (([], "at least one"), (["a", "a"], "twice"), (["a b"], "blanks"), (["a:"], "colons")):
        with pytest.raises(InputError, match=says):
            check_concepts(wrong)
    assert image_id(PLACE) == "4/1/13/pictures/a.jpg"
    assert image_id("WikiScenes/synagogues/0/pictures/x.png") == "0/pictures/x.png"
    assert landmark_of(PLACE) == "4"


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (("./a.jpg",), ":1: expected `picture mask`"),
        (("./a.jpg ./m/0.png", "./b c.jpg ./m/1.png"), ":2: expected `picture mask`, found 3"),
        (("./a.jpg ./m/0.png", "./b.jpg ./m/0.png"), "mask '0' is there twice"),
        (("",), "found none"),
    ],
)
def test_a_faulty_list_of_masks(tmp_path: Path, lines: tuple[str, ...], says: str) -> None:
    with pytest.raises(InputError) as caught:
        read_segmentation_list(write(tmp_path / "list.txt", *lines))
    assert says in str(caught.value)


def test_lists_start_at_the_root(tmp_path: Path) -> None:
    file = write(tmp_path / "list.txt", "/JPEGImages/a.jpg /Masks/a.png")
    assert read_segmentation_list(file, "/voc") == [(Path("/voc/JPEGImages/a.jpg"), Path("/voc/Masks/a.png"))]
