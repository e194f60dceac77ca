"""Points of depth images, the box and the frustum, beside plain loops; what is refused, in one line."""

import numpy as np
import pytest

from projects.semabs import geometry
from shared.errors import InputError

BOUNDS = np.array([[-1.0, -1.0, -0.1], [1.0, 1.0, 1.9]])
INTRINSICS = np.array([[20.0, 0, 8.5], [0, 22.0, 5.0], [0, 0, 1]])


def a_pose() -> np.ndarray:
    cos, sin = np.cos(0.4), np.sin(0.4)
    return np.array([[0, -sin, cos, -1.2], [-1, 0, 0, 0.1], [0, -cos, -sin, 1.3], [0, 0, 0, 1]])


def a_depth() -> np.ndarray:
    return np.random.default_rng(0).uniform(0.5, 3, (11, 16)).astype(np.float32)


def test_back_projection_is_that_of_every_pixel_alone() -> None:
    depth, pose = a_depth(), a_pose()
    points = geometry.back_project(depth, INTRINSICS, pose)
    assert points.dtype == np.float32
    for pixel in range(depth.size):
        v, u = divmod(pixel, 16)
        z = float(depth[v, u])
        camera = [(u - 8.5) * z / 20, (v - 5) * z / 22, z, 1]
        np.testing.assert_allclose(points[pixel], (pose @ camera)[:3], atol=1e-5)
    some = np.array([5, 0, 170, 5])
    np.testing.assert_array_equal(geometry.back_project_pixels(depth, some, INTRINSICS, pose), points[some])


def test_points_of_pixels_lie_in_the_frustum_and_others_do_not() -> None:
    depth, pose = a_depth(), a_pose()
    points = geometry.back_project(depth, INTRINSICS, pose)
    inner = np.ones((11, 16), bool)
    inner[[0, -1]] = inner[:, [0, -1]] = False  # the border's own pixels are ties of rounding
    assert geometry.in_frustum(points, (11, 16), INTRINSICS, pose)[inner.reshape(-1)].all()
    assert not geometry.in_frustum(2 * pose[:3, 3] - points, (11, 16), INTRINSICS, pose).any()  # behind


def test_the_frustum_of_many_points_is_that_of_each_alone() -> None:
    """More points than one piece, of a shape of their own."""
    points = np.random.default_rng(1).uniform(-2, 2, (3, 7000, 3)).astype(np.float32)
    found = geometry.in_frustum(points, (11, 16), INTRINSICS, a_pose())
    camera = np.concatenate([points, np.ones((3, 7000, 1))], axis=-1) @ np.linalg.inv(a_pose()).T
    u = camera[..., 0] / camera[..., 2] * 20 + 8.5
    v = camera[..., 1] / camera[..., 2] * 22 + 5
    expected = (camera[..., 2] > 0) & (u >= 0) & (u < 16) & (v >= 0) & (v < 11)
    assert 100 < expected.sum() < 20_000
    np.testing.assert_array_equal(found, expected)


def test_faces_of_the_box_belong_to_it_in_float32() -> None:
    low, high = BOUNDS.astype(np.float32)
    assert geometry.in_bounds(np.stack([low, high]), BOUNDS).all()
    assert float(low[2]) < BOUNDS[0, 2]  # as float64 the face itself would be outside
    outside = np.stack([low, high]) + np.array([[0, 0, -1e-5], [1e-5, 0, 0]], np.float32)
    assert not geometry.in_bounds(outside, BOUNDS).any()


@pytest.mark.parametrize(
    ("depth", "message"),
    [
        (np.full((4, 4), 1800.0), "expected metres, found a median of 1800: in millimetres"),
        (np.zeros((4, 4)), "found only zeros"),
        (np.array([[1.0, np.nan], [1, np.inf]]), "found 2 NaN or inf"),
        (np.array([[1.0, -0.5]]), "expected metres >= 0, found -0.5"),
        (np.ones((4, 4, 1)), "expected .height, width., found shape"),
        (np.full((2, 2), "a"), "expected numbers in metres"),
    ],
)
def test_what_is_no_depth_in_metres_is_refused(depth: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=f"a.png: depth: .*{message}"):
        geometry.check_depth(depth, "a.png")


def test_depth_with_holes_is_taken() -> None:
    depth = a_depth()
    depth[:, :8] = 0
    geometry.check_depth(depth, "a.png")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({(0, 2): 60.0}, r"principal point \(60, 5\) .*another size"),
        ({(1, 2): 1.0}, "another size"),
        ({(0, 0): 0.0}, "focal lengths > 0, found 0, 22"),
        ({(1, 1): np.nan}, "finite numbers"),
    ],
)
def test_what_is_no_camera_of_the_image_is_refused(
    change: dict[tuple[int, int], float], message: str
) -> None:
    intrinsics = INTRINSICS.copy()
    for place, value in change.items():
        intrinsics[place] = value
    with pytest.raises(InputError, match=f"a.pkl: cam_intr: .*{message}"):
        geometry.check_intrinsics(intrinsics, (11, 16), "a.pkl")
    geometry.check_intrinsics(np.eye(4) + np.pad(INTRINSICS, (0, 1)), (11, 16), "a.pkl")  # 4 x 4 is enough
    with pytest.raises(InputError, match=r"found shape .2, 3."):
        geometry.check_intrinsics(intrinsics[:2], (11, 16), "a.pkl")


def test_what_is_no_pose_is_refused() -> None:
    geometry.check_pose(a_pose(), "a.pkl")
    flat = a_pose()
    flat[:3, 2] = 0
    for wrong in (np.eye(3), a_pose() * np.nan, a_pose().T, flat):
        with pytest.raises(InputError, match=r"a\.pkl: cam_pose: expected"):
            geometry.check_pose(wrong, "a.pkl")
