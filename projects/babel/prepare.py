"""Concepts, labels and split files from the names, captions and reconstructions of WikiScenes.

python prepare.py                                        embedded data: distils them anew, beside its own split files
python prepare.py data=wikiscenes                        the ten concepts; train, val (unseen landmarks), val_easy
python prepare.py data=wikiscenes concepts=null          find the concepts as well
python prepare.py data=wikiscenes category=mosques concepts=[minaret,dome,portal] split.unseen=5
python prepare.py data=wikiscenes compare=[/data/wikiscenes/train_10classes_20639_63landmark_balanced.txt]
"""

from pathlib import Path

from omegaconf import DictConfig

from projects.babel import preparation, vocabulary
from projects.babel.data import DataSet
from shared import config, files


@config.entry(__file__)
def main(cfg: DictConfig) -> None:
    """Write train.txt, val.txt, val_easy.txt and prepared.json."""
    settings = config.section(cfg)
    preparation.check(settings)
    data_set = DataSet(**settings["data"])
    data_set.prepare()
    root = Path(data_set.root).expanduser()
    output = files.ensure_writable(Path(cfg.output).expanduser())
    pictures = preparation.read_tree(root, cfg.category, settings["landmarks"])
    labelled = preparation.label(
        pictures,
        root,
        concepts=cfg.concepts,
        languages=settings["languages"],
        correspondence=_path(data_set.correspondence),
        cache=_path(data_set.cache),
        graph_threshold=data_set.graph_threshold,
        choice=vocabulary.Choice(**settings["vocabulary"]),
        skip_missing=data_set.skip_missing,
    )
    if cfg.compare:
        released = [Path(name).expanduser() for name in cfg.compare]
        labelled.report["agreement"] = preparation.compare(labelled, pictures, released)
    drawn = preparation.write(labelled, output, overwrite=cfg.overwrite, seed=cfg.seed, **settings["split"])

    print(f"concepts: {', '.join(labelled.concepts)}")
    for why, count in labelled.report["pictures"].items():
        print(f"  {why}: {count}")
    for name, found in labelled.report.get("agreement", {}).items():
        print(f"{name}: agreement {found}")
    for name, rows in drawn.files().items():
        print(f"{output / name}.txt: {len(rows)} pictures")
    print(f"held out for val: landmarks {', '.join(drawn.unseen) or 'none'}")


def _path(name: str | None) -> Path | None:
    return None if name is None else Path(name).expanduser()


if __name__ == "__main__":
    main()
