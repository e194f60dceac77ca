"""Light and camera of the embedded photos: sun, clouds or lamps; haze, exposure, white balance, blur, noise."""

import cv2
import numpy as np

from shared.scene_textures import noise
from shared.scenes import Background, Light, Rendering


def draw_light(rng: np.random.Generator, *, night: bool) -> tuple[Light, Background]:
    """The sun or lamps of a photo, and its sky."""
    azimuth, height = rng.uniform(-np.pi, 0.0), np.deg2rad(rng.uniform(15, 65))
    towards = np.array([np.cos(azimuth) * np.cos(height), np.sin(azimuth) * np.cos(height), np.sin(height)])
    if night:  # lamps on the ground in front
        towards = np.array([rng.uniform(-0.5, 0.5), -1.0, rng.uniform(0.08, 0.3)])
        towards /= np.linalg.norm(towards)
        sun, sky = rng.uniform(0.7, 1.0) * np.array([1.0, 0.75, 0.4]), np.array([0.07, 0.08, 0.13])
        top, low = np.array([0.01, 0.015, 0.04]), np.array([0.05, 0.05, 0.08])
        return Light(towards, sun, sky, 0.5 * sky), _sky(top, low, 0.0, rng)
    cloudy = rng.random() < 0.35
    warm = np.clip(1.3 - height, 0, 1)
    sun = (0.15 if cloudy else rng.uniform(0.7, 1.0)) * np.array([1.0, 0.95 - 0.12 * warm, 0.88 - 0.3 * warm])
    sky = (0.65 if cloudy else 0.32) * np.array([0.9, 0.97, 1.08])
    top = np.array([0.55, 0.58, 0.62]) if cloudy else np.array([0.22, 0.42, 0.78])
    low = np.array([0.75, 0.76, 0.78]) if cloudy else np.array([0.6, 0.72, 0.86])
    return Light(towards, sun, sky, 0.5 * sky), _sky(top, low, rng.uniform(0, 0.6), rng)


def _sky(top: np.ndarray, low: np.ndarray, clouds: float, rng: np.random.Generator) -> Background:
    seed, shift = int(rng.integers(5)), rng.uniform(0, 50, 3).astype(np.float32)

    def colour(directions: np.ndarray) -> np.ndarray:
        up = np.clip(directions[:, 2:], 0.0, 1.0) ** 0.6
        blue = low + (top - low) * up
        flat = directions * np.array([1, 1, 3], np.float32) + shift
        cover = clouds * np.clip(noise(flat, 0.8, seed=seed) * 0.6, 0, 1)[:, None]
        return (blue * (1 - cover) + 0.85 * cover * low.max()).astype(np.float32)

    return colour


def develop(rendering: Rendering, rng: np.random.Generator, *, hard: float, night: bool) -> np.ndarray:
    """Haze, exposure, white balance, saturation, gamma, blur, noise -> uint8."""
    rgb = rendering.rgb
    if not night:
        reach = 60 / max(0.05, rng.exponential(0.25) * hard)
        haze = 1 - np.exp(-np.minimum(rendering.depth, 500) / reach)[..., None]
        rgb = rgb * (1 - haze) + haze * np.array([0.62, 0.66, 0.7], np.float32)
    rgb = rgb * np.exp2(0.6 * hard * rng.standard_normal()) * np.exp(0.1 * hard * rng.standard_normal(3))
    grey = rgb.mean(2, keepdims=True)
    rgb = grey + (rgb - grey) * np.clip(1 + 0.35 * hard * rng.standard_normal(), 0.2, 2)
    rgb = np.clip(rgb, 0, None) ** (1 / (2.0 * np.exp(0.15 * hard * rng.standard_normal())))
    blur = max(0.0, 0.35 * abs(rng.standard_normal())) * hard * 1.6
    if blur > 0.25:
        rgb = cv2.GaussianBlur(np.ascontiguousarray(rgb, np.float32), (0, 0), blur)
    rgb = rgb + rng.standard_normal(rgb.shape).astype(np.float32) * rng.uniform(0.002, 0.035) * (
        0.3 + 0.7 * hard
    )
    return np.clip(255 * rgb + 0.5, 0, 255).astype(np.uint8)
