"""Names, categories and captions of the embedded data, as untidy as those of Wikimedia Commons.

A picture's concept is told by its category, by its caption (in the landmark's language or in English), by a category
above its own, or by nothing; captions also name what is not the subject, hold colons, or say "Own work".
"""

from dataclasses import dataclass

import numpy as np

from projects.babel.mini_elements import CONCEPTS, Element

SAINTS = (
    "Alban",
    "Berta",
    "Columba",
    "Dorothea",
    "Egidius",
    "Florian",
    "Gisela",
    "Hubert",
    "Irmina",
    "Kilian",
)
_FIRST = ("Vel", "Mar", "Ost", "Cam", "Lim", "Tor", "Quer", "Ald", "Bren", "Sol", "Fer", "Gran", "Hal", "Nor")
_LAST = {
    "en": ("bury", "chester", "ford", "minster"),
    "fr": ("lin", "mont", "sac", "ville"),
    "de": ("berg", "furt", "hausen", "stadt"),
    "es": ("ada", "edo", "illa", "ona"),
    "it": ("ano", "ella", "etto", "ina"),
}
_TITLES = {
    "en": "{city} Cathedral",
    "fr": "Cathédrale Notre-Dame de {city}",
    "de": "{city}er Dom",
    "es": "Catedral de Santa María de {city}",
    "it": "Duomo di {city}",
}
LANGUAGES = tuple(_TITLES)
# one word a language for each of CONCEPTS
WORDS = {
    "en": ("facade", "window", "chapel", "tower", "portal", "statue"),
    "fr": ("façade", "vitrail", "chapelle", "tour", "portail", "statue"),
    "de": ("Fassade", "Fenster", "Kapelle", "Turm", "Portal", "Statue"),
    "es": ("fachada", "vidriera", "capilla", "torre", "portada", "estatua"),
    "it": ("facciata", "vetrata", "cappella", "torre", "portale", "statua"),
}
_SAYING = {
    "en": ("The {word} of {name}", "{name}, {city} - {word}", "Detail: {word}, {name} ({year})"),
    "fr": ("{word} de la {name}", "{city} ({year}): {word}", "Détail du {word}, {name}"),
    "de": ("{word} am {name}", "{city}: {word}, Aufnahme {year}", "{name}, {word}"),
    "es": ("{word} de la {name}", "{city} ({year}) - {word}", "Detalle: {word}"),
    "it": ("{word} del {name}", "{city}, {word}: {year}", "{name} - {word}"),
}
_SILENT = (
    "Own work",
    "{name}",
    "{city}, {year}",
    "IMG {number}",
    "DSC{number}.JPG",
    "{name}: view from the square",
    "Photo taken: {year}-05-17",
    "",
)


@dataclass(frozen=True)
class Name:
    """A landmark's name: in its language, with its town and the saints of its chapels and portals."""

    name: str
    city: str
    language: str
    saints: tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """What the tree says of a picture: category names below the landmark, file name, caption, its language; of what."""

    categories: tuple[str, ...]
    file: str
    caption: str
    language: str
    concept: str


def draw_name(rng: np.random.Generator) -> Name:
    """The name of a landmark."""
    language = str(rng.choice(LANGUAGES))
    city = str(rng.choice(_FIRST)) + str(rng.choice(_LAST[language]))
    saints = tuple(str(saint) for saint in rng.permutation(SAINTS)[:3])
    return Name(_TITLES[language].format(city=city), city, language, saints)


def describe(
    landmark: Name, element: Element, number: int, rng: np.random.Generator, *, wrong: bool = False
) -> Entry:
    """Where a photo of `element` is put and what is said of it; `wrong`: into the category of another concept."""
    concept, place = element.concept, element.place
    if wrong:
        concept = str(rng.choice([name for name in CONCEPTS if name != concept]))
        place = ""
    where = rng.choice(("leaf", "caption", "ancestor"), p=(0.8, 0.12, 0.08))
    categories = _categories(landmark, concept, place, rng)
    if where == "caption":
        names = (f"{landmark.name} in {_year(rng)}", f"Exterior of {landmark.name}, {landmark.city}")
        categories = (str(rng.choice(names)),)
    elif where == "ancestor":
        views = (
            f"{landmark.name} at night",
            f"Quality images of {landmark.name}",
            f"{landmark.city}, {_year(rng)}",
        )
        categories = (*categories, str(rng.choice(views)))
    if where == "caption" or (where == "leaf" and not wrong and rng.random() < 0.35):
        caption, language = _telling(landmark, concept, rng)
    elif where == "leaf" and rng.random() < 0.08:  # names something else: the category is right
        caption, language = _telling(landmark, str(rng.choice(CONCEPTS)), rng)
    else:
        caption, language = _fill(str(rng.choice(_SILENT)), landmark, rng), "en"
    stem = landmark.name.replace(" ", "_")
    file = f"{stem}_{concept if rng.random() < 0.3 else _year(rng)}_({number:03d})"
    return Entry(
        categories,
        f"{file}{rng.choice(('.jpg', '.JPG', '.jpeg'), p=(0.6, 0.3, 0.1))}",
        caption,
        language,
        concept,
    )


def _categories(landmark: Name, concept: str, place: str, rng: np.random.Generator) -> tuple[str, ...]:
    name = landmark.name
    outside = f"Exterior of {name}"
    if concept == "facade":
        leaf = rng.choice([f"West facade of {name}", f"Main facade, {landmark.city}"])
        return (outside, f"Facades of {name}", str(leaf))
    if concept == "tower":
        return (
            outside,
            f"Towers of {name}",
            *([f"{place.title()} tower of {name}"] if place in ("north", "south") else []),
        )
    if concept == "portal":
        return (
            outside,
            f"Facades of {name}",
            f"Portals of {name}",
            f"Portal of Saint {landmark.saints[0]}, {name}",
        )
    if concept == "chapel":
        return (outside, f"Chapels of {name}", f"Saint {landmark.saints[1]} chapel, {name}")
    if concept == "window":
        if place == "chapel":
            return (outside, f"Chapels of {name}", f"Windows in {name}")
        leaf = (
            f"Rose windows of {name}"
            if place == "rose"
            else f"Stained-glass windows, {landmark.city}, {name}"
        )
        return (f"Details of {name}", leaf)
    if place == "portal":
        return (outside, f"Portals of {name}", f"Statues on {name}")
    return (f"Details of {name}", f"Sculptures of {name}", f"Statues of {name}")


def _telling(landmark: Name, concept: str, rng: np.random.Generator) -> tuple[str, str]:
    language = landmark.language if rng.random() < 0.4 else "en"
    word = WORDS[language][CONCEPTS.index(concept)]
    text = str(rng.choice(_SAYING[language])).replace("{word}", word)
    return _fill(text, landmark, rng), language


def _fill(text: str, landmark: Name, rng: np.random.Generator) -> str:
    return text.format(
        name=landmark.name, city=landmark.city, year=_year(rng), number=int(rng.integers(1000, 10000))
    )


def _year(rng: np.random.Generator) -> int:
    return int(rng.integers(2004, 2021))
