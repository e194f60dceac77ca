"""The points of a PLY file, for tests."""

from pathlib import Path

import numpy as np

KINDS = {"float": "<f4", "double": "<f8", "uchar": "u1", "int": "<i4"}


def vertices(path: Path) -> np.ndarray:
    """A structured array of what the header declares."""
    head, _, body = path.read_bytes().partition(b"end_header\n")
    lines = [line.split() for line in head.decode().splitlines() if not line.startswith("comment")]
    assert lines[0] == ["ply"]
    assert lines[2][:2] == ["element", "vertex"]
    dtype = np.dtype([(name, KINDS[kind]) for word, kind, name in lines[3:] if word == "property"])
    if lines[1][1] == "ascii":
        rows = [tuple(float(value) for value in line.split()) for line in body.decode().splitlines()]
        found = np.array(rows, dtype)
    else:
        found = np.frombuffer(body, dtype)
    assert len(found) == int(lines[2][2])
    return found
