"""Evaluate an ensemble: the mean similarity of several models, from the results files that they saved.

python eval_ensemble.py paths=[A/results_coco.npz,B/results_coco.npz]     ours (eval.py save_results=true)
python eval_ensemble.py                                                   the release's two COCO files (region
+ grid)

The authors' pickled results_*.npy are read too, without executing anything in them.
"""

from pathlib import Path

from omegaconf import DictConfig

from projects.vseinfty import evaluation, results
from shared import config, files
from shared.errors import InputError


@config.entry(__file__)
def main(cfg: DictConfig) -> None:
    """Read the files, evaluate the folds and the whole, print the tables, write results.json."""
    if isinstance(cfg.paths, str) or len(cfg.paths) < 1:
        raise InputError(f"paths: expected a list of results files, paths=[A,B], found {cfg.paths}")
    members = [results.load(results.find(Path(path).expanduser())) for path in cfg.paths]
    found = {}
    if cfg.folds:
        found["folds"] = results.ensemble(members, folds=cfg.folds)
    if cfg.full:
        found["full"] = results.ensemble(members)
    if not found:
        raise InputError("folds=0 full=false: nothing to evaluate")
    names = [str(member.path) for member in members]
    print("mean similarity of\n  " + "\n  ".join(names) + f"\n{evaluation.summary(found)}\n")
    path = config.run_dir() / "results.json"
    files.write_json(path, {"name": cfg.name, "members": names, "metrics": found})
    print(f"results: {path}")


if __name__ == "__main__":
    main()
