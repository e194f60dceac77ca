"""A stand-in for the package ai2thor: one room, a camera that turns, in the terms of its documentation."""

import sys
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

SIDE = 48
COLOURS = {
    (1, 2, 3): "Fridge|1",
    (4, 5, 6): "Chair|2",
    (7, 8, 9): "Wall|3",
    (9, 9, 9): "Mug|4",
    (3, 0, 0): "New|9",
}


class Controller:
    """Answers the actions that the simulator uses; keeps what it was told in `Controller.told`."""

    told: ClassVar[list[dict[str, Any]]] = []
    bad_looks = 1  # the first so many show nothing but the wall

    def __init__(self, **settings: Any) -> None:
        type(self).told = [settings]
        self.looks = 0

    def reset(self, scene: str) -> None:
        self.told.append({"scene": scene})

    def step(self, action: str, **given: Any) -> SimpleNamespace:
        self.told.append({"action": action, **given})
        if action == "GetReachablePositions":
            return SimpleNamespace(metadata={"actionReturn": [{"x": 0.0, "y": 0.9, "z": 0.0}]})
        self.looks += action == "Teleport"
        return self._event(bright=action.startswith("Randomize"))

    def stop(self) -> None:
        self.told.append({"stopped": True})

    def _event(self, *, bright: bool) -> SimpleNamespace:
        names = list(COLOURS)
        picture = np.zeros((SIDE, SIDE, 3), np.uint8)
        bands = [names[2]] if self.looks <= self.bad_looks else names
        for row, band in enumerate(np.array_split(np.arange(SIDE), len(bands))):
            picture[band] = bands[row]
        objects = [
            {"objectId": "Fridge|1", "salientMaterials": ["Metal"], "parentReceptacles": None},
            {"objectId": "Mug|4", "salientMaterials": None, "parentReceptacles": ["Fridge|1"]},
        ]
        return SimpleNamespace(
            frame=np.full((SIDE, SIDE, 3), 200 if bright else 100, np.uint8),
            depth_frame=np.full((SIDE, SIDE), 3.0, np.float32),
            instance_segmentation_frame=picture,
            color_to_object_id={**COLOURS, (200, 0, 0): "NotInThePicture|5"},
            metadata={
                "cameraPosition": {"x": 0.0, "y": 0.9, "z": 0.0},
                "agent": {"rotation": {"x": 0.0, "y": 0.0, "z": 0.0}, "cameraHorizon": 0.0},
                "objects": objects,
                "lastActionSuccess": True,
            },
        )


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `from ai2thor.controller import Controller` find the one above."""
    package, module = types.ModuleType("ai2thor"), types.ModuleType("ai2thor.controller")
    module.Controller = Controller  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ai2thor", package)
    monkeypatch.setitem(sys.modules, "ai2thor.controller", module)


def export_room(folder: Path, room: str, **changes: Any) -> Path:
    """The points of the room round the camera, as exported."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 5, 3000)
    fields = {
        "full_xyz_pts": rng.uniform([-2, -1, 1], [2, 3, 5], (3000, 3)),
        "full_objid_pts": ids,
        "objids": np.array(["Fridge|1", "Chair|2", "Wall|3", "Mug|4", "empty"]),
        "objid_to_class": np.array(["fridge[0]", "chair[1]", "wall[2]", "mug[3]", "empty[4]"]),
    }
    folder.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in (fields | changes).items() if value is not None}
    np.savez(folder / f"{room}.npz", **kept)
    return folder
