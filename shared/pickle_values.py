"""What the names in a pickle stand for, when it is read without running it: plain data and NumPy arrays."""

from argparse import Namespace
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

Build = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Constructor:
    """What a name may do: `call` with arguments (REDUCE, NEWOBJ), `build` from a state (BUILD)."""

    name: str
    call: Callable[..., Any] | None = None
    build: Build | None = None


@dataclass
class Unfinished:
    """An array or a dtype before its BUILD; `memo`: the keys under which the pickle keeps it meanwhile."""

    build: Build
    start: Any = None
    memo: list[int] = field(default_factory=list)


def constructors(allow: Sequence[type] = ()) -> dict[str, Constructor]:
    """By full name, of NumPy 1 and 2, Python 2 and 3; `allow`: further classes, made as they are."""
    calls: dict[str, Callable[..., Any] | None] = {
        "collections.OrderedDict": OrderedDict,
        "collections.Counter": Counter,
        "argparse.Namespace": Namespace,
        "_codecs.encode": _encode,
        "numpy.ndarray": None,
        "numpy.dtype": _dtype,
    }
    for module in ("builtins", "__builtin__"):
        calls |= {f"{module}.{cls.__name__}": cls for cls in (set, frozenset, complex)}
        calls[f"{module}.bytearray"] = _bytearray
        calls[f"{module}.bytes"] = _empty_bytes
    for module in ("numpy.core", "numpy._core"):
        calls[f"{module}.multiarray._reconstruct"] = _unfinished_array
        calls[f"{module}.multiarray.scalar"] = _scalar
        calls[f"{module}.numeric._frombuffer"] = _from_buffer
    builds = {"argparse.Namespace": update_instance}
    for cls in allow:
        name = f"{cls.__module__}.{cls.__qualname__}"
        calls[name], builds[name] = cls, update_instance
    return {name: Constructor(name, call, builds.get(name)) for name, call in calls.items()}


def update_instance(instance: Any, state: Any) -> Any:
    """Give an instance its pickled state."""
    if "__setstate__" in dir(type(instance)):
        instance.__setstate__(state)
    else:
        vars(instance).update({str(name): value for name, value in state.items()})
    return instance


def _encode(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1", "ascii", "utf-8"):
        raise ValueError(f"encoding {encoding!r}")
    return text.encode(encoding)


def _empty_bytes() -> bytes:
    return b""  # the only bytes that old protocols write by this name


def _bytearray(data: Any = b"", encoding: str = "latin-1") -> bytearray:
    if isinstance(data, str):
        return bytearray(_encode(data, encoding))
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError("a bytearray of something else than bytes")  # of a number: that many zeros
    return bytearray(data)


def _unfinished_array(*_: Any) -> Unfinished:
    return Unfinished(_build_array)


def _build_array(_: Any, state: Sequence[Any]) -> np.ndarray:
    _version, shape, dtype, fortran, data = state
    return _array(data, dtype, shape, "F" if fortran else "C")


def _from_buffer(data: Any, dtype: Any, shape: Sequence[int], order: str) -> np.ndarray:
    return _array(data, dtype, shape, order)


def _scalar(dtype: Any, data: Any) -> Any:
    return _array(data, dtype, (), "C")[()]


def _array(data: Any, dtype: Any, shape: Sequence[int], order: str) -> np.ndarray:
    """The array of `data`, whose size has to fit; a view of it where it is a view of the mapped file."""
    if not isinstance(dtype, np.dtype):
        raise TypeError("an array without a dtype")
    shape = tuple(int(size) for size in shape)
    if any(size < 0 for size in shape):
        raise ValueError(f"shape {shape}")
    layout: Any = "F" if order == "F" else "C"
    if dtype.hasobject:
        if type(data) is not list or len(data) != prod(shape):
            raise ValueError("an array of objects whose list does not fit its shape")
        flat = np.empty(len(data), object)
        for position, value in enumerate(data):
            flat[position] = value
        return flat.reshape(shape, order=layout)
    data = data.encode("latin-1") if isinstance(data, str) else data  # Python 2 wrote bytes as strings
    if len(data) != prod(shape) * dtype.itemsize:
        raise ValueError(f"{len(data)} bytes for shape {shape} {dtype}")
    array = np.frombuffer(data, dtype) if len(data) else np.empty(shape, dtype)
    return (array if isinstance(data, memoryview) else array.copy()).reshape(shape, order=layout)


def _dtype(code: Any, *_: Any) -> Unfinished:
    code = code.decode("ascii") if isinstance(code, bytes) else code
    simple = isinstance(code, str) and code[:1] in tuple("?bBhHiIlLqQefdgFDcSUVOu")
    if not simple or (code[1:] and not code[1:].isdigit()):
        raise ValueError(f"dtype {code!r}")
    return Unfinished(_build_dtype, np.dtype(code))


def _build_dtype(dtype: np.dtype, state: Sequence[Any]) -> np.dtype:
    if tuple(state[2:5]) != (None, None, None):
        raise ValueError("a dtype with fields")
    order: Any = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
    if dtype.kind in "SUV" and int(state[5]) >= 0:
        dtype = np.dtype((dtype.type, int(state[5]) // (4 if dtype.kind == "U" else 1)))
    return dtype.newbyteorder(order)
