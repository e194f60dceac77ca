"""Writes are atomic through kills, races and full disks; readers name the file and the line that is wrong."""

import errno
import hashlib
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import lmdb
import numpy as np
import pytest
import torch

from shared import files
from shared.errors import InputError


def run_python(code: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


# atomic writes


def test_write_replaces_and_makes_folders(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "file.bin"
    with files.atomic_write(path) as file:
        file.write(b"one")
        assert not path.exists()
    assert path.read_bytes() == b"one"
    with files.atomic_write(path) as file:
        file.write(b"two")
        assert path.read_bytes() == b"one"
    assert path.read_bytes() == b"two"
    with files.atomic_write(path, "w") as file:
        file.write("naïve\n図\n")
    assert path.read_bytes() == "naïve\n図\n".encode()
    assert os.listdir(path.parent) == ["file.bin"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    for change in (files.atomic_write, files.atomic_path):
        with pytest.raises(error), change(path) as new:  # type: ignore[operator]  # noqa: PT012
            if isinstance(new, Path):
                new.write_bytes(b"half")
            else:
                new.write(b"half")
            raise error
        assert path.read_bytes() == b"old"
        assert os.listdir(tmp_path) == ["file"]


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    code = """if True:
        import sys, time
        from shared.files import atomic_write
        with atomic_write(sys.argv[1]) as file:
            file.write(b"x" * 1000000)
            file.flush()
            print("written", flush=True)
            time.sleep(60)
    """
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    assert path.read_bytes() == b"old"
    assert len(os.listdir(tmp_path)) == 2
    (tmp_path / ".file2.1-2.tmp").touch()  # of another file
    assert files.remove_leftovers(path) == 1
    assert sorted(os.listdir(tmp_path)) == [".file2.1-2.tmp", "file"]
    assert files.remove_leftovers(tmp_path / "missing" / "file") == 0


def test_permissions_are_the_umask_s_or_the_old_ones(tmp_path: Path) -> None:
    code = """if True:
        import os, sys
        from shared.files import atomic_write
        os.umask(0o027)
        with atomic_write(sys.argv[1]) as file:
            file.write(b"x")
    """
    assert run_python(code, tmp_path / "new").returncode == 0
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
    (tmp_path / "new").chmod(0o604)
    assert run_python(code, tmp_path / "new").returncode == 0
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o604


def test_a_symbolic_link_keeps_pointing(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    link = tmp_path / "link"
    link.symlink_to(Path("store") / "real")
    for content in (b"first, the target is missing", b"second"):
        with files.atomic_write(link) as file:
            file.write(content)
        assert link.is_symlink()
        assert (tmp_path / "store" / "real").read_bytes() == content
    assert os.listdir(tmp_path / "store") == ["real"]


def test_names_of_full_length(tmp_path: Path) -> None:
    path = tmp_path / ("ü" * 127)
    with files.atomic_write(path) as file:
        file.write(b"x")
    assert path.read_bytes() == b"x"
    with files.atomic_write(tmp_path / "[a]*") as file:
        file.write(b"x")
    assert files.remove_leftovers(tmp_path / "[a]*") == 0


def test_concurrent_writers_leave_one_whole_file(tmp_path: Path) -> None:
    code = """if True:
        import sys
        from shared.files import atomic_write
        for _ in range(40):
            with atomic_write(sys.argv[1]) as file:
                for _ in range(20):
                    file.write(sys.argv[2].encode() * 10000)
    """
    path = tmp_path / "file"
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), letter]) for letter in "ab"]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            content = path.read_bytes()
            assert len(content) == 200000
            assert len(set(content)) == 1
            seen.add(content[:1])
        time.sleep(0.002)
    assert [writer.returncode for writer in writers] == [0, 0]
    assert seen
    assert os.listdir(tmp_path) == ["file"]


def limit_file_size() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (200000, 200000))


FULL_DISK = """if True:
    import sys
    import numpy as np
    from shared import files
    if sys.argv[2] == "torch":
        import torch
    path = sys.argv[1]
    write = {
        "plain": lambda: files.write_json(path, ["x" * 100] * 10000),
        "npy": lambda: files.save_npy(path, np.ones(100000)),
        "npz": lambda: files.save_npz(path, a=np.ones(100000)),
        "torch": lambda: torch.save({"a": torch.ones(100000), "b": torch.ones(100000)}, open_file),
    }[sys.argv[2]]
    try:
        if sys.argv[2] == "torch":
            with files.atomic_write(path) as open_file:
                write()
        else:
            write()
    except OSError as error:
        print(error.errno, error.filename)
"""


