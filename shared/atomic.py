"""Atomic writes: a file or folder is made beside its place and renamed: nothing is ever half there."""

import contextlib
import errno
import glob
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from shared.errors import InputError

PathLike = str | os.PathLike[str]
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_STEM_BYTES = 200  # of a temporary file's name, which may have 255


@contextlib.contextmanager
def atomic_write(path: PathLike, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; it replaces `path` when the block ends well.

    mode: "wb", or "w" for UTF-8 text. A reader, or a kill at any moment, sees the old file or the new one,
    never a part; of two writers the last one wins. A symbolic link stays: its target is replaced. Missing
    folders are made; permissions follow the replaced file, else the umask. On an error the temporary file is
    removed. A full disk surfaces as the OSError that it is, with `path`, also where a library has turned it
    into something else (`torch.save` into a RuntimeError).
    """
    if mode not in ("wb", "w"):
        raise ValueError(f"mode {mode!r}: use 'wb' or 'w'")
    target = _target(path)
    temporary = _temporary_name(target)
    text: dict[str, Any] = {} if mode == "wb" else {"encoding": "utf-8", "newline": "\n"}
    file = open(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), mode, **text)  # noqa: SIM115
    try:
        with contextlib.suppress(FileNotFoundError):
            os.fchmod(file.fileno(), stat.S_IMODE(target.stat().st_mode))
        yield file
        if not file.closed:
            file.flush()
            os.fsync(file.fileno())
            file.close()
        os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError, ValueError):  # closing writes what is left: that fails as well
            file.close()
        with contextlib.suppress(OSError):
            temporary.unlink()
        full = _full_disk_behind(error)
        if full is not None and full.filename is None:
            full.filename = os.fspath(path)  # write() does not say which file
        if full is not None and full is not error:
            raise full from None
        raise
    _sync_folder(target.parent)


@contextlib.contextmanager
def atomic_path(path: PathLike) -> Iterator[Path]:
    """The name of a temporary file or folder beside `path`, to be made; it becomes `path` when the block ends.

    For writers that want a name (HDF5, `np.lib.format.open_memmap`, a hard link) and for whole folders. A
    file is replaced; where a folder is there meanwhile (another process made the same), that one stays and
    ours goes.
    """
    target = _target(path, folder=True)
    temporary = _temporary_name(target)
    try:
        yield temporary
        if temporary.is_dir():
            try:
                os.rename(temporary, target)
            except OSError:
                if not target.is_dir():
                    raise
                shutil.rmtree(temporary, ignore_errors=True)
        else:
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, target)
    except BaseException:
        _remove(temporary)
        raise
    _sync_folder(target.parent)


def remove_leftovers(path: PathLike) -> int:
    """Delete the temporary files that killed writers of `path` left beside it; how many there were.

    Only where no other process is writing `path` at this moment (at the start of a run).
    """
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        return 0
    leftovers = list(target.parent.glob(f".{glob.escape(_stem(target))}.*.tmp"))
    for leftover in leftovers:
        _remove(leftover)
    return len(leftovers)


def unreadable(path: PathLike, error: OSError) -> InputError:
    """The one line for a file that could not be opened or read."""
    if isinstance(error, FileNotFoundError):
        return InputError(f"{path}: no such file")
    return InputError(f"{path}: cannot be read: {error.strerror or error}")


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _target(path: PathLike, folder: bool = False) -> Path:
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and not target.is_file() and not (folder and target.is_dir()):
        raise InputError(f"{path}: cannot be written: it is a {'folder' if target.is_dir() else 'device'}")
    return target


def _stem(target: Path) -> str:
    return target.name.encode()[:_STEM_BYTES].decode(errors="ignore")


def _temporary_name(target: Path) -> Path:
    return target.with_name(f".{_stem(target)}.{os.getpid()}-{os.urandom(4).hex()}.tmp")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not every file system can
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _full_disk_behind(error: BaseException) -> OSError | None:
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _FULL:
            return seen
        if isinstance(seen, OSError) and seen.errno is None and "requested and" in str(seen):
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # so numpy reports a short write
        seen = seen.__cause__ or seen.__context__
    return None
