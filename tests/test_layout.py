"""The rules of the house that a machine can check: who imports whom, names, sizes, pins, trust.

Why no file may have the name of another module: `python train.py` puts the project's folder first on the
path, so that a `logging.py` there would be imported in place of the standard library's by everything that is
imported before `shared.config.entry` takes the folder off the path again.
"""

import ast
import functools
import re
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

import pytest

from tests.source_tree import PROJECTS, REPOSITORY, called, entries, files_of, imports, tree

SOURCES = files_of("shared", "projects", "scripts")
OURS = {"shared", "projects", "scripts", "tests"}
# what shared/ may build on: torch, numpy, and libraries for files, settings and terminals
SHARED_BUILDS_ON = {"torch", "numpy", "PIL", "cv2", "yaml", "hydra", "omegaconf", "ijson", "lmdb", "h5py"}
SHARED_BUILDS_ON |= {"tensorboard", "tqdm", "matplotlib", "jinja2", "markupsafe", "embreex"}
TRAIN = f"projects/{PROJECTS[0]}/train.py"  # an entry
MAX_LINES = 400
MAX_FUNCTION_LINES = 80
Rule = Callable[[Path, Path], list[str]]


# A rule takes a file (relative to the root) and the root, and says what is wrong.


def absolute_imports(file: Path, root: Path) -> list[str]:
    """Relative imports break when a file is run as a script."""
    return [str(one) for one in imports(root / file) if one.relative]


def shared_is_below_the_projects(file: Path, root: Path) -> list[str]:
    """shared/ imports torch, numpy and file libraries, never projects, and names none."""
    if file.parts[0] != "shared":
        return []
    allowed = sys.stdlib_module_names | SHARED_BUILDS_ON | {"shared"}
    text = (root / file).read_text(encoding="utf-8").lower()
    return [
        *(str(one) for one in imports(root / file) if one.top not in allowed),
        *(f"names the project {name}" for name in PROJECTS if name in text),
    ]


def a_project_knows_itself(file: Path, root: Path) -> list[str]:
    """A project imports shared/ and itself: no other project, no script, no test."""
    if file.parts[0] != "projects" or len(file.parts) < 3:
        return []
    own = f"projects.{file.parts[1]}."
    foreign = (one for one in imports(root / file) if one.top in OURS - {"shared"})
    return [str(one) for one in foreign if not f"{one.full}.".startswith(own)]


def nobody_imports_an_entry(file: Path, root: Path) -> list[str]:
    """Entries are run, not imported; what two need is a module. (A test may import one to run it.)"""
    scripts = {".".join(path.with_suffix("").parts) for project in PROJECTS for path in entries(project)}
    return [str(one) for one in imports(root / file) if {one.module, one.full} & scripts]


def own_modules_by_their_full_name(file: Path, root: Path) -> list[str]:
    """`import model` beside model.py works by accident, and makes a second copy of projects.x.model."""
    beside = {path.stem for path in (root / file).parent.glob("*.py")} - sys.stdlib_module_names - OURS
    return [str(one) for one in imports(root / file) if one.top in beside and not one.relative]


def the_config_ends_at_the_entry(file: Path, root: Path) -> list[str]:
    """Only shared/config.py knows hydra; an entry names DictConfig in its signature; nobody else anything."""
    if file == Path("shared/config.py"):
        return []
    allowed = {"omegaconf.DictConfig"} if any(file in entries(name) for name in PROJECTS) else set()
    found = (one for one in imports(root / file) if one.top in ("hydra", "omegaconf"))
    return [str(one) for one in found if one.full not in allowed]


def no_name_hides_a_module(file: Path, root: Path) -> list[str]:
    """Where scripts are run from, no file is named like a module that can be imported."""
    if file.parts[0] == "shared" or len(file.parts) > 3 or file.name == "__init__.py":
        return []  # nothing is run from there
    found = []
    if file.stem in sys.stdlib_module_names:
        found.append("hides a module of the standard library")
    if file.stem in _installed():
        found.append("hides an installed package")
    return found


@functools.cache
def _installed() -> set[str]:
    return {name for name in packages_distributions() if name not in OURS} | OURS


