"""Masks of the Semantic Boundaries Dataset: MATLAB files (`GTcls.Segmentation`) -> index PNGs."""

from pathlib import Path

import numpy as np

from shared.errors import InputError
from shared.files import atomic_write
from shared.progress import Progress


def read_mask(path: Path) -> np.ndarray:
    """uint8 [H, W], the class of each pixel. InputError: no MATLAB file (up to 7.2), no GTcls.Segmentation."""
    import scipy.io

    try:
        content = scipy.io.loadmat(path, mat_dtype=True, squeeze_me=True, struct_as_record=True)
    except Exception as error:  # the reader answers damage with whatever its parser stumbles on
        raise InputError(f"{path}: not a readable MATLAB file: {error}") from None
    found = content.get("GTcls")
    if found is None or found.dtype.names is None or "Segmentation" not in found.dtype.names:
        raise InputError(
            f"{path}: expected GTcls.Segmentation, found {', '.join(_fields(content)) or 'nothing'}"
        )
    mask = np.asarray(found["Segmentation"].item())
    if mask.ndim != 2 or not np.issubdtype(mask.dtype, np.number):
        raise InputError(
            f"{path}: GTcls.Segmentation: expected numbers [H, W], found {mask.dtype} {mask.shape}"
        )
    if mask.min(initial=0) < 0 or mask.max(initial=0) > 255 or (mask != mask.astype(np.uint8)).any():
        raise InputError(f"{path}: GTcls.Segmentation: expected class ids 0 to 255")
    return mask.astype(np.uint8)


def convert(source: Path, target: Path) -> int:
    """Write `<stem>.png` for every .mat file of a folder; those that are there already stay. The number of files."""
    from PIL import Image

    if not source.is_dir():
        raise InputError(f"{source}: no such folder")
    found = sorted(source.glob("*.mat"))
    if not found:
        raise InputError(f"{source}: expected .mat files, found none")
    with Progress(len(found), unit="mask", label="SBD") as bar:
        for path in found:
            output = target / f"{path.stem}.png"
            if not output.exists():
                mask = read_mask(path)
                with atomic_write(output) as file:
                    Image.fromarray(mask).save(file, format="PNG")
            bar.update()
    return len(found)


def _fields(content: dict[str, object]) -> list[str]:
    return [name for name in content if not name.startswith("__")]
