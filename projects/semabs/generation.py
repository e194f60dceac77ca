"""The settings of generate_thor_data.py: which simulator, which rooms."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from projects.semabs.expectations import expect_flag, expect_one_of, expect_whole
from projects.semabs.mini_simulator import MiniRooms
from projects.semabs.simulator import Simulator
from projects.semabs.thor_simulator import ThorSimulator
from projects.semabs.thor_truth import rooms_in
from shared.errors import InputError

SIMULATORS = ("mini", "thor")


def check(settings: Mapping[str, Any]) -> None:
    """InputError for a wrong value, before anything is started."""
    expect_one_of(settings, "simulator", SIMULATORS)
    expect_whole(settings, "num_pts", least=1)
    expect_whole(settings, "num_processes", least=1)
    expect_whole(settings, "start_seed", least=0)
    expect_flag(settings, "local")
    expect_whole(settings["scenes"], "points", least=1)
    expect_whole(settings["scenes"], "tsdf_voxels", least=1)


def rooms(settings: Mapping[str, Any]) -> Sequence[str]:
    """The rooms to look into: those asked for, or all that the simulator knows."""
    known = MiniRooms().rooms if settings["simulator"] == "mini" else rooms_in(_exported(settings))
    asked = settings["rooms"]
    unknown = [room for room in asked or () if room not in known]
    if unknown:
        raise InputError(f"rooms: {unknown[0]}: expected names like {known[0]}, all of the simulator's rooms")
    return asked or known


def start(settings: Mapping[str, Any]) -> Simulator:
    """The simulator of these settings."""
    if settings["simulator"] == "mini":
        return MiniRooms(**settings["mini"])
    return ThorSimulator(
        exported=_exported(settings), unity=settings["path_to_custom_unity"], side=settings["thor"]["side"]
    )


def _exported(settings: Mapping[str, Any]) -> Path:
    if settings["path_to_exported_scenes"] is None:
        raise InputError(
            "path_to_exported_scenes: simulator=thor expects the folder of the rooms' points, found null"
        )
    return Path(settings["path_to_exported_scenes"]).expanduser()
