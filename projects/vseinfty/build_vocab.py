"""Build the vocabulary of the BiGRU text encoder from captions, as the SCAN release did (spec section 3).

python build_vocab.py               embedded data: says that its vocabulary is the same
python build_vocab.py data=coco     writes data/vocab/coco_precomp_vocab.json from the train and dev captions
"""

from pathlib import Path

from omegaconf import DictConfig

from projects.vseinfty import vocabulary
from projects.vseinfty.captions import word_tokenize
from projects.vseinfty.data import DataSet
from projects.vseinfty.precomp import read_captions
from shared import config
from shared.errors import InputError


@config.entry(__file__)
def main(cfg: DictConfig) -> None:
    """Count words, keep the frequent ones in the order first seen, write the file."""
    data_set = DataSet(**config.section(cfg.data))
    data_set.prepare()
    target = cfg.output or data_set.vocab_path
    if target is None:
        raise InputError("output: expected the file to write, found neither it nor data.vocab_path")
    path = Path(target).expanduser()
    files = [Path(data_set.root) / "precomp" / f"{split}_caps.txt" for split in cfg.splits]
    captions = [caption for file in files for caption in read_captions(file)]
    words = vocabulary.build(
        (word_tokenize(caption.lower()) for caption in captions), min_count=cfg.min_count
    )

    found = f"{len(words) - 1} words of {len(captions)} captions ({', '.join(cfg.splits)})"
    if path.exists() and not cfg.overwrite:
        if vocabulary.read(path).words != words.words:
            raise InputError(
                f"{path}: holds another vocabulary than the {found}; models trained with it need it: "
                "choose another output, or set overwrite=true"
            )
        print(f"{path}: is already this vocabulary of {found}")
        return
    vocabulary.write(path, words)
    print(f"{path}: {found}")


if __name__ == "__main__":
    main()
