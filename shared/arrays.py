"""NumPy files and stores: .npy and .npz without pickle, LMDB and HDF5. Errors name the file in one line."""

import math
import os
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from shared.atomic import PathLike, atomic_write, first_line, unreadable
from shared.errors import InputError


def save_npy(path: PathLike, array: np.ndarray) -> None:
    """Write one array atomically, never pickled (ValueError for object arrays)."""
    _no_objects(path, np.asanyarray(array))
    with atomic_write(path) as file:
        np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)


def save_npz(path: PathLike, *, compressed: bool = False, **arrays: Any) -> None:
    """Write named arrays atomically, never pickled (ValueError for object arrays)."""
    for array in arrays.values():
        _no_objects(path, np.asanyarray(array))
    with atomic_write(path) as file:
        (np.savez_compressed if compressed else np.savez)(file, **arrays)


def load_npz(path: PathLike, required: Iterable[str] = ()) -> dict[str, np.ndarray]:
    """All arrays of an .npz by name.

    InputError when the file is missing, damaged or pickled, or lacks an array that is `required`.
    """
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise InputError(f"{path}: expected an .npz archive, found a single .npy array")
        with archive:
            found = {name: archive[name] for name in archive.files}
    except OSError as error:
        raise unreadable(path, error) from None
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, KeyError) as error:
        raise InputError(f"{path}: not a readable .npz archive: {first_line(error)}") from None
    missing = [name for name in required if name not in found]
    if missing:
        raise InputError(f"{path}: no array {missing[0]!r}; it holds {', '.join(sorted(found)) or 'none'}")
    return found


def open_npy(
    path: PathLike, *, mmap: bool = True, ndim: int | None = None, dtype: str | Iterable[str] | None = None
) -> np.ndarray:
    """The array of an .npy file: read-only and memory-mapped, or with mmap=False read into memory.

    dtype: the name or names that are accepted ("float32"). InputError when the file is missing, damaged,
    shorter than its header says, holds pickled objects, or has another number of dimensions or another type.
    """
    shape, kind, offset = npy_header(path)
    if kind.hasobject:
        raise InputError(f"{path}: holds pickled Python objects, expected numbers")
    if ndim is not None and len(shape) != ndim:
        raise InputError(f"{path}: expected {ndim} dimensions, found shape {list(shape)}")
    accepted = [dtype] if isinstance(dtype, str) else list(dtype or ())
    if accepted and kind.name not in accepted:
        raise InputError(f"{path}: expected {' or '.join(accepted)}, found {kind.name}")
    expected = offset + kind.itemsize * math.prod(int(size) for size in shape)
    found = os.path.getsize(path)
    if found < expected:
        raise InputError(f"{path}: cut short: {found} bytes, but {list(shape)} {kind.name} needs {expected}")
    if 0 in shape:
        return np.empty(shape, kind)  # a file range of zero bytes cannot be mapped
    return np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)


def npy_header(path: PathLike) -> tuple[tuple[int, ...], np.dtype, int]:
    """(shape, dtype, offset of the data) of an .npy file; InputError when it is none."""
    try:
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            first = version == (1, 0)
            read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
            shape, _, kind = read(file)
            return shape, kind, file.tell()
    except OSError as error:
        raise unreadable(path, error) from None
    except (ValueError, EOFError, SyntaxError, TypeError) as error:
        raise InputError(f"{path}: not an .npy array: {first_line(error)}") from None


def open_lmdb(path: PathLike) -> Any:
    """A read-only LMDB environment. Open it after forking (in the worker), once per process."""
    import lmdb

    if not Path(path).exists():
        raise InputError(f"{path}: no such LMDB database")
    folder = Path(path).is_dir()
    try:
        return lmdb.open(
            os.fspath(path), subdir=folder, readonly=True, lock=False, readahead=False, meminit=False
        )
    except (lmdb.Error, OSError) as error:
        raise InputError(f"{path}: cannot be opened as an LMDB database: {first_line(error)}") from None


def open_hdf5(path: PathLike) -> Any:
    """A read-only `h5py.File`. Open it after forking (in the worker)."""
    import h5py

    if not Path(path).is_file():
        raise InputError(f"{path}: no such HDF5 file")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{path}: cannot be opened as an HDF5 file: {first_line(error)}") from None


def _no_objects(path: PathLike, array: np.ndarray) -> None:
    if array.dtype.hasobject:
        raise ValueError(f"{path}: an array of Python objects would have to be pickled")
