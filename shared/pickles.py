"""A pickle reader that cannot run code: it interprets the opcodes itself and makes plain data only.

No name in a pickle is ever imported. Those of `shared.pickle_values` stand for constructors of ours; any
other is refused with its place in the file. Memory is bounded by the size of the file: lengths and shapes are
compared with what is there before anything is made, and large arrays stay views of the mapped file.
"""

import mmap
import pickletools
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import numpy as np

from shared.atomic import first_line
from shared.errors import InputError
from shared.pickle_values import Constructor, Unfinished, constructors

_VIEWED = 4096  # longer contents of bytes objects are not copied
_BYTES_OPCODES = (b"B", b"\x8e")  # BINBYTES, BINBYTES8


class MappedFile:
    """Bytes, or a mapped file, from `start` on: the little file object that `pickletools.genops` reads."""

    def __init__(self, data: mmap.mmap | bytes, start: int = 0) -> None:
        self.data, self.view, self.position = data, memoryview(data), start
        self._opcode = b""

    def tell(self) -> int:
        """The offset of the next byte in the whole file."""
        return self.position

    def read(self, count: int) -> bytes | memoryview:
        """`count` bytes or what is left; a view where they are the long contents of a bytes object."""
        part = self.view[self.position : self.position + count]
        self.position += len(part)
        if count > _VIEWED and self._opcode in _BYTES_OPCODES:
            return part
        if count == 1:
            self._opcode = bytes(part)
        return bytes(part)

    def readline(self) -> bytes:
        """The bytes up to and with the next newline, or all that are left."""
        end = self.data.find(b"\n", self.position) + 1 or len(self.view)
        line = bytes(self.view[self.position : end])
        self.position = end
        return line


def operations(file: MappedFile, source: str) -> Iterator[tuple[str, Any, int]]:
    """(opcode name, argument, offset) up to STOP; InputError when the bytes are not a complete pickle."""
    try:
        for opcode, argument, offset in pickletools.genops(file):  # type: ignore[arg-type]
            yield opcode.name, argument, offset or 0
    except (ValueError, IndexError, OverflowError, MemoryError) as error:
        raise InputError(
            f"{source}: byte {file.tell()}: not a complete pickle: {first_line(error)}"
        ) from None


def load(file: MappedFile, source: str, allow: Sequence[type] = ()) -> Any:
    """The object that the pickle at the file's position describes; `allow`: further classes it may make.

    InputError names `source`, the byte and the refused name.
    """
    return Interpreter(file, source, constructors(allow)).run()


