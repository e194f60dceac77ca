"""Complete a scene or find described objects in it, and film the result; no display is needed.

python visualize.py                                             a room of the embedded set (after train_ovssc.py)
python visualize.py command=vool                                the same for descriptions (after train_vool.py)
python visualize.py command=ovssc-inference scene=poster.pkl model=models/ours/ovssc/ovssc.pth   as released
python visualize.py command=ovssc-visualize output_path=runs/visualize/poster
python visualize.py scene=room.hdf5 labels=[mug,table] film.frames=60 film.size=512

inference writes relevancies.png, scene.png, scene_rgb.ply and an .obj per label, or a .ply per description;
visualize reads them and writes completion.mp4 and overview.png, or an .mp4 per description.
"""

from pathlib import Path

from omegaconf import DictConfig

from projects.semabs import trained, visualize_command, visualizing
from projects.semabs.films import Film
from projects.semabs.scene_source import open_scene
from shared import config, runtime
from shared.errors import InputError


@config.entry(__file__)
def main(cfg: DictConfig) -> None:
    """Read, infer, write, film."""
    settings = config.section(cfg)
    task, steps = visualize_command.parsed(settings)
    film = Film(**settings["film"])
    folder = Path(cfg.output_path) if cfg.output_path else None
    root = Path(cfg.dump_path) if cfg.dump_path else config.run_dir()
    with runtime.start(**settings["runtime"], seed=cfg.seed) as rt:
        if rt.world_size > 1:
            raise InputError("visualize.py runs in one process: start it with python, not with torchrun")
        if "inference" in steps:
            loaded = trained.load(visualizing.model_path(cfg.model, task, Path(__file__).parent))
            chosen = {name: settings[name] for name in ("clip", "prompts", "augmentations", "seed")}
            model = visualizing.Model(loaded, rt, **chosen)
            scene = open_scene(
                cfg.scene,
                loaded.settings,
                task,
                labels=settings["labels"],
                descriptions=settings["descriptions"],
            )
            folder = visualize_command.scene_folder(root, scene.name)
            visualize_command.infer(model, scene, folder, settings)
        if "visualize" in steps:
            visualize_command.film_folder(task, folder or visualize_command.only_folder(root, task), film)


if __name__ == "__main__":
    main()
