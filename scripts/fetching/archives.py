"""Unpacking zip and tar archives that strangers made: all of an archive or nothing, inside one folder.

An archive is refused (InputError that names the member) when a member is absolute, climbs out with `..`, is
named for a drive, stands there twice, lies under a link or a file, is a device, is encrypted, or links to
something outside; and when it grows beyond a limit. Members go to a temporary folder beside the destination,
which is renamed when all are there: a kill leaves a leftover that the next call removes, never half a folder.
"""

import itertools
import lzma
import os
import posixpath
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from shared.atomic import PathLike, atomic_path, remove_leftovers
from shared.errors import InputError

MAX_BYTES = 1 << 40  # unpacked, of the whole archive
MAX_RATIO = 200  # unpacked to packed; text and JSON reach 10 to 30
RATIO_COUNTS_FROM = 64 << 20  # bytes unpacked: small archives may be anything
MAX_PADDING = 64 << 20  # bytes after the end of a tar
_DAMAGED = (
    lzma.LZMAError,
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    EOFError,
    NotImplementedError,
    ValueError,
)


def is_archive(path: PathLike) -> bool:
    """Whether `path` is a zip or a tar (plain, gz, bz2, xz), by its content."""
    return zipfile.is_zipfile(path) or tarfile.is_tarfile(path)


def extract(
    archive: PathLike, destination: PathLike, *, max_bytes: int = MAX_BYTES, max_ratio: float = MAX_RATIO
) -> int:
    """Unpack `archive` as the new folder `destination`; returns the number of files.

    An archive whose only top folder is named like the destination becomes it (`train2014/...` unpacked as
    `images/train2014`).

    Raises:
        InputError: not an archive, damaged, or refused (see the module); the destination exists.
    """
    archive, destination = Path(archive), Path(destination)
    if destination.exists():
        raise InputError(f"{destination}: is there already; remove it to unpack {archive.name} again")
    remove_leftovers(destination)
    watch = _Watch(archive, max_bytes, max_ratio)
    with atomic_path(destination) as folder:
        folder.mkdir()
        try:
            if zipfile.is_zipfile(archive):
                _extract_zip(archive, folder, watch)
            elif tarfile.is_tarfile(archive):
                _extract_tar(archive, folder, watch)
            else:
                raise InputError(f"{archive}: neither a zip nor a tar archive")
        except _DAMAGED as error:
            raise InputError(f"{archive}: damaged archive: {error or type(error).__name__}") from None
        except OSError as error:  # what gzip and bz2 raise for damaged data has no number
            if error.errno is not None:
                raise
            raise InputError(f"{archive}: damaged archive: {error}") from None
        except RuntimeError as error:  # zipfile: a password is needed
            raise InputError(f"{archive}: cannot be unpacked: {error}") from None
        _drop_top_folder(folder, destination.name)
    return watch.files


class _Watch:
    """What has been seen of an archive so far, and the rules for its next member."""

    def __init__(self, archive: Path, max_bytes: int, max_ratio: float) -> None:
        self.archive = archive
        self.most = min(max_bytes, max(max_ratio * archive.stat().st_size, RATIO_COUNTS_FROM))
        self.bytes = self.files = 0
        self.leaves: set[str] = set()  # files and links: nothing may lie under them
        self.regular: set[str] = set()
        self.folders: set[str] = set()

    def refuse(self, name: str, why: str) -> InputError:
        return InputError(f"{self.archive}: member {name!r} refused: {why}; nothing was unpacked")

    def path(self, name: str, is_folder: bool, size: int) -> str:
        """The member's path, normalised, when its name and size are acceptable."""
        parts = re.split(r"[/\\]", name)
        if not name or parts[0] == "" or re.match(r"[A-Za-z]:", name):
            raise self.refuse(name, "an absolute path")
        if ".." in parts:
            raise self.refuse(name, "it leads out of the folder")
        if any(ord(letter) < 32 for letter in name):
            raise self.refuse(name, "a control character in its name")
        path = posixpath.normpath(name)
        parents = [path[: match.start()] for match in re.finditer("/", path)]
        if path in self.leaves or (path in self.folders and not is_folder):
            raise self.refuse(name, "it stands there twice")
        if path == "." and not is_folder:
            raise self.refuse(name, "it has no name")
        if under := self.leaves.intersection(parents):
            raise self.refuse(name, f"it lies under {min(under)!r}, which is no folder")
        self.bytes += size
        if self.bytes > self.most:
            raise self.refuse(
                name, f"the archive ({self.archive.stat().st_size} bytes) grows beyond {self.most:.0f} bytes"
            )
        self.folders.update(parents)
        if is_folder:
            self.folders.add(path)
        else:
            self.leaves.add(path)
            self.files += 1
        return path


