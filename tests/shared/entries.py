"""Make a small entry as a project has them: a script, its configs, the projects' hydra file."""

import shutil
import textwrap
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def make_entry(
    folder: Path,
    source: str,
    settings: str = "",
    *,
    name: str = "entry",
    experiments: dict[str, str] | None = None,
) -> Path:
    """Write `<folder>/<name>.py`, its config, and configs/experiment/<key>.yaml for each of `experiments`."""
    configs = folder / "configs"
    (configs / "hydra").mkdir(parents=True, exist_ok=True)
    (configs / "experiment").mkdir(exist_ok=True)
    default = min(REPOSITORY.glob("projects/*/configs/hydra/default.yaml"))
    shutil.copy(default, configs / "hydra")
    (configs / f"{name}.yaml").write_text(
        f"defaults: [hydra: default, _self_, experiment: null]\nname: {name}\n{textwrap.dedent(settings)}\n"
    )
    for experiment, text in (experiments or {}).items():
        (configs / f"experiment/{experiment}.yaml").write_text(textwrap.dedent(text))
    script = folder / f"{name}.py"
    script.write_text(textwrap.dedent(source))
    return script
