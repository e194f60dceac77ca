"""One golden case: what is called, on which deterministic weights and inputs, and how close it must come."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from tests.goldens import fill

PAPER = "vseinfty"


def goldens_root(paper: str = PAPER) -> Path:
    """Folder with `cases.yaml` and its files; `GOLDENS=<root>` names another set of cases (`<root>/<paper>`)."""
    root = Path(os.environ.get("GOLDENS") or Path(__file__).parents[1] / "goldens")
    return root / paper if (root / paper).is_dir() else root


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


def read_cases(root: Path) -> list[Case]:
    """Every row of `cases.yaml` under the root."""
    rows = yaml.safe_load((root / "cases.yaml").read_text(encoding="utf-8"))
    return [Case(row, root) for row in rows]
