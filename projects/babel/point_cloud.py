"""Coloured point clouds as PLY files, which MeshLab, CloudCompare and Blender open."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from shared.files import atomic_write

_TYPES = {"f4": "float", "f8": "double", "u1": "uchar"}  # the ones that COLMAP reads
_BLOCK = 65536  # points that are written at once as text


def write_ply(
    path: str | Path,
    xyz: np.ndarray,
    rgb: np.ndarray,
    *,
    extra: Mapping[str, np.ndarray] | None = None,
    ascii: bool = False,
    comments: tuple[str, ...] = (),
) -> None:
    """Write points: xyz [N, 3] as float32, rgb uint8 [N, 3].

    extra: further properties [N] by name, float32, float64 or uint8. comments: one line each.
    """
    fields = [(axis, "<f4") for axis in "xyz"] + [(colour, "u1") for colour in ("red", "green", "blue")]
    columns = [*xyz.T, *rgb.T]
    for name, values in (extra or {}).items():
        fields.append((name, np.asarray(values).dtype.newbyteorder("<").str))
        columns.append(values)
    table = np.empty(len(xyz), np.dtype(fields))
    for (name, _), column in zip(fields, columns, strict=True):
        table[name] = column
    header = ["ply", f"format {'ascii' if ascii else 'binary_little_endian'} 1.0"]
    header += [f"comment {' '.join(text.split())}" for text in comments]
    header += [f"element vertex {len(table)}"]
    header += [f"property {_TYPES[kind.lstrip('<|')]} {name}" for name, kind in fields]
    with atomic_write(path) as file:
        file.write("\n".join([*header, "end_header", ""]).encode("utf-8"))
        if not ascii:
            file.write(table.tobytes())
            return
        formats = {"<f4": "%.9g", "<f8": "%.17g"}  # enough digits to read the same number
        line = " ".join(formats.get(kind, "%d") for _, kind in fields) + "\n"
        for start in range(0, len(table), _BLOCK):
            rows = table[start : start + _BLOCK].tolist()
            file.write("".join(line % row for row in rows).encode("ascii"))
