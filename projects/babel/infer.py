"""Segment pictures: index masks, overlays, scores of the concepts, one HTML page.

python infer.py                                                the embedded set (after python train.py)
python infer.py photos=holiday                                 your own photographs, a folder or [a.jpg,b.jpg]
python infer.py photos=holiday labels=all views.method=multi views.scales=[1,0.75,1.5]
python infer.py model=model_enc_e024Xs-0.800.pth data=wikiscenes crf=true vis=released       as released
python infer.py model=runs/x split=val_easy                    every picture of a split

Masks are gray PNGs whose values are the labels (0 background, i concept i): python eval.py masks=FOLDER data=...
scores those of a list.
"""

from omegaconf import DictConfig

from projects.babel import sources, trained
from projects.babel.expectations import expect_whole
from projects.babel.inference import segment
from projects.babel.pages import Report
from projects.babel.segmenting import Predictor, ViewPlan
from shared import config, files, runtime
from shared.errors import InputError


@config.entry(__file__)
def main(cfg: DictConfig) -> None:
    """Find the pictures, segment each, write."""
    settings, run_dir = config.section(cfg), config.run_dir()
    plan = ViewPlan(**settings["views"])
    plan.check()
    expect_whole(settings, "examples")
    with runtime.start(**settings["runtime"]) as rt:
        if rt.world_size > 1:
            raise InputError("infer.py runs in one process: start it with python, not with torchrun")
        model = trained.load(sources.find_model(cfg.model), device=rt.device)
        source = sources.pictures(settings, model)
        predictor = Predictor(model.model, rt, source.adapted(plan))
        how = source.writing(settings, run_dir)
        files.ensure_writable(how.folder)
        report = Report(source.title, model.name, model.concepts, how.folder, cfg.examples)
        for found in segment(
            source.items, predictor, how, unreadable=source.unreadable(cfg.unreadable), skipped=report.skipped
        ):
            report.add(found)
            if source.photos:
                print(report.line(), flush=True)
        report.check()
    page = report.write(run_dir, labels=how.labels, background_power=how.background_power, crf=how.crf)
    print(
        f"{len(report.pictures)} pictures, {len(report.skipped)} left out; masks: {how.folder}\npage: {page}"
    )


if __name__ == "__main__":
    main()