class Interpreter:
    """One method per opcode, `(argument, offset)`; the stack and the memo are those of the pickle machine."""

    def __init__(self, file: MappedFile, source: str, table: dict[str, Constructor]) -> None:
        self.file, self.source, self.table = file, source, table
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.unfinished = 0

    def run(self) -> Any:
        """The object, with all opcodes read."""
        for name, argument, offset in operations(self.file, self.source):
            try:
                if name in _LITERALS:
                    is_view = isinstance(argument, memoryview)
                    self.stack.append(
                        bytes(argument) if is_view and not self._after_array_type() else argument
                    )
                elif name in _CONSTANTS:
                    self.stack.append(_CONSTANTS[name]())
                elif name != "STOP":
                    handler = getattr(self, f"_{name.lower()}", None)
                    if handler is None:
                        self._refuse(
                            offset, f"refused: the pickle uses {name}, which plain data does not need"
                        )
                    handler(argument, offset)
            except (IndexError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
                self._refuse(offset, f"damaged pickle ({name}: {first_line(error)})")
        if len(self.stack) != 1 or self.unfinished:
            self._refuse(self.file.tell(), "damaged pickle: it ends before its object is complete")
        return self.stack[0]

    def _after_array_type(self) -> bool:
        """Whether the stack is an array's state (version, shape, dtype, is Fortran order) up to its bytes."""
        return (
            len(self.stack) >= 4 and isinstance(self.stack[-2], np.dtype) and isinstance(self.stack[-1], bool)
        )

    def _refuse(self, offset: int, reason: str) -> NoReturn:
        raise InputError(f"{self.source}: byte {offset}: {reason}")

    # names, and what is made of them

    def _global(self, argument: str, offset: int) -> None:
        self._push_named(argument.replace(" ", "."), offset)

    def _stack_global(self, _: Any, offset: int) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self._push_named(f"{module}.{name}", offset)

    def _push_named(self, name: str, offset: int) -> None:
        if name not in self.table:
            self._refuse(offset, f"refused: the pickle asks for {name}, which is not plain data")
        self.stack.append(self.table[name])

    def _reduce(self, _: Any, offset: int) -> None:
        arguments, constructor = self.stack.pop(), self.stack.pop()
        if not isinstance(constructor, Constructor) or constructor.call is None:
            self._refuse(offset, "refused: the pickle calls something that does not make plain data")
        made = constructor.call(*_exactly(arguments, tuple))
        self.unfinished += isinstance(made, Unfinished)
        self.stack.append(made)

    _newobj = _reduce

    def _build(self, _: Any, offset: int) -> None:
        state, target = self.stack.pop(), self.stack.pop()
        if isinstance(target, Unfinished):
            finished = target.build(target.start, state)
            self.unfinished -= 1
            for key in target.memo:
                self.memo[key] = finished
        else:
            known = self.table.get(f"{type(target).__module__}.{type(target).__qualname__}")
            if known is None or known.build is None:
                self._refuse(offset, f"refused: the pickle sets the state of a {type(target).__name__}")
            finished = known.build(target, state)
        self.stack.append(finished)

    # the memo

    def _put(self, key: int, _: int) -> None:
        self.memo[int(key)] = self.stack[-1]
        if isinstance(self.stack[-1], Unfinished):
            self.stack[-1].memo.append(int(key))

    def _memoize(self, _: Any, offset: int) -> None:
        self._put(len(self.memo), offset)

    def _get(self, key: int, _: int) -> None:
        self.stack.append(self.memo[int(key)])

    _binput = _long_binput = _put
    _binget = _long_binget = _get

    # the stack

    def _proto(self, _: Any, __: int) -> None:
        pass

    _frame = _proto

    def _mark(self, _: Any, __: int) -> None:
        self.stack.append(_MARK)

    def _pop(self, _: Any, __: int) -> None:
        self.stack.pop()

    def _pop_mark(self, _: Any, __: int) -> None:
        self._to_mark()

    def _dup(self, _: Any, __: int) -> None:
        self.stack.append(self.stack[-1])

    def _to_mark(self) -> list[Any]:
        at = len(self.stack) - 1
        while at >= 0 and self.stack[at] is not _MARK:
            at -= 1
        if at < 0:
            raise IndexError("no mark on the stack")
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    # containers

    def _tuple(self, _: Any, __: int) -> None:
        self.stack.append(tuple(self._to_mark()))

    def _tuple1(self, _: Any, __: int) -> None:
        self.stack.append((self.stack.pop(),))

    def _tuple2(self, _: Any, __: int) -> None:
        last, first = self.stack.pop(), self.stack.pop()
        self.stack.append((first, last))

    def _tuple3(self, _: Any, __: int) -> None:
        last, middle, first = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.stack.append((first, middle, last))

    def _list(self, _: Any, __: int) -> None:
        self.stack.append(self._to_mark())

    def _frozenset(self, _: Any, __: int) -> None:
        self.stack.append(frozenset(self._to_mark()))

    def _dict(self, _: Any, __: int) -> None:
        items = self._to_mark()
        self.stack.append(dict(zip(items[::2], items[1::2], strict=True)))

    def _append(self, _: Any, __: int) -> None:
        item = self.stack.pop()
        _exactly(self.stack[-1], list).append(item)

    def _appends(self, _: Any, __: int) -> None:
        items = self._to_mark()
        _exactly(self.stack[-1], list).extend(items)

    def _additems(self, _: Any, __: int) -> None:
        items = self._to_mark()
        _exactly(self.stack[-1], set).update(items)

    def _setitem(self, _: Any, __: int) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _exactly(self.stack[-1], dict, OrderedDict, Counter)[key] = value

    def _setitems(self, _: Any, __: int) -> None:
        items = self._to_mark()
        target = _exactly(self.stack[-1], dict, OrderedDict, Counter)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[key] = value


class _Mark:
    pass


_MARK = _Mark()


def _exactly(value: Any, *types: type) -> Any:
    if type(value) not in types:
        raise TypeError(f"a {type(value).__name__} where a {types[0].__name__} belongs")
    return value


_LITERALS = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
        *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    )
)
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
