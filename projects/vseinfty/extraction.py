"""Grid features of an image set, computed once and stored as a region set (`precomp/`).

The array is written in the order of the images, so a killed run continues where its file ends.
"""

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from projects.vseinfty import released
from projects.vseinfty.backbones import DIM, Backbone, num_grids
from projects.vseinfty.data import Split
from projects.vseinfty.images import ImageFiles
from shared import checkpoint
from shared.data import eval_plans, load, to_device
from shared.errors import InputError
from shared.files import atomic_write, free_bytes, read_json, write_json
from shared.progress import Progress
from shared.runtime import Runtime
from shared.untrusted import load_checkpoint


def cnn_of(path: Path) -> tuple[Backbone, int]:
    """The CNN inside a grid model, and the image side that it was trained with.

    Args:
        path: the authors' .pth, one of our .pt files, or a run folder (its best.pt).

    Raises:
        InputError: no such file, or a model without a CNN.
    """
    file = path / checkpoint.BEST if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"checkpoint: no such file {file}")
    content = load_checkpoint(file)
    if released.is_released(content):
        theirs = released.from_content(content, file)
        kind, settings, state, prefix = (
            theirs.image_encoder,
            released.data_settings(theirs),
            theirs.images,
            "",
        )
        source, side = settings.get("backbone", ""), settings.get("image_side", 0)
    else:
        ours = checkpoint.load(file)
        kind, state, prefix = ours["config"]["model"]["image_encoder"], ours["modules"]["model"], "img_enc."
        source, side = ours["config"]["model"]["backbone"], ours["config"]["data"]["image_side"]
    if kind != "grid":
        raise InputError(f"{file}: expected a grid model with a CNN, found one of precomputed {kind}")
    prefix += "backbone."
    network = Backbone(source)
    checkpoint.load_strictly(
        network,
        {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)},
        source=str(file),
        allow_missing=["*num_batches_tracked"],
    )
    return network.eval(), int(side)


def extract(
    network: Backbone,
    split: Split,
    path: Path,
    *,
    runtime: Runtime,
    settings: Mapping[str, Any],
    batch_size: int = 32,
    workers: int | None = None,
    dtype: str = "float16",
) -> tuple[int, int, int]:
    """Write the grid features of a split's unique images, with its captions and ids beside them.

    Args:
        network: the CNN, on the runtime's device.
        split: opened with kind "pixels".
        path: `<folder>/precomp/<split>_ims.npy`; `<split>_ims.json` keeps the settings.
        runtime: device and precision.
        settings: what the numbers depend on; an array made with others is never continued or overwritten.
        batch_size, workers: as usual; dtype: "float16" or "float32" in the file.

    Returns:
        The array's shape (images, grids, 2048).

    Raises:
        InputError: other settings, no room on the disk, an unreadable image, or values float16 cannot hold.
    """
    source = split.source
    assert isinstance(source, ImageFiles)
    shape = (split.num_images, num_grids(network.source, source.side), DIM)
    if dtype not in ("float16", "float32"):
        raise InputError(f"dtype: expected float16 or float32, found {dtype!r}")
    if _is_done(path, {**settings, "shape": list(shape), "dtype": dtype, "precision": runtime.precision}):
        return shape
    name = path.name.removesuffix("_ims.npy")
    _write_lines(path.with_name(f"{name}_caps.txt"), split.texts)
    _write_lines(path.with_name(f"{name}_ids.txt"), split.image_ids)

    part = path.with_name(path.name + ".part")
    header = _npy_header(shape, dtype)
    row_bytes = shape[1] * shape[2] * np.dtype(dtype).itemsize
    with open(part, "r+b" if part.exists() else "w+b") as file:
        rows = max(0, os.path.getsize(part) - len(header)) // row_bytes
        done = (
            min(rows, shape[0]) // batch_size * batch_size
        )  # whole batches: the same batches, the same numbers
        missing, free = (shape[0] - done) * row_bytes, free_bytes(path.parent)
        if missing > free:
            raise InputError(
                f"{path}: {missing / 2**30:.1f} GiB to write, {free / 2**30:.1f} GiB free on the disk"
            )
        file.write(header)
        file.truncate(len(header) + done * row_bytes)
        file.seek(0, os.SEEK_END)
        plans = eval_plans(shape[0], batch_size)[done // batch_size :]
        with Progress(shape[0], start=done, unit="image", label=name, device=runtime.device) as bar:
            for batch in load(
                split.fetch_images, plans, workers=workers, pin_memory=runtime.device.type == "cuda"
            ):
                pixels = to_device(batch.images, runtime.device)
                with torch.inference_mode(), runtime.autocast():
                    grids = network(pixels).float().cpu().numpy()
                file.write(_stored(grids, dtype, batch.indices, split).tobytes())
                bar.update(len(grids))
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
    return shape


def _is_done(path: Path, settings: dict[str, Any]) -> bool:
    """Whether the array is there; its settings are written down first, so that a part is never of others."""
    side_file = path.with_suffix(".json")
    if side_file.exists():
        found = read_json(side_file)
        differing = [key for key in settings if found.get(key) != settings[key]]
        if differing:
            key = differing[0]
            raise InputError(
                f"{side_file}: made with {key} = {found.get(key)!r}, now it is {settings[key]!r}; "
                "choose another output, or remove that folder"
            )
        return path.exists()
    if path.exists():
        raise InputError(f"{path}: already there and not made by this tool; choose another output")
    write_json(side_file, settings)
    return False


def _npy_header(shape: tuple[int, ...], dtype: str) -> bytes:
    buffer = io.BytesIO()
    described = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, described)
    return buffer.getvalue()


def _stored(grids: np.ndarray, dtype: str, indices: torch.Tensor, split: Split) -> np.ndarray:
    with np.errstate(over="ignore"):
        stored = grids.astype(dtype)
    finite = np.isfinite(stored).all(axis=(1, 2))
    if not finite.all():
        assert isinstance(split.source, ImageFiles)
        row = split.image_rows(indices.numpy())[~finite][0]
        overflow = np.isfinite(grids).all()
        reason = "values too large for float16, use dtype=float32" if overflow else "NaN or infinity"
        raise InputError(f"{split.source.paths[row]}: its grid features hold {reason}")
    return stored


def _write_lines(path: Path, lines: list[str]) -> None:
    with atomic_write(path, "w") as file:
        file.writelines(line + "\n" for line in lines)
