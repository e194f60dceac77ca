"""Every settings file composes, and everything it sets is a parameter of what the entry passes it to.

An experiment (`configs/experiment/*.yaml`) belongs to train.yaml, unless the comment at its top has a line
`# entry: eval` (after `# @package _global_`, which hydra wants first). The same holds for the options of every
other group, which belong to all entries that have the group in their defaults.
"""

import ast
import importlib
import inspect
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from shared import config
from tests.source_tree import PROJECTS, REPOSITORY, called, entries, imports, tree


def configs_of(project: str) -> Path:
    return REPOSITORY / "projects" / project / "configs"


def read_yaml(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def entry_of(path: Path) -> str:
    """The entry that an experiment belongs to."""
    for line in path.read_text(encoding="utf-8").split("\n"):
        if line.startswith("# entry:"):
            return line.removeprefix("# entry:").strip()
        if not line.startswith("#"):
            break
    return "train"


@cache
def composed(project: str, entry: str, overrides: tuple[str, ...] = ()) -> DictConfig:
    """The settings of an entry; hydra takes a while for each."""
    return config.compose(REPOSITORY / "projects" / project, entry, overrides)


def training_entries(project: str) -> list[str]:
    """train, or train_<task> of a paper with several."""
    return [file.stem for file in entries(project) if file.stem.split("_")[0] == "train"]


def groups_of(project: str, entry: str) -> list[str]:
    """The groups in the defaults list of an entry's settings."""
    defaults = read_yaml(configs_of(project) / f"{entry}.yaml").get("defaults", [])
    groups = [key.split()[-1] for item in defaults if isinstance(item, dict) for key in item]
    return [group for group in groups if group not in ("hydra", "experiment") and "/" not in group]


def cases() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """(project, entry, overrides) of everything that must compose."""
    for project in PROJECTS:
        configs = configs_of(project)
        for file in entries(project):
            yield project, file.stem, ()
            for group in groups_of(project, file.stem):
                for path in sorted((configs / group).glob("*.yaml")):
                    yield project, file.stem, (f"{group}={path.stem}",)
        for path in sorted((configs / "experiment").rglob("*.yaml")):
            name = path.relative_to(configs / "experiment").with_suffix("").as_posix()
            yield project, entry_of(path), (f"experiment={name}",)


CASES = list(cases())
EXPERIMENTS = [case for case in CASES if any(text.startswith("experiment=") for text in case[2])]


@pytest.mark.parametrize(("project", "entry", "overrides"), CASES, ids=lambda part: str(part))
def test_composes_and_fits_what_the_entry_passes_it_to(
    project: str, entry: str, overrides: tuple[str, ...]
) -> None:
    cfg = composed(project, entry, overrides)
    settings = OmegaConf.to_container(cfg, resolve=True)  # every ${...} has a value
    assert isinstance(settings, dict)
    assert isinstance(settings["name"], str)
    assert settings["name"], "the run folder is runs/<name>"
    for section, function, given in passed_on(project, entry):
        assert fault_of_call(function, given, look_up(settings, section)) is None, ".".join(section)


@pytest.mark.parametrize("project", PROJECTS)
def test_every_experiment_has_a_run_folder_of_its_own(project: str) -> None:
    """Two with one name would be refused, or mixed up."""
    names: dict[str, str] = {}
    own = [case for case in EXPERIMENTS if case[0] == project]
    for _, entry, overrides in [*own, *((project, entry, ()) for entry in training_entries(project))]:
        cfg = composed(project, entry, overrides)
        label = " ".join([entry, *overrides])
        assert cfg.name not in names, f"{label} and {names[cfg.name]} both have the name {cfg.name!r}"
        names[cfg.name] = label


@pytest.mark.parametrize("project", PROJECTS)
def test_every_settings_file_belongs_to_an_entry(project: str) -> None:
    stems = {file.stem for file in entries(project)}
    for path in configs_of(project).glob("*.yaml"):
        assert path.stem in stems, f"{path.relative_to(REPOSITORY)}: no entry {path.stem}.py"
    for path in (configs_of(project) / "experiment").rglob("*.yaml"):
        assert entry_of(path) in stems, f"{path.relative_to(REPOSITORY)}: no entry {entry_of(path)}.py"


@pytest.mark.parametrize("project", PROJECTS)
def test_sections_that_are_keyword_arguments_are_followed(project: str) -> None:
    """The check of parameters must see where a section goes: an entry that hides it is not checked."""
    for file in entries(project):
        cfg = composed(project, file.stem)
        followed = {section[0] for section, _, _ in passed_on(project, file.stem)}
        assert "runtime" not in cfg or "runtime" in followed, f"{file}: runtime.start(**settings['runtime'])"
    assert training_entries(project), f"projects/{project}: no train*.py"
    for entry in training_entries(project):
        followed = {section[0] for section, _, _ in passed_on(project, entry)}
        assert {"runtime", "model"} <= followed, f"projects/{project}/{entry}.py passes on {sorted(followed)}"


@pytest.mark.parametrize("project", PROJECTS)
def test_every_setting_is_read(project: str) -> None:
    """A key that neither the entry nor a module it imports mentions does nothing, whatever the user sets."""
    for file in entries(project):
        settings = OmegaConf.to_container(composed(project, file.stem))
        assert isinstance(settings, dict)
        followed = {section[0] for section, _, _ in passed_on(project, file.stem)}
        known = words(REPOSITORY / file).union(*(words(module) for module in modules_of(REPOSITORY / file)))
        for key, value in settings.items():
            inner = value if isinstance(value, dict) and key not in followed else {}
            dead = [name for name in (key, *inner) if name not in known]
            assert not dead, f"configs/{file.stem}.yaml: nothing reads {key}: {', '.join(map(str, dead))}"


# --- where an entry passes its sections on


def passed_on(project: str, entry: str) -> list[tuple[tuple[str, ...], Any, set[str]]]:
    """(section, callee, the other keywords given) for each `f(..., **settings["section"])` of an entry."""
    path = REPOSITORY / "projects" / project / f"{entry}.py"
    found = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            sections = [_section(word.value) for word in node.keywords if word.arg is None]
            given = {word.arg for word in node.keywords if word.arg is not None}
            function = _resolve(path, called(node)) if any(sections) else None
            if function is not None:
                found += [(section, function, given) for section in sections if section]
    return found


def _section(node: ast.expr) -> tuple[str, ...] | None:
    """("a", "b") of `settings["a"]["b"]` and of `config.section(cfg.a.b)`."""
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        if isinstance(node.value, ast.Name):
            return (str(node.slice.value),) if node.value.id == "settings" else None
        before = _section(node.value)
        return (*before, str(node.slice.value)) if before else None
    if isinstance(node, ast.Call) and called(node) == "config.section" and len(node.args) == 1:
        name, *path = ast.unparse(node.args[0]).split(".")
        return tuple(path) if name == "cfg" and path else None
    return None


def _resolve(path: Path, name: str) -> Any:
    """The function or class that `name` means in the file at `path`, by its imports."""
    first, *rest = name.split(".")
    for one in imports(path):
        if (one.name or one.module) == first:
            found = importlib.import_module(one.module)
            if one.name:
                found = getattr(found, one.name, None) or importlib.import_module(one.full)
            for attribute in rest:
                found = getattr(found, attribute)
            return found
    return None


def words(path: Path) -> set[str]:
    """The texts, attributes and keywords in a file: what can name a setting."""
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.keyword | ast.arg) and node.arg:
            found.add(node.arg)
    return found


