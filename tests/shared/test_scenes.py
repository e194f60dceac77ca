"""Procedural scenes: depth, ids, visibility and correspondences against their definitions on simple solids."""

import numpy as np
import pytest

from shared.scene_meshes import (
    Mesh,
    arch_outline,
    ball,
    box,
    circle_outline,
    column,
    join,
    lathe,
    prism,
    pyramid,
    ring,
)
from shared.scene_textures import courses, hashed, noise, plain
from shared.scenes import Camera, Light, Rendering, Scene, correspondences, look_at, surface_points

LIGHT = Light(np.array([0.0, -0.6, 0.8]), np.full(3, 0.8), np.full(3, 0.3), np.full(3, 0.1))
WHITE = plain(np.ones(3), contrast=0.0)
SOLIDS = {
    "box": box((-1, -2, 0), (2, 1, 3)),
    "prism": prism(np.array([[-1, 0], [1, 0], [0, 2]]), -1.0, 1.0),
    "arch": prism(arch_outline(2.0, 3.0, pointed=0.8), 0.0, 0.5),
    "round arch": prism(arch_outline(2.0, 3.0, pointed=0.0), 0.0, 0.5),
    "ring": ring(circle_outline(2.0), circle_outline(1.5), -0.2, 0.2),
    "ball": ball(1.0, 16),
    "half ball": ball(1.0, 16, half=True),
    "column": column(0.5, 0.0, 2.0),
    "cone": column(0.5, 0.0, 2.0, top_radius=0.0),
    "pyramid": pyramid(1.0, 0.0, 3.0),
    "lathe": lathe(np.array([[0.4, 0], [0.2, 1], [0.5, 2]]), 10),
}


def volume(solid: Mesh) -> float:
    """Signed: positive when the faces point outwards."""
    a, b, c = (solid.vertices[solid.faces[:, corner]].astype(float) for corner in range(3))
    return float(np.einsum("nc,nc->", a, np.cross(b, c)) / 6)


@pytest.mark.parametrize("name", SOLIDS)
def test_solids_are_closed_and_face_outwards(name: str) -> None:
    solid = SOLIDS[name]
    keys = np.unique(np.round(solid.vertices, 5), axis=0, return_inverse=True)[1].reshape(-1)
    edges: dict[tuple[int, int], int] = {}
    for face in keys[solid.faces].tolist():
        if len(set(face)) == 3:  # the tip of a cone is a ring of radius 0
            for a, b in zip(face, face[1:] + face[:1], strict=True):
                edges[a, b] = edges.get((a, b), 0) + 1
    assert all(count == 1 and edges.get((b, a)) == 1 for (a, b), count in edges.items())
    assert volume(solid) > 0


def test_volumes_of_turned_moved_and_scaled_solids() -> None:
    assert volume(SOLIDS["box"]) == pytest.approx(27, rel=1e-5)
    moved = SOLIDS["box"].turned(0.7, (1, 2, 3)).moved(5, -3, 2).scaled(1, 2, 0.5)
    assert volume(moved) == pytest.approx(27, rel=1e-4)
    # a quarter turn round z takes x to y
    corner = box((0, 0, 0), (1, 2, 3)).turned(np.pi / 2).vertices
    np.testing.assert_allclose(corner.min(0), [-2, 0, 0], atol=1e-6)
    np.testing.assert_allclose(corner.max(0), [0, 1, 3], atol=1e-6)


def plane_and_ball() -> Scene:
    floor = box((-50, -50, -1), (50, 50, 0)).labelled(part=7, instance=1)
    sphere = ball(1.0, 96).moved(z=1.5).labelled(part=3, instance=2, material=1)
    return Scene(join([floor, sphere]), [WHITE, plain(np.array([0.8, 0.1, 0.1]), contrast=0.0)])


def camera_at(x: float, y: float, z: float, width: int = 60, height: int = 44) -> Camera:
    return look_at(np.array([x, y, z]), np.array([0, 0, 1.0]), width=width, height=height, focal=55, roll=0.1)


