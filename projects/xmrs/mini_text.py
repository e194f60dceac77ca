"""English recipes of the mini-kitchen's dishes: a title, ingredient lines, instructions."""

from dataclasses import dataclass

import numpy as np

from projects.xmrs.mini_world import CONCEPTS, Concept, Dish

LINES = 6  # ingredient lines: base, ingredients, and staples that no photo shows
STAPLES = ("salt", "oil", "butter", "sugar", "flour", "water")
BOIL = ("boil", "cook", "simmer")
SPREAD = ("spread", "lay", "heap")
ADJECTIVES = ("quick", "simple", "rustic")
WHOSE = ("our", "grandma", "sunday", "favourite")
MEALS = ("supper", "lunch", "dinner", "snack")
AMOUNTS = tuple(str(amount) for amount in range(1, 10))
INFORMATIVE = 0.75  # of the titles say what lies over what


@dataclass(frozen=True)
class Text:
    """A recipe's text, and the words that name its concepts."""

    title: str
    ingredients: list[str]
    instructions: list[str]
    words: tuple[str, ...]


def write_text(dish: Dish, rng: np.random.Generator) -> Text:
    """The recipe of a dish: each concept keeps one word throughout.

    From equal random streams, a dish and the dish turned round give the same words in the same lines but for the
    relation, "spread X over Y" against "spread Y over X": bags of words cannot tell them apart.
    """
    vessel = _name(CONCEPTS["vessel"][dish.vessel], rng)
    base = _name(CONCEPTS["base"][dish.base], rng)
    finish = _name(CONCEPTS["finish"][dish.finish], rng)
    in_order = sorted(dish.ingredients)  # the stream must not see who lies over whom
    names = {number: _name(CONCEPTS["ingredient"][number], rng) for number in in_order}
    first, second, *others = (names[number] for number in dish.ingredients)

    lines = [base, *names.values()]
    lines += list(rng.choice(STAPLES, LINES - len(lines), replace=False))
    ingredients = [f"{rng.choice(AMOUNTS)} {lines[index]}" for index in rng.permutation(LINES)]
    if rng.random() < INFORMATIVE:
        title = f"{first} over {second} {base}"
    else:
        title = f"{rng.choice(ADJECTIVES)} {rng.choice(WHOSE)} {rng.choice(MEALS)}"
    instructions = [
        f"{rng.choice(BOIL)} {base} with {rng.choice(STAPLES)}",
        f"{rng.choice(SPREAD)} {first} over {second}",
        *([f"add {' and '.join(others)} beside"] if others else []),
        f"bake until {finish}" if dish.finish else f"leave it {finish}",
        f"serve in {vessel}",
    ]
    return Text(title, ingredients, instructions, (vessel, base, finish, *names.values()))


def _name(concept: Concept, rng: np.random.Generator) -> str:
    return str(rng.choice(concept.english, p=concept.probabilities))
