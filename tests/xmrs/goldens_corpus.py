"""Golden cases of the corpus: the LMDB build, the order of translation, the recipe as text."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from projects.xmrs import lmdb_writer, recipe1m, recipe_text, translation
from projects.xmrs.lmdb_store import RecipeStore
from projects.xmrs.tokens import LANGUAGES, build_tokenizer
from tests.goldens.case import Case


class Numbered:
    """A translator that puts the number of the line before it."""

    identity = "numbered"

    def __init__(self) -> None:
        self.lines: list[str] = []

    def translate(self, lines: Sequence[str]) -> list[str]:
        first = len(self.lines)
        self.lines += lines
        return [f"<{first + index}> {line}" for index, line in enumerate(lines)]


def write_corpus(root: Path, golden: dict[str, Any]) -> None:
    """Recipe1M's files out of a golden file."""
    layers = {"layer1": golden["layer1"], "layer2": golden["layer2"], "det_ingrs": golden["det_ingrs"]}
    layers |= {f"layer1_{language}": items for language, items in golden["translated"].items()}
    for name, items in layers.items():
        (root / f"{name}.json").write_text(json.dumps(items), encoding="utf-8")
    for split, keys in golden["keys_in"].items():
        recipe1m.write_keys(root / f"{split}_keys.pkl", keys)
    recipe1m.write_classes(root / "classes1M.pkl", golden["class_dict"], {0: "background"})


def create_lmdb(case: Case) -> None:
    """Every key in order, every token, part, class and picture of every sample, as written and as converted."""
    golden = case.json()
    with TemporaryDirectory() as folder:
        root, output = Path(folder), Path(folder, "loader_data")
        write_corpus(root, golden)
        lmdb_writer.write_stores(root, output, build_tokenizer(case.path(case.data["vocab"])), silent=True)
        assert (output / "files_in_DB.txt").read_text() == golden["files_in_DB.txt"]
        for split, expected in golden["expected"].items():
            store = RecipeStore(output / f"{split}_lmdb")
            assert store.ids == expected["keys"], split
            for index, name in enumerate(store.ids):
                entry, sample = store.entry(index), expected["samples"][name]
                assert [row.tolist() for row in entry.rows] == sample["recipe"], name
                assert [row.tolist() for row in entry.parts] == sample["part_of_recipe"], name
                assert entry.class_index + 1 == sample["classes"], name
                assert entry.image_records == sample["imgs"], name


def translate(case: Case) -> None:
    """The lines in the order in which they are sent, and every text back at its place."""
    golden = case.json()
    with TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "layer1.json").write_text(json.dumps(golden["layer1"]), encoding="utf-8")
        recipes = list(recipe1m.stream_recipes(root / "layer1.json"))
        assert translation.lines_of(recipes) == golden["lines_in_order"]
        for chunk in case.data["chunks"]:
            translator = Numbered()
            target = translation.translate_layer(root, "de", translator, chunk_recipes=chunk, silent=True)
            assert translator.lines == golden["lines_in_order"]
            assert json.loads(target.read_text(encoding="utf-8")) == golden["expected_layer1_de_fixed"]
            target.unlink()


def recipe_info(case: Case) -> None:
    """Text and file name of each recipe, in each language of the file."""
    golden = case.json()
    with TemporaryDirectory() as folder:
        write_corpus(Path(folder), case.json(case.data["corpus"]))
        for language, expected in golden.items():
            found = recipe_text.find_recipes(Path(folder), expected, LANGUAGES[int(language)])
            for recipe in found:
                assert recipe_text.as_text(recipe) == expected[recipe.id]["text"], recipe.id
                assert recipe_text.file_stem(recipe) == expected[recipe.id]["filename"], recipe.id
                assert recipe_text.id_of_file(recipe_text.file_stem(recipe)) == recipe.id


CALLS: dict[str, Callable[[Case], None]] = {
    "create_lmdb": create_lmdb,
    "translate": translate,
    "recipe_info": recipe_info,
}
