"""Names: synonyms, novel classes, test rooms, relations, and the labels whose relevancy a scene needs."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from projects.semabs.scene_arrays import NOT_AN_OBJECT, Descriptions
from shared.errors import InputError
from shared.files import read_lines

SYNONYMS: Mapping[str, str] = {  # spelt as released
    "television": "tv",
    "sofa": "couch",
    "house plant": "plant in a pot",
    "bookcase": "bookshelf",
    "baseball bat": "rawlings big stick maple bat",
    "pillow": "cushion",
    "arm chair": "recliner",
    "bread": "loaf of sourdough",
    "cell phone": "mobile phone",
    "desktop": "computer",
    "dresser": "wardrobe",
    "dumbbell": "gym weights",
    "fridge": "refridgerator",
    "garbage can": "trash can",
    "laptop": "computer",
    "outlet": "eletric plug",
    "stairs": "staircase",
}
# a synonym of two classes stands for the later one, as in the released code: "computer" is a laptop, not a desktop
CLASS_OF_SYNONYM: Mapping[str, str] = {synonym: name for name, synonym in SYNONYMS.items()}
RELATIONS = ("in", "behind", "in front of", "on the left of", "on the right of", "on")
PAD = "[pad]"  # name of a padded description's target, relation and reference
NOVEL_CLASSES = ("pot", "mug", "safe", "teddy bear", "basket ball", "wine bottle")
TEST_ROOMS = tuple(f"FloorPlan{n}_physics" for start in (26, 226, 326, 426) for n in range(start, start + 5))
TEST_ROOMS_FILE = "test_thor_rooms.txt"
NOVEL_CLASSES_FILE = "test_semantic_classes.txt"


def synonym(name: str) -> str:
    """The synonym of a class, or the name itself."""
    return SYNONYMS.get(name, name)


def sentence(target: str, relation: str, reference: str) -> str:
    """The text of a description whose own relevancy map the baseline ClipSpatial takes."""
    return f"{target} {relation} a {reference}"


def class_name(label: str) -> str:
    """The class in an entry `name[id]`."""
    return label.split("[")[0].strip()


def labels_of_scene(visible: Iterable[str], descriptions: Descriptions) -> list[str]:
    """All labels that get a relevancy map, sorted.

    Visible names, names and sentences of the descriptions, the same with synonyms, and the synonyms of any.
    """
    labels = {class_name(name) for name in visible}
    rows = zip(descriptions.targets, descriptions.relations, descriptions.references, strict=True)
    for target, relation, reference in rows:
        labels |= {class_name(target), class_name(reference)}
        labels.add(class_name(sentence(target, relation, reference)))
        labels.add(class_name(sentence(synonym(target), relation, synonym(reference))))
    labels |= {SYNONYMS[label] for label in labels if label in SYNONYMS}
    return sorted(labels - NOT_AN_OBJECT - {""})


def visible_names(ids: Iterable[int], classes: Mapping[int, str]) -> list[str]:
    """Sorted class names of the object ids that a segmentation image holds (-1 = none)."""
    return sorted({classes[int(number)] for number in ids if int(number) in classes})


def read_names(path: str | Path, what: str) -> list[str]:
    """The lines of a list file (rooms, classes), without blank ones; InputError when there is none."""
    names = [line.strip() for line in read_lines(path) if line.strip()]
    if not names:
        raise InputError(f"{path}: expected {what}, one in a line, found none")
    return names


def read_test_rooms(path: str | Path) -> list[str]:
    """`test_thor_rooms.txt`: rooms that no training scene shows."""
    return read_names(path, "names of rooms")


def read_novel_classes(path: str | Path) -> list[str]:
    """`test_semantic_classes.txt`: classes that no training scene holds."""
    return read_names(path, "names of classes")


def check_relations(relations: Sequence[str], source: str | Path) -> None:
    """InputError for a relation that the networks do not know."""
    for relation in relations:
        if relation not in RELATIONS and relation != PAD:
            known = ", ".join(RELATIONS)
            raise InputError(f"{source}: spatial_relation_name: expected one of {known}, found {relation!r}")