def test_depth_and_ids_are_those_of_the_plane_and_the_sphere() -> None:
    camera = camera_at(2.0, -6.0, 4.0)
    rendering = plane_and_ball().render(camera, LIGHT)
    rays = camera.rays().astype(float)
    position = camera.position
    to_floor = np.where(rays[..., 2] < 0, -position[2] / np.minimum(rays[..., 2], -1e-9), np.inf)
    offset = position - [0, 0, 1.5]
    a, b, c = (rays**2).sum(-1), rays @ offset, offset @ offset - 1
    inside = b**2 - a * c
    to_ball = np.where(inside > 0, (-b - np.sqrt(np.maximum(inside, 0))) / a, np.inf)
    on_edge = np.abs(inside) < 0.05 * a  # a ball of triangles is a little smaller
    expected = np.minimum(to_floor, to_ball)
    expected[expected > 80] = np.inf
    sure = ~on_edge & np.isfinite(expected) & (expected < 40)
    np.testing.assert_allclose(rendering.depth[sure], expected[sure], rtol=2e-3)
    part = np.where(to_ball < to_floor, 3, 7)
    assert (rendering.part[sure] == part[sure]).all()
    assert (rendering.instance[sure] == np.where(part == 3, 2, 1)[sure]).all()
    assert {3, 7} <= set(rendering.part[sure].tolist()), "both are in the picture"
    empty = ~np.isfinite(rendering.depth)
    assert (rendering.part[empty] == -1).all()
    assert (rendering.face[empty] == -1).all()


