"""Unpacking: what is refused, and that nothing of a refused or killed archive stays."""

import io
import os
import signal
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from scripts.fetching.archives import extract
from shared.errors import InputError


def make_zip(path: Path, entries: list[tuple[str, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in entries:
            file.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return path


def make_tar(path: Path, entries: list[tuple[str, bytes | tuple[bytes, str]]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as file:  # type: ignore[call-overload]
        for name, content in entries:
            member = tarfile.TarInfo(name)
            if isinstance(content, tuple):
                member.type, member.linkname = content
                file.addfile(member)
            else:
                member.size = len(content)
                file.addfile(member, io.BytesIO(content))
    return path


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


GOOD = [("a.txt", b"one"), ("sub/b.txt", b"two" * 1000)]
SYMLINK, HARDLINK = tarfile.SYMTYPE, tarfile.LNKTYPE


@pytest.mark.parametrize("mode", ["zip", "w", "w:gz", "w:bz2", "w:xz"])
def test_all_kinds_are_unpacked(tmp_path: Path, mode: str) -> None:
    entries = [("top/", b""), *((f"top/{name}", content) for name, content in GOOD)]
    entries = entries[1:] if mode != "zip" else entries
    archive = tmp_path / "named.without.meaning"
    make_zip(archive, entries) if mode == "zip" else make_tar(archive, entries, mode)  # type: ignore[arg-type]
    assert extract(archive, tmp_path / "data/other") == 2
    assert files_in(tmp_path / "data/other") == {f"top/{name}": content for name, content in GOOD}
    assert extract(archive, tmp_path / "data/top") == 2  # a top folder of the same name is not doubled
    assert files_in(tmp_path / "data/top") == dict(GOOD)
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == ["other", "top"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../out.txt", "leads out"),
        ("a/../../out.txt", "leads out"),
        ("..\\out.txt", "leads out"),
        ("/etc/out.txt", "absolute"),
        ("\\out.txt", "absolute"),
        ("C:/out.txt", "absolute"),
        ("a\nb", "control"),
        ("good.txt", "twice"),
        ("./good.txt", "twice"),
        ("good.txt/below", "no folder"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_bad_names_are_refused(tmp_path: Path, kind: str, name: str, why: str) -> None:
    make = make_zip if kind == "zip" else make_tar
    archive = make(tmp_path / "x", [("good.txt", b"good"), (name, b"bad")])
    with pytest.raises(InputError, match=why) as caught:
        extract(archive, tmp_path / "data/folder")
    assert repr(name) in str(caught.value)
    assert not list((tmp_path / "data").iterdir())
    assert not (tmp_path / "out.txt").exists()


@pytest.mark.parametrize(
    "links",
    [
        [("l", (SYMLINK, "/etc"))],
        [("l", (SYMLINK, "../x"))],
        [("sub/l", (SYMLINK, "../../x"))],
        [("d/l", (SYMLINK, "../e"))],  # d may be renamed to the destination: then it leads out
        [("p/q/a", (SYMLINK, "b/../x"))],  # inside as text; not once b is a link
        [("p/q/a", (SYMLINK, "b/../../../x")), ("p/q/b", (SYMLINK, "../.."))],
        [("l", (SYMLINK, "sub")), ("l/file", b"through a link")],
        [("h", (HARDLINK, "/etc/passwd"))],
        [("h", (HARDLINK, "../x"))],
        [("l", (SYMLINK, "file")), ("h", (HARDLINK, "l"))],
        [("dev", (tarfile.CHRTYPE, ""))],
        [("pipe", (tarfile.FIFOTYPE, ""))],
    ],
)
def test_links_that_lead_out_are_refused(tmp_path: Path, links: list[tuple[str, object]]) -> None:
    archive = make_tar(tmp_path / "x.tar", [("file", b"1"), *links])  # type: ignore[list-item]
    with pytest.raises(InputError, match=r"refused") as caught:
        extract(archive, tmp_path / "data/folder")
    assert any(repr(name) in str(caught.value) for name, _ in links)
    assert not list((tmp_path / "data").iterdir())


def test_links_that_stay_inside_are_kept(tmp_path: Path) -> None:
    links = [("d/file", b"content"), ("d/l", (SYMLINK, "file")), ("d/e/m", (SYMLINK, "../file"))]
    archive = make_tar(tmp_path / "x.tar", [*links, ("d/h", (HARDLINK, "d/file"))])  # type: ignore[list-item]
    extract(archive, tmp_path / "d")
    assert {(tmp_path / "d" / name).read_bytes() for name in ("file", "l", "e/m", "h")} == {b"content"}


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    member = zipfile.ZipInfo("link")
    member.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        file.writestr(member, "/etc/passwd")
    with pytest.raises(InputError, match=r"'link' refused: a link"):
        extract(tmp_path / "x.zip", tmp_path / "folder")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_bombs_are_refused(tmp_path: Path, kind: str) -> None:
    entries = [("small", b"x"), ("large", bytes(1 << 20))]
    archive = (
        make_zip(tmp_path / "x", entries) if kind == "zip" else make_tar(tmp_path / "x", entries, "w:gz")  # type: ignore[arg-type]
    )
    with pytest.raises(InputError, match=r"'large' refused: .* grows beyond"):
        extract(archive, tmp_path / "folder", max_bytes=1 << 20)
    assert extract(archive, tmp_path / "folder", max_bytes=(1 << 20) + 1) == 2


def test_the_ratio_counts_for_large_archives(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "x", [(f"{i}", bytes(16 << 20)) for i in range(5)])
    with pytest.raises(InputError, match=r"'4' refused: .* grows beyond 67108864"):
        extract(archive, tmp_path / "folder")


@pytest.mark.parametrize("mode", ["zip", "w", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_damaged_archives_leave_nothing(tmp_path: Path, mode: str, damage: str) -> None:
    entries = [(f"{i}", os.urandom(3000)) for i in range(8)]
    archive = tmp_path / "x"
    make_zip(archive, entries) if mode == "zip" else make_tar(archive, entries, mode)  # type: ignore[arg-type]
    raw = bytearray(archive.read_bytes())
    if damage == "cut":
        raw = raw[: 3 * 3584] if mode == "w" else raw[: len(raw) // 2]  # plain tar: exactly before a header
    else:
        at = (
            3584 + 512 + 3072 + 10 if mode == "w" else len(raw) // 2
        )  # plain tar has checksums in its headers only
        raw[at] ^= 0xFF
    archive.write_bytes(raw)
    with pytest.raises(InputError, match=r"damaged|neither"):
        extract(archive, tmp_path / "data/folder")
    assert not (tmp_path / "data").exists() or not list((tmp_path / "data").iterdir())


def test_what_is_no_archive_and_what_is_there_already(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"<html>not here</html>")
    with pytest.raises(InputError, match=r"neither a zip nor a tar"):
        extract(tmp_path / "x", tmp_path / "folder")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=r"there already"):
        extract(make_zip(tmp_path / "y", GOOD), tmp_path / "folder")


def test_a_killed_unpacking_is_cleared_away(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "x.zip", [(f"{i}.txt", b"x") for i in range(10)])
    killer = (
        "import os, signal, sys; from scripts.fetching import archives; plain = archives._write\n"
        "def write(content, path):\n"
        "    plain(content, path)\n"
        "    if path.name == '5.txt': os.kill(os.getpid(), signal.SIGKILL)\n"
        "archives._write = write; archives.extract(sys.argv[1], sys.argv[2])\n"
    )
    command = [sys.executable, "-c", killer, str(archive), str(tmp_path / "data/folder")]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not (tmp_path / "data/folder").exists()
    assert len(list((tmp_path / "data").iterdir())) == 1  # the leftover
    assert extract(archive, tmp_path / "data/folder") == 10
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["folder"]
