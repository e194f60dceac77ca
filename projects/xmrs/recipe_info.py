"""Show recipes: the text, and where their pictures are; `save=<folder>` writes both there.

python recipe_info.py                                          the first test recipe of the embedded data
python recipe_info.py data=recipe1m recipes=[000018c8a5] language=de
python recipe_info.py data=recipe1m "recipes=[000018c8a5-Worlds_Best_Mac_and_Cheese.jpg]" save=shown
"""

from pathlib import Path

from omegaconf import DictConfig

from projects.xmrs import recipe_text
from projects.xmrs.data import DataSet
from projects.xmrs.recipe1m import image_path, read_keys
from projects.xmrs.recipe_saving import save_recipe
from projects.xmrs.tokens import LANGUAGES
from shared import config
from shared.errors import InputError


@config.entry(__file__)
def main(cfg: DictConfig) -> None:
    """Print each recipe; save it where asked."""
    data_set = DataSet(**config.section(cfg.data))
    if data_set.variant is not None:
        data_set.prepare()
    root = Path(cfg.data.root).expanduser()
    if cfg.language not in LANGUAGES:
        raise InputError(f"language: expected {' | '.join(LANGUAGES)}, found {cfg.language!r}")
    ids = [recipe_text.id_of_file(str(name)) for name in cfg.recipes]
    if not ids:
        ids = read_keys(root / "test_keys.pkl")[:1]
    recipes = recipe_text.find_recipes(root, ids, cfg.language)
    images = recipe_text.find_images(root, ids)
    for recipe in recipes:
        print(f"{recipe.id} ({recipe.partition}) {recipe.url}".rstrip())
        print(recipe_text.as_text(recipe))
        paths = [image_path(Path(data_set.image_root), recipe.partition, name) for name in images[recipe.id]]
        for path in paths:
            print(f"{path}{'' if path.is_file() else ' (no such file)'}")
        if cfg.save is not None:
            print(f"saved as {save_recipe(Path(cfg.save).expanduser(), recipe, paths)}")


if __name__ == "__main__":
    main()