def test_a_projected_point_is_where_its_pixel_looks() -> None:
    camera = camera_at(1.0, -5.0, 2.0)
    rng = np.random.default_rng(0)
    pixels, depth = rng.uniform(0, 40, (50, 2)), rng.uniform(1, 9, 50)
    back, again = camera.project(camera.unproject(pixels, depth))
    np.testing.assert_allclose(back, pixels, atol=1e-9)
    np.testing.assert_allclose(again, depth, atol=1e-9)
    ray = camera.rays()[10, 20]
    np.testing.assert_allclose(
        camera.unproject(np.array([[20.5, 10.5]]), np.ones(1))[0] - camera.position, ray, atol=1e-5
    )
    np.testing.assert_allclose(camera.rotation @ camera.rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(camera.rotation) == pytest.approx(1)


def test_light_and_shadow() -> None:
    scene = Scene(join([box((-50, -50, -1), (50, 50, 0)), box((-1, -1, 2), (1, 1, 2.2))]), [WHITE])
    above = Light(np.array([0.0, 0.0, 1.0]), np.full(3, 0.7), np.full(3, 0.2), np.zeros(3))
    camera = look_at(np.array([0, -8.0, 1.0]), np.array([0, 0, 0.5]), width=80, height=60, focal=60)
    rendering = scene.render(camera, above, samples=1)
    points = np.array([[0.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
    (column_in, row_in), (column_out, row_out) = camera.project(points)[0].astype(int).tolist()
    np.testing.assert_allclose(rendering.rgb[row_in, column_in], 0.2, atol=1e-5)  # sky only
    np.testing.assert_allclose(rendering.rgb[row_out, column_out], 0.9, atol=1e-5)
    assert (rendering.rgb[0, 0] == 0).all(), "no background"
    sky = scene.render(camera, above, background=lambda rays: rays**2, samples=1).rgb[0, 0]
    ray = camera.rays()[0, 0]
    np.testing.assert_allclose(sky, (ray / np.linalg.norm(ray)) ** 2, rtol=1e-5)


def test_supersampling_averages_rays() -> None:
    scene, camera = plane_and_ball(), camera_at(2.0, -6.0, 4.0)
    fine = scene.render(Camera(120, 88, 110, camera.rotation, camera.translation), LIGHT, samples=1)
    coarse = scene.render(camera, LIGHT, samples=2)
    np.testing.assert_allclose(coarse.rgb, fine.rgb.reshape(44, 2, 60, 2, 3).mean((1, 3)), atol=1e-5)


def test_visible_points() -> None:
    scene, camera = plane_and_ball(), camera_at(0.0, -6.0, 1.5)
    points = np.array(
        [[0, -1.0, 1.5], [0, 1.0, 1.5], [0, 4.0, 0], [3.0, 2.0, 0], [0, -30.0, 0]]
    )  # front and back of the ball, behind it, beside it, behind the camera
    normals = np.array([[0, -1.0, 0], [0, 1.0, 0], [0, 0, 1], [0, 0, 1], [0, 0, 1]])
    seen, pixels = scene.sees(camera, points, normals)
    assert seen.tolist() == [True, False, False, True, False]
    np.testing.assert_allclose(pixels, camera.project(points)[0])


def test_surface_points_lie_on_the_mesh_by_area_and_weight() -> None:
    solid = join([box((0, 0, 0), (1, 1, 1)).labelled(part=1), box((5, 0, 0), (7, 2, 2)).labelled(part=2)])
    points, face = surface_points(solid, 6000, np.random.default_rng(1))
    normal, corner = solid.normals()[face], solid.vertices[solid.faces[face, 0]]
    np.testing.assert_allclose(np.einsum("nc,nc->n", points - corner, normal), 0, atol=1e-5)
    assert (solid.part[face] == 1).mean() == pytest.approx(6 / 30, abs=0.02)
    weights = np.where(solid.part == 1, 4.0, 1.0)
    _, face = surface_points(solid, 6000, np.random.default_rng(1), weights)
    assert (solid.part[face] == 1).mean() == pytest.approx(0.5, abs=0.025)
    np.testing.assert_allclose(solid.areas().sum(), 30, rtol=1e-5)


def naive_correspondences(
    first: tuple[Camera, Rendering], second: tuple[Camera, Rendering], tolerance: float
) -> dict[tuple[float, float], tuple[float, float]]:
    (camera, rendering), (other, seen) = first, second
    found = {}
    for row in range(camera.height):
        for across in range(camera.width):
            depth = float(rendering.depth[row, across])
            if not np.isfinite(depth):
                continue
            in_camera = np.array(
                [
                    (across + 0.5 - camera.width / 2) / camera.focal * depth,
                    (row + 0.5 - camera.height / 2) / camera.focal * depth,
                    depth,
                ]
            )
            world = camera.rotation.T @ (in_camera - camera.translation)
            x, y, z = other.rotation @ world + other.translation
            if z <= 0:
                continue
            u, v = x / z * other.focal + other.width / 2, y / z * other.focal + other.height / 2
            if not (0 <= u < other.width and 0 <= v < other.height):
                continue
            there = int(v), int(u)
            if abs(seen.depth[there] - z) > tolerance * z or seen.part[there] != rendering.part[row, across]:
                continue
            found[across + 0.5, row + 0.5] = u, v
    return found


def test_correspondences_against_the_definition() -> None:
    scene = plane_and_ball()
    views = []
    for place in ((2.0, -6.0, 3.0), (-1.5, -5.0, 4.0)):
        camera = camera_at(*place)
        views.append((camera, scene.render(camera, LIGHT)))
    pixels, target = correspondences(*views, tolerance=0.02)
    expected = naive_correspondences(*views, tolerance=0.02)
    assert len(pixels) == len(expected) > 300
    np.testing.assert_allclose(target, [expected[x, y] for x, y in pixels.tolist()], atol=1e-5)
    parts = views[0][1].part[(pixels[:, 1]).astype(int), pixels[:, 0].astype(int)]
    assert {3, 7} == set(parts.tolist())


def test_the_same_generator_gives_the_same_picture() -> None:
    def draw(seed: int) -> Rendering:
        rng = np.random.default_rng(seed)
        stone = courses(rng.uniform(0.2, 0.8, 3), height=0.4, length=0.9, seed=2)
        scene = Scene(join([box((-9, -9, -1), (9, 9, 0)), ball(1.0)]), [stone])
        return scene.render(camera_at(*rng.uniform(2, 4, 3)), LIGHT, background=np.abs)

    first, again, other = draw(0), draw(0), draw(1)
    for name in ("rgb", "depth", "part"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert np.abs(first.rgb - other.rgb).max() > 0.05


def test_textures() -> None:
    points = np.random.default_rng(0).uniform(-30, 30, (20_000, 3)).astype(np.float32)
    values = noise(points, 2.0)
    assert abs(values.mean()) < 0.05
    assert values.std() == pytest.approx(1, abs=0.1)
    near = noise(points + 0.02, 2.0)
    assert np.corrcoef(values, near)[0, 1] > 0.9, "neighbours are alike"
    assert abs(np.corrcoef(values, noise(points + 3.1, 2.0))[0, 1]) < 0.1, "far places are not"
    assert abs(np.corrcoef(values, noise(points, 2.0, seed=3))[0, 1]) < 0.1
    cells = np.arange(5000)
    numbers = hashed(cells, cells // 7)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert numbers.mean() == pytest.approx(0.5, abs=0.03)
    assert len(np.unique(numbers)) > 4900
    np.testing.assert_array_equal(numbers[:100], hashed(cells[:100], cells[:100] // 7))
    colour = courses(np.full(3, 0.5), height=0.5, length=1.0)(points, np.tile([0, -1, 0], (len(points), 1)))
    assert colour.min() >= 0
    assert colour.max() <= 1
    assert colour.std() > 0.02
