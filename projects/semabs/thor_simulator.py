"""AI2-THOR as a simulator (optional: `pip install ai2thor`, and the authors' Unity build with physics rooms).

Only what its documentation says of controller and events is used; none of it was run against a real Unity build.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from projects.semabs import thor_geometry
from projects.semabs.simulator import View
from projects.semabs.thor_truth import read_truth, rooms_in
from projects.semabs.thor_views import RawView, RoomTruth, to_view
from projects.semabs.vocabulary import TEST_ROOMS
from shared.errors import InputError

SIDE = 896  # pixels
_ATTEMPTS = 10  # places tried for a view
_HORIZONS = (0, 30)  # degrees that the camera looks down
Controller = Any  # ai2thor.controller.Controller


class ThorSimulator:
    """Rooms of AI2-THOR whose ground truth was exported to a folder.

    Args:
        exported: folder of the rooms' points (see thor_truth).
        unity: the custom Unity build; None: the one that ai2thor downloads.
        side: of the square pictures, pixels.
        controller: makes a controller; for tests.

    Raises:
        InputError: ai2thor is not installed, no exported rooms, no such build.
    """

    def __init__(
        self,
        *,
        exported: str | Path | None,
        unity: str | Path | None = None,
        side: int = SIDE,
        controller: Callable[..., Controller] | None = None,
    ) -> None:
        if exported is None:
            raise InputError("path_to_exported_scenes: expected the folder of the rooms' points, found null")
        self._exported = Path(exported).expanduser()
        self.rooms: Sequence[str] = rooms_in(self._exported)
        settings: dict[str, Any] = {
            "width": side,
            "height": side,
            "fieldOfView": thor_geometry.FIELD_OF_VIEW,
            "renderDepthImage": True,
            "renderInstanceSegmentation": True,
        }
        if unity is not None:
            if not Path(unity).expanduser().exists():
                raise InputError(f"path_to_custom_unity: {unity}: no such file")
            settings["local_executable_path"] = str(Path(unity).expanduser())
        self._controller = (controller or _installed_controller())(**settings)
        self._truth: tuple[str, RoomTruth] | None = None

    def view(self, room: str, seed: int) -> View | None:
        """The first good look of ten from random places; None where there was none."""
        rng = np.random.RandomState(seed)
        self._controller.reset(scene=room)
        places = self._do(action="GetReachablePositions").metadata["actionReturn"] or []
        if not places:
            raise InputError(f"{room}: AI2-THOR names no place to stand on")
        truth = self._room_truth(room)
        for _ in range(_ATTEMPTS):
            event = self._do(
                action="Teleport",
                position=places[rng.randint(len(places))],
                rotation={"x": 0.0, "y": float(rng.uniform(0, 360)), "z": 0.0},
                horizon=float(_HORIZONS[rng.randint(len(_HORIZONS))]),
                standing=True,
            )
            if not event.metadata.get("lastActionSuccess", True):
                continue
            view = to_view(room, _raw(event), truth, rng=rng)
            if thor_geometry.is_good(view.depth, view.segmentation, [one.name for one in view.objects]):
                return view if room not in TEST_ROOMS else self._with_randomized(view)
        return None

    def close(self) -> None:
        """Stop Unity."""
        self._controller.stop()

    def _with_randomized(self, view: View) -> View:
        """The same look with the materials and lights of other rooms."""
        from dataclasses import replace

        self._do(action="RandomizeMaterials", useTrainMaterials=True, useExternalMaterials=True)
        event = self._do(action="RandomizeLighting", synchronized=False)
        return replace(view, randomized_rgb=np.ascontiguousarray(event.frame[..., :3]))

    def _room_truth(self, room: str) -> RoomTruth:
        if self._truth is None or self._truth[0] != room:
            self._truth = room, read_truth(self._exported, room)
        return self._truth[1]

    def _do(self, **action: Any) -> Any:
        return self._controller.step(**action)


def _installed_controller() -> Callable[..., Controller]:
    try:
        from ai2thor.controller import Controller as Installed
    except ImportError:
        raise InputError(
            "simulator: thor needs the package ai2thor, which is not installed: pip install ai2thor"
            " (or take simulator=mini, the embedded rooms)"
        ) from None
    made: Callable[..., Controller] = Installed
    return made


def _raw(event: Any) -> RawView:
    """What is used of an event."""
    camera, agent = event.metadata["cameraPosition"], event.metadata["agent"]
    turned = agent["rotation"]
    colours: Mapping[Any, str] = event.color_to_object_id
    return RawView(
        position=np.array([camera[axis] for axis in "xyz"]),
        rotation=np.array([float(agent.get("cameraHorizon", 0.0)), turned["y"], turned["z"]]),
        rgb=np.ascontiguousarray(event.frame[..., :3]),
        depth=np.asarray(event.depth_frame, np.float32),
        instance=np.asarray(event.instance_segmentation_frame)[..., :3],
        colours={(int(r), int(g), int(b)): str(name) for (r, g, b), name in colours.items()},
        objects=event.metadata["objects"],
    )