def _extract_zip(archive: Path, folder: Path, watch: _Watch) -> None:
    with zipfile.ZipFile(archive) as source:
        chosen = []
        for member in source.infolist():  # all names are judged before anything is written
            name = member.orig_filename if "\0" not in member.orig_filename else repr(member.orig_filename)
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise watch.refuse(name, "a link or a device")
            if member.flag_bits & 1:
                raise watch.refuse(name, "it is encrypted")
            chosen.append((member, watch.path(name, member.is_dir(), member.file_size)))
        for member, path in chosen:
            if member.is_dir():
                (folder / path).mkdir(parents=True, exist_ok=True)
            else:
                with source.open(member) as content:
                    _write(content, folder / path)


def _extract_tar(archive: Path, folder: Path, watch: _Watch) -> None:
    with tarfile.open(archive) as source:
        for member in _members(source):
            path = watch.path(member.name, member.isdir(), member.size if member.isreg() else 0)
            if member.isdir():
                (folder / path).mkdir(parents=True, exist_ok=True)
            elif member.isreg():
                watch.regular.add(path)
                content = source.extractfile(member)
                assert content is not None
                _write(content, folder / path)
            elif member.issym() or member.islnk():
                _check_link(member, path, watch)
                try:
                    source.extract(member, folder, filter="data")  # its own checks, after ours
                except (tarfile.FilterError, KeyError) as error:
                    raise watch.refuse(member.name, str(error)) from None
            else:
                raise watch.refuse(member.name, "a device or a pipe")


def _members(source: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := source.next()) is not None:
        yield member
        source.members = []  # type: ignore[attr-defined]  # of a million files nothing is kept
    # tarfile ends quietly at a header that is cut off or damaged
    assert source.fileobj is not None
    source.fileobj.seek(source.offset)
    if source.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"no header and no end at byte {source.offset}")
    for _ in range(MAX_PADDING >> 20):  # a compressed stream has its checksum at its end
        if not source.fileobj.read(1 << 20):
            return
    raise tarfile.ReadError(f"more than {MAX_PADDING} bytes after the end")


def _check_link(member: tarfile.TarInfo, path: str, watch: _Watch) -> None:
    target = member.linkname
    if member.islnk():
        if posixpath.normpath(target) not in watch.regular:
            raise watch.refuse(member.name, f"a hard link to {target!r}, which is no file before it")
        return
    # `..` only in front: behind a folder that is itself a link it would lead elsewhere than the text says
    steps = list(itertools.dropwhile(lambda step: step in ("", ".", ".."), target.split("/")))
    inside = posixpath.normpath(posixpath.join(posixpath.dirname(path), target)).split("/")
    top = path.split("/")[0] if "/" in path else None  # which may become the destination itself
    outside = inside[0] == ".." or ".." in steps or (top is not None and inside[0] != top)
    if target.startswith("/") or "\\" in target or outside:
        raise watch.refuse(member.name, f"a link to {target!r}, outside the folder")


def _write(content: IO[bytes], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "xb") as file:
        shutil.copyfileobj(content, file, 1 << 20)


def _drop_top_folder(folder: Path, name: str) -> None:
    top = folder / name
    if [path.name for path in folder.iterdir()] == [name] and top.is_dir() and not top.is_symlink():
        spare = folder.with_name(folder.name.removesuffix(".tmp") + "-top.tmp")  # a leftover's name, too
        os.rename(top, spare)
        folder.rmdir()
        os.rename(spare, folder)
