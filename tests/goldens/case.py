"""One golden case: what is called, on which deterministic weights and inputs, and how close it must come."""

import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from tests.goldens import fill

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Case:
    """A row of cases.yaml together with the folder that holds its files."""

    data: Mapping[str, Any]
    root: Path

    @property
    def seed(self) -> int:
        """Seed of the deterministic weights and inputs."""
        return int(self.data.get("seed", 0))

    def path(self, name: str) -> Path:
        """File of the golden folder."""
        return self.root / name

    def npz(self, name: str | None = None) -> dict[str, np.ndarray]:
        """Arrays of an npz file (of the case's own `file` by default)."""
        with np.load(self.path(name or self.data["file"]), allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}

    def json(self, name: str | None = None) -> Any:
        """Content of a JSON file (of the case's own `file` by default)."""
        return json.loads(self.path(name or self.data["file"]).read_text(encoding="utf-8"))

    def weights(self, manifest: str | None = None) -> dict[str, torch.Tensor]:
        """State dict of a manifest, filled with the case's seed."""
        filled = fill.state_dict(self.path(manifest or self.data["manifest"]), seed=self.seed)
        return {name: torch.from_numpy(value) for name, value in filled.items()}

    def input(self, name: str, shape: tuple[int, ...], *, kind: str = "normal", high: int = 0) -> np.ndarray:
        """Deterministic input array."""
        return fill.inputs(name, tuple(shape), seed=self.seed, kind=kind, high=high)

    def close(
        self,
        actual: Any,
        expected: Any,
        *,
        of_max: bool = False,
        rtol: float | None = None,
        atol: float | None = None,
        what: str = "",
    ) -> None:
        """Assert closeness at the case's tolerance; `of_max` reads rtol as a share of max|expected|."""
        if isinstance(actual, torch.Tensor):
            actual = actual.detach().cpu().numpy()
        actual, expected = np.asarray(actual), np.asarray(expected)
        rtol = float(self.data.get("rtol", 0.0)) if rtol is None else rtol
        atol = float(self.data.get("atol", 0.0)) if atol is None else atol
        if of_max:
            rtol, atol = 0.0, atol + rtol * float(np.abs(expected).max(initial=0.0))
        label = f"{self.data['name']} {what}".strip()
        np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol, err_msg=label)


def read_cases(paper: str, calls: Collection[str]) -> list[Case]:
    """Every row of the paper's `cases.yaml`: `tests/goldens/<paper>`, or with `GOLDENS=<root>` another set.

    That root holds a folder per paper, or is itself the folder of one: of the paper that knows all its `calls`.
    """
    root = Path(os.environ.get("GOLDENS") or HERE)
    if (root / paper).is_dir():
        root = root / paper
    elif not (root / "cases.yaml").is_file():
        return []
    rows = yaml.safe_load((root / "cases.yaml").read_text(encoding="utf-8"))
    if root.name != paper and not all(row["call"] in calls for row in rows):
        return []
    return [Case(row, root) for row in rows]


def unused_files(cases: Sequence[Case]) -> list[str]:
    """Files of the golden folder that no case names: each would be a case left out."""
    named = {text.rstrip("/") for case in cases for text in _strings(case.data) if text}
    unused = []
    for root in {case.root for case in cases}:
        for path in sorted(root.rglob("*")):
            relative = path.relative_to(root)
            places = {relative.as_posix(), *(parent.as_posix() for parent in relative.parents)}
            if path.is_file() and relative.name not in {"README.md", "cases.yaml"} and not named & places:
                unused.append(relative.as_posix())
    return unused


def _strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for item in value.values() for text in _strings(item)]
    if isinstance(value, list):
        return [text for item in value for text in _strings(item)]
    return []
