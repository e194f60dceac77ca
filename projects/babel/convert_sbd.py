"""Masks of the Semantic Boundaries Dataset (.mat) as index PNGs, for the VOC variant of the released lists.

python convert_sbd.py input=/data/sbd/dataset/cls output=/data/sbd/dataset/cls_png
"""

from pathlib import Path

from omegaconf import DictConfig

from projects.babel import sbd
from shared import config, files


@config.entry(__file__)
def main(cfg: DictConfig) -> None:
    """Write one PNG for each .mat file; interrupted, the same command goes on."""
    source = Path(cfg.input).expanduser()
    target = files.ensure_writable(Path(cfg.output).expanduser())
    count = sbd.convert(source, target)
    print(f"{cfg.name}: {count} masks in {target}")


if __name__ == "__main__":
    main()
