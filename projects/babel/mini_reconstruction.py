"""What structure from motion finds in the photos of an embedded cathedral: surface points and where photos see them."""

from dataclasses import dataclass

import numpy as np

from projects.babel import colmap
from projects.babel.mini_elements import CONCEPTS, PART
from projects.babel.mini_landmark import Landmark
from shared.scenes import Camera, surface_points

_DROPPED = 0.3  # of the sightings that the matcher misses
_LEAST = 6  # points that a photo needs to be registered
_JITTER = 0.3  # pixels, standard deviation
_SHARES = {"facade": 0.22} | {name: 0.14 for name in CONCEPTS if name != "facade"}  # the rest is no concept


@dataclass(frozen=True)
class Reconstruction:
    """Points with at least two sightings: xyz [N, 3], rgb uint8 [N, 3], label uint8 [N] (concept id).

    registered [R]: numbers of the photos that were found to belong together. image (rows of `registered`), point
    int [M] and xy float [M, 2] (pixels): the sightings, photo by photo.
    """

    xyz: np.ndarray
    rgb: np.ndarray
    label: np.ndarray
    registered: np.ndarray
    image: np.ndarray
    point: np.ndarray
    xy: np.ndarray


def reconstruct(
    landmark: Landmark, cameras: list[Camera], rng: np.random.Generator, *, points: int
) -> Reconstruction:
    """Points on the landmark's surface, and the photos that see them, with the errors of a real matcher."""
    scene = landmark.scene
    xyz, face = surface_points(scene.mesh, points, rng, _weights(landmark))
    normals = scene.normals[face]
    images, rows, pixels = [], [], []
    for number, camera in enumerate(cameras):
        seen, xy = scene.sees(camera, xyz, normals)
        seen &= rng.random(points) >= _DROPPED
        xy = xy + _JITTER * rng.standard_normal((points, 2))
        seen &= (xy >= 0).all(1) & (xy <= [camera.width, camera.height]).all(1)
        found = np.flatnonzero(seen)
        images.append(np.full(len(found), number))
        rows.append(found)
        pixels.append(xy[found])
    image, row, xy = np.concatenate(images), np.concatenate(rows), np.concatenate(pixels)
    held = np.ones(len(row), bool)
    while True:  # a point needs two photos, a photo enough points
        tracks = np.bincount(row[held], minlength=points)
        shown = np.bincount(image[held & (tracks[row] >= 2)], minlength=len(cameras))
        still = held & (tracks[row] >= 2) & (shown[image] >= _LEAST)
        if still.sum() == held.sum():
            break
        held = still
    kept = np.flatnonzero(tracks)
    registered = np.flatnonzero(shown)
    new_point, new_image = np.cumsum(tracks > 0) - 1, np.cumsum(shown > 0) - 1
    albedo = scene.albedo(xyz[kept].astype(np.float32), normals[kept], face[kept])
    return Reconstruction(
        xyz=xyz[kept],
        rgb=np.clip(255 * albedo ** (1 / 2.2), 0, 255).astype(np.uint8),
        label=scene.mesh.part[face[kept]].astype(np.uint8),
        registered=registered,
        image=new_image[image[held]],
        point=new_point[row[held]],
        xy=xy[held],
    )


def _weights(landmark: Landmark) -> np.ndarray:
    """Weight of each face, so that every concept gets its share of the points, whatever its area."""
    mesh = landmark.scene.mesh
    area = np.bincount(mesh.part, weights=mesh.areas() * landmark.solid, minlength=len(CONCEPTS) + 1)
    shares = np.zeros(len(CONCEPTS) + 1)
    for name, share in _SHARES.items():
        shares[PART[name]] = share
    shares[0] = 1 - shares.sum()
    return (shares / np.maximum(area, 1e-9))[mesh.part] * landmark.solid


def to_model(found: Reconstruction, cameras: list[Camera], names: list[str], first_id: int) -> colmap.Model:
    """The COLMAP model; point ids are `first_id`, `first_id` + 1, ..."""
    return colmap.make_model(
        names=names,
        cameras=[
            colmap.Camera("PINHOLE", one.width, one.height, (one.focal, one.focal, *one.principal))
            for one in cameras
        ],
        camera_of=np.arange(len(cameras)),
        cam_from_world=np.stack([np.c_[one.rotation, one.translation] for one in cameras]),
        point_ids=first_id + np.arange(len(found.xyz)),
        xyz=found.xyz,
        rgb=found.rgb,
        image=found.image,
        point=found.point,
        xy=found.xy,
    )
