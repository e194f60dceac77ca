"""Tokenise Recipe1M in its six languages and write the databases that training and evaluation read.

python create_lmdb.py                                     embedded data: says that they are there
python create_lmdb.py data=recipe1m                       from data.root into data.data_root
python create_lmdb.py data=recipe1m released=/old/loader_data    databases of the released code into ours

Killed at any moment, the same command continues.
"""

from pathlib import Path

from omegaconf import DictConfig

from projects.xmrs import lmdb_conversion, lmdb_writer, token_pickles
from projects.xmrs.data import DataSet
from projects.xmrs.tokens import build_tokenizer
from shared import config, files


@config.entry(__file__)
def main(cfg: DictConfig) -> None:
    """Write {train,val,test}_lmdb and what belongs to them."""
    data_set = DataSet(**config.section(cfg.data))
    if data_set.variant is not None:
        data_set.prepare()
    tokenizer = build_tokenizer(Path(data_set.vocab).expanduser() if data_set.vocab else None)
    output = files.ensure_writable(Path(cfg.output or data_set.data_root).expanduser())
    if cfg.released is not None:
        summary = lmdb_conversion.convert(Path(cfg.released).expanduser(), output, tokenizer)
    else:
        root = Path(cfg.data.root).expanduser()
        summary = lmdb_writer.write_stores(root, output, tokenizer, allow_missing=cfg.allow_missing)
    counts = ", ".join(f"{count} {split}" for split, count in summary.counts.items())
    print(f"{output}: {counts} recipes in six languages")
    if summary.missing:
        print(f"{summary.missing} recipes of the key lists are in no layer and were left out")
    if cfg.vocabularies or cfg.word_vectors:
        token_pickles.write(output, tokenizer, cfg.word_vectors and Path(cfg.word_vectors).expanduser())


if __name__ == "__main__":
    main()
