"""From questions to answers: indices brought up to date, searched, attention read, pictures synthesised."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from projects.xmrs import attention, inference
from projects.xmrs.inference import Encoder
from projects.xmrs.pages import Searched
from projects.xmrs.questions import Collection, Inputs, Questions, index_folder
from projects.xmrs.trained import Trained
from shared.index import Index


def answer(
    settings: Mapping[str, Any],
    model: Trained,
    prepared: Inputs,
    collection: Collection,
    asked: Questions,
    encoder: Encoder,
) -> Searched:
    """Everything that infer.py shows; only what is searched is encoded.

    InputError: a query without text or that cannot be read; an index of another model; a generator for
    embeddings of another size.
    """
    k, strict, nothing = settings["top_k"], settings["unreadable"] == "error", not _is_anything(asked)
    found: dict[str, Any] = {"facts": {}, "skipped": []}
    if asked.recipes is not None:
        rows = inference.recipe_rows(asked.recipes, asked.recipe_positions, encoder)
        found |= {"asked_recipes": asked.recipes, **_looked_into(settings, model, prepared, asked)}
        found["synthesised"] = _synthesised(settings, rows, encoder)
    if collection.pictures is not None and (asked.recipes is not None or nothing):
        folder = index_folder(settings, prepared.identity, collection.pictures_key)
        index = inference.index_pictures(
            folder, collection.pictures, encoder, model=prepared.identity, strict=strict
        )
        _note(found, index, "pictures")
        if asked.recipes is not None:
            found["for_recipes"] = inference.search(
                asked.recipe_positions, rows, index, k, paired=asked.paired_recipes
            )
    if asked.pictures is not None:
        rows = inference.picture_rows(asked.pictures, asked.picture_positions, encoder)
        found["asked_pictures"] = asked.pictures
    if collection.recipes is not None and (asked.pictures is not None or nothing):
        folder = index_folder(settings, prepared.identity, collection.recipes_key)
        index = inference.index_recipes(
            folder, collection.recipes, encoder, model=prepared.identity, strict=strict
        )
        _note(found, index, "recipes")
        if asked.pictures is not None:
            found["for_pictures"] = inference.search(
                asked.picture_positions, rows, index, k, paired=asked.paired_pictures
            )
    return Searched(
        title="What was found",
        model=model.name,
        pictures=collection.pictures,
        recipes=collection.recipes,
        **found,
    )


def _is_anything(asked: Questions) -> bool:
    return asked.recipes is not None or asked.pictures is not None


def _looked_into(
    settings: Mapping[str, Any], model: Trained, prepared: Inputs, asked: Questions
) -> dict[str, Any]:
    """Attention over the words of the asked recipes; nothing for a model that has none, unless asked for."""
    shown = settings["attention"]
    if not attention.has_attention(model.model) and not shown["show"]:
        return {}
    assert asked.recipes is not None
    texts, _ = asked.recipes.tokens(asked.recipe_positions)
    device = next(model.model.parameters()).device
    weighed = attention.attention_of(model.model, texts, prepared.tokenizer.pieces, device=device)
    for one in weighed[:1]:
        one.of(shown["layer"], shown["head"])  # whether there is such a layer and head
    return {"weighed": weighed, "layer": shown["layer"], "head": shown["head"]}


def _synthesised(settings: Mapping[str, Any], rows: np.ndarray, encoder: Encoder) -> list[np.ndarray]:
    """A picture of each asked recipe, where a generator is given."""
    if settings["generator"] is None:
        return []
    from projects.xmrs import gan_files, synthesis

    generator = gan_files.load_generator(settings["generator"], device=encoder.runtime.device)
    return list(synthesis.pictures(generator, rows, seed=settings["seed"]))


def _note(found: dict[str, Any], index: Index, what: str) -> None:
    print(inference.index_line(index, what))
    found["facts"][f"index_of_{what}"] = {
        "folder": str(index.folder),
        "items": len(index.positions),
        "encoded": index.num_encoded,
    }
    found["skipped"] += [f"{skipped.item.name}: {skipped.reason}" for skipped in index.skipped]
