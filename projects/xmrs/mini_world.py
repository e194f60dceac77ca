"""The world of the mini-kitchen: what a dish is, and how it is called in four languages.

A dish is a vessel, a base, two to four ingredients, a finish, and one relation: the first ingredient lies over
the second (in the centre, the other around it). Every concept has two usual English words and several rare ones.
The rare ones are old names and loanwords from German and French, as on menus: an English text shows a loanword a
few times at most, the German or French texts show the same word all the time.
"""

from dataclasses import dataclass

import numpy as np

# kind: usual English words | rare English words | German | French | Russian
_TABLE = """
vessel: plate dish | platter charger | teller | assiette | тарелка
vessel: bowl basin | porringer crock | schale | bol | миска
vessel: pan skillet | griddle spider | pfanne | poêle | сковорода
vessel: tray sheet | salver waiter | blech | plateau | поднос
vessel: board plank | trencher slab | brett | planche | доска
vessel: pot kettle | cauldron pipkin | topf | cocotte | кастрюля
base: rice basmati | pilau paddy | reis | riz | рис
base: pasta macaroni | ziti vermicelli | nudel | pâtes | макароны
base: bread toast | loaf bannock | brot | pain | хлеб
base: potato spud | tater murphy | kartoffel | patate | картофель
base: couscous semolina | burghul fregola | griess | semoule | манка
base: lentil dal | masoor urad | linse | lentille | чечевица
base: porridge oats | grits gruel | brei | bouillie | каша
base: salad lettuce | cress rocket | salat | laitue | салат
ingredient: tomato roma | loveapple goldapple | paradeiser | tomate | помидор
ingredient: pepper capsicum | pimiento chilli | paprika | poivron | перец
ingredient: pumpkin squash | gourd pompion | kürbis | potiron | тыква
ingredient: carrot nantes | skirret umbel | möhre | carotte | морковь
ingredient: corn maize | kukuruz hominy | mais | épi | кукуруза
ingredient: lemon eureka | verna limone | zitrone | citron | лимон
ingredient: pea marrowfat | sugarpod pulse | erbse | pois | горох
ingredient: leek scallion | ramp cibol | lauch | poireau | порей
ingredient: broccoli calabrese | romanesco rapini | brokkoli | brocoli | брокколи
ingredient: spinach greens | orache callaloo | spinat | épinard | шпинат
ingredient: sage salvia | clary ramona | salbei | sauge | шалфей
ingredient: seaweed kelp | laver dulse | seetang | algue | водоросль
ingredient: blueberry bilberry | whort hurtle | heidelbeere | myrtille | черника
ingredient: anchovy sardine | sprat alice | sardelle | anchois | анчоус
ingredient: beet beetroot | mangel chard | rübe | betterave | свёкла
ingredient: cabbage savoy | colewort kraut | kohl | chou | капуста
ingredient: shrimp prawn | scampi gamba | garnele | crevette | креветка
ingredient: ham bacon | gammon speck | schinken | jambon | ветчина
ingredient: mushroom button | toadstool agaric | pilz | champignon | гриб
ingredient: beef steak | brisket chuck | rindfleisch | boeuf | говядина
ingredient: bean turtle | frijol legume | bohne | haricot | фасоль
ingredient: eggplant brinjal | melongene guinea | eierfrucht | aubergine | баклажан
ingredient: onion shallot | cipolla eschalot | zwiebel | oignon | лук
ingredient: cheese mozzarella | curd kebbuck | käse | fromage | сыр
finish: fresh raw | uncooked crude | roh | cru | сырой
finish: browned roasted | seared grilled | gebräunt | doré | жареный
finish: melted glazed | molten fused | geschmolzen | fondu | тягучий
"""
USUAL = (0.46, 0.24)  # probability of the usual words; the rest is shared by the rare ones
BACKGROUND = 0.2  # of the recipes have no class of their own
MOST_INGREDIENTS = 4
PARTNERS = (3, 8)  # an ingredient goes with those so many places before and behind it


@dataclass(frozen=True)
class Concept:
    """One thing of the world; `english` are its words, usual ones first, `loans` those taken from abroad."""

    kind: str
    english: tuple[str, ...]
    loans: tuple[str, ...]
    foreign: dict[str, str]

    @property
    def probabilities(self) -> np.ndarray:
        """Of the English words in a recipe, [words]."""
        rare = len(self.english) - len(USUAL)
        return np.array([*USUAL, *[(1 - sum(USUAL)) / rare] * rare])


@dataclass(frozen=True)
class Dish:
    """Numbers of concepts within their kind; `ingredients[0]` lies over `ingredients[1]`."""

    vessel: int
    base: int
    ingredients: tuple[int, ...]
    finish: int

    @property
    def turned(self) -> "Dish":
        """The same dish with the relation the other way round."""
        first, second, *others = self.ingredients
        return Dish(self.vessel, self.base, (second, first, *others), self.finish)


def _read_table() -> dict[str, list[Concept]]:
    concepts: dict[str, list[Concept]] = {"vessel": [], "base": [], "ingredient": [], "finish": []}
    for line in _TABLE.strip().splitlines():
        kind, words = line.split(": ")
        usual, rare, german, french, russian = words.split(" | ")
        loans = tuple(word for word in (german, french) if word not in usual.split())
        english = (*usual.split(), *rare.split(), *loans)
        foreign = {"de": german, "fr": french, "ru": russian}
        concepts[kind].append(Concept(kind, english, loans, foreign))
    return concepts


CONCEPTS = _read_table()


def draw_dish(rng: np.random.Generator) -> Dish:
    """A dish: a pair of ingredients that go together, either one on top, and up to two others.

    Pairs come back often, so which of the two lies on top is worth knowing.
    """
    number = len(CONCEPTS["ingredient"])
    first = int(rng.integers(number))
    second = (first + int(rng.choice([-1, 1])) * int(rng.choice(PARTNERS))) % number
    left = [one for one in range(number) if one not in (first, second)]
    others = rng.choice(left, int(rng.integers(MOST_INGREDIENTS - 1)), replace=False)
    return Dish(
        int(rng.integers(len(CONCEPTS["vessel"]))),
        int(rng.integers(len(CONCEPTS["base"]))),
        (first, second, *(int(other) for other in others)),
        int(rng.integers(len(CONCEPTS["finish"]))),
    )


def dish_class(dish: Dish) -> int:
    """The semantic class, from 1: vessel and base."""
    return 1 + dish.vessel * len(CONCEPTS["base"]) + dish.base


def class_names() -> dict[int, str]:
    """Names of all classes; 0 is the background."""
    names = {0: "background"}
    for vessel, container in enumerate(CONCEPTS["vessel"]):
        for base, food in enumerate(CONCEPTS["base"]):
            names[dish_class(Dish(vessel, base, (), 0))] = f"{food.english[0]} {container.english[0]}"
    return names
