"""Class names from the names of AI2-THOR's objects: `StandardIslandHeight_12` is a kitchen island."""

import re

_WORDS = re.compile(r"[A-Z](?:[a-z]+|[A-Z]*(?=[A-Z]|$))")
_WHOLE = {  # after splitting, lower case
    "bath tub": "bathtub",
    "counter top": "countertop",
    "dish washer": "dishwasher",
    "fire place": "fireplace",
    "base board": "baseboard",
    "towl": "towel",
    "ladel": "ladle",
    "area rug": "rug",
    "butter knife": "knife",
    "wine glasses": "wine glass",
    "glass windows": "glass window",
    "curtain rods": "curtain rod",
    "ceiling lights": "ceiling light",
    "curtains": "curtains",
}
_BEGINNINGS = {  # the first that fits
    "standard island": "kitchen island",
    "shelving unit": "shelf",
    "wall": "wall",
    "window": "window",
    "door": "door",
    "plate": "plate",
    "book stack": "book",
    "stove": "stove",
    "soap": "soap",
    "mesh bottle": "bottle",
    "cloth": "cloth",
}
_ANYWHERE = {"decal": "decal", "cabinet": "cabinet", "drawer": "drawer"}
_PLURALS = (
    "bottles",
    "cups",
    "lights",
    "mugs",
    "plates",
    "pots",
    "pans",
    "bowls",
    "books",
    "shelves",
    "drawers",
)


def split_words(name: str) -> str:
    """`TVStand` -> `TV Stand`; what stands before the first capital is dropped."""
    return " ".join(_WORDS.findall(name))


def class_name(name: str) -> str:
    """The class of an object: its name without number, material and maker's words."""
    for part, found in _ANYWHERE.items():
        if part in name.lower():
            return found
    stem = re.sub(r"\d+", "", name.split("|")[0].split("_")[0])
    words = split_words(stem)
    if not words:
        return stem.lower()
    if " " not in words and words.isupper():
        return words  # CD
    text = words.lower()
    if text in _WHOLE:
        return _WHOLE[text]
    for beginning, found in _BEGINNINGS.items():
        if text.startswith(beginning):
            return found
    last = text.split()[-1]
    return text[:-1] if last in _PLURALS else text
