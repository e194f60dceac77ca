"""Pickles from outside: real payloads are refused with their place and never run; real files are read."""

import os
import pickle
import pickletools
import struct
import sys
import zipfile
from argparse import Namespace
from collections import Counter, OrderedDict
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shared.errors import InputError
from shared.untrusted import load_checkpoint, load_object_npy, load_pickle

GOLDENS = Path(__file__).parents[1] / "goldens" / "vseinfty"
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


class Payload:
    """Pickles as a call of os.system that writes `marker`."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.marker}",)


def write_pickle(path: Path, value: Any, protocol: int) -> None:
    path.write_bytes(pickle.dumps(value, protocol))


def write_npy(path: Path, value: Any, protocol: int) -> None:
    cell = np.empty((), object)
    cell[()] = value
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(cell))
        pickle.dump(cell, file, protocol)


def write_zip_checkpoint(path: Path, value: Any, protocol: int) -> None:
    torch.save(value, path, pickle_protocol=protocol)


def write_legacy_checkpoint(path: Path, value: Any, protocol: int) -> None:
    torch.save(value, path, pickle_protocol=protocol, _use_new_zipfile_serialization=False)


READERS: dict[str, tuple[Callable[[Path, Any, int], None], Callable[[Path], Any]]] = {
    "pickle": (write_pickle, load_pickle),
    "npy": (write_npy, load_object_npy),
    "zip": (write_zip_checkpoint, load_checkpoint),
    "legacy": (write_legacy_checkpoint, load_checkpoint),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", READERS)
def test_payload_is_refused_by_name_and_offset_and_not_run(tmp_path: Path, kind: str, protocol: int) -> None:
    write, read = READERS[kind]
    marker, path = tmp_path / "executed", tmp_path / "file"
    write(path, {"weights": [1.0], "x": Payload(marker)}, protocol)
    with pytest.raises(InputError, match=r"system.* is not plain data") as refused:
        read(path)
    offset = int(str(refused.value).split("byte ")[1].split(":")[0])
    code = path.read_bytes()[offset:]
    assert code[:1] in (pickle.GLOBAL, pickle.STACK_GLOBAL)  # the byte that is named is the opcode that asks
    assert str(path) in str(refused.value)
    assert not marker.exists()


def test_payload_of_these_tests_would_run(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(tmp_path / "executed")))
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("a builtin", b"cbuiltins\neval\n(S'1'\ntR."),
        ("old-style instance", b"(S'true'\nios\nsystem\n."),
        ("an attribute path", b"\x80\x04\x8c\x07collections\x8c\x14OrderedDict.__init__\x93."),
        (
            "names from the memo",
            b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x30\x30h\x00h\x01\x93\x8c\x01a\x85R.",
        ),
        ("extension registry", b"\x80\x02\x82\x01."),
        ("persistent id", b"\x80\x02X\x01\x00\x00\x00aQ."),
        ("a call of data", b"\x80\x02X\x01\x00\x00\x00a)R."),
        ("state of a class", b"\x80\x02cargparse\nNamespace\n}X\x01\x00\x00\x00aK\x01sb."),
        ("state of a list", b"\x80\x02]}b."),
        ("item of an instance", b"\x80\x02cargparse\nNamespace\n)RK\x01K\x02s."),
        ("memory: zeros", b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R."),
        ("memory: length", b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"abc."),
        ("memory: array shape", b"\x80\x02cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85R."),
        ("memory: itemsize", b"\x80\x02cnumpy\ndtype\nX\x0b\x00\x00\x00V9999999999\x85R."),
        ("stack underflow", b"\x80\x020."),
        ("no mark", b"\x80\x02t."),
        ("no memo", b"\x80\x02h\x07."),
        ("unhashable key", b"\x80\x02}]K\x01s."),
        ("two objects", b"\x80\x02K\x01K\x02."),
        ("no object", b"\x80\x02."),
        ("text", b"hello, this is no pickle\n"),
        ("nothing", b""),
    ],
)
def test_hostile_and_damaged_pickles(tmp_path: Path, name: str, code: bytes) -> None:
    path = tmp_path / "file.pkl"
    path.write_bytes(code)
    with pytest.raises(InputError, match=r"file\.pkl: (byte \d+: |empty file)") as refused:
        load_pickle(path)
    assert "\n" not in str(refused.value)


def plain_values() -> dict[str, Any]:
    shared = np.arange(6.0).reshape(2, 3)
    return {
        "numbers": [0, -1, 255, 65536, 2**31, -(2**40), 10**30, 1.5, float("inf"), True, False, None],
        "text": ["", "a", "naïve 図", "x" * 300, "y" * 70000],
        "bytes": [b"", b"\x00\xff", b"z" * 70000],
        "containers": [
            (),
            (1,),
            (1, 2),
            (1, 2, 3),
            (1, 2, 3, 4),
            {},
            {"a": {"b": []}},
            {1, 2},
            frozenset([3]),
        ],
        "long": list(range(3000)),
        "ordered": OrderedDict([("b", 1), ("a", 2)]),
        "counter": Counter("abca"),
        "array": shared,
        "same array": shared,
        "fortran": np.asfortranarray(np.arange(12, dtype="<i2").reshape(3, 4)),
        "large": np.arange(70000, dtype=np.float64).reshape(700, 100),
        "large fortran": np.asfortranarray(np.arange(70000, dtype=np.float32).reshape(700, 100)),
        "big-endian": np.arange(5, dtype=">f4"),
        "strings": np.array(["ab", "c"]),
        "raw": np.array([b"ab", b"c"]),
        "empty": np.zeros((0, 3), np.int8),
        "objects": np.array([[1, "a"], [None, [2]]], object),
        "scalar": np.float32(2.5),
        "flag": np.bool_(True),
        "complex": 1 + 2j,
    }


def assert_same(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, np.ndarray) and expected.dtype != object:
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    elif isinstance(expected, np.ndarray):
        assert_same(found.tolist(), expected.tolist())
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == expected


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", ["pickle", "npy"])
def test_plain_values_come_back_as_from_pickle(tmp_path: Path, kind: str, protocol: int) -> None:
    write, read = READERS[kind]
    values = plain_values()
    if protocol >= 2:  # below, a class instance is copyreg._reconstructor, which stays refused
        values["namespace"] = Namespace(a=1, b=[2])
    write(tmp_path / "file", values, protocol)
    found = read(tmp_path / "file")
    assert_same(found, values)
    assert found["array"] is found["same array"]


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_large_arrays_stay_in_the_file(tmp_path: Path, protocol: int) -> None:
    large = np.arange(2 << 20, dtype=np.float64)
    write_npy(tmp_path / "file.npy", {"sims": large}, protocol)
    found = load_object_npy(tmp_path / "file.npy")["sims"]
    np.testing.assert_array_equal(found, large)
    if protocol < 5:  # protocol 5 of a bare pickle has a bytearray, which is copied
        assert not found.flags.owndata
        assert not found.flags.writeable


def test_names_of_numpy_1_are_those_of_numpy_2(tmp_path: Path) -> None:
    values = {"array": np.arange(4, dtype=np.int32), "scalar": np.float64(0.5)}
    code = pickle.dumps(values, 2)
    old = code.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert old != code
    (tmp_path / "old.pkl").write_bytes(old)
    assert_same(load_pickle(tmp_path / "old.pkl"), values)

    write_zip_checkpoint(tmp_path / "new.pth", values, 2)
    with zipfile.ZipFile(tmp_path / "new.pth") as new, zipfile.ZipFile(tmp_path / "old.pth", "w") as archive:
        for entry in new.infolist():
            archive.writestr(
                entry, new.read(entry).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            )
    assert_same(load_checkpoint(tmp_path / "old.pth"), values)


def test_pickle_of_python_2(tmp_path: Path) -> None:
    code = (  # cPickle.dumps({'a': numpy.array([1.0, 2.0]), u'b': 3L}, 2) of Python 2.7
        b"\x80\x02}q\x01(U\x01acnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85U\x01b"
        b"\x87Rq\x04(K\x01K\x02\x85cnumpy\ndtype\nq\x05U\x02f8K\x00K\x01\x87Rq\x06(K\x03U\x01<NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x10\x00\x00\x00\x00\x00\x00\xf0?\x00\x00\x00\x00\x00\x00\x00@tb"
        b"X\x01\x00\x00\x00b\x8a\x01\x03u."
    )
    (tmp_path / "old.pkl").write_bytes(code)
    assert_same(load_pickle(tmp_path / "old.pkl"), {"a": np.array([1.0, 2.0]), "b": 3})


def test_further_classes_must_be_allowed(tmp_path: Path) -> None:
    write_pickle(tmp_path / "file.pkl", [Fraction(1, 3)], 4)
    with pytest.raises(InputError, match=r"fractions\.Fraction"):
        load_pickle(tmp_path / "file.pkl")
    assert load_pickle(tmp_path / "file.pkl", allow=[Fraction]) == [Fraction(1, 3)]
    write_zip_checkpoint(tmp_path / "file.pth", {"x": Fraction(1, 3)}, 2)
    with pytest.raises(InputError, match=r"fractions\.Fraction"):
        load_checkpoint(tmp_path / "file.pth")
    assert load_checkpoint(tmp_path / "file.pth", allow=[Fraction]) == {"x": Fraction(1, 3)}
    assert Fraction not in torch.serialization.get_safe_globals()  # allowed for that file only


@pytest.mark.parametrize("write", [write_zip_checkpoint, write_legacy_checkpoint])
def test_checkpoints_of_all_torch_formats(tmp_path: Path, write: Callable[[Path, Any, int], None]) -> None:
    layer = torch.nn.Linear(3, 2)
    half = torch.arange(4.0).to(torch.bfloat16)
    value = {
        "model": [layer.state_dict(), OrderedDict(half=half, view=half[1:3], count=torch.tensor(5))],
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "opt": Namespace(
            margin=0.2, size=torch.Size([1, 2]), dtype=torch.float16, device=torch.device("cuda")
        ),
        "numpy": (np.float64(0.5), np.arange(3)),
        "best_rsum": 1.5,
    }
    write(tmp_path / "file.pth", value, 2)
    found = load_checkpoint(tmp_path / "file.pth")
    torch.testing.assert_close(found["model"], value["model"], rtol=0, atol=0)
    assert found["opt"] == value["opt"]
    assert_same(found["numpy"], value["numpy"])
    assert isinstance(found["parameter"], torch.nn.Parameter)


def test_golden_files_of_the_release() -> None:
    found = load_checkpoint(GOLDENS / "tiny" / "model_best.pth")
    assert set(found) == {"epoch", "model", "best_rsum", "opt", "Eiters"}
    assert found["opt"].vocab_size == 42
    for name in ("results_model0.npy", "results_model1.npy"):
        results = load_object_npy(GOLDENS / name)
        expected = np.load(GOLDENS / name, allow_pickle=True).tolist()
        assert_same(results, expected)


@pytest.mark.parametrize("write", [write_zip_checkpoint, write_legacy_checkpoint])
def test_a_checkpoint_cut_anywhere_is_one_line(
    tmp_path: Path, write: Callable[[Path, Any, int], None]
) -> None:
    whole = tmp_path / "whole.pth"
    write(whole, {"weight": torch.arange(500.0), "opt": Namespace(a=1)}, 2)
    data = whole.read_bytes()
    for end in sorted({1, 3, 4, 30, *range(50, len(data), 97), len(data) - 1}):
        path = tmp_path / "cut.pth"
        path.write_bytes(data[:end])
        with pytest.raises(InputError, match=r"cut\.pth: ") as refused:
            load_checkpoint(path)
        assert "\n" not in str(refused.value)


def test_a_pickle_cut_anywhere_is_one_line(tmp_path: Path) -> None:
    write_npy(tmp_path / "whole.npy", {"a": np.arange(3.0), "b": [1, (2, 3)]}, 4)
    data = (tmp_path / "whole.npy").read_bytes()
    for end in range(len(data)):
        (tmp_path / "cut.npy").write_bytes(data[:end])
        with pytest.raises(InputError, match=r"cut\.npy: ") as refused:
            load_object_npy(tmp_path / "cut.npy")
        assert "\n" not in str(refused.value)


def test_storages_larger_than_their_file(tmp_path: Path) -> None:
    """A small file that promises a tensor of 2 TB."""
    for write in (write_zip_checkpoint, write_legacy_checkpoint):
        write(tmp_path / "file.pth", {"w": torch.arange(500.0)}, 2)
        data = (tmp_path / "file.pth").read_bytes()
        small, huge = b"M" + struct.pack("<H", 500), b"\x8a\x06" + (500 << 30).to_bytes(6, "little")
        assert small in data
        if write is write_legacy_checkpoint:
            (tmp_path / "file.pth").write_bytes(data.replace(small, huge))
        else:
            with zipfile.ZipFile(tmp_path / "file.pth") as old:
                contents = {name: old.read(name) for name in old.namelist()}
            with zipfile.ZipFile(tmp_path / "file.pth", "w") as new:
                for name, content in contents.items():
                    new.writestr(name, content.replace(small, huge) if name.endswith("data.pkl") else content)
        with pytest.raises(InputError, match=r"file\.pth: not a readable checkpoint"):
            load_checkpoint(tmp_path / "file.pth")


def test_names_from_the_memo_do_not_pass_the_second_gate(tmp_path: Path) -> None:
    """The scan of a checkpoint takes the last texts for the name; torch itself must refuse the real one."""
    marker = tmp_path / "executed"
    command = f"touch {marker}".encode()
    code = (
        b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x8c\x0bcollections\x8c\x0bOrderedDict0000h\x00h\x01\x93"
        + b"\x8c" + bytes([len(command)]) + command + b"\x85R."
    )  # fmt: skip
    pickletools.dis(code, out=open(os.devnull, "w"))  # a well-formed pickle  # noqa: SIM115
    with zipfile.ZipFile(tmp_path / "file.pth", "w") as archive:
        archive.writestr("file/data.pkl", code)
        archive.writestr("file/version", "3\n")
        archive.writestr("file/byteorder", sys.byteorder)
    with pytest.raises(InputError, match=r"file\.pth"):
        load_checkpoint(tmp_path / "file.pth")
    assert not marker.exists()


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_other_files(tmp_path: Path) -> None:
    numbers, text, archive, script = (tmp_path / name for name in ("n.npy", "t.pth", "z.pth", "s.pt"))
    np.save(numbers, np.arange(3))
    with pytest.raises(InputError, match=r"n\.npy: expected an array of Python objects, found int64 \[3\]"):
        load_object_npy(numbers)
    text.write_text("<html>404</html>")
    with pytest.raises(InputError, match=r"t\.pth: byte \d+: not a complete pickle"):
        load_checkpoint(text)
    text.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(InputError, match=r"t\.pth: not a torch checkpoint"):
        load_checkpoint(text)
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("readme.txt", "hello")
    with pytest.raises(InputError, match=r"z\.pth: a zip archive with 0 data\.pkl"):
        load_checkpoint(archive)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("z/data.pkl", pickle.dumps(list(range(1000)), 2))
    with pytest.raises(InputError, match=r"z/data\.pkl is compressed"):
        load_checkpoint(archive)
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), script)
    with pytest.raises(InputError, match="TorchScript"):
        load_checkpoint(script)
    for read in (load_checkpoint, load_pickle, load_object_npy):
        with pytest.raises(InputError, match=r"missing: no such file"):
            read(tmp_path / "missing")
        with pytest.raises(InputError, match=r"cannot be read"):
            read(tmp_path)
