"""Make what runs on the embedded rooms need: the rooms, the CLIP stand-in, its relevancies; see how it points.

python mini_pretrain.py                          about six minutes on one CPU core; once, runs/mini-stand-in
python mini_pretrain.py +data.stand_in.regions=captions data.root=ELSEWHERE      one that learns from captions alone
"""

from omegaconf import DictConfig

from projects.semabs import mini, mini_clip, sources
from projects.semabs.clip_weights import load_clip
from projects.semabs.extractor import RelevancyExtractor
from projects.semabs.mini_pointing import pointing
from shared import config, log, runtime


@config.entry(__file__)
def main(cfg: DictConfig) -> None:
    """Make the data, then ask for names in rooms that nothing was trained on."""
    settings = config.section(cfg)
    with (
        runtime.start(**settings["runtime"], seed=cfg.seed) as rt,
        log.open_run(config.run_dir(), settings, rt) as run,
    ):
        root, stand_in = mini.make(cfg.data.root, **settings["data"]["mini"]), settings["data"]["stand_in"]
        bar = run.progress(stand_in.get("steps") or mini_clip.DEFAULTS["steps"])
        weights = mini_clip.ensure(root, **stand_in, after_step=lambda done: bar.update(loss=done.loss))
        bar.close()
        run.info(f"rooms in {root}, stand-in for CLIP in {weights}; relevancies ...")
        sources.prepare(settings["data"], rt)
        clip = load_clip(weights)
        extractors = {
            "ours": RelevancyExtractor(clip, config="ours", augmentations=0),
            "chefer_et_al": RelevancyExtractor(clip, config="chefer_et_al", augmentations=0),
            "jitter": RelevancyExtractor(clip, config="ours", augmentations=5),
        }
        run.info(f"asking for names in {cfg.pointing.pictures} other rooms ...")
        found = pointing(extractors, prompts=settings["data"]["prompts"], **settings["pointing"])
        run.finish({"pointing": found})
        for name in extractors:
            shown = ", ".join(
                f"{group} {found[name][group]:.0f}"
                for group in ("train", "novel", "synonyms")
                if group in found[name]
            )
            run.info(f"highest place on the thing, %, {name}: {shown}")


if __name__ == "__main__":
    main()
