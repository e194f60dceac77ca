"""A pickled dictionary of arrays, written entry by entry: its size is the disk's, not the memory's.

For tools of the released code, whose exports are such files; ours are read back by `shared.untrusted.load_pickle`.
"""

import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from shared.files import atomic_write

_PROTOCOL = 3  # the newest without frames: pieces can be put together; Python 3.0 and later read it
_HEADER = bytes([0x80, _PROTOCOL])


def write_pickled_dict(path: str | Path, items: Iterable[tuple[str, Any]]) -> int:
    """Write {key: value}; returns the number of entries. Values: arrays, numbers, text, lists of these.

    Each key and value is pickled by itself and its header and end are cut off: the machine that reads a pickle sees
    one program. Old and new NumPy read the arrays.
    """
    count = 0
    with atomic_write(path) as file:
        file.write(_HEADER + b"}")  # EMPTY_DICT
        for key, value in items:
            file.write(_piece(key) + _piece(value) + b"s")  # SETITEM
            count += 1
        file.write(b".")
    return count


def _piece(value: Any) -> bytes:
    content = pickle.dumps(value, protocol=_PROTOCOL)
    # the module's name before NumPy 2; it is written once, before the bytes of any array
    return content[len(_HEADER) : -1].replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n", 1)
