"""Imperfect translation for the mini-kitchen: tables for the dictionary translator, and the WordPiece vocabulary.

As machine translation of recipes does, a table merges synonyms, inflects, takes a wrong or a vague sense for one
word in ten and loses one in twenty; the word order is the language's own. Translated back, a concept comes home
under its most usual English name.
"""

from typing import Any

from projects.xmrs.mini_text import AMOUNTS
from projects.xmrs.mini_world import CONCEPTS, Concept

WRONG, VAGUE, DROP = 0.05, 0.05, 0.05
INFLECTED = 0.4
LANGUAGES = ("de", "fr", "ru")
VAGUE_WORDS = {  # English, German, French, Russian
    "vessel": ("container", "gefäß", "récipient", "посуда"),
    "base": ("side", "beilage", "accompagnement", "гарнир"),
    "ingredient": ("food", "zutat", "aliment", "продукт"),
    "finish": ("done", "fertig", "prêt", "готовый"),
}
_OTHERS = """
boil | koche | bouillez | свари
cook | koche | cuisez | свари
simmer | köchle | mijotez | потоми
with | mit | avec | с
salt | salz | sel | соль
oil | öl | huile | масло
butter | fett | beurre | масло
sugar | zucker | sucre | сахар
flour | mehl | farine | мука
water | wasser | eau | вода
spread | streiche | étalez | намажь
lay | lege | posez | положи
heap | häufe | empilez | насыпь
over | über | sur | поверх
add | gib | ajoutez | добавь
and | und | et | и
beside | daneben | autour | рядом
bake | backe | enfournez | запеки
until | bis | jusque | пока
leave | lass | laissez | оставь
it | es | le | это
serve | serviere | servez | подай
in | im | dans | в
quick | schnell | rapide | быстрый
simple | einfach | facile | простой
rustic | ländlich | campagnard | деревенский
our | unser | notre | наш
grandma | oma | mamie | бабушка
sunday | sonntag | dimanche | воскресенье
favourite | liebling | favori | любимый
supper | abendbrot | souper | ужин
lunch | mittagessen | déjeuner | обед
dinner | hauptmahl | dîner | ужин
snack | imbiss | encas | закуска
"""
VERBS = ("boil", "cook", "simmer", "spread", "lay", "heap", "add", "bake", "leave", "serve")
GERMAN_VERBS = ("koche", "köchle", "streiche", "lege", "häufe", "gib", "backe", "lass", "serviere")
ADJECTIVES = ("quick", "simple", "rustic")

Table = dict[str, list[list[Any]]]  # word -> [[translation, probability], ...]


def dictionary() -> dict[str, dict[str, Any]]:
    """For each direction: {"words", "drop", "order", "moved"}, as the dictionary translator reads it."""
    orders = {"de": ("first-to-last", VERBS), "fr": ("swap-next", ADJECTIVES), "ru": ("keep", ())}
    tables: dict[str, dict[str, Any]] = {}
    for language in LANGUAGES:
        order, moved = orders[language]
        tables[language] = _rules(_from_english(language), order, moved)
    tables["de-en"] = _rules(_to_english("de"), "last-to-first", GERMAN_VERBS)
    tables["ru-en"] = _rules(_to_english("ru"), "keep", ())
    return tables


def _rules(words: Table, order: str, moved: tuple[str, ...]) -> dict[str, Any]:
    return {"words": words, "drop": DROP, "order": order, "moved": list(moved)}


def inflect(word: str, language: str) -> str:
    """The other form of a noun: German and French plural, Russian dative plural (by rule of thumb)."""
    if language == "de":
        return word + ("n" if word.endswith("e") else "en")
    if language == "fr":
        return word if word.endswith("s") else word + "s"
    return word + ("м" if word[-1] in "аья" else "ам")


def _from_english(language: str) -> Table:
    column = LANGUAGES.index(language)
    table: Table = {}
    for kind, concepts in CONCEPTS.items():
        vague = VAGUE_WORDS[kind][1 + column]
        for number, concept in enumerate(concepts):
            wrong = concepts[(number + 1) % len(concepts)].foreign[language]
            for word in concept.english:
                table[word] = _senses(_forms(concept, language), wrong, vague)
    for english, *foreign in _other_words():
        table[english] = [[foreign[column], 1.0]]
    return table


def _to_english(language: str) -> Table:
    column = LANGUAGES.index(language)
    table: Table = {}
    for kind, concepts in CONCEPTS.items():
        table[VAGUE_WORDS[kind][1 + column]] = [[VAGUE_WORDS[kind][0], 1.0]]
        for number, concept in enumerate(concepts):
            wrong = concepts[(number + 1) % len(concepts)].english[0]
            senses = _senses([[concept.english[0], 1.0]], wrong, VAGUE_WORDS[kind][0])
            table |= {form: senses for form, _ in _forms(concept, language)}
    for english, *foreign in _other_words():
        table.setdefault(foreign[column], [[english, 1.0]])  # of several English words the first comes back
    return table


def _senses(right: list[list[Any]], wrong: str, vague: str) -> list[list[Any]]:
    """The right forms shrunk to make place for a wrong and a vague sense."""
    rest = 1 - WRONG - VAGUE
    return [*[[form, rest * probability] for form, probability in right], [wrong, WRONG], [vague, VAGUE]]


def _forms(concept: Concept, language: str) -> list[list[Any]]:
    word = concept.foreign[language]
    other = inflect(word, language)
    if concept.kind == "finish" or other == word:
        return [[word, 1.0]]
    return [[word, 1 - INFLECTED], [other, INFLECTED]]


def _other_words() -> list[list[str]]:
    """[English, German, French, Russian] of the words that name no concept."""
    return [line.split(" | ") for line in _OTHERS.strip().splitlines()]


def vocabulary() -> list[str]:
    """WordPiece pieces in the order of their ids; special pieces have the ids of multilingual BERT."""
    words: dict[str, None] = {}
    for kind, concepts in CONCEPTS.items():
        for concept in concepts:
            words |= dict.fromkeys((*concept.english, *concept.foreign.values()))
        words |= dict.fromkeys(VAGUE_WORDS[kind])
    for row in _other_words():
        words |= dict.fromkeys(row)
    letters = sorted(
        {letter for word in words for letter in word} | set("abcdefghijklmnopqrstuvwxyz0123456789")
    )
    special = [
        "[PAD]",
        *[f"[unused{number}]" for number in range(1, 100)],
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
    ]
    pieces = dict.fromkeys([*special, ".", ",", *letters, *AMOUNTS])
    pieces |= dict.fromkeys(f"##{letter}" for letter in letters)
    pieces |= dict.fromkeys(("##en", "##ам", *words))
    return list(pieces)
