"""Scenes for training from a simulator: HDF5 files of single views, split files, lists of novel rooms and classes.

python generate_thor_data.py                              20 views of the embedded procedural rooms
python generate_thor_data.py num_pts=500 num_processes=2
python generate_thor_data.py simulator=thor path_to_exported_scenes=DIR path_to_custom_unity=FILE num_pts=50000
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from projects.semabs import generation
from projects.semabs.scene_export import Counts, Job, export, plan, write_splits
from projects.semabs.simulator import Simulator
from shared import config
from shared.progress import Progress


@config.entry(__file__)
def main(cfg: DictConfig) -> None:
    """Make what is missing, then write the split files."""
    settings: dict[str, Any] = config.section(cfg)
    generation.check(settings)
    start: Callable[[], Simulator] = functools.partial(generation.start, settings)
    folder = Path(cfg.dataset_dir_path).expanduser()
    planned = plan(generation.rooms(settings), cfg.num_pts, cfg.start_seed)
    counts = Counts()
    processes = 0 if cfg.local else cfg.num_processes
    job = Job(folder, **settings["scenes"])
    with Progress(len(planned), unit="view") as progress:
        for name, written in export(start, planned, job, processes=processes):
            if written is None:
                counts.rejected.append(name)
            counts.written += written is True
            counts.there += written is False
            progress.update(written=counts.written)
    sizes = write_splits(folder)
    print(f"{folder}: {counts.written} views written, {counts.there} there already")
    if counts.rejected:
        print(f"no good view from ten places: {len(counts.rejected)}, the first {counts.rejected[0]}")
    print(", ".join(f"{split} {size}" for split, size in sizes.items()))


if __name__ == "__main__":
    main()