def modules_of(path: Path) -> list[Path]:
    """The files of this repository that a file imports."""
    names = {name for one in imports(path) for name in (one.module, one.full)}
    places = (REPOSITORY.joinpath(*name.split(".")).with_suffix(".py") for name in sorted(names))
    return [place for place in places if place.is_file()]


def look_up(settings: dict[str, Any], section: tuple[str, ...]) -> dict[str, Any]:
    node: Any = settings
    for key in section:
        node = node[key]
    return node or {}


def fault_of_call(function: Any, given: set[str], section: dict[str, Any]) -> str | None:
    """Why `function(..., **section)` would be refused, as far as its signature tells."""
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    names = {parameter.name for parameter in parameters}
    unknown = sorted(set(section) - names)
    twice = sorted(set(section) & given)
    missing = sorted(
        parameter.name
        for parameter in parameters
        if parameter.kind is parameter.KEYWORD_ONLY
        and parameter.default is parameter.empty
        and parameter.name not in given | set(section)
    )
    faults = {"no such parameter": unknown, "given twice": twice, "not given": missing}
    texts = [f"{what}: {', '.join(keys)}" for what, keys in faults.items() if keys]
    return f"{getattr(function, '__qualname__', function)}: {'; '.join(texts)}" if texts else None


def test_a_key_without_a_parameter_is_found() -> None:
    def build(first: int, *, size: int, depth: int = 1) -> None: ...

    assert fault_of_call(build, {"size"}, {"depth": 2}) is None
    assert fault_of_call(build, {"size"}, {"dept": 2}) == (f"{build.__qualname__}: no such parameter: dept")
    assert fault_of_call(build, set(), {"depth": 2}) == f"{build.__qualname__}: not given: size"
    assert fault_of_call(build, {"size"}, {"size": 2}) == f"{build.__qualname__}: given twice: size"


def test_sections_are_recognised() -> None:
    def section(text: str) -> tuple[str, ...] | None:
        return _section(ast.parse(text, mode="eval").body)

    assert section('settings["model"]') == ("model",)
    assert section('settings["model"]["gpo"]') == ("model", "gpo")
    assert section("config.section(cfg.model.gpo)") == ("model", "gpo")
    assert section("loading") is None
    assert section('other["model"]') is None


def test_the_experiments_entry_is_in_the_comment_at_its_top(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("# @package _global_\n# entry: eval\nname: x\n")
    assert entry_of(path) == "eval"
    path.write_text("# @package _global_\n# A row of the table.\nname: x\n# entry: eval\n")
    assert entry_of(path) == "train"


def test_a_wrong_reference_does_not_compose(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/train.yaml").write_text("name: x\nroot: ${data_rooot:}/x\n")
    cfg: DictConfig = config.compose(tmp_path, "train")
    with pytest.raises(Exception, match="Unsupported interpolation type"):
        OmegaConf.to_container(cfg, resolve=True)
