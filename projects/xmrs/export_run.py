"""Write a trained model of ours as a run folder of the released code: opts.txt and models/*.pth.tar.

python export_run.py                                           the embedded set (after python train.py)
python export_run.py model=runs/x_mrs output=20261121-120000__train      for their test.py and GAN_train.py

Their GAN scripts also look for an image encoder beside the checkpoint, which is written as well, and for the
embedding files of `python eval.py save_embeddings=true`.
"""

from pathlib import Path

from omegaconf import DictConfig

from projects.xmrs import released, released_options, trained
from shared import config
from shared.errors import InputError


@config.entry(__file__)
def main(cfg: DictConfig) -> None:
    """Load, write opts.txt, the checkpoint and its image encoder, and say where."""
    folder = Path(cfg.output).expanduser() if cfg.output is not None else config.run_dir()
    if (folder / released_options.OPTIONS_FILE).exists():
        raise InputError(f"output: {folder} holds a run already (opts.txt)")
    found = trained.load(cfg.model)
    options = found.options or released_options.from_settings(found.settings)
    path = released.write_run(folder, found.model, options=options, **released.validation_of(found.progress))
    encoder = path.with_name(path.name.replace(".pth.tar", "_image_encoder.pth.tar"))
    released.write_image_encoder(encoder, found.model)
    print(f"{folder}: opts.txt, models/{path.name}, models/{encoder.name}")


if __name__ == "__main__":
    main()
