"""Evaluate completion (OVSSC) or localisation (VOOL) on every split: IoU, precision and recall at 25 cutoffs.

python eval.py                                                      the embedded rooms (after python train_ovssc.py)
python eval.py model=runs/vool_mini name=eval-vool                  what `python train_vool.py` has made
python eval.py model=models/ours/ovssc/ovssc.pth data=thor        a released checkpoint, its args.pkl beside it
python eval.py model=models/ours/ovssc/ovssc.pth data=nyu         NYU: 11 classes, 60 voxels per axis
torchrun --standalone --nproc_per_node=4 eval.py model=...          scenes are shared out

Killed at any moment, the same command goes on with the scenes that are missing. `summarize.py` sets evaluations
beside one another.
"""

from omegaconf import DictConfig

from projects.semabs import evaluating
from shared import config, log, runtime


@config.entry(__file__)
def main(cfg: DictConfig) -> None:
    """Evaluate the splits; print the tables; write <task>_eval_stats.npz and .csv, results.json."""
    settings = config.section(cfg)
    with runtime.start(**settings["runtime"], seed=cfg.seed) as rt:
        job = evaluating.prepare(settings, rt)
        with log.open_run(config.run_dir(), settings, rt) as run:
            stats = evaluating.evaluate(job, settings, run, rt)
            text, metrics = evaluating.report(job, stats)
            run.info(text)
            run.finish(metrics, task=job.model.task, model=str(job.model.path), metric=job.metric)


if __name__ == "__main__":
    main()
