"""The tree of WikiScenes: `WikiScenes/<category>/<landmark>/<sub>/.../pictures/<file>` with a category.json a node.

category.json: `{"max_index": sub-categories, "pairs": {category name: folder name}, "pictures": {file name:
{"caption", "url", "properties"}}}`.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.errors import InputError
from shared.files import read_json, write_json

ROOT = "WikiScenes"
NODE = "category.json"
PICTURES = "pictures"
_LANGUAGE_KEYS = ("language", "lang")
_LANGUAGE = re.compile(r"(?:(?:language|lang)\s*[:=]\s*)?([a-z]+)(?:[-_][a-z]{2,4})?")
_LANGUAGE_NAMES = {
    **dict.fromkeys(("english", "eng"), "en"),
    **dict.fromkeys(("french", "fra", "fre"), "fr"),
    **dict.fromkeys(("german", "deu", "ger"), "de"),
    **dict.fromkeys(("spanish", "spa"), "es"),
    **dict.fromkeys(("italian", "ita"), "it"),
    **dict.fromkeys(("dutch", "nld", "dut"), "nl"),
    **dict.fromkeys(("portuguese", "por"), "pt"),
    **dict.fromkeys(("catalan", "cat"), "ca"),
    **dict.fromkeys(("polish", "pol"), "pl"),
    **dict.fromkeys(("russian", "rus"), "ru"),
    **dict.fromkeys(("swedish", "swe"), "sv"),
}


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of the tree.

    path: from the data root, with "/". landmark: the folder below the category ("4"). categories: the names
    from the one below the landmark to the leaf that holds the picture; none for a picture of the landmark itself.
    landmark_name: the name that the category's own category.json gives it, "" where there is none.
    """

    path: str
    landmark: str
    caption: str
    url: str
    properties: tuple[Any, ...]
    categories: tuple[str, ...]
    landmark_name: str = ""

    @property
    def language(self) -> str | None:
        """The caption's language (ISO 639, "en") that the properties tell; None: they do not."""
        return language_of(self.properties)


@dataclass
class _Node:
    """A category while a tree is written."""

    pairs: dict[str, str] = field(default_factory=dict)
    pictures: dict[str, dict[str, Any]] = field(default_factory=dict)


def language_of(properties: Sequence[Any]) -> str | None:
    """The caption's language among a picture's properties, as a two-letter code; None where none tells it.

    Read are "en", "language: en", "English", {"language": "en"}, ["en", 0.99]; the first that fits counts.
    """
    for item in properties:
        if isinstance(item, dict):
            item = next((item[key] for key in _LANGUAGE_KEYS if key in item), None)
        elif isinstance(item, list | tuple):
            item = item[0] if item else None
        match = _LANGUAGE.fullmatch(item.strip().lower()) if isinstance(item, str) else None
        if match and (match[1] in _LANGUAGE_NAMES or len(match[1]) == 2):
            return _LANGUAGE_NAMES.get(match[1], match[1])
    return None


def walk(
    root: str | Path, category: str = "cathedrals", landmarks: Iterable[str] | None = None
) -> Iterator[Picture]:
    """The pictures below `root/WikiScenes/<category>`, landmark by landmark, depth first, in the files' order.

    landmarks: folder names; None: all. Pictures are those that category.json lists, whether or not they are on the
    disk. InputError: a folder or category.json is missing, a field of it is not as it should be.
    """
    top = Path(root) / ROOT / category
    if not top.is_dir():
        raise InputError(f"{top}: no such folder; expected {ROOT}/<category>/<landmark>/{NODE} in {root}")
    names = _landmark_names(top)
    wanted = list(names) if landmarks is None else [str(landmark) for landmark in landmarks]
    for landmark in wanted:
        if landmark not in names:
            raise InputError(f"{top / landmark}: no such landmark")
        yield from _walk_landmark(top / landmark, f"{ROOT}/{category}/{landmark}", landmark, names[landmark])


