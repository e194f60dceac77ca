"""Read a pickled pandas frame (pandas 1.0 to 3.x) without pandas, and without running anything in the file.

The names that a frame's pickle may ask for stand here for passive objects, which keep what they are given; any
other name is refused with its place in the file (see `shared.pickles`). The columns are then put together from
the frame's blocks. A frame of pandas 3 whose text is stored by pyarrow asks for pyarrow's names, and is refused.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shared.errors import InputError
from shared.pickle_values import Constructor
from shared.untrusted import load_pickle

_LONGEST_TEXT = 1000


class _Passive:
    """Keeps the arguments that it was made with and the state that it was given."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


_INDEXES = (
    *("pandas.Index", "pandas.RangeIndex", "pandas.core.indexes.base.Index"),
    "pandas.core.indexes.range.RangeIndex",
    *(f"pandas.core.indexes.numeric.{kind}Index" for kind in ("Int64", "UInt64", "Float64", "Numeric")),
)
_TEXT_ARRAYS = (
    *("pandas.arrays.StringArray", "pandas.core.arrays.string_.StringArray"),
    "pandas.core.arrays.string_.StringArrayNumpySemantics",
)
_CATEGORICALS = ("pandas.Categorical", "pandas.core.arrays.categorical.Categorical")
_NAMES = (
    *("pandas.DataFrame", "pandas.core.frame.DataFrame", "pandas.core.internals.managers.BlockManager"),
    *("pandas._libs.internals._unpickle_block", "pandas._libs.internals.BlockPlacement"),
    *("pandas.core.indexes.base._new_Index", "pandas._libs.arrays.__pyx_unpickle_NDArrayBacked"),
    *("pandas.StringDtype", "pandas.core.arrays.string_.StringDtype"),
    *("pandas.CategoricalDtype", "pandas.core.dtypes.dtypes.CategoricalDtype"),
    *("builtins.slice", "__builtin__.slice"),
    *(*_INDEXES, *_TEXT_ARRAYS, *_CATEGORICALS),
)


def _stand_in(name: str) -> type[_Passive]:
    module, _, last = name.rpartition(".")
    return type(last, (_Passive,), {"__module__": module})


_STAND_INS = tuple(map(_stand_in, _NAMES))


def read_pickled_frame(path: str | Path) -> dict[str, np.ndarray]:
    """The columns of a pickled DataFrame by name, in their order: numbers, or text (absent text is "").

    InputError: no such file, damaged, anything else than a frame, or a name that a frame has no use for.
    """
    frame = load_pickle(path, _STAND_INS)
    if _name(frame).rpartition(".")[2] != "DataFrame":
        raise InputError(f"{path}: expected a pandas DataFrame, found a {type(frame).__name__}")
    try:
        columns = _columns(frame)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: a pandas DataFrame that cannot be read: {reason}") from None
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"{path}: a pandas DataFrame whose columns have unequal lengths: {lengths}")
    return columns


def _columns(frame: Any) -> dict[str, np.ndarray]:
    manager = frame.state.get("_mgr", frame.state.get("_data"))
    if manager.arguments:  # pandas >= 1.3
        blocks, axes = manager.arguments
        parts = [(block.arguments[0], block.arguments[1]) for block in blocks]
    else:
        state = manager.state[3]["0.14.1"]
        axes = state["axes"]
        parts = [(block["values"], block["mgr_locs"]) for block in state["blocks"]]
    names = _values(axes[0], most=sum(len(_rows(values)) for values, _ in parts))
    found: dict[int, np.ndarray] = {}
    for values, placement in parts:
        rows = _rows(values)
        places = _places(placement, len(names))
        if len(places) != len(rows):
            raise ValueError(f"a block of {len(rows)} columns for {len(places)} places")
        found |= {int(place): _plain(row) for place, row in zip(places, rows, strict=True)}
    if sorted(found) != list(range(len(names))):
        raise ValueError(f"{len(names)} names for the columns {sorted(found)}")
    return {str(name): found[place] for place, name in enumerate(names)}


def _rows(values: Any) -> np.ndarray:
    """A block's columns as rows."""
    array = _values(values)
    return array[None] if array.ndim == 1 else array


def _places(placement: Any, count: int) -> np.ndarray:
    """The numbers of the columns that a block holds."""
    if isinstance(placement, _Passive):
        inner = placement.arguments
        if type(placement).__name__ == "slice":
            start, stop, step = (None if one is None else int(one) for one in inner)
            return np.arange(count)[slice(start, stop, step)]
        return _places(inner[0], count)
    return np.asarray(placement, np.int64).reshape(-1)


def _values(given: Any, most: int = 0) -> np.ndarray:
    """The NumPy array behind an index, a column of text or of categories; `most`: entries of a range."""
    if isinstance(given, np.ndarray):
        return given
    kind = type(given).__name__
    if kind == "_new_Index":
        content: Mapping[str, Any] = given.arguments[1]
        if "data" in content:
            return _values(content["data"])
        numbers = range(content["start"], content["stop"], content["step"])
        if len(numbers) > most:
            raise ValueError(f"a range of {len(numbers)} for {most} columns")
        return np.array(numbers)
    if kind == "__pyx_unpickle_NDArrayBacked":
        of, state = given.arguments[0], given.state or given.arguments[2]
        if isinstance(of, Constructor) and of.name in _CATEGORICALS:
            return _of_categories(_values(state[0].state["categories"]), state[1])
        return _values(state[1])
    if kind == "Categorical":  # before pandas 1.3
        return _of_categories(_values(given.state["_dtype"].state["categories"]), given.state["_codes"])
    if kind in ("StringArray", "StringArrayNumpySemantics") and isinstance(given.state, Mapping):
        return _values(given.state["_ndarray"])
    raise ValueError(f"an array of the kind {kind}")


def _of_categories(categories: np.ndarray, codes: Sequence[int]) -> np.ndarray:
    with_absent = np.append(np.asarray(categories, object), np.array([None], object))
    found: np.ndarray = with_absent[np.asarray(codes, np.int64)]  # -1: absent
    return found


def _plain(values: np.ndarray) -> np.ndarray:
    """A column of objects as numbers where all of them are, else as text."""
    if values.dtype != object:
        return np.ascontiguousarray(values)
    if all(value is None or isinstance(value, int | float | np.number) for value in values):
        return np.array([np.nan if value is None else float(value) for value in values])
    absent = [value is None or (isinstance(value, float) and np.isnan(value)) for value in values]
    texts = ["" if gone else str(value) for gone, value in zip(absent, values, strict=True)]
    longest = max(map(len, texts), default=0)
    if longest > _LONGEST_TEXT:  # each entry of the array takes as much room as the longest
        raise ValueError(f"a text of {longest} characters")
    return np.array(texts, str)


def _name(given: Any) -> str:
    return f"{type(given).__module__}.{type(given).__qualname__}"
