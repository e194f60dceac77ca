"""Test a trained GAN: retrieval with the dishes it draws, distances, and the figure (X-MRS, ACM MM 2021).

python gan_test.py                                                  after python train.py and gan_train.py
python gan_test.py generator=runs/gan_x_mrs data=recipe1m medr=1000 Recipe1M
python gan_test.py generator=GAN_runs/GAN_x/model_e123_v1.pkl encoder=RUN data=recipe1m medr=1000   released files
python gan_test.py controls=true full_ranking=true fid.network=inception_v3.pth

Writes folders of images, img_embed.npz, rank_random_result.csv, synthesis_grid.png and index.html to
runs/<name>.
"""

from omegaconf import DictConfig

from projects.xmrs import gan_page, gan_testing, synthesis_metrics
from projects.xmrs.data import DataSet
from shared import config, files, runtime


@config.entry(__file__)
def main(cfg: DictConfig) -> None:
    """Draw, save, embed, rank; then controls, distances and the figure."""
    settings = config.section(cfg)
    gan_testing.check(settings)
    run_dir = files.ensure_writable(config.run_dir())
    with runtime.start(**settings["runtime"], seed=cfg.seed) as rt:
        dataset = DataSet(**settings["data"])
        subject, sources = gan_testing.open_subject(settings, dataset, run_dir, rt)
        found = gan_testing.five_steps(settings, subject, run_dir)
        modes = {mode: found[mode] for mode in synthesis_metrics.MODES}
        if cfg.controls:
            others = gan_testing.controls(settings, subject, sources, run_dir)
            modes |= {
                f"{name} {mode}": one[mode] for name, one in others.items() for mode in ("fi2t", "fi2i")
            }
            found |= others
        found |= gan_testing.distances(subject, **settings["fid"])
        table = synthesis_metrics.table(modes)
        print(table)
        print(gan_testing.line(found))
        page = gan_page.write_figure(run_dir, subject, found, table, **settings["grid"])
        unreadable = subject.split.split.newly_unreadable()
        result = {"name": cfg.name, "seed": cfg.seed, "metrics": found, "unreadable": unreadable}
        files.write_json(run_dir / "results.json", {**result, "config": settings})
        for reason in unreadable[:3]:
            print(f"warning: unreadable photo: {reason}")
        print(f"page: {page}")


if __name__ == "__main__":
    main()
