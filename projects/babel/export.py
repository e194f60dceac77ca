"""Export what a trained net says of the images of a split: for analysis, and for tools of the released code.

python export.py task=kp_feature                         features of all keypoints (embedded set, unseen landmarks)
python export.py task=kp_score format=pickle             class scores, as released: {keypoint id: [vectors]}
python export.py task=features layer=backbone            a vector per image
python export.py task=AP split=val_easy                  average precision per concept, as a sheet (.xlsx)
python export.py task=acc | task=segmentation            predictions per image (JSON) | index masks

Files: runs/<name>/<task>/landmark<split>/export_<task>_<split>_<model>_<snapshot>*.
"""

from omegaconf import DictConfig

from projects.babel import export_jobs, sources, trained
from projects.babel.segmenting import ViewPlan
from shared import config, runtime
from shared.errors import InputError


@config.entry(__file__)
def main(cfg: DictConfig) -> None:
    """Load, export, say what was written."""
    settings, run_dir = config.section(cfg), config.run_dir()
    export_jobs.check(settings)
    plan = ViewPlan(**settings["views"])
    plan.check()
    with runtime.start(**settings["runtime"]) as rt:
        if rt.world_size > 1:
            raise InputError("export.py runs in one process: start it with python, not with torchrun")
        model = trained.load(sources.find_model(cfg.model), device=rt.device)
        data = sources.data_set(settings.get("data"), model)
        files, lines = export_jobs.export(settings, model, data, run_dir, rt, plan)
    print("\n".join([*lines, *map(str, files)]))


if __name__ == "__main__":
    main()
