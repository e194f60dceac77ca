"""Nearest-neighbour matching between images through learned features.

python match.py                                          pairs of the embedded set's unseen landmarks: R@1, PCK, a page
python match.py model=runs/x split=val_easy layers=[fc8,decoder]
python match.py photos=[a.jpg,b.jpg]                     your own photographs, or a folder: every two of them
"""

from omegaconf import DictConfig

from projects.babel import match_jobs, sources, trained
from projects.babel.expectations import expect_whole
from projects.babel.matching import Choice, Scoring
from shared import config, files, runtime
from shared.errors import InputError


@config.entry(__file__)
def main(cfg: DictConfig) -> None:
    """Load, match, write, say."""
    settings, run_dir = config.section(cfg), config.run_dir()
    expect_whole(settings, "seed", "examples")
    expect_whole(settings, "points", "batch_size", least=1)
    expect_whole(settings, "size", least=1, or_null=True)
    choice, scoring = Choice(**settings["pairs"]), Scoring(**settings["scores"])
    with runtime.start(**settings["runtime"], seed=cfg.seed) as rt:
        if rt.world_size > 1:
            raise InputError("match.py runs in one process: start it with python, not with torchrun")
        model = trained.load(sources.find_model(cfg.model), device=rt.device)
        files.ensure_writable(run_dir)
        if cfg.photos is not None:
            for record in match_jobs.match_photos(settings, model, run_dir, rt):
                print(f"{record['first']} - {record['second']}: {len(record['matches'])} matches")
        else:
            data = sources.data_set(settings.get("data"), model)
            table = match_jobs.match_split(settings, data, model, run_dir, rt, choice=choice, scoring=scoring)
            for layer, found in table.items():
                print(
                    f"{layer:10} R@1 {found['r1']:5.1f} % (chance {found['r1_chance']:.1f})   "
                    f"PCK {found['pck']:5.1f} % (chance {found['pck_chance']:.1f})   "
                    f"{found['points']} points of {found['pairs']} pairs"
                )
    print(f"page: {run_dir / 'index.html'}")


if __name__ == "__main__":
    main()
