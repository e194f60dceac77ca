"""Files from the internet that hold pickles: checkpoints, object arrays, data. Nothing in them is run.

A checkpoint's pickles are scanned opcode by opcode, and a name outside the allow-list is refused with the
file, the byte and the name, before `torch.load(weights_only=True)`, which has a gate of its own, reads them.
Other pickles are read by `shared.pickles`, which imports nothing.
"""

import contextlib
import mmap
import os
import warnings
import zipfile
from argparse import Namespace
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from shared import pickles
from shared.arrays import npy_header
from shared.atomic import PathLike, first_line, unreadable
from shared.errors import InputError

_LEGACY_PICKLES = (
    5  # before torch 1.6: magic number, protocol, system, the object, its storages' keys; then numbers
)
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_TORCH_NAMES = frozenset(
    [f"torch._utils._rebuild_{kind}" for kind in ("tensor", "tensor_v2", "tensor_v3", "parameter")]
    + ["torch._utils._rebuild_parameter_with_state", "torch._tensor._rebuild_from_type_v2"]
    + ["torch.Tensor", "torch.Size", "torch.device", "torch.nn.parameter.Parameter"]
    + ["torch.storage.UntypedStorage", "torch.storage.TypedStorage", "torch.serialization._get_layout"]
    + ["collections.OrderedDict", "collections.Counter", "_codecs.encode"]
    + [
        f"{module}.{kind}"
        for module in ("builtins", "__builtin__")
        for kind in ("bytearray", "set", "complex")
    ]
)


def load_checkpoint(path: PathLike, *, allow: Sequence[type] = ()) -> Any:
    """The object in a file of `torch.save`, of any torch from 0.4 on; tensors on the CPU.

    `argparse.Namespace`, NumPy arrays and numbers (also under the names of NumPy 1) and the classes in
    `allow` may be inside. Tensors of files of torch >= 1.6 are mapped: read from the disk when they are used.
    InputError: no such file, not a checkpoint, cut short, or a name that is not allowed (file, byte, name).
    """
    safe = [*_numpy_globals(), Namespace, *allow]
    names = _TORCH_NAMES.union(_full_name(entry) for entry in safe)
    with _mapped(path) as data:
        is_zip = data[:4] == b"PK\x03\x04"
        scan = _scan_zip if is_zip else _scan_legacy
        scan(path, data, names)
    try:
        with torch.serialization.safe_globals(safe), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the protocol: what cannot be read is an error anyhow
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except Exception as error:  # torch meets damaged files with errors of many classes
        raise InputError(f"{path}: not a readable checkpoint: {first_line(error)}") from None


def load_pickle(path: PathLike, allow: Sequence[type] = ()) -> Any:
    """The object in a pickle of plain data: containers, text, numbers, NumPy arrays, the classes in `allow`.

    Large arrays are read-only views of the mapped file. InputError: as `load_checkpoint`.
    """
    with _mapped(path) as data:
        return pickles.load(pickles.MappedFile(data), os.fspath(path), allow)


def load_object_npy(path: PathLike) -> Any:
    """The Python object in an .npy file of objects (`np.save(path, {...})`, the release's `results_*.npy`).

    A 0-d array gives its one object, others a (nested) list. Large arrays inside stay on the disk, as
    read-only views of the mapped file. InputError also for a file of plain numbers: that is for
    `shared.files.open_npy`.
    """
    with _mapped(path) as data:
        shape, dtype, start = npy_header(path)
        if dtype != np.dtype(object):
            raise InputError(f"{path}: expected an array of Python objects, found {dtype.name} {list(shape)}")
        found = pickles.load(pickles.MappedFile(data, start), os.fspath(path))
    if not isinstance(found, np.ndarray) or found.shape != shape:
        raise InputError(
            f"{path}: the pickle is not the array of shape {list(shape)} that the header promises"
        )
    return found.tolist()


@contextlib.contextmanager
def _mapped(path: PathLike) -> Iterator[mmap.mmap]:
    """The file as a read-only map; it is closed when nothing views it any more."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise InputError(f"{path}: empty file")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise unreadable(path, error) from None
    yield data


def _scan_zip(path: PathLike, data: mmap.mmap, names: frozenset[str]) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            found = [entry for entry in members if entry.filename.split("/")[1:] == ["data.pkl"]]
            if any(entry.filename.endswith("/constants.pkl") for entry in members):
                raise InputError(f"{path}: a TorchScript program, expected a checkpoint of tensors")
            if len(found) != 1:
                raise InputError(
                    f"{path}: a zip archive with {len(found)} data.pkl, expected a torch checkpoint"
                )
            if found[0].compress_type != zipfile.ZIP_STORED:
                raise InputError(f"{path}: {found[0].filename} is compressed, which torch.save does not do")
            content = archive.read(found[0])
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError) as error:
        raise InputError(f"{path}: damaged or cut short: {first_line(error)}") from None
    start = max(0, data.find(content[:64], found[0].header_offset))
    _scan(pickles.MappedFile(content), os.fspath(path), names, start)


def _scan_legacy(path: PathLike, data: mmap.mmap, names: frozenset[str]) -> None:
    file = pickles.MappedFile(data)
    for part in range(_LEGACY_PICKLES):
        literal = _scan(file, os.fspath(path), names)
        if part == 0 and literal != _LEGACY_MAGIC:
            raise InputError(f"{path}: not a torch checkpoint")


def _scan(file: pickles.MappedFile, source: str, names: frozenset[str], shift: int = 0) -> Any:
    """Refuse names outside `names`. The last literal is returned: for the pickle of a number, the number.

    Where a name is put together on the stack (STACK_GLOBAL) the two last texts are taken for it. That can be
    fooled, but torch reads no such pickle at all.
    """
    texts: deque[str] = deque(["?", "?"], maxlen=2)
    literal: Any = None
    for operation, argument, offset in pickles.operations(file, source):
        where = f"{source}: byte {shift + offset}"
        if operation in ("GLOBAL", "INST", "STACK_GLOBAL"):
            name = ".".join(texts) if operation == "STACK_GLOBAL" else argument.replace(" ", ".")
            if not _is_allowed(name, names):
                raise InputError(f"{where}: refused: the pickle asks for {name}, which is not plain data")
        elif operation in ("EXT1", "EXT2", "EXT4"):
            raise InputError(f"{where}: refused: the pickle uses {operation}, which is not plain data")
        elif isinstance(argument, str):
            texts.append(argument)
        if argument is not None:
            literal = argument
    return literal


def _is_allowed(name: str, names: frozenset[str]) -> bool:
    module, _, last = name.rpartition(".")
    is_storage = module in ("torch", "torch.cuda") and last.endswith("Storage")
    is_dtype = module == "torch" and isinstance(getattr(torch, last, None), torch.dtype)
    return name in names or is_storage or is_dtype


def _numpy_globals() -> list[Any]:
    """NumPy's constructors for `torch.serialization.safe_globals`, under the names of NumPy 1 and 2."""
    multiarray = np._core.multiarray  # type: ignore[attr-defined]
    functions = [
        (getattr(multiarray, function), f"numpy.{core}.multiarray.{function}")
        for function in ("scalar", "_reconstruct")
        for core in ("core", "_core")
    ]
    dtypes = sorted({type(np.dtype(code)) for code in "?bBhHiIlLqQefdFDSU"}, key=lambda kind: kind.__name__)
    return [*functions, np.ndarray, np.dtype, *dtypes]


def _full_name(entry: Any) -> str:
    return entry[1] if isinstance(entry, tuple) else f"{entry.__module__}.{entry.__qualname__}"
