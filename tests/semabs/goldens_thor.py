"""Golden calls of scene generation: names, a whole view, a receptacle."""

import json
from collections.abc import Callable

import numpy as np

from projects.semabs import thor_geometry, thor_names
from projects.semabs.scene_generation import make_scene
from projects.semabs.thor_views import RawView, RoomTruth, to_view
from tests.goldens.case import Case


def thor_text(case: Case) -> None:
    """Class names, and how names are split into words."""
    golden = case.npz()
    assert [thor_names.class_name(name) for name in golden["raw"].tolist()] == golden["reduced"].tolist()
    assert [thor_names.split_words(name) for name in golden["split_in"].tolist()] == golden[
        "split_out"
    ].tolist()


def thor_scene(case: Case) -> None:
    """A view: poses, ids of the pixels, descriptions, the points that are kept and what they belong to, the TSDF."""
    golden = case.npz()
    truth = RoomTruth(
        golden["gt_world_xyz"],
        golden["gt_objid"],
        golden["objids"].tolist(),
        golden["class_names"].tolist(),
        {name: golden[mask] for name, mask in case.data["containers"].items()},
    )
    colours = zip(golden["color_keys"].tolist(), golden["color_ids"].tolist(), strict=True)
    raw = RawView(
        position=golden["position"],
        rotation=golden["rotation"],
        rgb=np.zeros_like(golden["instance"]),
        depth=golden["depth"],
        instance=golden["instance"],
        colours={(red, green, blue): name for (red, green, blue), name in colours},
        objects=[json.loads(text) for text in golden["objects_info"].tolist()],
    )
    case.close(
        thor_geometry.camera_pose(raw.position, raw.rotation), golden["agent_cam_pose"], what="agent's pose"
    )
    rng = np.random.RandomState(case.seed)
    view = to_view("room", raw, truth, rng=rng, distance=case.data["distance"])
    case.close(view.pose, golden["scene_cam_pose"], what="pose in the scene")
    np.testing.assert_array_equal(view.segmentation[None], golden["seg"])

    scene = make_scene(view, rng=rng, points=case.data["points"], tsdf_voxels=case.data["tsdf_voxels"])
    told = scene.descriptions
    columns = (told.targets, told.relations, told.references, told.target_ids)
    materials = (told.target_materials, told.reference_materials)
    found = ["|".join(map(str, row)) for row in zip(*columns, *materials, strict=True)]
    assert found == golden["descriptions"].tolist()
    names = [f"{name}[{number}]".encode() for number, name in enumerate(scene.class_names)]
    assert names == golden["objid_to_class"].tolist()
    np.testing.assert_array_equal(scene.object_ids[None], golden["full_objid_pts"])
    case.close(scene.points[::10], golden["full_xyz_every10"], what="points")
    case.close(scene.tsdf_values[::97], golden["tsdf_every97"], what="TSDF")


def thor_receptacle(case: Case) -> None:
    """A line of a receptacle file, and which points its box holds."""
    golden = case.npz()
    box = thor_geometry.read_receptacle(str(golden["line"]))
    assert box.name == str(golden["name"])
    for found, name in ((box.matrix, "matrix"), (box.size, "size"), (box.centre, "center")):
        case.close(found, golden[name], what=name)
    np.testing.assert_array_equal(box.contains(golden["points"]), golden["inside"])


CALLS: dict[str, Callable[[Case], None]] = {
    "thor_text": thor_text,
    "thor_scene": thor_scene,
    "thor_receptacle": thor_receptacle,
}
