"""Where labels are in a picture of your own, and with its depth the completed scene; one HTML page.

python infer.py                                                  a room of the embedded set (after train_ovssc.py)
python infer.py picture=kitchen.jpg labels=[mug,"coffee machine",window]          relevancies
python infer.py picture=kitchen.jpg labels=[mug,window] depth=kitchen.npy intrinsics=[530,530,320,240] \\
    model=models/ours/ovssc/ovssc.pth                            and the completed scene
"""

from omegaconf import DictConfig

from projects.semabs import picture_command
from projects.semabs.films import Film, film_completion
from projects.semabs.picture_page import write_page, write_relevancies
from shared import config, files, runtime
from shared.errors import InputError


@config.entry(__file__)
def main(cfg: DictConfig) -> None:
    """Read the picture, find the labels, complete, write."""
    settings, run_dir = config.section(cfg), config.run_dir()
    picture_command.check(settings)
    with runtime.start(**settings["runtime"], seed=cfg.seed) as rt:
        if rt.world_size > 1:
            raise InputError("infer.py runs in one process: start it with python, not with torchrun")
        found = picture_command.Finder.of(settings, rt, run_dir.parent)
        scene = found.read(settings)
        files.ensure_writable(run_dir)
        maps = found.relevancies(scene.rgb, scene.labels, settings["contrast"])
        cards = write_relevancies(run_dir, scene.rgb, maps)
        for card in cards:
            print(f"{card['label']}: strongest at {card['at']}: {run_dir / card['file']}")
        note, folder = None, run_dir / "completion"
        if found.completes(scene):
            note = found.complete(scene, maps, folder, settings)
            if settings["film"]["frames"] and note["files"]:
                film_completion(folder, Film(**settings["film"]))
        page = write_page(
            run_dir, scene.rgb, cards, title=scene.name, facts=found.facts(), note=note, completion=folder
        )
    print(f"page: {page}")


if __name__ == "__main__":
    main()
