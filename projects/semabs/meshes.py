"""Meshes and point clouds as files: marching cubes, OBJ and PLY text, letter for letter as released."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared.errors import InputError
from shared.files import atomic_write

_PLY_HEADER = (
    "ply\nformat ascii 1.0\nelement vertex {}\nproperty float x\nproperty float y\nproperty float z\n"
    "property uchar red\nproperty uchar green\nproperty uchar blue\nend_header\n"
)
_BLOCK = 1 << 16  # rows of text that are made at once
_PLY_TYPES = {
    **dict.fromkeys(("float", "float32"), "f4"), **dict.fromkeys(("double", "float64"), "f8"),
    **dict.fromkeys(("uchar", "uint8"), "u1"), **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("ushort", "uint16"), "u2"), **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("uint", "uint32"), "u4"), **dict.fromkeys(("int", "int32"), "i4"),
}  # fmt: skip


@dataclass(frozen=True)
class Surface:
    """Triangles: vertices [V, 3] and their normals [V, 3] float32, faces [F, 3] int."""

    vertices: np.ndarray
    normals: np.ndarray
    faces: np.ndarray


def surface_of(volume: np.ndarray) -> Surface | None:
    """The surface at 0.5 of a volume [X, Y, Z], in units of the volume's sides with the middle at 0.

    The outermost voxels are taken for empty, which closes the surface. None where nothing reaches 0.5.
    """
    from skimage.measure import marching_cubes

    inner = np.full(volume.shape, -np.inf, np.float32)
    inside = (slice(1, -1),) * 3
    inner[inside] = volume[inside]
    if not (inner > 0.5).any():
        return None
    vertices, faces, normals, _ = marching_cubes(inner, 0.5)
    broken = ~np.isfinite(normals).all(1)  # where faces of no area meet
    if broken.any():
        normals[broken] = vertex_normals(vertices, faces)[broken]
    sides = np.asarray(volume.shape)
    return Surface((vertices - sides / 2) / sides, normals, faces)


def placed(vertices: np.ndarray, bounds: np.ndarray, side: int) -> np.ndarray:
    """Scene coordinates [V, 3] float32 of vertices of `surface_of` a grid over bounds [2, 3] with both ends."""
    low, high = np.asarray(bounds, float)
    return (low + (vertices * side + side / 2) * (high - low) / (side - 1)).astype(np.float32)


def write_obj(path: str | os.PathLike[str], surface: Surface) -> None:
    """A Wavefront file: lines v, vn, f; indices from 1."""
    with atomic_write(path, "w") as file:
        _write_rows(file, "v %f %f %f\n", surface.vertices)
        _write_rows(file, "vn %f %f %f\n", surface.normals)
        _write_rows(file, "f %d %d %d\n", surface.faces + 1)


def write_ply(path: str | os.PathLike[str], points: np.ndarray, colours: np.ndarray) -> None:
    """A point cloud as text: points [N, 3], colours uint8 [N, 3]."""
    with atomic_write(path, "w") as file:
        file.write(_PLY_HEADER.format(len(points)))
        _write_rows(file, "%f %f %f %d %d %d\n", np.concatenate([points, colours], 1, dtype=np.float64))


def read_obj(path: str | os.PathLike[str]) -> Surface:
    """The triangles of a Wavefront file of lines v, vn, f; vn as many as v, or none."""
    kinds: dict[bytes, list[bytes]] = {b"v": [], b"vn": [], b"f": []}
    for line in _content(path).split(b"\n"):
        kind, _, rest = line.partition(b" ")
        if kind in kinds:
            kinds[kind].append(rest)
    try:
        vertices, normals = (_numbers(kinds[kind], np.float32) for kind in (b"v", b"vn"))
        rows = kinds[b"f"]
        if any(b"/" in row for row in rows):  # vertex/texture/normal
            rows = [b" ".join(corner.split(b"/")[0] for corner in row.split()) for row in rows]
        faces = _numbers(rows, np.int64) - 1
    except ValueError as error:
        raise InputError(f"{path}: not a mesh of triangles: {error}") from None
    if faces.size and (faces.min() < 0 or faces.max() >= len(vertices)):
        raise InputError(f"{path}: a face names vertex {faces.max() + 1}; there are {len(vertices)}")
    if len(normals) != len(vertices):
        normals = vertex_normals(vertices, faces)
    return Surface(vertices, normals, faces)


def read_ply(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Points [N, 3] float32 and colours uint8 [N, 3] (white without colours) of a PLY file, text or binary."""
    head, found, body = _content(path).partition(b"end_header\n")
    lines = [line.split() for line in head.replace(b"\r", b"").decode("ascii", errors="replace").split("\n")]
    if not found or lines[0] != ["ply"]:
        raise InputError(f"{path}: not a PLY file")
    try:
        form = next(line[1] for line in lines if line[:1] == ["format"])
        start = next(i for i, line in enumerate(lines) if line[:2] == ["element", "vertex"])
        count, fields = int(lines[start][2]), []
        for line in lines[start + 1 :]:
            if line[:1] != ["property"]:
                break
            fields.append((line[2], _PLY_TYPES[line[1]]))
        table = _ply_table(body, form, count, fields)
        points = np.stack([table[axis] for axis in "xyz"], 1).astype(np.float32)
    except (StopIteration, KeyError, IndexError, ValueError) as error:
        raise InputError(f"{path}: not a readable point cloud: {error}") from None
    names = ("red", "green", "blue")
    if not set(names) <= {name for name, _ in fields}:
        return points, np.full(points.shape, 255, np.uint8)
    return points, np.stack([table[name] for name in names], 1).astype(np.uint8)


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit normals [V, 3] float32: the mean of the faces' around, by area."""
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    across = np.cross(b - a, c - a)
    total = np.zeros(vertices.shape, np.float64)
    for corner in range(3):
        np.add.at(total, faces[:, corner], across)
    length = np.linalg.norm(total, axis=1, keepdims=True)
    return np.where(length > 0, total / np.where(length > 0, length, 1), [0, 0, 1]).astype(np.float32)


def _ply_table(body: bytes, form: str, count: int, fields: list[tuple[str, str]]) -> np.ndarray:
    if form == "ascii":
        rows = [line.split() for line in body.split(b"\n")[:count]]
        if len(rows) < count or any(len(row) < len(fields) for row in rows):
            raise ValueError(f"expected {count} lines of {len(fields)} numbers")
        values = np.array([row[: len(fields)] for row in rows], np.float64).reshape(count, len(fields))
        table = np.empty(count, np.dtype(fields))
        for (name, _), column in zip(fields, values.T, strict=True):
            table[name] = column
        return table
    order = {"binary_little_endian": "<", "binary_big_endian": ">"}[form]
    dtype = np.dtype([(name, order + kind) for name, kind in fields])
    if len(body) < count * dtype.itemsize:
        raise ValueError(f"cut short: expected {count} points")
    return np.frombuffer(body, dtype, count)


def _numbers(rows: list[bytes], dtype: type) -> np.ndarray:
    """Three numbers of each line [n, 3]; ValueError where there are others."""
    table: np.ndarray = np.array(b" ".join(rows).split(), dtype)
    if table.size != 3 * len(rows):
        raise ValueError(f"expected 3 numbers in a line, found {table.size} in {len(rows)}")
    return table.reshape(-1, 3)


def _content(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def _write_rows(file: object, line: str, table: np.ndarray) -> None:
    for start in range(0, len(table), _BLOCK):
        part = table[start : start + _BLOCK]
        file.write(line * len(part) % tuple(part.ravel().tolist()))  # type: ignore[attr-defined]
