"""Plain YAML taken apart with checks; a mistake is one line: the file, the place, what was expected."""

from pathlib import Path
from typing import Any

from shared.errors import InputError


class Checks:
    """Checks on the nodes of one file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def fail(self, where: str, message: str) -> InputError:
        """The error to raise."""
        return InputError(f"{self.file}: {where}: {message}")

    def mapping(self, node: Any, where: str, allowed: str, required: str = "") -> dict[str, Any]:
        """`node` as a dict that holds only `allowed` + `required` keys, and all of the required ones."""
        if not isinstance(node, dict):
            raise self.fail(where, f"expected a mapping, found {type(node).__name__}")
        unknown = sorted(str(key) for key in set(node) - set(allowed.split()) - set(required.split()))
        if unknown:
            raise self.fail(where, f"unknown key {unknown[0]!r}, expected one of: {required} {allowed}")
        missing = [key for key in required.split() if key not in node]
        if missing:
            raise self.fail(where, f"the key {missing[0]!r} is missing")
        return node

    def items(self, node: Any, where: str) -> list[Any]:
        """`node` as a list; nothing is an empty one."""
        if node is None:
            return []
        if not isinstance(node, list):
            raise self.fail(where, f"expected a list, found {type(node).__name__}")
        return node

    def number(self, node: Any, where: str) -> float:
        """`node` as a number."""
        try:
            if isinstance(node, bool):
                raise ValueError
            return float(node)  # YAML reads 1e-3 as text
        except (TypeError, ValueError):
            raise self.fail(where, f"expected a number, found {node!r}") from None
