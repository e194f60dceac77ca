"""Write COCO's id_mapping.json, which raw images need, from COCO's annotations.

python build_id_mapping.py data=coco_images     reads data/coco/annotations, writes data/coco/id_mapping.json
"""

from pathlib import Path

from omegaconf import DictConfig

from projects.vseinfty.data import DataSet
from projects.vseinfty.id_mapping import coco_id_mapping
from shared import config
from shared.files import write_json


@config.entry(__file__)
def main(cfg: DictConfig) -> None:
    """Read the lists of images, write the mapping."""
    root = Path(DataSet(**config.section(cfg.data)).root)
    mapping = coco_id_mapping(Path(cfg.annotations or root / "annotations"), list(cfg.folders))
    path = Path(cfg.output or root / "id_mapping.json")
    write_json(path, mapping)
    print(f"{path}: {len(mapping)} images")


if __name__ == "__main__":
    main()