def write_tree(
    root: str | Path,
    pictures: Iterable[tuple[str, Sequence[str], str, str, str, Sequence[Any]]],
    category: str = "cathedrals",
    landmark_names: dict[str, str] | None = None,
) -> list[str]:
    """Write the category.json files of pictures; where each picture belongs, from `root`, in their order.

    pictures: (landmark, names of the categories below it, file name, caption, url, properties). The picture files
    themselves are the caller's to write. landmark_names: folder -> name, written into the category's own
    category.json. InputError: a file name twice in a category.
    """
    nodes: dict[str, _Node] = {}
    paths: list[str] = []
    for landmark, categories, name, caption, url, properties in pictures:
        place = landmark
        node = nodes.setdefault(place, _Node())
        for below in categories:
            place = f"{place}/{node.pairs.setdefault(below, str(len(node.pairs)))}"
            node = nodes.setdefault(place, _Node())
        if name in node.pictures:
            raise InputError(f"{place}: picture {name!r} is there twice")
        node.pictures[name] = {"caption": caption, "url": url, "properties": list(properties)}
        paths.append(f"{ROOT}/{category}/{place}/{PICTURES}/{name}")
    top = Path(root) / ROOT / category
    for place, node in nodes.items():
        _write_node(top / place, node)
        if node.pictures:
            (top / place / PICTURES).mkdir(exist_ok=True)
    if landmark_names is not None:
        _write_node(top, _Node({name: landmark for landmark, name in landmark_names.items()}))
    return paths


def _write_node(folder: Path, node: _Node) -> None:
    content = {"max_index": len(node.pairs), "pairs": node.pairs, "pictures": node.pictures}
    write_json(folder / NODE, content)


def _walk_landmark(folder: Path, path: str, landmark: str, landmark_name: str) -> Iterator[Picture]:
    waiting: list[tuple[Path, str, tuple[str, ...]]] = [(folder, path, ())]
    while waiting:
        here, path, categories = waiting.pop()
        file = here / NODE
        pairs, pictures = _read_node(file)
        for name, entry in pictures.items():
            _check_picture(file, name, entry)
            yield Picture(
                f"{path}/{PICTURES}/{name}",
                landmark,
                entry.get("caption") or "",
                entry.get("url") or "",
                tuple(entry.get("properties") or ()),
                categories,
                landmark_name,
            )
        waiting += [
            (here / sub, f"{path}/{sub}", (*categories, name)) for name, sub in reversed(list(pairs.items()))
        ]


def _landmark_names(top: Path) -> dict[str, str]:
    """Folder -> name of every landmark: as the category's own category.json says, else the folders that are there."""
    if (top / NODE).is_file():
        pairs, _ = _read_node(top / NODE)
        return {sub: name for name, sub in pairs.items()}
    folders = [entry.name for entry in top.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    if not folders:
        raise InputError(f"{top}: expected a folder for each landmark, found none")
    return dict.fromkeys(sorted(folders, key=lambda name: (not name.isdigit(), name.zfill(12))), "")


def _read_node(file: Path) -> tuple[dict[str, str], dict[str, Any]]:
    content = read_json(file)
    if not isinstance(content, dict):
        raise InputError(f"{file}: expected an object, found {type(content).__name__}")
    for key in ("pairs", "pictures"):
        if not isinstance(content.get(key, {}), dict):
            raise InputError(f"{file}: {key}: expected an object, found {type(content[key]).__name__}")
    pairs, pictures = content.get("pairs", {}), content.get("pictures", {})
    for name, sub in pairs.items():
        if not isinstance(sub, str) or not _is_plain(sub):
            raise InputError(f"{file}: pairs: {name!r}: expected the name of a folder, found {sub!r}")
    if len(set(pairs.values())) != len(pairs):
        raise InputError(f"{file}: pairs: a folder is there twice")
    return pairs, pictures


def _check_picture(file: Path, name: str, entry: Any) -> None:
    if not _is_plain(name):
        raise InputError(f"{file}: pictures: expected a file name, found {name!r}")
    if not isinstance(entry, dict):
        raise InputError(f"{file}: pictures: {name}: expected an object, found {type(entry).__name__}")
    for key in ("caption", "url"):
        if not isinstance(entry.get(key) or "", str):
            raise InputError(f"{file}: pictures: {name}: {key}: expected a text, found {entry[key]!r}")
    if not isinstance(entry.get("properties") or [], list):
        raise InputError(
            f"{file}: pictures: {name}: properties: expected a list, found {entry['properties']!r}"
        )


def _is_plain(name: str) -> bool:
    """Whether it names something inside a folder: `..` and `/etc` would lead out of the tree."""
    return (
        bool(name) and name not in (".", "..") and "/" not in name and "\\" not in name and "\0" not in name
    )
