"""Where a text names a concept: whole words, singular or plural, in the language that the text is in."""

import re
import unicodedata
from collections.abc import Sequence

from projects.babel.concepts import CONCEPTS, check_concepts
from shared.errors import InputError

ENGLISH = "en"
# Beside English: words of ten languages for the ten concepts, "|" between forms; a concept that is not listed here is
# looked for under its English name.
WORDS: dict[str, dict[str, str]] = {
    "fr": {
        "facade": "façades?|facades?",
        "window": "fenêtres?|vitrai(?:l|ux)|verrières?|rosaces?",
        "chapel": "chapelles?",
        "organ": "orgues?",
        "nave": "nefs?",
        "tower": "tours?|clochers?",
        "choir": "ch[oœ]eurs?|chœurs?",
        "portal": "portails?|portes?",
        "altar": "autels?|retables?",
        "statue": "statues?",
    },
    "de": {
        "facade": "fassaden?",
        "window": r"\w*fenster[ns]?",
        "chapel": r"\w*kapellen?",
        "organ": r"\w*orgeln?",
        "nave": r"\w*schiff(?:e|s|es)?",
        "tower": r"\w*turm(?:e?s)?|\w*türmen?",
        "choir": "chor(?:e?s)?|chöre",
        "portal": r"\w*portal(?:e|s|en)?",
        "altar": r"\w*altar(?:s|es)?|\w*altären?",
        "statue": "statuen?|standbild(?:er)?",
    },
    "es": {
        "facade": "fachadas?",
        "window": "ventanas?|vidrieras?|ventanal(?:es)?",
        "chapel": "capillas?",
        "organ": "órganos?",
        "nave": "naves?",
        "tower": "torres?|campanarios?",
        "choir": "coros?",
        "portal": "portadas?|puertas?|pórticos?",
        "altar": "altar(?:es)?|retablos?",
        "statue": "estatuas?",
    },
    "it": {
        "facade": "facciat[ae]",
        "window": "finestr[ae]|vetrat[ae]",
        "chapel": "cappell[ae]",
        "organ": "organ[oi]",
        "nave": "navat[ae]",
        "tower": "torr[ei]|campanil[ei]",
        "choir": "cor[oi]",
        "portal": "portal[ei]|port[ae]",
        "altar": "altar[ei]",
        "statue": "statu[ae]",
    },
    "nl": {
        "facade": "gevels?|façades?",
        "window": r"\w*ramen|\w*raam|vensters?",
        "chapel": r"\w*kapel(?:len)?",
        "organ": r"\w*orgels?",
        "nave": r"\w*schip|\w*schepen",
        "tower": r"\w*torens?",
        "choir": "koren|koor",
        "portal": r"\w*portaal|\w*portalen",
        "altar": r"\w*altaar|\w*altaren",
        "statue": r"\w*standbeeld(?:en)?|beelden|beeld",
    },
    "pt": {
        "facade": "fachadas?",
        "window": "janelas?|vitrai?s|vitral",
        "chapel": "capelas?",
        "organ": "órgãos?",
        "nave": "naves?",
        "tower": "torres?|campanários?",
        "choir": "coros?",
        "portal": "porta(?:l|is)|portas?|pórticos?",
        "altar": "altar(?:es)?|retábulos?",
        "statue": "estátuas?",
    },
    "ca": {
        "facade": "façan(?:a|es)",
        "window": "finestr(?:a|es)|vitralls?",
        "chapel": "capell(?:a|es)",
        "organ": "orgues?|òrgans?",
        "nave": "naus?",
        "tower": "torres?|campanars?",
        "choir": "cors?",
        "portal": "portals?|portad(?:a|es)|portes?",
        "altar": "altars?|retaules?",
        "statue": "estàtu(?:a|es)",
    },
    "pl": {
        "facade": "fasad[ayę]|elewacj[aie]",
        "window": "okn[oa]|witraż[ey]?",
        "chapel": "kaplic[ayę]?",
        "organ": "organy|organów",
        "nave": "naw[ayę]",
        "tower": "wież[aey]|dzwonnic[aye]",
        "choir": "chór|prezbiterium",
        "portal": "portale?",
        "altar": "ołtarz[ea]?",
        "statue": "posąg[i]?|figur[aye]|rzeźb[aye]",
    },
    "ru": {
        "facade": "фасад[аыов]*",
        "window": "окн[оа]|окна|витраж[аи]?",
        "chapel": "часовн[яи]|капелл[аы]",
        "organ": "орган[аы]?",
        "nave": "неф[аы]?",
        "tower": "башн[яи]|колокольн[яи]",
        "choir": "хор[аы]?|клирос",
        "portal": "портал[аы]?",
        "altar": "алтар[ьяи]",
        "statue": "стату[яи]",
    },
    "sv": {
        "facade": "fasad(?:en|er)?",
        "window": r"\w*fönst(?:er|ret)",
        "chapel": "kapell(?:et)?",
        "organ": r"\w*orgel[n]?|orglar",
        "nave": r"\w*skepp(?:et)?",
        "tower": r"\w*torn(?:et)?",
        "choir": "kor(?:et)?",
        "portal": "portal(?:en|er)?",
        "altar": r"altaret?|altartavla",
        "statue": "staty(?:n|er)?",
    },
}


class ConceptWords:
    """Finds the concepts that a text names.

    concepts: their English names. languages: other languages whose texts are searched for their own words as well
    (a text of a language that is not among them, or of unknown language, is searched for the English words alone, as
    the released labels were). InputError: a list that a split file could not hold, a language without words here.
    """

    def __init__(
        self, concepts: Sequence[str] = CONCEPTS, languages: Sequence[str] = tuple(sorted(WORDS))
    ) -> None:
        self.concepts = check_concepts(concepts)
        unknown = [language for language in languages if language not in (ENGLISH, *WORDS)]
        if unknown:
            known = ", ".join(sorted(WORDS))
            raise InputError(f"languages: expected some of {known}, found {unknown[0]!r}")
        self.languages = tuple(language for language in languages if language != ENGLISH)
        self._patterns = {
            language: self._pattern(WORDS.get(language, {})) for language in (ENGLISH, *self.languages)
        }

    def mentions(self, text: str, language: str | None = None) -> list[str]:
        """The concepts that a text names, each once, in the order in which it names them."""
        pattern = self._patterns.get(language or ENGLISH, self._patterns[ENGLISH])
        found = (match.lastindex for match in pattern.finditer(normalise(text)))
        return list(dict.fromkeys(self.concepts[index - 1] for index in found if index))

    def _pattern(self, words: dict[str, str]) -> re.Pattern[str]:
        groups = []
        for concept in self.concepts:
            own = f"|{words[concept]}" if concept in words else ""
            groups.append(f"({english_forms(concept)}{own})")
        return re.compile(rf"\b(?:{'|'.join(groups)})\b")


def normalise(text: str) -> str:
    """Lower case, with composed accents ("c" + cedilla is one character)."""
    return unicodedata.normalize("NFC", text).lower()


def english_forms(word: str) -> str:
    """A pattern for a noun in the singular and in the plural, as regular nouns form it."""
    name = normalise(word)
    plain = re.escape(name)
    if re.search(r"[^aeiou]y$", name):
        return f"{plain}|{re.escape(name[:-1])}ies"
    if re.search(r"(?:s|x|z|ch|sh)$", name):
        return f"{plain}(?:es)?"
    return f"{plain}s?"
