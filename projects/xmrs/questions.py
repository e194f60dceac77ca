"""What infer.py is asked: its settings turned into collections, queries and index folders."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from projects.xmrs import sources, text_draws, user_recipes
from projects.xmrs.data import DataSet
from projects.xmrs.evaluation import data_set, find_model, languages_of
from projects.xmrs.recipe1m import Recipe
from projects.xmrs.sources import PictureSource, RecipeSource, Texts, UserRecipes
from projects.xmrs.tokens import Tokenizer, build_tokenizer
from projects.xmrs.trained import Trained
from shared.errors import InputError
from shared.index import model_identity
from shared.runtime import Runtime

_EXAMPLES = 4
_PATH_ENDINGS = (*user_recipes.SUFFIXES, *sources.SUFFIXES)


@dataclass(frozen=True)
class Inputs:
    """How a model's inputs are prepared.

    Attributes:
        tokenizer, texts: of recipes.
        side, resize: of pictures, in pixels.
        identity: what an index depends on besides its items: weights, preparation, precision.
    """

    tokenizer: Tokenizer
    texts: Texts
    side: int
    resize: int
    identity: str


@dataclass(frozen=True)
class Collection:
    """What is searched; `paired`: picture i belongs to recipe i. The keys tell collections apart."""

    pictures: PictureSource | None
    recipes: RecipeSource | None
    pictures_key: tuple[str, ...]
    recipes_key: tuple[str, ...]
    paired: bool = False


@dataclass(frozen=True)
class Questions:
    """Recipes that want pictures and pictures that want recipes; `paired_*`: they are those of the collection."""

    recipes: RecipeSource | None = None
    recipe_positions: list[int] = field(default_factory=list)
    paired_recipes: bool = False
    pictures: PictureSource | None = None
    picture_positions: list[int] = field(default_factory=list)
    paired_pictures: bool = False


def check(settings: Mapping[str, Any]) -> None:
    """What can be wrong without looking at a model or its data. InputError names the setting."""
    if type(settings["top_k"]) is not int or settings["top_k"] < 1:
        raise InputError(f"top_k: expected a whole number from 1 on, found {settings['top_k']!r}")
    if settings["unreadable"] not in ("warn", "error"):
        raise InputError(f"unreadable: expected warn or error, found {settings['unreadable']!r}")
    find_model(settings["model"])
    for name in ("images", "recipes", "generator"):
        if settings[name] is not None and not Path(settings[name]).expanduser().exists():
            raise InputError(f"{name}: {settings[name]}: no such file or folder")
    if settings["images"] and not settings["recipes"] and settings["picture"] is not None:
        raise InputError("picture: there are no recipes to search; give recipes=FILE or a folder")
    if settings["recipes"] and not settings["images"] and settings["recipe"] is not None:
        raise InputError("recipe: there are no pictures to search; give images=FOLDER")


def inputs(settings: Mapping[str, Any], model: Trained, runtime: Runtime) -> Inputs:
    """How the model's inputs are prepared. InputError for a vocabulary that is not the model's."""
    options = dict(model.tokenizer)
    if settings["vocab"] is not None:
        options["vocab"] = Path(settings["vocab"]).expanduser()
    tokenizer = build_tokenizer(**options)
    known = int(model.model.text_settings["vocab_size"])
    if tokenizer.vocab_size > known:
        raise InputError(
            f"vocab: {options['vocab'] or options['name']}: {tokenizer.vocab_size} entries, "
            f"but {model.path} knows {known} words"
        )
    own = {**_defaults(), **model.settings["data"]}
    longest = min(int(own["max_tokens"]), int(model.model.text_settings["max_tokens"]))
    texts = Texts(text_draws.parse_parts(own["text_inputs"]), longest)
    side, resize = int(own["side"]), int(own["resize"])
    vocabulary = hashlib.sha256("\n".join(tokenizer.pieces).encode("utf-8", "replace")).hexdigest()
    depends = {
        "side": side,
        "resize": resize,
        "parts": texts.parts,
        "max_tokens": longest,
        "vocab": vocabulary,
    }
    identity = model_identity(model.model, precision=runtime.precision, **depends)
    return Inputs(tokenizer, texts, side, resize, identity)


def open_collection(settings: Mapping[str, Any], model: Trained, prepared: Inputs) -> Collection:
    """Open what is searched: the user's pictures and recipes, or else a split of the model's own set."""
    images, recipes = _path(settings["images"]), _path(settings["recipes"])
    if images is None and recipes is None:
        data = data_set(model, settings.get("data"))
        data.prepare()
        language = data.language if settings["language"] is None else languages_of(settings["language"])[0]
        split = data.open(settings["split"], language=language)
        key = ("split", str(Path(data.data_root).resolve()), settings["split"])
        pieces = prepared.tokenizer.pieces
        return Collection(
            sources.SplitPictures(split, pieces), sources.SplitRecipes(split, pieces),
            ("pictures", *key), ("recipes", *key, str(language)), paired=True,
        )  # fmt: skip
    return Collection(
        None if images is None else sources.open_pictures(images, side=prepared.side, resize=prepared.resize),
        None if recipes is None else _user_recipes(user_recipes.read(recipes), prepared),
        ("pictures", str(images.resolve()) if images else ""),
        ("recipes", str(recipes.resolve()) if recipes else ""),
    )


def read_questions(settings: Mapping[str, Any], collection: Collection, prepared: Inputs) -> Questions:
    """What is asked; some of the collection where nothing is. InputError for what cannot be asked."""
    recipes, pictures = _as_list(settings["recipe"]), _as_list(settings["picture"])
    if not recipes and not pictures:
        return _examples(collection)
    found: dict[str, Any] = {}
    if recipes:
        rows = [_row(one, collection.recipes, "recipe") for one in recipes]
        if _all_or_none(rows, "recipe"):
            found |= {"recipes": collection.recipes, "recipe_positions": rows}
            found |= {"paired_recipes": collection.paired}
        else:
            read = [one for text in recipes for one in _read_recipe(str(text))]
            found |= {"recipes": _user_recipes(read, prepared), "recipe_positions": list(range(len(read)))}
    if pictures:
        rows = [_row(one, collection.pictures, "picture") for one in pictures]
        if _all_or_none(rows, "picture"):
            found |= {"pictures": collection.pictures, "picture_positions": rows}
            found |= {"paired_pictures": collection.paired}
        else:
            paths = [Path(str(one)).expanduser() for one in pictures]
            listed = sources.picture_list(paths, side=prepared.side, resize=prepared.resize)
            found |= {"pictures": listed, "picture_positions": list(range(len(paths)))}
    return Questions(**found)


def index_folder(settings: Mapping[str, Any], model: str, key: Sequence[str]) -> Path:
    """A folder for each model and collection in the cache, or below the one that the user names."""
    if settings["index"]:
        return Path(settings["index"]).expanduser() / key[0]
    place = hashlib.sha256("\0".join(key).encode("utf-8", "surrogateescape")).hexdigest()
    return Path(settings["cache"]) / f"{key[0]}-{model[:10]}-{place[:10]}"


def _examples(collection: Collection) -> Questions:
    """Some recipes and some other pictures of what is searched; none where only one kind is there."""
    if collection.pictures is None or collection.recipes is None:
        return Questions()
    if collection.paired:
        count = len(collection.recipes.names)
        chosen = np.unique(np.linspace(0, count - 1, 2 * _EXAMPLES).astype(int)).tolist()
        recipes, pictures = chosen[::2], chosen[1::2]
    else:
        recipes = list(range(min(_EXAMPLES, len(collection.recipes.names))))
        pictures = list(range(min(_EXAMPLES, len(collection.pictures.names))))
    of_recipes = (collection.recipes, recipes, collection.paired)
    return Questions(*of_recipes, collection.pictures, pictures, collection.paired)


def _user_recipes(recipes: Iterable[Recipe], prepared: Inputs) -> UserRecipes:
    return UserRecipes(recipes, prepared.tokenizer, prepared.texts)


def _read_recipe(text: str) -> list[Recipe]:
    """A file's recipes, or the text itself as one. InputError for an empty text or a file that is not there."""
    if _exists(text):
        return list(user_recipes.read(Path(text).expanduser()))
    if "\n" not in text and text.lower().endswith(_PATH_ENDINGS):
        raise InputError(f"recipe: {text}: no such file")
    recipe = user_recipes.from_text(text, "recipe")
    if not user_recipes.has_text(recipe):
        raise InputError("recipe: expected a file or the text of a recipe, found an empty text")
    return [recipe]


def _row(value: object, source: PictureSource | RecipeSource | None, name: str) -> int | None:
    """A row of the collection by its number or name; None for something else."""
    text = str(value)
    if source is None or _exists(text):
        return None
    if text.isdecimal():
        if int(text) >= len(source.names):
            raise InputError(f"{name}: expected the number of one of {len(source.names)}, found {text}")
        return int(text)
    return source.names.index(text) if text in source.names else None


def _exists(text: str) -> bool:
    """Whether a text is the path of something; a long text of a recipe cannot be one."""
    try:
        return Path(text).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False


def _all_or_none(rows: Sequence[int | None], name: str) -> bool:
    known = [row is not None for row in rows]
    if any(known) and not all(known):
        raise InputError(
            f"{name}: expected either numbers or names of the collection, or files and texts, not both"
        )
    return all(known)


def _defaults() -> dict[str, Any]:
    fields = DataSet.__dataclass_fields__
    return {name: fields[name].default for name in ("side", "resize", "max_tokens", "text_inputs")}


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def _path(value: Any) -> Path | None:
    return None if value is None else Path(str(value)).expanduser()