NEVER = {
    "pickle.load": "executes what the file says: shared.untrusted",
    "pickle.loads": "executes what the file says: shared.untrusted",
    "pickle.Unpickler": "executes what the file says: shared.untrusted",
    "eval": "executes data",
    "exec": "executes data",
    "yaml.load": "executes data: yaml.safe_load",
    "yaml.unsafe_load": "executes data: yaml.safe_load",
    "os.system": "a shell: subprocess.run with a list",
    "tempfile.mktemp": "a race: shared.files.atomic_write",
}


def no_file_is_trusted(file: Path, root: Path) -> list[str]:
    """Nothing that is read is executed, and no archive says where it is unpacked."""
    found = []
    for node in ast.walk(tree(root / file)):
        if not isinstance(node, ast.Call):
            continue
        name = called(node)
        options = {word.arg: word.value for word in node.keywords}
        faults = [NEVER[name]] if name in NEVER else []
        if _is_true(options.get("allow_pickle")):
            faults.append("allow_pickle executes what the file says: shared.untrusted")
        if name == "torch.load" and not _is_true(options.get("weights_only")):
            faults.append("without weights_only=True")
        if name.endswith(".extractall") and "filter" not in options:
            faults.append("without a filter, an archive may write anywhere")
        if _is_true(options.get("shell")):
            faults.append("shell=True")
        found += [f"line {node.lineno} {name}: {fault}" for fault in faults]
    return found


