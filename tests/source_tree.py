"""What tests/test_layout.py and tests/test_configs.py know about the repository: files, imports, entries."""

import ast
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PROJECTS = sorted(path.parent.name for path in (REPOSITORY / "projects").glob("*/__init__.py"))


def files_of(*folders: str) -> list[Path]:
    """The Python files under folders of the repository, relative to it."""
    found = (path for folder in folders for path in (REPOSITORY / folder).rglob("*.py"))
    return sorted(path.relative_to(REPOSITORY) for path in found if "__pycache__" not in path.parts)


@functools.cache
def tree(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_bytes(), filename=str(path))


@functools.cache
def entries(project: str) -> tuple[Path, ...]:
    """The commands of a project: the scripts beside its configs that have an `@config.entry`."""
    candidates = (path for path in files_of(f"projects/{project}") if len(path.parts) == 3)
    return tuple(path for path in candidates if _entry_functions(REPOSITORY / path))


def _entry_functions(path: Path) -> list[ast.FunctionDef]:
    return [
        node
        for node in tree(path).body
        if isinstance(node, ast.FunctionDef)
        and any(isinstance(d, ast.Call) and called(d) == "config.entry" for d in node.decorator_list)
    ]


@dataclass(frozen=True)
class Import:
    """`import a.b`, or `from a.b import c`, whose name c may be a module as well."""

    module: str
    name: str | None
    line: int
    relative: bool

    def __str__(self) -> str:
        return f"line {self.line} imports {self.full}"

    @property
    def full(self) -> str:
        """`a.b.c` of `from a.b import c`."""
        return f"{self.module}.{self.name}" if self.name else self.module

    @property
    def top(self) -> str:
        """The first part of the module's name."""
        return self.module.split(".")[0]


@functools.cache
def imports(path: Path) -> Sequence[Import]:
    """Every import of a file, also those inside functions and by `importlib.import_module("...")`."""
    found = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, None, node.lineno, False) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [Import(node.module or "", a.name, node.lineno, node.level > 0) for a in node.names]
        elif isinstance(node, ast.Call) and called(node).split(".")[-1] in ("import_module", "__import__"):
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                found.append(Import(first.value, None, node.lineno, first.value.startswith(".")))
    return found


def called(node: ast.Call) -> str:
    """`np.load` of `np.load(...)`."""
    return ast.unparse(node.func)
