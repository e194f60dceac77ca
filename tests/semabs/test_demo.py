"""The demo's page: what its buttons do, and the page itself in a real browser without a display."""

import shutil
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from projects.semabs import demo as entry
from projects.semabs import demo_page, demo_parts
from projects.semabs.demo_parts import Parts
from shared import config
from shared.errors import InputError
from shared.runtime import Runtime
from tests.semabs.tiny_models import scene_dict, write_clip, write_run

PROJECT = Path(demo_parts.__file__).parent
LABELS = "table, chair, poster"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture, its depth, a CLIP and a network."""
    folder = tmp_path_factory.mktemp("demo")
    content = scene_dict()
    Image.fromarray(content["rgb"]).save(folder / "picture.png")
    np.save(folder / "depth.npy", content["depth"])
    np.save(folder / "other.npy", np.ones((9, 90), np.float32))
    write_run(folder / "ovssc", write_clip(folder / "clip.pt"))
    return folder


@pytest.fixture(scope="module")
def parts(folder: Path) -> Parts:
    given = [f"model={folder / 'ovssc'}", "grid=14", "points=400", "cutoff=-9", "augmentations=0"]
    settings = config.section(config.compose(PROJECT, "demo", given))
    demo_parts.check(settings)
    return demo_parts.load(settings, Runtime(torch.device("cpu")), PROJECT)


def picture() -> np.ndarray:
    found: np.ndarray = scene_dict()["rgb"]
    return found


def test_relevancies_come_strongest_first(parts: Parts) -> None:
    shown = parts.relevancies(picture(), LABELS)
    assert sorted(caption.split(" (")[0] for _, caption in shown) == ["chair", "poster", "table"]
    strengths = [float(caption.split("(")[1].rstrip(")")) for _, caption in shown]
    assert strengths == sorted(strengths, reverse=True)
    assert all(heat.shape == picture().shape and heat.dtype == np.uint8 for heat, _ in shown)


def test_a_depth_map_completes_the_scene(parts: Parts, folder: Path) -> None:
    views, about, archive = parts.completion(
        picture(), LABELS, str(folder / "depth.npy"), "35, 35, 15, 20", 15
    )
    assert archive is not None
    with zipfile.ZipFile(archive) as meshes:
        assert any(name.endswith(".obj") for name in meshes.namelist())
    Path(archive).unlink()
    assert about.startswith("Voxels of 14³: chair: ")
    assert len(views) == 3
    assert all((view != 255).any() for view, _ in views)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((None, LABELS, None, "", 0), "picture: upload one first"),
        (("picture", " ", None, "", 0), "labels: expected what to look for"),
        (("picture", "chair", "depth.npy", "", 0), "labels: expected at least two"),
        (("picture", LABELS, None, "", 0), "depth: upload a depth map"),
        (("picture", LABELS, "other.npy", "", 0), "depth: expected the sides of the picture"),
        (("picture", LABELS, "depth.npy", "1, 2", 0), "intrinsics: expected fx, fy, cx, cy"),
        (("picture", LABELS, "depth.npy", "500 500 320 240", 0), "intrinsics of another size"),
    ],
)
def test_mistakes_are_told_in_one_line(parts: Parts, folder: Path, given: tuple, words: str) -> None:
    image, labels, depth, intrinsics, tilt = given
    with pytest.raises(InputError) as caught:
        parts.completion(
            picture() if image else None, labels, str(folder / depth) if depth else None, intrinsics, tilt
        )
    assert words in str(caught.value)


def test_the_page_does_not_tell_where_uploads_lie(folder: Path) -> None:
    assert demo_page._public(f"{folder / 'depth.npy'}: depth: expected") == "depth.npy: depth: expected"


def test_bad_settings_are_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("gradio", reason="gradio (extra `demo`) is not installed")

    def failed(*overrides: str) -> str:
        argv = ["demo.py", f"hydra.run.dir={tmp_path / 'run'}", "runtime.device=cpu", *overrides]
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as stop:
            entry.main()
        assert stop.value.code == 2
        return capsys.readouterr().err.strip()

    assert failed("port=high").startswith("error: port: expected a number from 0 to 65535")
    assert "absent.pt" in failed(f"clip={folder / 'absent.pt'}")
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert failed() == 'error: demo: gradio is not installed: pip install -e ".[demo]" in the repository'


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium of the system."""
    pytest.importorskip("gradio", reason="gradio (extra `demo`) is not installed")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.slow
def test_the_page_in_a_browser(parts: Parts, folder: Path, browser: Any) -> None:
    """Upload a picture, type labels, see relevancies; upload its depth, see the completed scene; mistakes are told."""
    page = demo_page.build(parts)
    address = demo_page.serve(page, host="127.0.0.1", port=0, wait=False)
    try:
        tab = browser.new_page()
        asked: list[str] = []
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(address)
        tab.locator("#picture input[type=file]").set_input_files(folder / "picture.png")
        tab.locator("#picture img").wait_for(timeout=60_000)
        labels = tab.locator("#labels textarea, #labels input").first
        labels.fill("chair")
        tab.locator("#find").click()
        tab.get_by_text("labels: expected at least two").first.wait_for(timeout=60_000)
        labels.fill(LABELS)
        tab.locator("#find").click()
        tab.locator("#maps img").nth(2).wait_for(timeout=60_000)
        captions = tab.locator("#maps").inner_text()
        assert all(label in captions for label in ("chair", "table", "poster"))
        tab.locator("#depth input[type=file]").set_input_files(folder / "depth.npy")
        tab.get_by_text("depth.npy").first.wait_for(timeout=60_000)
        tab.locator("#complete").click()
        tab.locator("#views img").nth(2).wait_for(timeout=120_000)
        assert "Voxels of 14³" in tab.locator("#about").inner_text()
        assert "semabs-demo" in tab.locator("#meshes").inner_text()
        outside = [url for url in asked if not url.startswith((address.rstrip("/"), "data:", "blob:"))]
        assert not outside, outside
        tab.close()
    finally:
        page.close()