@pytest.mark.parametrize("kind", ["plain", "npy", "npz", "torch"])
def test_no_space_left(tmp_path: Path, kind: str) -> None:
    """A limit on the file size stands for the full disk: writes fail in the same places, with EFBIG."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    result = run_python(FULL_DISK, path, kind, preexec_fn=limit_file_size)
    found, name = result.stdout.split()
    assert name == str(path), result.stderr
    assert int(found) == (errno.ENOSPC if kind == "npy" else errno.EFBIG)  # numpy says neither
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_no_space_at_fsync_and_behind_other_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match="No space") as error, files.atomic_write(tmp_path / "file"):  # noqa: PT012
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as full:
            raise RuntimeError("unexpected pos 64 vs 0") from full
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(tmp_path / "file"))

    def no_space(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"), files.atomic_write(tmp_path / "file") as file:
        file.write(b"x")
    assert os.listdir(tmp_path) == []


def test_folders_and_devices_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="it is a folder"), files.atomic_write(tmp_path):
        pass
    with pytest.raises(InputError, match="it is a device"), files.atomic_write("/dev/null"):
        pass
    with pytest.raises(ValueError, match="mode"), files.atomic_write(tmp_path / "file", "ab"):
        pass


def test_atomic_path_of_a_folder(tmp_path: Path) -> None:
    target = tmp_path / "set"
    with files.atomic_path(target) as new:
        new.mkdir()
        (new / "a").write_text("ours")
    assert (target / "a").read_text() == "ours"
    with files.atomic_path(target) as new:  # somebody made it meanwhile: theirs stays
        new.mkdir()
        (new / "a").write_text("late")
    assert (target / "a").read_text() == "ours"
    with pytest.raises(ValueError, match="stop"), files.atomic_path(tmp_path / "other") as new:  # noqa: PT012
        new.mkdir()
        (new / "half").touch()
        raise ValueError("stop")
    assert os.listdir(tmp_path) == ["set"]


def test_atomic_path_of_a_named_file(tmp_path: Path) -> None:
    with files.atomic_path(tmp_path / "a.h5") as new, h5py.File(new, "w") as store:
        store["x"] = np.arange(3)
    with files.open_hdf5(tmp_path / "a.h5") as store:
        assert store["x"][:].tolist() == [0, 1, 2]


# JSON and text


def test_json_round_trip(tmp_path: Path) -> None:
    value = {
        "a": np.float32(0.5),
        "b": np.arange(3),
        "c": tmp_path,
        "d": [None, True, "ü"],
        "e": np.int64(2**40),
    }
    files.write_json(tmp_path / "x.json", value)
    expected = {"a": 0.5, "b": [0, 1, 2], "c": str(tmp_path), "d": [None, True, "ü"], "e": 2**40}
    assert files.read_json(tmp_path / "x.json") == expected
    with pytest.raises(TypeError, match="object cannot be written as JSON"):
        files.write_json(tmp_path / "y.json", object())
    assert not (tmp_path / "y.json").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1,\n "b": }', r"x\.json:2:7: not valid JSON"),
        (b"", r"x\.json:1:1: not valid JSON"),
        (b'{"a":\n"\xff"}', r"x\.json:2: not UTF-8 text \(byte 0xff at 7\)"),
        (b"[" * 100000, r"x\.json: not valid JSON: nested too deeply"),
    ],
)
def test_bad_json_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(InputError, match=message):
        files.read_json(tmp_path / "x.json")


def test_missing_and_unreadable_files_are_one_line(tmp_path: Path) -> None:
    readers = [
        files.read_json, files.read_lines, files.load_npz, files.open_npy, files.open_lmdb, files.open_hdf5,
        files.sha256, files.read_image, lambda path: list(files.read_jsonl(path)),
        lambda path: list(files.stream_json_items(path, "item")),
    ]  # fmt: skip
    for read in readers:
        with pytest.raises(InputError, match=r"missing: no such"):
            read(tmp_path / "missing")
        with pytest.raises(InputError) as error:
            read(tmp_path)
        assert str(tmp_path) in str(error.value)


def test_jsonl_is_appended_and_repaired(tmp_path: Path) -> None:
    path = tmp_path / "log" / "metrics.jsonl"
    files.append_jsonl(path, [{"step": 1}, {"step": 2}])
    files.append_jsonl(path, [{"step": 3}])
    assert [record["step"] for record in files.read_jsonl(path)] == [1, 2, 3]
    with open(path, "ab") as file:
        file.write(b'{"step": 4, "text": "' + b"x" * 100000)  # a kill cut this line
    assert [record["step"] for record in files.read_jsonl(path)] == [1, 2, 3]
    files.append_jsonl(path, [{"step": 5}])
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3}\n{"step": 5}\n'
    path.write_bytes(b'{"step": 1')
    files.append_jsonl(path, [{"step": 6}])
    assert list(files.read_jsonl(path)) == [{"step": 6}]
    files.write_jsonl(path, [{"step": 7}, {"step": 8}])
    assert [record["step"] for record in files.read_jsonl(path)] == [7, 8]
    path.write_bytes(b'{"step": 1}\n\n{"step": }\n{"step": 2}\n')
    with pytest.raises(InputError, match=r"metrics\.jsonl:3: not valid JSON"):
        list(files.read_jsonl(path))


def test_lines_end_at_newlines_only(tmp_path: Path) -> None:
    path = tmp_path / "caps.txt"
    path.write_bytes("\ufeffa man\r\n\n  two\u2028words \x0b\x85\nlast".encode())
    assert files.read_lines(path) == ["a man", "", "  two\u2028words \x0b\x85", "last"]
    path.write_bytes(b"a\nb\n\n")
    assert files.read_lines(path) == ["a", "b", ""]
    path.write_bytes(b"")
    assert files.read_lines(path) == []
    path.write_bytes(b"fine\nalso\ncaf\xe9\n")
    with pytest.raises(InputError, match=r"caps\.txt:3: not UTF-8 text \(byte 0xe9 at 13\)"):
        files.read_lines(path)


def test_large_json_is_streamed(tmp_path: Path) -> None:
    value = {"info": {"year": 2014}, "images": [{"id": i, "score": i / 4} for i in range(1000)]}
    path = tmp_path / "x.json"
    path.write_text(json.dumps(value))
    stream = files.stream_json_items(path, "images.item")
    assert next(stream) == {"id": 0, "score": 0.0}
    assert list(stream) == value["images"][1:]  # type: ignore[index]
    assert dict(files.stream_json_pairs(path, "info")) == {"year": 2014}
    assert [key for key, _ in files.stream_json_pairs(path)] == ["info", "images"]
    path.write_text(json.dumps(value)[:500])
    with pytest.raises(InputError, match=r"x\.json: not valid JSON"):
        list(files.stream_json_items(path, "images.item"))


# arrays and stores


@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_is_mapped(tmp_path: Path, order: Any) -> None:
    array = np.asarray(np.arange(24, dtype=np.float32).reshape(2, 3, 4), order=order)
    files.save_npy(tmp_path / "x.npy", array)
    for mmap in (True, False):
        found = files.open_npy(tmp_path / "x.npy", mmap=mmap, ndim=3, dtype=("float16", "float32"))
        assert isinstance(found, np.memmap) is mmap
        np.testing.assert_array_equal(found, array)
    files.save_npy(tmp_path / "x.npy", np.zeros((0, 36, 8), np.float32))
    assert files.open_npy(tmp_path / "x.npy").shape == (0, 36, 8)


def test_bad_npy_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    files.save_npy(path, np.zeros((10, 36, 8), np.float32))
    whole = path.read_bytes()
    with pytest.raises(InputError, match=r"x\.npy: expected 2 dimensions, found shape \[10, 36, 8\]"):
        files.open_npy(path, ndim=2)
    with pytest.raises(InputError, match=r"x\.npy: expected float16 or float64, found float32"):
        files.open_npy(path, dtype=("float16", "float64"))
    path.write_bytes(whole[:-1])
    for mmap in (True, False):
        with pytest.raises(InputError, match=r"x\.npy: cut short: 11647 bytes, but .* needs 11648"):
            files.open_npy(path, mmap=mmap)
    for end in (0, 3, 6, 9, 40, 100):
        path.write_bytes(whole[:end])
        with pytest.raises(InputError, match=r"x\.npy: not an \.npy array"):
            files.open_npy(path)
    path.write_bytes(b"<html>404</html>")
    with pytest.raises(InputError, match=r"x\.npy: not an \.npy array"):
        files.open_npy(path)
    np.save(path, np.array([{}], object), allow_pickle=True)
    with pytest.raises(InputError, match=r"x\.npy: holds pickled Python objects"):
        files.open_npy(path)


def test_npz(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    for compressed in (False, True):
        files.save_npz(path, compressed=compressed, a=np.arange(30), b=np.float32(2))
        found = files.load_npz(path, required=("a",))
        assert found["a"].tolist() == list(range(30))
        assert found["b"] == 2
        with pytest.raises(InputError, match=r"x\.npz: no array 'c'; it holds a, b"):
            files.load_npz(path, required=("a", "c"))
        whole = path.read_bytes()
        for end in range(1, len(whole), 7):
            path.write_bytes(whole[:end])
            with pytest.raises(InputError, match=r"x\.npz: "):
                files.load_npz(path)
        damaged = bytearray(whole)
        damaged[170:180] = b"x" * 10
        path.write_bytes(bytes(damaged))
        with pytest.raises(InputError, match=r"x\.npz: "):
            files.load_npz(path)
    np.savez(path, a=np.array([{}], object))
    with pytest.raises(InputError, match=r"x\.npz: not a readable"):
        files.load_npz(path)
    np.save(tmp_path / "y.npy", np.arange(3))
    with pytest.raises(InputError, match=r"expected an \.npz archive"):
        files.load_npz(tmp_path / "y.npy")


def test_objects_are_never_pickled(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="would have to be pickled"):
        files.save_npz(tmp_path / "x.npz", a=np.array([{}], object))
    with pytest.raises(ValueError, match="would have to be pickled"):
        files.save_npy(tmp_path / "x.npy", np.array([{}], object))
    assert os.listdir(tmp_path) == []


def test_lmdb(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path / "store")) as store, store.begin(write=True) as transaction:
        transaction.put(b"key", b"value")
    store = files.open_lmdb(tmp_path / "store")
    with store.begin() as transaction:
        assert transaction.get(b"key") == b"value"
    with pytest.raises(InputError, match="store: cannot be opened as an LMDB database"):
        files.open_lmdb(tmp_path / "store")  # twice in one process
    store.close()
    (tmp_path / "text").write_text("hello")
    with pytest.raises(InputError, match="text: cannot be opened as an LMDB database"):
        files.open_lmdb(tmp_path / "text")
    with pytest.raises(InputError, match=r"text: cannot be opened as an HDF5 file"):
        files.open_hdf5(tmp_path / "text")


# the rest


def test_sha256(tmp_path: Path) -> None:
    content = os.urandom(300000)
    (tmp_path / "x").write_bytes(content)
    assert files.sha256(tmp_path / "x") == hashlib.sha256(content).hexdigest()


def test_ensure_writable(tmp_path: Path) -> None:
    assert files.ensure_writable(tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write in this folder"):
        files.ensure_writable(tmp_path / "file" / "folder")
    if os.geteuid() == 0:
        with pytest.raises(InputError, match="/proc/sys: cannot write in this folder"):
            files.ensure_writable("/proc/sys")
    else:
        (tmp_path / "a").chmod(0o500)
        with pytest.raises(InputError, match="cannot write in this folder"):
            files.ensure_writable(tmp_path / "a")
    assert os.listdir(tmp_path / "a" / "b") == []


def test_free_bytes(tmp_path: Path) -> None:
    found = files.free_bytes(tmp_path / "not" / "there")
    assert found > 0
    assert abs(found - os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize) < 1 << 30


def test_checkpoint_of_torch_through_atomic_write(tmp_path: Path) -> None:
    with files.atomic_write(tmp_path / "x.pt") as file:
        torch.save({"a": torch.arange(5)}, file)
    assert torch.load(tmp_path / "x.pt", weights_only=True, mmap=True)["a"].tolist() == [0, 1, 2, 3, 4]
