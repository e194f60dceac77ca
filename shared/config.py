"""Settings from YAML files and the command line. The only file that knows hydra.

An entry reads

    @config.entry(__file__)
    def main(cfg: DictConfig) -> None:
        model = build_model(**config.section(cfg.model))

and takes its settings from `configs/<name of the entry>.yaml` beside it. Below the entry there are keyword
arguments only. What a user can mend ends in one line on stderr and exit code 2, everything else in a
traceback.

The folder of a running script is the first place where Python looks for modules, so that a project's
`metrics.py` could hide somebody's `metrics` package. `entry` therefore takes that folder off the path, before
anything is imported lazily, and `tests/test_layout.py` refuses file names that hide a module imported
earlier.
"""

import difflib
import errno
import functools
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from shared.errors import InputError

REPOSITORY = Path(__file__).resolve().parents[1]
TRACEBACK = "WORDSIGHT_TRACEBACK"
_GRACE = 30.0  # seconds
HYDRA_VERSION = "1.3"  # of the behaviour, not of the package: the working folder stays as it is

# what the disk or the rights refuse while writing; other OSErrors are faults of the program
_REFUSED = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
}


def entry(
    file: str, config_name: str | None = None
) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """Make `main(cfg)` a command: settings from `configs/<config_name or stem of file>.yaml` beside `file`,
    overrides
    from the command line, `-m` for sweeps.

    Exit codes: 0, 2 with one line `error: ...` (InputError, a setting that does not exist or fit, a full or
    read-only disk), 130 (interrupted), 1 with a traceback (a fault of the program). Under torchrun one rank
    speaks for all. With WORDSIGHT_TRACEBACK=1 in the environment every error keeps its traceback.
    """
    script = Path(file).resolve()
    name = config_name or script.stem

    def decorate(main: Callable[[DictConfig], None]) -> Callable[[], None]:
        sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != script.parent]

        @functools.wraps(main)
        def guarded(cfg: DictConfig) -> None:
            # hydra prints a line of its own for an Exception that leaves here, but lets SystemExit pass
            with _one_line_for_errors(script, name), _no_empty_run_folder():
                main(cfg)

        @functools.wraps(main)
        def command() -> None:
            register_resolvers(script.parent)
            settings = {"config_path": str(script.parent / "configs"), "config_name": name}
            with _one_line_for_errors(script, name), _hydra_raises():
                hydra.main(version_base=HYDRA_VERSION, **settings)(guarded)()

        return command

    return decorate


def register_resolvers(project_dir: Path) -> None:
    """Define `${project_dir:}` and `${data_root:}` (WORDSIGHT_DATA, else `data` in the repository) for YAML
    files.
    """
    OmegaConf.register_new_resolver("project_dir", lambda: str(project_dir), replace=True)
    OmegaConf.register_new_resolver("data_root", lambda: str(data_root()), replace=True)


def data_root() -> Path:
    """The folder of all data sets: WORDSIGHT_DATA, else `data` in the repository."""
    return Path(os.environ.get("WORDSIGHT_DATA") or REPOSITORY / "data").expanduser().absolute()


def compose(project_dir: Path, config_name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """The settings that an entry of `project_dir` would get, without running it; for tests and tools."""
    register_resolvers(project_dir)
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(project_dir.resolve() / "configs"), version_base=HYDRA_VERSION):
        return hydra.compose(config_name, list(overrides))


def section(node: DictConfig | None) -> dict[str, Any]:
    """A part of the settings as a plain dict with all references resolved, for `**kwargs`; None gives {}."""
    if node is None:
        return {}
    if not OmegaConf.is_dict(node):
        raise InputError(f"{node}: expected a group of settings (group.key=value on the command line)")
    plain = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def run_dir() -> Path:
    """The folder of the run that is going on: `runs/<name>` in the project. Only inside an entry."""
    return Path(HydraConfig.get().runtime.output_dir)


@contextmanager
def _no_empty_run_folder() -> Iterator[None]:
    """Hydra makes the run folder before the entry starts: a run that wrote nothing leaves none behind."""
    try:
        yield
    finally:
        with suppress(OSError):
            run_dir().rmdir()


@contextmanager
def _hydra_raises() -> Iterator[None]:
    """Let hydra's errors through, which it otherwise prints in its own way before it exits with 1."""
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before


@contextmanager
def _one_line_for_errors(script: Path, config_name: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        _fail("interrupted: the same command goes on from the last checkpoint", 130, _speaks())
    except Exception as error:
        line = _line(error, script, config_name)
        if line is None or os.environ.get(TRACEBACK):
            raise
        _fail(f"error: {line}", 2, _speaks(error))


def _speaks(error: BaseException | None = None) -> bool:
    """Whether this rank prints: the first rank that failed (`shared.runtime.start` tells), else rank 0.

    torchrun ends all ranks as soon as one leaves, so a silent one first lets the other speak. Where nobody told
    who was first (before the ranks have met) and this rank is still here then, the failure is its own alone.
    """
    first: bool | None = getattr(error, "first_of_ranks", None)
    speaks = os.environ.get("RANK", "0") == "0" if first is None else first
    if speaks or "TORCHELASTIC_RUN_ID" not in os.environ:
        return speaks
    time.sleep(_GRACE)
    return first is None


def _fail(line: str, code: int, speaks: bool) -> None:
    if speaks:
        sys.stdout.flush()
        print(line, file=sys.stderr, flush=True)
    raise SystemExit(code)


def _line(error: Exception, script: Path, config_name: str) -> str | None:
    """What to tell the user, in one line; None for an error that is the program's fault."""
    if isinstance(error, InputError):
        return " ".join(str(error).split("\n"))
    if isinstance(error, OSError) and error.errno in _REFUSED:
        where = f"{error.filename2 or error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    if isinstance(error, yaml.YAMLError):
        return " ".join(str(error).split())
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _config_error(error, script, config_name)
    return None


def _config_error(error: Exception, script: Path, config_name: str) -> str:
    """Hydra's text without its advice and search path; its cause; for a typo the nearest setting."""
    whole = str(error)
    unknown = re.search(r"Could not (?:override|delete from config)[^']*'([^'=]+)", whole)
    if unknown:
        near = difflib.get_close_matches(unknown[1], _known_keys(script, config_name), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"{unknown[1]}: no such setting in configs/{config_name}.yaml{hint}"
    text = re.sub(r"^In '[^']+': ", "", whole.strip().split("\n")[0].strip()).rstrip(".")
    if isinstance(error, OverrideParseException):
        return f"{error.override}: not of the form setting=value ({text}); put a value with signs in quotes"
    if text.startswith("Ambiguous value"):
        return f"{text}: a list is written [1,2], a text in quotes, a sweep with -m"
    options = re.search(r"Available options in '[^']+':\n((?:\t\S+\n?)*)", whole)
    if options:
        text = f"{text}; there are: {', '.join(options[1].split()) or 'none'}"
    key = re.search(r"full_key: (\S+)", whole)
    return f"{key[1]}: {text}" if key and key[1] not in text else text


def _known_keys(script: Path, config_name: str) -> list[str]:
    with suppress(Exception):
        keys: list[str] = []
        nodes: list[tuple[str, Any]] = [("", OmegaConf.to_container(compose(script.parent, config_name)))]
        while nodes:
            prefix, node = nodes.pop()
            for key, child in node.items() if isinstance(node, dict) else ():
                keys.append(f"{prefix}{key}")
                nodes.append((f"{prefix}{key}.", child))
        return keys
    return []
