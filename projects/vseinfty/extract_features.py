"""Compute the grid features of raw images once and keep them on disk as a set of region features.

python extract_features.py                                            embedded pictures, random weights
python extract_features.py data=coco_images checkpoint=RUN_OR_PTH     the CNN of a trained or released model
python extract_features.py data=f30k_images backbone=detector backbone_weights=original_updown_backbone.pth

The set is written to `output`; `python train.py data=coco data.root=<output>` trains on it. Killed at any
moment, the same command continues.
"""

from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig

from projects.vseinfty import backbones, extraction
from projects.vseinfty.data import DataSet
from shared import config, files, runtime
from shared.errors import InputError


@config.entry(__file__)
def main(cfg: DictConfig) -> None:
    """Extract every split of `splits`."""
    data_set = DataSet(**config.section(cfg.data))
    data_set.prepare()
    if data_set.kind != "pixels":
        raise InputError(f"data.kind: expected pixels (data=coco_images, ...), found {data_set.kind}")
    weights = cfg.checkpoint or cfg.backbone_weights
    if weights is None and data_set.variant is None:
        raise InputError(
            "checkpoint or backbone_weights: expected a file with the CNN's weights, found neither"
        )

    with runtime.start(**config.section(cfg.runtime), seed=cfg.seed) as machine:
        if machine.world_size > 1:
            raise InputError(
                "extract_features.py runs in one process: start it with python, not with torchrun"
            )
        if cfg.checkpoint:
            network, side = extraction.cnn_of(Path(cfg.checkpoint).expanduser())
        else:
            network, side = backbones.Backbone(cfg.backbone).eval(), data_set.image_side
            if cfg.backbone_weights:
                backbones.load_weights(network, Path(cfg.backbone_weights).expanduser())
        data_set = replace(data_set, image_side=side)
        origin = {
            "backbone": network.source,
            "weights": str(weights) if weights else f"random, seed {cfg.seed}",
            "sha256": files.sha256(weights) if weights and Path(weights).is_file() else None,
            "image_side": side,
        }
        output = files.ensure_writable(Path(cfg.output).expanduser() / "precomp")
        network.to(machine.device)
        for name in cfg.splits:
            split = data_set.open(name, backbone=network.source)
            path = output / f"{name}_ims.npy"
            shape = extraction.extract(
                network, split, path, runtime=machine, settings=origin,
                batch_size=cfg.batch_size, workers=cfg.workers, dtype=cfg.dtype,
            )  # fmt: skip
            size = path.stat().st_size / 2**20
            print(f"{path}: {shape[0]} images, {shape[1]} grids x {shape[2]}, {cfg.dtype}, {size:.1f} MiB")


if __name__ == "__main__":
    main()
