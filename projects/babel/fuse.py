"""Classes of the points of COLMAP reconstructions: what all views say of a point, fused over its track.

python fuse.py                                                 reconstructions of the embedded set's unseen landmarks
python fuse.py model=runs/x data=wikiscenes split=val          those of a real set
python fuse.py reconstruction=MODEL images=FOLDER              your own: a COLMAP model, and where its names start
python fuse.py masks=runs/infer/masks                          votes of masks that infer.py split=val wrote
python fuse.py kind=majority format=ascii labels=all background_power=1

Per reconstruction a coloured .ply; where points_labels.npz tells the true classes of points, the 3D accuracy.
"""

from pathlib import Path

from omegaconf import DictConfig

from projects.babel import fusing, point_pages, reconstructions, sources, trained
from projects.babel.expectations import expect_whole
from projects.babel.fusion import KINDS
from projects.babel.segmenting import ViewPlan
from shared import config, files, runtime
from shared.errors import InputError


@config.entry(__file__)
def main(cfg: DictConfig) -> None:
    """Find the reconstructions, add up the views of each, write."""
    settings, run_dir = config.section(cfg), config.run_dir()
    if cfg.kind not in KINDS:
        raise InputError(f"kind: expected one of {', '.join(KINDS)}, found {cfg.kind!r}")
    plan = ViewPlan(**settings["views"])
    plan.check()
    expect_whole(settings, "examples")
    with runtime.start(**settings["runtime"], seed=cfg.seed) as rt:
        if rt.world_size > 1:
            raise InputError("fuse.py runs in one process: start it with python, not with torchrun")
        model = trained.load(sources.find_model(cfg.model), device=rt.device)
        needs_data = cfg.reconstruction is None or (cfg.images is None and cfg.masks is None)
        data = sources.data_set(settings.get("data"), model) if needs_data else None
        places = reconstructions.find_places(settings, data)
        masks = None if cfg.masks is None else Path(str(cfg.masks)).expanduser()
        view = fusing.choose_view(settings, model, rt, plan)
        report = point_pages.Report(
            files.ensure_writable(run_dir),
            model.concepts,
            kind=cfg.kind,
            format=cfg.format,
            examples=cfg.examples,
        )
        total = fusing.Totals(model.concepts)
        labels = None if cfg.point_labels is None else Path(cfg.point_labels).expanduser()
        for reconstruction in places.open_all(masks=masks, point_labels=labels):
            fused = fusing.fuse(reconstruction, view, len(model.concepts) + 1)
            total.add(fused)
            print(report.add(fused), flush=True)
    page = report.write(total.metrics(), title="Points of reconstructions", model=model.name)
    print(f"page: {page}")


if __name__ == "__main__":
    main()
