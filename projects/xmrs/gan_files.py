"""Files of the released GAN scripts, read and written.

| file | holds |
|---|---|
| training_options.json | the settings under the released flags' names |
| trace_GAN.csv | epoch, lr, I2R (median rank), R@1, R@5, R@10 of each validation |
| model_e%03d_v1.pkl, model_e%03d_v2.pkl | generator and discriminator: state dicts whose keys begin `module.` |

Of the models, that of the best epoch is kept, `_last_epoch` ones, and `_regular_check_point` ones.
"""

import csv
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from projects.xmrs import discriminator, generator
from projects.xmrs.discriminator import Discriminator
from projects.xmrs.generator import Generator
from shared import checkpoint, files
from shared.errors import InputError
from shared.untrusted import load_checkpoint

PREFIX = "module."
OPTIONS, TRACE = "training_options.json", "trace_GAN.csv"
TRACE_HEADER = ("epoch", "lr", "I2R", "R@1", "R@5", "R@10")
GENERATOR, DISCRIMINATOR = "v1", "v2"
LAST, REGULAR = "_last_epoch", "_regular_check_point"
_NAME = re.compile(r"model_e(\d+)_(v[12])(_last_epoch|_regular_check_point)?\.pkl")


def model_name(epoch: int, which: str, ending: str = "") -> str:
    """File name of a network after `epoch` (from 1); which: GENERATOR or DISCRIMINATOR."""
    return f"model_e{epoch:03d}_{which}{ending}.pkl"


def save_models(
    folder: Path, epoch: int, made: Generator, judge: Discriminator, *, ending: str = "", only: bool = False
) -> None:
    """Write both networks of an epoch; only: and remove those of other epochs with this ending."""
    for which, network in ((GENERATOR, made), (DISCRIMINATOR, judge)):
        state = OrderedDict(
            (PREFIX + key, value.detach().cpu().contiguous()) for key, value in network.state_dict().items()
        )
        with files.atomic_write(folder / model_name(epoch, which, ending)) as file:
            torch.save(state, file)
    kept = {model_name(epoch, which, ending) for which in (GENERATOR, DISCRIMINATOR)}
    for path in folder.glob("model_e*.pkl") if only else ():
        match = _NAME.fullmatch(path.name)
        if match and (match[3] or "") == ending and path.name not in kept:
            path.unlink(missing_ok=True)


def write_trace(folder: Path, rows: Sequence[Sequence[float]]) -> None:
    """Write trace_GAN.csv anew."""
    with files.atomic_write(folder / TRACE, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(TRACE_HEADER)
        writer.writerows(rows)


def read_trace(folder: Path) -> list[dict[str, float]]:
    """The rows of trace_GAN.csv, ours or of the released code. InputError for another layout or no numbers."""
    path = folder / TRACE
    lines = [line for line in files.read_lines(path) if line.strip()]
    if not lines or tuple(cell.strip() for cell in lines[0].split(",")) != TRACE_HEADER:
        raise InputError(f"{path}:1: expected the columns {','.join(TRACE_HEADER)}")
    rows = []
    for number, line in enumerate(lines[1:], 2):
        try:
            values = [float(cell) for cell in line.split(",")]
            rows.append(dict(zip(TRACE_HEADER, values, strict=True)))
        except ValueError:
            raise InputError(
                f"{path}:{number}: expected {len(TRACE_HEADER)} numbers, found {line!r}"
            ) from None
    return rows


def write_options(folder: Path, options: Mapping[str, Any]) -> None:
    """Write training_options.json."""
    files.write_json(folder / OPTIONS, dict(options))


def read_options(folder: Path) -> dict[str, Any]:
    """training_options.json of a folder; {} without one. InputError when it is not an object."""
    path = folder / OPTIONS
    if not path.exists():
        return {}
    found = files.read_json(path)
    if not isinstance(found, dict):
        raise InputError(f"{path}: expected the training options, found {type(found).__name__}")
    return found


def load_generator(path: str | Path, *, device: torch.device | str = "cpu") -> Generator:
    """A trained generator in evaluation mode.

    Args:
        path: a run folder of gan_train.py, its best.pt or last.pt, a released folder (its best epoch's
            model), or a model_e%03d_v1.pkl. Sizes are read off the weights.

    Raises:
        InputError: no such file, not a generator's, or weights that do not fit each other.
    """
    file = find_model(Path(path).expanduser(), GENERATOR)
    state = _state(file, "generator")
    made = Generator(**_settings(generator.settings_of, state, file, "generator"))
    return _filled(made, state, file).to(device)


def load_discriminator(path: str | Path, *, device: torch.device | str = "cpu") -> Discriminator:
    """A trained discriminator in evaluation mode; see `load_generator`."""
    file = find_model(Path(path).expanduser(), DISCRIMINATOR)
    state = _state(file, "discriminator")
    judge = Discriminator(**_settings(discriminator.settings_of, state, file, "discriminator"))
    return _filled(judge, state, file).to(device)


def find_model(path: Path, which: str = GENERATOR) -> Path:
    """The file with the weights that `path` stands for (see `load_generator`)."""
    if not path.is_dir():
        if not path.is_file():
            raise InputError(f"{path}: no such file or run folder of gan_train.py")
        return path
    for name in (checkpoint.BEST, checkpoint.LAST):
        if (path / name).is_file():
            return path / name
    released = [(match, file) for file in path.iterdir() if (match := _NAME.fullmatch(file.name))]
    ours = [(match[3] or "", int(match[1]), file) for match, file in released if match[2] == which]
    for ending in ("", LAST, REGULAR):
        of_ending = [(epoch, file) for found, epoch, file in ours if found == ending]
        if of_ending:
            return max(of_ending)[1]
    raise InputError(f"{path}: no generator in this folder (best.pt, last.pt or model_eNNN_{which}.pkl)")


def load_weights(network: nn.Module, path: str | Path, which: str, *, name: str) -> None:
    """Load a file's weights into a network that is there (starting point of a training)."""
    file = find_model(Path(path).expanduser(), which)
    _filled(network, _state(file, name), file)


def _state(file: Path, name: str) -> dict[str, Tensor]:
    """The state dict of the network `name` in one of our checkpoints or a released file."""
    content = load_checkpoint(file)
    if isinstance(content, Mapping) and isinstance(content.get("modules"), Mapping):
        content = content["modules"].get(name)
    if not isinstance(content, Mapping) or not content:
        raise InputError(f"{file}: expected the state dict of a {name}, found {type(content).__name__}")
    for key, value in content.items():
        if not isinstance(value, Tensor):
            raise InputError(f"{file}: {key}: expected a tensor, found {type(value).__name__}")
    return {str(key).removeprefix(PREFIX): value for key, value in content.items()}


def _settings(read: Any, state: dict[str, Tensor], file: Path, name: str) -> dict[str, int]:
    try:
        found: dict[str, int] = read(state)
    except (KeyError, IndexError):
        raise InputError(
            f"{file}: not a {name}: expected tensors such as {_expected(name)}, found {', '.join(list(state)[:3])}"
        ) from None
    return found


def _expected(name: str) -> str:
    return "ca_net.fc.weight" if name == "generator" else "img_code_s16.0.weight"


def _filled(network: Any, state: dict[str, Tensor], file: Path) -> Any:
    counters = tuple(key for key in network.state_dict() if key.endswith("num_batches_tracked"))
    checkpoint.load_strictly(network, state, source=str(file), allow_missing=counters)
    return network.eval()