def _is_true(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def small_files_and_functions(file: Path, root: Path) -> list[str]:
    """One file, one subject."""
    lines = (root / file).read_text(encoding="utf-8").count("\n")
    found = [f"{lines} lines, at most {MAX_LINES}"] if lines > MAX_LINES else []
    for node in ast.walk(tree(root / file)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                found.append(f"line {node.lineno} {node.name}: {length} lines, at most {MAX_FUNCTION_LINES}")
    return found


RULES: list[Rule] = [
    absolute_imports,
    shared_is_below_the_projects,
    a_project_knows_itself,
    nobody_imports_an_entry,
    own_modules_by_their_full_name,
    the_config_ends_at_the_entry,
    no_name_hides_a_module,
    no_file_is_trusted,
    small_files_and_functions,
]
ALSO_FOR_TESTS: list[Rule] = [absolute_imports]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule(rule: Rule) -> None:
    files = [*SOURCES, *files_of("tests")] if rule in ALSO_FOR_TESTS else SOURCES
    wrong = [f"{file}: {fault}" for file in files for fault in rule(file, REPOSITORY)]
    assert not wrong, "\n".join([rule.__doc__ or "", *wrong])


def test_there_is_something_to_check() -> None:
    assert PROJECTS
    assert {path.parts[0] for path in SOURCES} >= {"shared", "projects"}
    assert all(entries(project) for project in PROJECTS)


@pytest.mark.parametrize(
    ("rule", "file", "source"),
    [
        (absolute_imports, "projects/a/x.py", "from . import model"),
        (absolute_imports, "projects/a/x.py", "def f():\n    from .model import x"),
        (shared_is_below_the_projects, "shared/x.py", "def f():\n    import projects.a.model"),
        (shared_is_below_the_projects, "shared/x.py", "import transformers"),
        (shared_is_below_the_projects, "shared/x.py", "importlib.import_module('projects')"),
        (shared_is_below_the_projects, "shared/x.py", f"# for {PROJECTS[0].upper()} only"),
        (a_project_knows_itself, "projects/a/x.py", "from projects.b.model import x"),
        (a_project_knows_itself, "projects/a/x.py", "from projects.ab import x"),
        (a_project_knows_itself, "projects/a/x.py", "from projects import b"),
        (a_project_knows_itself, "projects/a/x.py", "import tests.conftest"),
        (nobody_imports_an_entry, "scripts/x.py", f"from projects.{PROJECTS[0]} import train"),
        (nobody_imports_an_entry, "scripts/x.py", f"import projects.{PROJECTS[0]}.train"),
        (own_modules_by_their_full_name, "projects/a/x.py", "import x"),
        (the_config_ends_at_the_entry, "projects/a/x.py", "import hydra"),
        (the_config_ends_at_the_entry, "projects/a/x.py", "from omegaconf import DictConfig"),
        (the_config_ends_at_the_entry, TRAIN, "from omegaconf import OmegaConf"),
        (no_name_hides_a_module, "projects/a/logging.py", ""),
        (no_name_hides_a_module, "projects/a/torch.py", ""),
        (no_name_hides_a_module, "scripts/shared.py", ""),
        (no_file_is_trusted, "shared/x.py", "np.load('x', allow_pickle=True)"),
        (no_file_is_trusted, "shared/x.py", "torch.load('x')"),
        (no_file_is_trusted, "shared/x.py", "torch.load('x', weights_only=False)"),
        (no_file_is_trusted, "shared/x.py", "tarfile.open('x').extractall()"),
        (no_file_is_trusted, "shared/x.py", "pickle.load(open('x'))"),
        (no_file_is_trusted, "shared/x.py", "eval('1')"),
        (no_file_is_trusted, "shared/x.py", "subprocess.run('ls', shell=True)"),
        (small_files_and_functions, "shared/x.py", "x = 1\n" * 401),
        (small_files_and_functions, "shared/x.py", "def f():\n" + "    x = 1\n" * 80),
    ],
)
def test_a_broken_rule_is_found(tmp_path: Path, rule: Rule, file: str, source: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(source)
    assert rule(Path(file), tmp_path)


@pytest.mark.parametrize(
    ("rule", "file", "source"),
    [
        (a_project_knows_itself, "projects/a/x.py", "from projects.a import model\nimport projects.a.losses"),
        (the_config_ends_at_the_entry, TRAIN, "from omegaconf import DictConfig"),
        (no_file_is_trusted, "shared/x.py", "model.eval()\ntorch.load('x', weights_only=True)"),
        (no_name_hides_a_module, "projects/a/pooling.py", ""),
        (small_files_and_functions, "shared/x.py", "x = 1\n" * 400),
    ],
)
def test_what_is_allowed(tmp_path: Path, rule: Rule, file: str, source: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(source)
    assert not rule(Path(file), tmp_path)


# --- pins


def read_pins(path: Path) -> dict[str, str]:
    """name -> version of a requirements file in which every line is an exact pin."""
    assert path.is_file(), f"{path} is missing"
    pins = {}
    for number, raw in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        line = raw.split("#")[0].strip()
        if line:
            match = re.fullmatch(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;*]+)(?:\s*;.*)?", line)
            assert match, f"{path}:{number}: expected name==version, found {line!r}"
            pins[re.sub(r"[-_.]+", "-", match[1]).lower()] = match[2]
    return pins


@pytest.mark.parametrize("project", PROJECTS)
def test_pins_are_those_of_the_repository_and_installed(project: str) -> None:
    """Unequal pins cannot be installed together; other versions than the pinned ones were not tested."""
    constraints = read_pins(REPOSITORY / "constraints.txt")
    file = f"projects/{project}/requirements.txt"
    for name, pinned in read_pins(REPOSITORY / file).items():
        assert constraints.get(name) == pinned, (
            f"{file}: {name}=={pinned}, constraints.txt: {constraints.get(name)}"
        )
        try:
            installed = version(name).split("+")[0]
        except PackageNotFoundError:
            installed = "not installed"
        assert installed == pinned.split("+")[0], f"{file}: {name}=={pinned}, here: {installed}"


def test_a_loose_pin_is_found(tmp_path: Path) -> None:
    path = tmp_path / "requirements.txt"
    path.write_text("# a comment\nScikit_Learn==1.7.0  # why\ntorch[x]==2.14.1\n")
    assert read_pins(path) == {"scikit-learn": "1.7.0", "torch": "2.14.1"}
    for line in ("torch>=2", "torch", "torch==2.*", "-e ../..", "git+https://example.org/x"):
        path.write_text(line)
        with pytest.raises(AssertionError, match="expected name==version"):
            read_pins(path)


# --- one way to do it


def test_hydra_settings_are_the_same_in_every_project() -> None:
    texts = {}
    for project in PROJECTS:
        path = REPOSITORY / f"projects/{project}/configs/hydra/default.yaml"
        assert path.is_file(), f"{path} is missing: copy it from another project"
        texts[project] = path.read_text(encoding="utf-8")
    assert len(set(texts.values())) == 1, f"configs/hydra/default.yaml differs among {sorted(texts)}"


@pytest.mark.parametrize("project", PROJECTS)
def test_every_entry_has_its_config_and_says_what_it_does(project: str) -> None:
    for file in entries(project):
        config = f"projects/{project}/configs/{file.stem}.yaml"
        assert (REPOSITORY / config).is_file(), f"{file}: no {config}"
        assert ast.get_docstring(tree(REPOSITORY / file)), f"{file}: the docstring is the user's first help"
