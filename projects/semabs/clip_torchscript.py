"""Tensors of OpenAI's files of CLIP, which are TorchScript programs: they are read, and the program is not run."""

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shared.atomic import first_line
from shared.errors import InputError
from shared.pickle_values import Constructor, constructors
from shared.pickles import Interpreter, MappedFile

_STORAGES = {
    "torch.HalfStorage": torch.float16,
    "torch.FloatStorage": torch.float32,
    "torch.LongStorage": torch.int64,
}


@dataclass
class Module:
    """A module of the program: its attributes by name."""

    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Storage:
    """Numbers in the archive: a member `data/<key>`."""

    dtype: torch.dtype
    key: str
    count: int


def is_program(path: Path) -> bool:
    """Whether the file is a TorchScript program (a zip archive with `constants.pkl`)."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_program(path: Path) -> dict[str, Tensor]:
    """Tensors by the dotted names of their modules; InputError where the file holds anything unusual."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if name.split("/")[1:] == ["data.pkl"]]
            if len(members) != 1:
                raise InputError(f"{path}: {len(members)} data.pkl in the archive, expected one")
            if archive.getinfo(members[0]).compress_type != zipfile.ZIP_STORED:
                raise InputError(f"{path}: {members[0]} is compressed, which torch does not do")
            folder = members[0].removesuffix("data.pkl")
            program = _Program(archive, folder, str(path)).run()
    except (zipfile.BadZipFile, OSError, NotImplementedError, EOFError) as error:
        raise InputError(f"{path}: damaged or cut short: {first_line(error)}") from None
    if not isinstance(program, Module):
        raise InputError(f"{path}: expected a module, found a {type(program).__name__}")
    return dict(_tensors(program, ""))


class _Program(Interpreter):
    """The pickle of a program: classes of `__torch__` become `Module`s, tensors are read from the archive."""

    def __init__(self, archive: zipfile.ZipFile, folder: str, source: str) -> None:
        self.archive, self.folder = archive, folder
        own = f"{Module.__module__}.{Module.__qualname__}"
        names = {
            own: Constructor(own, None, _set_attributes),
            "torch._utils._rebuild_tensor_v2": Constructor("tensor", self._tensor),
            **{name: Constructor(name) for name in _STORAGES},
        }
        for kind in ("int", "double", "bool", "tensor"):
            name = f"torch.jit._pickle.build_{kind}list"
            names[name] = Constructor(name, list)
        content = archive.read(f"{folder}data.pkl")
        super().__init__(MappedFile(content), source, {**constructors(), **names})

    def _push_named(self, name: str, offset: int) -> None:
        if name.startswith("__torch__."):
            self.stack.append(Constructor(name, Module))
        else:
            super()._push_named(name, offset)

    def _binpersid(self, _: Any, __: int) -> None:
        kind, storage, key, _place, count = self.stack.pop()
        if kind != "storage" or not isinstance(storage, Constructor) or storage.name not in _STORAGES:
            raise ValueError("a reference to something that is no storage")
        self.stack.append(Storage(_STORAGES[storage.name], str(key), int(count)))

    def _tensor(self, storage: Any, start: Any, size: Any, stride: Any, *_: Any) -> Tensor:
        if not isinstance(storage, Storage):
            raise TypeError("a tensor without storage")
        member = self.archive.getinfo(f"{self.folder}data/{storage.key}")  # KeyError: damaged
        width = torch.empty(0, dtype=storage.dtype).element_size()
        if member.file_size != storage.count * width or member.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{member.filename} has {member.file_size} bytes for {storage.count} numbers")
        end = start + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if start < 0 or end >= storage.count or any(n < 1 for n in size) or any(step < 0 for step in stride):
            raise ValueError(f"a tensor {list(size)} beyond its {storage.count} numbers")
        numbers = torch.frombuffer(bytearray(self.archive.read(member)), dtype=storage.dtype)
        return numbers.as_strided(size, stride, start)


def _set_attributes(module: Module, state: Any) -> Module:
    if not isinstance(state, dict):
        raise TypeError("attributes that are no dict")
    module.attributes.update(state)
    return module


def _tensors(module: Module, prefix: str, depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    if depth > 16:
        raise InputError(f"{prefix}: modules within modules without end")
    for name, value in module.attributes.items():
        if isinstance(value, Module):
            yield from _tensors(value, f"{prefix}{name}.", depth + 1)
        elif isinstance(value, Tensor):
            yield f"{prefix}{name}", value
