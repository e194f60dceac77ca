"""Tables of evaluation rows: ours, and released frames, which are read without pandas and without running them."""

import builtins
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from projects.semabs.pickled_frame import read_pickled_frame
from projects.semabs.stats import Stats, joined, mean_of_groups, read_stats, scene_rows
from shared.errors import InputError

FRAMES = Path(__file__).parent / "frames"  # of pandas 1.5.3 and 2.2.3, see its README


def columns() -> dict[str, Any]:
    """What an evaluation of five rows holds."""
    return {
        "scene_id": [f"{i:05d}|FloorPlan{26 + i}_physics" for i in range(5)],
        "label": ["pot", "", "tv", "tv", "Zürich café"],
        "point_iou": [0.0, 0.25, np.nan, 1.0, 1 / 3],
        "voxel32x32x32_iou": [np.nan, 0.5, 0.5, 0.5, 0.5],
        "cutoff": [-2.5, -2.5, -0.1, -0.1, -0.1],
        "epoch": [199] * 5,
        "split": ["unseen_instances"] * 5,
    }


def same(found: dict[str, np.ndarray] | Any, expected: dict[str, Any]) -> None:
    assert list(found) == list(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_frames_of_the_installed_pandas(tmp_path: Path, protocol: int) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.concat([pandas.DataFrame(columns()).iloc[:2], pandas.DataFrame(columns()).iloc[2:]])
    path = tmp_path / "ovssc_eval_stats.pkl"
    frame.to_pickle(path, protocol=protocol)
    same(read_pickled_frame(path), columns())
    changed = frame.reset_index(drop=True)
    changed["label"] = changed["label"].astype("category")
    changed["epoch"] = changed["epoch"].astype("int32")
    changed["mixed"] = pandas.Series([1, 2.5, None, np.float32(0.5), 7], dtype=object)
    changed["absent"] = ["a", None, "b", None, "c"]
    with open(path, "wb") as file:
        pickle.dump(changed, file, protocol)
    extra = {"mixed": [1, 2.5, np.nan, 0.5, 7], "absent": ["a", "", "b", "", "c"]}
    same(read_pickled_frame(path), columns() | extra)


@pytest.mark.parametrize("name", ["pandas-1.5.3.pkl", "pandas-2.2.3.pkl", "pandas-1.5.3-protocol-2.pkl"])
def test_frames_of_older_pandas(name: str) -> None:
    same(read_pickled_frame(FRAMES / name), columns())


def test_frames_of_pandas_1_0_to_1_2(tmp_path: Path) -> None:
    """Their block manager is pickled by its state: written here with classes of the same names."""
    path = tmp_path / "frame.pkl"
    path.write_bytes(_old_frame(columns()))
    same(read_pickled_frame(path), columns())


def _old_frame(content: dict[str, Any]) -> bytes:
    names = list(content)
    texts = [place for place, name in enumerate(names) if isinstance(content[name][0], str)]
    floats = [place for place, name in enumerate(names) if isinstance(content[name][0], float)]
    whole = [place for place, name in enumerate(names) if isinstance(content[name][0], int)]
    blocks = [
        {"values": np.array([content[names[place]] for place in places], kind), "mgr_locs": np.array(places)}
        for places, kind in ((texts, object), (floats, float), (whole, np.int64))
    ]
    index = ("pandas.core.indexes.base", "_new_Index"), ("pandas.core.indexes.base", "Index")
    axes = [
        (index, {"data": np.array(names, object), "name": None}),
        (index, {"data": np.arange(5), "name": None}),
    ]
    pieces = _Pieces()
    return pieces.frame(axes, blocks)


class _Pieces:
    """Puts together a pickle of protocol 3 from parts that `pickle` writes and names that it must not look up."""

    @staticmethod
    def part(value: Any) -> bytes:
        return pickle.dumps(value, protocol=3)[2:-1]

    @staticmethod
    def called(name: tuple[str, str]) -> bytes:
        return b"c" + name[0].encode() + b"\n" + name[1].encode() + b"\n"

    def index(self, axis: Any) -> bytes:
        (function, cls), state = axis
        return self.called(function) + self.called(cls) + self.part(state) + b"\x86R"

    def frame(self, axes: list[Any], blocks: list[dict[str, Any]]) -> bytes:
        listed = b"](" + b"".join(map(self.index, axes)) + b"e"
        extra = b"}" + self.part("0.14.1") + b"}" + self.part("axes") + listed + b"s"
        extra += self.part("blocks") + self.part(blocks) + b"ss"
        state = b"(" + listed + b"]" + b"]" + extra + b"t"
        manager = self.called(("pandas.core.internals.managers", "BlockManager")) + b")\x81" + state + b"b"
        frame = (
            self.called(("pandas.core.frame", "DataFrame")) + b")\x81}" + self.part("_data") + manager + b"sb"
        )
        return b"\x80\x03" + frame + b"."


class _Runs:
    """Runs something when it is unpickled by `pickle`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, ("touch {}",), "system"),
        (builtins.eval, ("open('{}', 'w')",), "builtins.eval"),
        (builtins.getattr, (os, "{}"), "getattr"),
    ],
)
def test_a_frame_that_runs_something_is_refused(
    tmp_path: Path, function: Any, arguments: tuple[Any, ...], name: str
) -> None:
    pandas = pytest.importorskip("pandas")
    touched, path = tmp_path / "touched", tmp_path / "stats.pkl"
    filled = tuple(one.format(touched) if isinstance(one, str) else one.__name__ for one in arguments)
    frame = pandas.DataFrame(columns())
    frame.attrs["note"] = _Runs(function, *filled)
    with open(path, "wb") as file:
        pickle.dump(frame, file)
    with pytest.raises(InputError, match=rf"stats\.pkl: byte \d+: refused: the pickle asks for \S*{name}"):
        read_stats(path)
    assert not touched.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"scene_id": ["a"]}, "expected a pandas DataFrame, found a dict"),
        ([1, 2], "expected a pandas DataFrame, found a list"),
    ],
)
def test_what_is_no_frame(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "stats.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(InputError, match=message):
        read_stats(path)


def test_damaged_frames(tmp_path: Path) -> None:
    """Cut anywhere, or with any byte changed: a table of the same size, or one line."""
    whole = (FRAMES / "pandas-2.2.3.pkl").read_bytes()
    path, rng, messages = tmp_path / "stats.pkl", np.random.default_rng(0), []
    for place in rng.integers(0, len(whole), 150):
        for damaged in (whole[:place], whole[:place] + bytes([int(rng.integers(256))]) + whole[place + 1 :]):
            path.write_bytes(damaged)
            message = refusal(path)
            if message is not None:
                messages.append(message)
    assert len(messages) > 150
    assert all(message.startswith(str(path)) and "\n" not in message for message in messages)


def refusal(path: Path) -> str | None:
    """What is said when a table is read; None: nothing is wrong with it."""
    try:
        read_stats(path)
    except InputError as error:
        return str(error)
    return None


def test_a_text_that_would_fill_the_memory(tmp_path: Path) -> None:
    content = columns() | {"label": ["pot", "x" * 100_000, "tv", "tv", ""]}
    path = tmp_path / "frame.pkl"
    path.write_bytes(_old_frame(content))
    with pytest.raises(InputError, match="a text of 100000 characters"):
        read_pickled_frame(path)


def test_reading_needs_no_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "pandas"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pandas", None)  # importing it fails
    assert len(read_stats(FRAMES / "pandas-1.5.3.pkl")) == 5


@pytest.mark.parametrize("suffix", [".npz", ".csv"])
def test_ours_survive_writing(tmp_path: Path, suffix: str) -> None:
    stats = Stats({name: np.array(values) for name, values in columns().items()})
    path = tmp_path / f"stats{suffix}"
    stats.write(path)
    same(read_stats(path).columns, columns())


def test_a_table_of_ours_in_pandas(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    Stats({name: np.array(values) for name, values in columns().items()}).write(tmp_path / "stats.csv")
    frame = pandas.read_csv(tmp_path / "stats.csv", keep_default_na=False, na_values={"point_iou": [""]})
    assert frame["point_iou"].isna().tolist() == [False, False, True, False, False]
    assert frame["label"].tolist() == columns()["label"]


def test_bad_tables(tmp_path: Path) -> None:
    path = tmp_path / "stats.csv"
    for text, message in (
        ("scene_id,cutoff\na,1\nb\n", "line 3: expected 2 fields, found 1"),
        ("scene_id,cutoff\na,much\n", "column cutoff: could not convert"),
        ("scene_id,cutoff\n", "a table without rows"),
        ("scene_id\na\n", "no column 'cutoff'; it has scene_id"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_stats(path, ["cutoff"])
    np.savez(tmp_path / "stats.npz", cutoff=np.zeros(3), split=np.array(["a"]))
    with pytest.raises(InputError, match=r"column split: expected \[3\], found \[1\]"):
        read_stats(tmp_path / "stats.npz")
    with pytest.raises(InputError, match=r"nothing\.npz"):
        read_stats(tmp_path / "nothing.npz")


def test_rows_of_a_scene_go_cutoff_by_cutoff() -> None:
    scores = {"point_iou": np.array([[0.1, 0.2, 0.3], [0.4, 0.5, np.nan]])}
    rows = scene_rows(scores, {"label": ["a", ""]}, [-2, -1, 0], scene_id="s", split="x", epoch=7)
    assert list(rows.columns) == ["scene_id", "label", "point_iou", "cutoff", "epoch", "split"]
    assert rows["label"].tolist() == ["a", ""] * 3
    np.testing.assert_array_equal(rows["point_iou"], [0.1, 0.4, 0.2, 0.5, 0.3, np.nan])
    assert rows["cutoff"].tolist() == [-2, -2, -1, -1, 0, 0]
    both = joined([rows, rows.where(rows["cutoff"] == 0)])
    assert len(both) == 8
    assert both.means(["point_iou"]) == {
        "point_iou_mean": pytest.approx((0.1 + 0.4 + 0.2 + 0.5 + 0.3 + 0.3) / 6)
    }
    with pytest.raises(ValueError, match="columns"):
        joined([rows, Stats({"label": np.array(["a"])})])


def test_mean_of_groups() -> None:
    values = np.array([1.0, 3.0, np.nan, 10.0, np.nan])
    groups = np.array(["a", "a", "a", "b", "c"])
    assert mean_of_groups(values, groups) == 6.0  # c has no value at all
    assert np.isnan(mean_of_groups(values[2:3], groups[2:3]))
