"""Relevancy maps: of labels on a picture, or for every scene of a data set.

python generate_relevancy.py                                                a room of the embedded set
python generate_relevancy.py file_path=photo.jpg labels=[vase,carpet]       your picture: grads.png, relevancies.npz
python generate_relevancy.py command=dataset file_path=FOLDER               adds maps to the scenes that have none
python generate_relevancy.py command=dataset file_path=FOLDER replace=true  deletes all maps (asks; yes=true answers)
torchrun --nproc-per-node 8 generate_relevancy.py command=dataset file_path=FOLDER runtime.precision=fp16

A killed run of `dataset` goes on where it was. Weights of CLIP: a name, a file or a folder (clip=...).
"""

from omegaconf import DictConfig

from projects.semabs import relevancy_command, relevancy_dataset
from projects.semabs.extractor import RelevancyExtractor
from projects.semabs.relevancy_picture import write_panels
from shared import config, files, runtime
from shared.errors import InputError

SHARED = ("augmentations", "hflip", "batch_size")
RELEASED = ("positive_only", "blocks", "float16_sum", "starts_within_short_side")


@config.entry(__file__)
def main(cfg: DictConfig) -> None:
    """Map one picture, or all scenes of a folder."""
    settings = config.section(cfg)
    relevancy_command.check(settings)
    shared, released = ({name: settings[name] for name in names} for names in (SHARED, RELEASED))
    with runtime.start(**settings["runtime"], seed=cfg.seed) as rt:
        if cfg.command == "dataset":
            root = relevancy_command.folder(settings, rt, runtime.barrier)
            if cfg.replace:
                removed = (
                    relevancy_dataset.remove(root, rt)
                    if relevancy_command.may_remove(settings, root, rt)
                    else 0
                )
                done = f"maps deleted from {removed} scenes; without replace the command makes them anew"
            else:
                clip = relevancy_command.model(settings)
                done = relevancy_dataset.generate(
                    root, clip, runtime=rt, prompts=settings["prompts"], configs=settings["configs"],
                    seed=cfg.seed, gzip=cfg.gzip, unreadable=cfg.unreadable, **shared, **released,
                ).line()  # fmt: skip
            if rt.is_main:
                print(done)
            return
        if rt.world_size > 1:
            raise InputError("command=image runs in one process: start it with python, not with torchrun")
        asked, output = relevancy_command.asked(settings), files.ensure_writable(config.run_dir())
        extractor = RelevancyExtractor(
            relevancy_command.model(settings), config=cfg.saliency_config, precision=rt.precision,
            device=rt.device, **shared, **released,
        )  # fmt: skip
        maps = extractor.maps(asked.pixels, asked.labels, asked.prompts, img_dim=cfg.img_dim, seed=cfg.seed)
    minus_mean = (maps - maps.mean(0)).numpy()
    files.save_npz(output / "relevancies.npz", maps=maps.numpy(), labels=asked.labels, prompts=asked.prompts)
    heat = relevancy_command.heat(settings, minus_mean)
    shown = write_panels(output / "grads.png", asked.pixels, minus_mean, asked.labels, heat)
    print(f"{asked.name}: {len(asked.labels)} labels, {shown} of them in {output / 'grads.png'}")


if __name__ == "__main__":
    main()
