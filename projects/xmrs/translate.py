"""Translate the recipes into German, Russian, French, or back into English, as the paper's text augmentation.

python translate.py direction=de                     embedded data, by its word table
python translate.py data=recipe1m direction=de       WMT19's English-German model from the local cache or the hub
python translate.py data=recipe1m direction=de-en    back-translation: reads layer1_de.json
python translate.py data=recipe1m direction=fr translator=/models/opus-mt-en-fr

Writes layer1_<direction>.json beside layer1.json. Killed at any moment, the same command continues.
"""

from pathlib import Path

from omegaconf import DictConfig

from projects.xmrs import translation, translators
from projects.xmrs.data import DataSet
from projects.xmrs.recipe1m import PARTITIONS, layer_path
from shared import config, files, runtime
from shared.errors import InputError


@config.entry(__file__)
def main(cfg: DictConfig) -> None:
    """One direction."""
    data_set = DataSet(**config.section(cfg.data))
    if data_set.variant is not None:
        data_set.prepare()
    root = Path(cfg.data.root).expanduser()
    source = cfg.translator
    if source is None and data_set.variant is not None:
        source = root / "dictionary"
    with runtime.start(**config.section(cfg.runtime), seed=cfg.seed) as machine:
        if machine.world_size > 1:
            raise InputError("translate.py runs in one process: start it with python, not with torchrun")
        translator = translators.build_translator(
            source, cfg.direction, device=machine.device, precision=machine.precision,
            **config.section(cfg.search),
        )  # fmt: skip
        target = layer_path(files.ensure_writable(root), cfg.direction)
        if target.exists():
            print(f"{target}: is there already; remove it to translate anew")
            return
        key_files = [root / f"{split}_keys.pkl" for split in PARTITIONS] if cfg.only_keys else []
        translation.translate_layer(
            root, cfg.direction, translator,
            wanted=translation.read_wanted(key_files), chunk_recipes=cfg.chunk_recipes,
        )  # fmt: skip
        print(f"{target}: {target.stat().st_size / 2**20:.1f} MiB ({translator.identity})")
        if truncated := getattr(translator, "truncated", 0):
            print(f"{truncated} lines were longer than {cfg.search.max_tokens} tokens and were cut")


if __name__ == "__main__":
    main()
