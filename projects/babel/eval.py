"""Evaluate: IoU, precision and recall of masks; average precision and accuracy of the concepts of pictures.

python eval.py                                                     the embedded set (after python train.py)
python eval.py model=runs/x labels=[best,all] background_powers=[4,1]     several protocols, one prediction
python eval.py masks=runs/infer/masks data=wikiscenes                     a folder of masks; masks=.../crf after a CRF
python eval.py masks=any data=wikiscenes oracle_from=[28,28]              the best that masks of 28 x 28 could reach
torchrun --standalone --nproc_per_node=4 eval.py model=...                pictures are shared out
"""

from omegaconf import DictConfig

from projects.babel import evaluation
from projects.babel.segmenting import ViewPlan
from shared import config, runtime


@config.entry(__file__)
def main(cfg: DictConfig) -> None:
    """Evaluate the lists and the splits; print the tables; write results.json and scores.log."""
    settings, run_dir = config.section(cfg), config.run_dir()
    plan = ViewPlan(**settings["views"])
    plan.check()
    with runtime.start(**settings["runtime"], seed=cfg.seed) as rt:
        of_model = cfg.masks is None
        report = evaluation.of_model(settings, plan, rt) if of_model else evaluation.of_folder(settings)
        if rt.is_main:
            print(report.text(), flush=True)
            report.write(run_dir, settings)


if __name__ == "__main__":
    main()
