"""The tree of category.json files: walked as it was written, other layouts and faults."""

import json
from pathlib import Path
from typing import Any

import pytest

from projects.babel.tree import language_of, walk, write_tree
from shared.errors import InputError

PICTURES: list[tuple[str, tuple[str, ...], str, str, str, list[Any]]] = [
    ("0", ("Exterior of A", "Portals, of A"), "a b.jpg", "Un portail : été", "https://x/1", ["fr"]),
    ("0", (), "root.png", "", "", []),
    ("0", ("Exterior of A",), "c.JPG", "c", "https://x/2", [["en", 0.9]]),
    ("0", ("Interior of A", "Organs"), "a b.jpg", "same name elsewhere", "", []),
    ("7", ("Nave",), "d.svg", "d", "", [{"language": "de"}]),
]


def test_what_is_written_is_walked(tmp_path: Path) -> None:
    paths = write_tree(tmp_path, PICTURES, landmark_names={"0": "Cathedral A", "7": "Dom B"})
    assert paths[:2] == [
        "WikiScenes/cathedrals/0/0/0/pictures/a b.jpg",
        "WikiScenes/cathedrals/0/pictures/root.png",
    ]
    found = list(walk(tmp_path))
    assert [picture.path for picture in found] == [paths[1], paths[2], paths[0], paths[3], paths[4]]
    by_path = {picture.path: picture for picture in found}
    for path, (landmark, categories, _, caption, url, properties) in zip(paths, PICTURES, strict=True):
        picture = by_path[path]
        assert picture.landmark == landmark
        assert picture.categories == categories
        assert (picture.caption, picture.url, list(picture.properties)) == (caption, url, properties)
    assert [by_path[path].language for path in paths] == ["fr", None, "en", None, "de"]
    assert found[-1].landmark_name == "Dom B"


def test_landmarks_without_a_list_and_a_choice_of_them(tmp_path: Path) -> None:
    write_tree(tmp_path, [(str(n), ("x",), f"{n}.jpg", "", "", ()) for n in (10, 9, 2)], "mosques")
    assert [picture.landmark for picture in walk(tmp_path, "mosques")] == ["2", "9", "10"]
    assert [picture.landmark for picture in walk(tmp_path, "mosques", ["10"])] == ["10"]
    with pytest.raises(InputError, match="no such landmark"):
        list(walk(tmp_path, "mosques", ["3"]))
    with pytest.raises(InputError, match="no such folder"):
        list(walk(tmp_path))


def test_the_published_shape_is_written(tmp_path: Path) -> None:
    write_tree(tmp_path, PICTURES)
    node = json.loads((tmp_path / "WikiScenes/cathedrals/0/category.json").read_text(encoding="utf-8"))
    assert node["max_index"] == 2
    assert node["pairs"] == {"Exterior of A": "0", "Interior of A": "1"}
    assert node["pictures"] == {"root.png": {"caption": "", "url": "", "properties": []}}


def test_a_picture_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'a\.jpg' is there twice"):
        write_tree(tmp_path, [("0", ("x",), "a.jpg", "", "", ())] * 2)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not valid JSON"),
        ([], "expected an object"),
        ({"pairs": []}, "pairs: expected an object"),
        ({"pairs": {"x": ".."}}, "expected the name of a folder"),
        ({"pairs": {"x": "/etc"}}, "expected the name of a folder"),
        ({"pairs": {"x": "1", "y": "1"}}, "a folder is there twice"),
        ({"pairs": {"x": "5"}}, "no such file"),
        ({"pictures": {"../a.jpg": {}}}, "expected a file name"),
        ({"pictures": {"a.jpg": "caption"}}, "a.jpg: expected an object"),
        ({"pictures": {"a.jpg": {"caption": 3}}}, "a.jpg: caption: expected a text"),
        ({"pictures": {"a.jpg": {"properties": "en"}}}, "a.jpg: properties: expected a list"),
    ],
)
def test_a_faulty_node_is_named(tmp_path: Path, content: Any, says: str) -> None:
    node = tmp_path / "WikiScenes/cathedrals/0/category.json"
    node.parent.mkdir(parents=True)
    node.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        list(walk(tmp_path))
    assert says in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("properties", "language"),
    [
        ([], None),
        (["en"], "en"),
        (["fr-CA"], "fr"),
        (["language: DE"], "de"),
        (["Spanish"], "es"),
        ([0.3, {"score": 1}, {"lang": "it"}], "it"),
        ([["ita", 0.9], "en"], "it"),
        (["portrait", "jpg", "nl"], "nl"),
        ([None, [], {}], None),
    ],
)
def test_languages_of_properties(properties: list[Any], language: str | None) -> None:
    assert language_of(properties) == language
