"""Films without a display: what is in the picture, what hides what, that an mp4 is whole or not there."""

from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from projects.semabs import meshes, splats, turntable
from projects.semabs.palette import colours, with_legend
from projects.semabs.turntable import Cloud, Painted, Stage
from shared.errors import InputError
from shared.scenes import look_at
from tests.semabs.test_meshes import ball

RED, BLUE = np.array([250, 20, 20], np.uint8), np.array([20, 20, 250], np.uint8)


def painted(colour: np.ndarray, shift: tuple[float, float, float] = (0, 0, 0)) -> Painted:
    surface = meshes.surface_of(ball())
    assert surface is not None
    moved = meshes.Surface(surface.vertices + np.array(shift), surface.normals, surface.faces)
    return Painted(moved, colour)


def shares(picture: np.ndarray) -> tuple[float, float]:
    """Of the pixels, those that are rather red, rather blue."""
    red, green, blue = (picture[..., channel].astype(int) for channel in range(3))
    return float((red > green + blue).mean()), float((blue > red + green).mean())


def test_the_nearer_ball_hides_the_other() -> None:
    stage = turntable.stage_round([painted(RED, (-1, 0, 0)), painted(BLUE, (1, 0, 0))], [], elevation=0.0)
    red, blue = shares(stage.picture(0.0, 64))  # from -x
    assert red > 0.01
    assert blue < red / 5
    red, blue = shares(stage.picture(0.5, 64))
    assert blue > 0.01
    assert red < blue / 5
    red, blue = shares(stage.picture(0.25, 64))
    assert min(red, blue) > 0.01
    background = stage.picture(0.0, 64)[0, 0]
    np.testing.assert_array_equal(background, 255)


def test_light_falls_from_above_and_casts_shadows() -> None:
    plate = meshes.surface_of(np.pad(np.ones((24, 24, 4)), 2))
    assert plate is not None
    stage = turntable.stage_round([Painted(plate, RED), painted(BLUE, (0, 0, 0.5))], [], elevation=1.2)
    picture = stage.picture(0.0, 96).astype(int)
    plate_pixels = picture[picture[..., 0] > picture[..., 1] + picture[..., 2]]
    assert plate_pixels[:, 0].max() > 1.4 * np.quantile(plate_pixels[:, 0], 0.02)


def test_points_are_drawn_nearest_first_and_behind_meshes() -> None:
    camera = look_at(np.array([-3.0, 0, 0]), np.zeros(3), width=33, height=33, focal=40)
    rgb, depth = np.full((33, 33, 3), 255, np.uint8), np.full((33, 33), np.inf, np.float32)
    points = np.array([[0.0, 0, 0], [-1, 0, 0], [1, 0, 0], [-9, 0, 0]])
    splats.draw(rgb, depth, camera, points, np.array([RED, BLUE, RED, RED]), size=0.2)
    np.testing.assert_array_equal(rgb[16, 16], BLUE)
    assert depth[16, 16] == pytest.approx(2)
    size = int((rgb != 255).any(-1).sum())
    assert size == round(0.2 * 40 / 3) ** 2
    before = rgb.copy()
    depth[:] = 0.5  # something nearer is there already
    splats.draw(rgb, depth, camera, points, np.array([RED] * 4), size=0.2)
    np.testing.assert_array_equal(rgb, before)


def test_points_against_one_by_one() -> None:
    """The one assignment of all squares gives what drawing from far to near gives."""
    rng = np.random.default_rng(0)
    camera = look_at(np.array([-3.0, 0.5, 0.4]), np.zeros(3), width=40, height=30, focal=40)
    points = rng.uniform(-1.2, 1.2, (300, 3))
    painted_as = rng.integers(0, 250, (300, 3)).astype(np.uint8)
    rgb, depth = np.full((30, 40, 3), 255, np.uint8), np.full((30, 40), np.inf, np.float32)
    splats.draw(rgb, depth, camera, points, painted_as, size=0.25)
    expected = np.full((30, 40, 3), 255, np.uint8)
    pixels, far = camera.project(points)
    side = round(0.25 * 40 / float(np.median(far)))
    for index in np.argsort(-far):
        left, top = np.floor(pixels[index] - (side - 1) / 2).astype(int)
        expected[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = painted_as[index]
    np.testing.assert_array_equal(rgb, expected)


def test_a_film_has_all_its_frames_and_turns(tmp_path: Path) -> None:
    stage = turntable.stage_round([painted(RED, (-1, 0, 0)), painted(BLUE, (1, 0, 0))], [], elevation=0.1)
    path = tmp_path / "a film.mp4"
    seen = []
    turntable.write_film(
        path, stage, frames=6, size=64, fps=24, decorate=lambda picture: seen.append(1) or picture
    )
    reader = imageio_ffmpeg.read_frames(str(path))
    facts = next(reader)
    frames = [np.frombuffer(frame, np.uint8).reshape(64, 64, 3) for frame in reader]
    assert (facts["size"], facts["fps"], len(frames), len(seen)) == ((64, 64), 24.0, 6, 6)
    assert [shares(frame)[0] > shares(frame)[1] for frame in (frames[0], frames[3])] == [True, False]
    assert sorted(tmp_path.iterdir()) == [path]


def test_a_film_that_fails_leaves_nothing(tmp_path: Path) -> None:
    stage = turntable.stage_round([painted(RED)], [])

    def stop(picture: np.ndarray) -> np.ndarray:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        turntable.write_film(tmp_path / "a.mp4", stage, frames=2, size=32, decorate=stop)
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="even size"):
        turntable.write_film(tmp_path / "a.mp4", stage, frames=2, size=33)
    with pytest.raises(InputError, match="nothing to show"):
        turntable.stage_round([], [Cloud(np.zeros((0, 3)), np.zeros((0, 3), np.uint8))])
    assert Stage().picture(0, 8).min() == 255  # nothing on it


def test_legends_and_colours() -> None:
    many = colours(60)
    assert len(np.unique(many, axis=0)) == 60
    picture = np.full((128, 128, 3), 200, np.uint8)
    shown = with_legend(picture, ["chair", "日本"], many[:2])
    assert {tuple(pixel) for pixel in many[:2].tolist()} <= {
        tuple(pixel) for pixel in shown.reshape(-1, 3).tolist()
    }
    np.testing.assert_array_equal(shown[-20:], picture[-20:])
    assert with_legend(picture, [], many[:0]) is picture
