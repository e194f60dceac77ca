"""Grid features to disk: the same as the CNN gives, resumable after a kill, never mixed with others."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from projects.vseinfty import extraction, released
from projects.vseinfty.backbones import Backbone
from projects.vseinfty.data import Split, open_split
from projects.vseinfty.model import build_model
from shared import checkpoint
from shared.data import BatchPlan
from shared.errors import InputError
from shared.files import read_json
from shared.runtime import Runtime
from tests.vseinfty.sets import write_images, write_regions

PROJECT = Path(__file__).parents[2] / "projects" / "vseinfty"
CPU = Runtime(torch.device("cpu"))


@pytest.fixture
def network() -> Backbone:
    torch.manual_seed(0)
    return Backbone("imagenet_res50", blocks=(1, 1, 1, 1)).eval()


@pytest.fixture
def split(tmp_path: Path) -> Split:
    write_images(tmp_path / "set", num_images=7, split="test")
    return open_split(root=tmp_path / "set", name="coco", split="test", kind="pixels", image_side=64)


@pytest.fixture
def extract(split: Split, network: Backbone, tmp_path: Path) -> Callable[..., Any]:
    path = tmp_path / "out" / "precomp" / "test_ims.npy"
    path.parent.mkdir(parents=True)

    def run(**changes: Any) -> Path:
        options = {"settings": {"weights": "w"}, "batch_size": 2, "workers": 0, "dtype": "float32", **changes}
        source = options.pop("split", split)
        assert extraction.extract(network, source, path, runtime=CPU, **options) == (7, 4, 2048)
        return path

    return run


def test_written_set_is_a_region_set(
    extract: Callable[..., Path], split: Split, network: Backbone, tmp_path: Path
) -> None:
    path = extract()
    with torch.inference_mode():
        expected = network(split.fetch_images(BatchPlan(0, 0, np.arange(7))).images).numpy()
    opened = open_split(root=tmp_path / "out", name="coco", split="test", image_dim=2048)
    assert (opened.num_images, opened.captions_per_row) == (7, 5)
    assert opened.texts == split.texts
    assert opened.image_ids == split.image_ids
    features = opened.fetch_images(BatchPlan(0, 0, np.arange(7))).images.numpy()
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-4 * expected.max())
    assert np.abs(expected).max() > 0
    assert not path.with_name(path.name + ".part").exists()


def test_half_precision(extract: Callable[..., Path]) -> None:
    half = np.load(extract(dtype="float16"))
    assert half.dtype == np.float16
    assert np.abs(half).max() > 0


@pytest.mark.parametrize("rows", [0, 3.5, 7])
def test_continues_where_the_file_ends(extract: Callable[..., Path], split: Split, rows: float) -> None:
    path = extract()
    whole = path.read_bytes()
    row_bytes = 4 * 2048 * 4
    part = path.with_name(path.name + ".part")
    part.write_bytes(whole[: len(whole) - int((7 - rows) * row_bytes)])  # as a kill leaves it
    path.unlink()
    fetched: list[int] = []
    original = split.fetch_images

    def watched(plan: BatchPlan) -> Any:
        fetched.extend(plan.indices.tolist())
        return original(plan)

    split.fetch_images = watched  # type: ignore[method-assign]
    assert extract().read_bytes() == whole
    assert fetched == list(range(int(rows) // 2 * 2, 7))


def test_a_header_cut_short_starts_anew(extract: Callable[..., Path]) -> None:
    path = extract()
    whole = path.read_bytes()
    path.with_name(path.name + ".part").write_bytes(whole[:20])
    path.unlink()
    assert extract().read_bytes() == whole


def test_what_is_there_is_not_computed_again(extract: Callable[..., Path], network: Backbone) -> None:
    path = extract()
    before = path.stat().st_mtime_ns
    network.forward = None  # type: ignore[assignment, method-assign]
    assert extract().stat().st_mtime_ns == before


def test_other_settings_are_refused(extract: Callable[..., Path]) -> None:
    path = extract()
    with pytest.raises(InputError, match=r"test_ims\.json: made with weights = 'w', now it is 'v'"):
        extract(settings={"weights": "v"})
    with pytest.raises(InputError, match="made with dtype = 'float32', now it is 'float16'"):
        extract(dtype="float16")
    path.with_suffix(".json").unlink()
    with pytest.raises(InputError, match=r"test_ims\.npy: already there and not made by this tool"):
        extract()


def test_values_that_do_not_fit(extract: Callable[..., Path], network: Backbone) -> None:
    forward = network.forward
    network.forward = lambda pixels: forward(pixels) * 0 + 1e5  # type: ignore[method-assign]
    with pytest.raises(InputError, match=r"test0\.png: its grid features hold values too large for float16"):
        extract(dtype="float16")
    network.forward = lambda pixels: forward(pixels) * float("nan")  # type: ignore[method-assign]
    with pytest.raises(InputError, match=r"test0\.png: its grid features hold NaN or infinity"):
        extract(dtype="float16")


def test_full_disk_is_seen_before_the_work(
    extract: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extraction, "free_bytes", lambda folder: 1000)
    with pytest.raises(InputError, match=r"GiB to write, 0\.0 GiB free"):
        extract()


def test_unknown_dtype(extract: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="dtype: expected float16 or float32, found 'int8'"):
        extract(dtype="int8")


# ---- the CNN inside a checkpoint


@pytest.fixture(scope="module")
def grid_model() -> Any:
    torch.manual_seed(1)
    return build_model(
        embed_size=8, image_encoder="grid", backbone="imagenet_res50", vocab_size=9, word_dim=4
    )


def test_cnn_of_a_released_checkpoint(grid_model: Any, tmp_path: Path) -> None:
    path = tmp_path / "model_best.pth"
    released.save(path, grid_model, options={"input_scale_factor": 0.5})
    network, side = extraction.cnn_of(path)
    assert (network.source, side) == ("imagenet_res50", 128)
    for key, value in grid_model.img_enc.backbone.state_dict().items():
        assert torch.equal(network.state_dict()[key], value), key


def test_cnn_of_our_run(grid_model: Any, tmp_path: Path) -> None:
    settings = {"model": {"image_encoder": "grid", "backbone": "imagenet_res50"}, "data": {"image_side": 96}}
    checkpoint.save(
        tmp_path, runtime=CPU, modules={"model": grid_model}, progress={}, config=settings, best=True
    )
    for path in (tmp_path, tmp_path / "last.pt"):
        network, side = extraction.cnn_of(path)
        assert (network.source, side) == ("imagenet_res50", 96)
    key = "top.0.2.conv3.weight"
    assert torch.equal(network.state_dict()[key], grid_model.img_enc.backbone.state_dict()[key])


def test_models_without_a_cnn(tmp_path: Path) -> None:
    model = build_model(embed_size=8, image_dim=6, vocab_size=9, word_dim=4)
    released.save(tmp_path / "region.pth", model, options={})
    with pytest.raises(InputError, match=r"region\.pth: expected a grid model with a CNN"):
        extraction.cnn_of(tmp_path / "region.pth")
    with pytest.raises(InputError, match="checkpoint: no such file"):
        extraction.cnn_of(tmp_path / "absent.pth")


# ---- the command


def command(tmp_path: Path, *overrides: str) -> list[str]:
    own = [f"output={tmp_path / 'out'}", f"hydra.run.dir={tmp_path / 'run'}", "workers=0"]
    return [sys.executable, str(PROJECT / "extract_features.py"), *own, *overrides]


def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "WORDSIGHT_DATA": str(tmp_path / "data"), "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_killed_command_continues(tmp_path: Path) -> None:
    overrides = ["splits=[dev]", "data.image_side=32", "batch_size=2", "runtime.threads=1", "dtype=float32"]
    out = tmp_path / "out" / "precomp" / "dev_ims.npy"
    part = out.with_name("dev_ims.npy.part")
    with subprocess.Popen(command(tmp_path, *overrides), env=environment(tmp_path), cwd=tmp_path) as process:
        while process.poll() is None and not (part.exists() and part.stat().st_size > 10 * 2048 * 4):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    killed = not out.exists()
    subprocess.run(command(tmp_path, *overrides), env=environment(tmp_path), cwd=tmp_path, check=True)
    continued = out.read_bytes()
    for file in out.parent.iterdir():
        file.unlink()
    subprocess.run(command(tmp_path, *overrides), env=environment(tmp_path), cwd=tmp_path, check=True)
    assert out.read_bytes() == continued
    assert killed, "the process was too quick to be killed: the test has shown nothing"
    assert np.load(out).shape == (60, 1, 2048)
    assert read_json(out.with_suffix(".json"))["weights"] == "random, seed 0"


def test_commands_that_end_in_one_line(tmp_path: Path) -> None:
    write_images(tmp_path / "data" / "coco")
    write_regions(tmp_path / "data" / "f30k")
    for overrides, message in (
        (["data=f30k"], "error: data.kind: expected pixels"),
        (["data=coco_images", "checkpoint=no.pth"], "error: checkpoint: no such file no.pth"),
    ):
        done = subprocess.run(
            command(tmp_path, *overrides),
            env=environment(tmp_path),
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith(message)
        assert done.stderr.count("\n") == 1
        assert not (tmp_path / "out").exists()
