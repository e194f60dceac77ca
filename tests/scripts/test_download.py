"""scripts/download.py as a process against a real server on loopback that cuts, lies and changes its mind."""

import hashlib
import io
import os
import runpy
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared.errors import InputError

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "scripts" / "download.py"
READ_MANIFEST = runpy.run_path(os.fspath(SCRIPT))["read_manifest"]
BODY = bytes(range(256)) * 1200  # more than one chunk


@dataclass
class Page:
    """What the server does for one path. `cuts`: bytes after which each of the first answers breaks off."""

    body: bytes = BODY
    etag: str | None = '"one"'
    ranges: bool = True
    announce: int | None = None  # another Content-Length than the true one
    cuts: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)  # of the first answers
    then: Callable[["Page"], None] | None = None  # called after each answer
    careless: bool = False  # sends parts whatever If-Range says
    shift: int = 0  # the first part sent begins so many bytes off
    slow: float = 0.0  # seconds between blocks
    location: str | None = None
    kind: str = "application/octet-stream"
    requests: list[dict[str, str]] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        page: Page | None = self.server.pages.get(self.path)  # type: ignore[attr-defined]
        if page is None:
            self.send_error(404)
            return
        page.requests.append(dict(self.headers))
        if page.statuses:
            self.send_error(page.statuses.pop(0))
            return
        start, asked = 0, self.headers.get("Range", "")
        if page.location:
            self.send_response(302)
            self.send_header("Location", page.location)
        elif asked and page.ranges and (page.careless or self.headers.get("If-Range") == page.etag):
            start = int(asked.removeprefix("bytes=").rstrip("-")) - page.shift
            page.shift = 0
            self.send_response(206 if start < len(page.body) else 416)
            span = f"{start}-{len(page.body) - 1}" if start < len(page.body) else "*"
            total = page.announce or len(page.body) if span != "*" else len(page.body)
            self.send_header("Content-Range", f"bytes {span}/{total}")
        else:
            self.send_response(200)
        body = page.body[start:]
        cut = page.cuts.pop(0) if page.cuts else len(body)
        self.send_header("Content-Length", str((page.announce or len(page.body)) - start))
        self.send_header("Content-Type", page.kind)
        if page.etag:
            self.send_header("ETag", page.etag)
        self.end_headers()
        for at in range(0, min(cut, len(body)), 16384):
            self.wfile.write(body[at : min(at + 16384, cut)])
            time.sleep(page.slow)
        self.close_connection = True
        if page.then:
            page.then(page)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Place:
    """A server, a manifest and a data root."""

    def __init__(self, folder: Path, server: ThreadingHTTPServer) -> None:
        self.folder, self.root, self.items = folder, folder / "data", []  # type: ignore[var-annotated]
        self.pages: dict[str, Page] = {}
        server.pages = self.pages  # type: ignore[attr-defined]
        self.address = f"http://127.0.0.1:{server.server_port}"

    def add(self, name: str = "thing", page: Page | None = None, **changed: Any) -> Page:
        page = page or Page()
        self.pages[f"/{name}"] = page
        item: dict[str, Any] = {
            "name": name,
            "what": "a thing",
            "urls": [f"{self.address}/{name}"],
            "size": None,
            "sha256": None,
        }
        item |= {
            "licence": "CC0",
            "status": "open",
            "advice": "",
            "destination": f"d/{name}",
            "unpack": False,
        }
        self.items.append(item | changed)
        return page

    def command(self, *arguments: str) -> list[str]:
        manifest = self.folder / "download.yaml"
        manifest.write_text(yaml.safe_dump({"items": self.items}), encoding="utf-8")
        options = [
            "--manifest",
            str(manifest),
            "--data-root",
            str(self.root),
            "--delay",
            "0.01",
            "--retries",
            "3",
        ]
        return [sys.executable, str(SCRIPT), "toy", *options, *arguments]

    def run(self, *arguments: str, status: int = 0) -> str:
        done = subprocess.run(
            self.command(*arguments), capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60
        )
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        if status:
            assert done.stderr.count("error: ") == 1
        return done.stdout + done.stderr

    def left(self) -> list[str]:
        """All files below the data root."""
        return sorted(str(p.relative_to(self.root)) for p in self.root.rglob("*") if not p.is_dir())


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield Place(tmp_path, server)
    server.shutdown()
    thread.join()
    server.server_close()


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def zipped(*members: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in members:
            file.writestr(name, content)
    return buffer.getvalue()


def tarred(name: str, content: bytes = b"", link: str | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        if link:
            member.type, member.linkname = tarfile.SYMTYPE, link
        file.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def test_a_file_is_fetched_checked_and_checked_again(place: Place) -> None:
    page = place.add()
    shown = place.run()
    assert (place.root / "d/thing").read_bytes() == BODY
    assert sha(BODY) in shown
    assert place.left() == ["d/thing", "d/thing.sha256"]
    assert "as expected" in place.run("--only", "thing")
    assert len(page.requests) == 1
    (place.root / "d/thing").write_bytes(BODY[:-1] + b"?")
    assert f"expected SHA-256 {sha(BODY)}" in place.run(status=2)


def test_a_cut_connection_is_resumed(place: Place) -> None:
    page = place.add(page=Page(cuts=[100_000, 50_000]), size=len(BODY), sha256=sha(BODY))
    place.run()
    assert (place.root / "d/thing").read_bytes() == BODY
    assert [r.get("Range") for r in page.requests] == [None, "bytes=100000-", "bytes=150000-"]
    assert [r.get("If-Range") for r in page.requests] == [None, '"one"', '"one"']
    assert place.left() == ["d/thing", "d/thing.sha256"]


def test_many_cuts_do_not_use_up_the_tries_while_it_goes_on(place: Place) -> None:
    page = place.add(page=Page(cuts=[30_000] * 10))
    place.run()
    assert (place.root / "d/thing").read_bytes() == BODY
    assert len(page.requests) == 11


@pytest.mark.parametrize("page", [Page(ranges=False, cuts=[90_000]), Page(etag=None, cuts=[90_000])])
def test_what_cannot_be_resumed_starts_again(place: Place, page: Page) -> None:
    place.add(page=page)
    place.run()
    assert (place.root / "d/thing").read_bytes() == BODY
    assert len(page.requests) == 2
    assert ("Range" in page.requests[1]) == (page.etag is not None)


def test_a_file_that_changes_between_the_parts_starts_again(place: Place) -> None:
    def change(page: Page) -> None:
        page.body, page.etag = BODY[::-1], '"two"'

    page = place.add(page=Page(cuts=[90_000], then=change))
    place.run()
    assert (place.root / "d/thing").read_bytes() == BODY[::-1]
    assert page.requests[1]["If-Range"] == '"one"'


def test_a_server_that_ignores_if_range(place: Place) -> None:
    def change(page: Page) -> None:
        page.body, page.etag = BODY[::-1], '"two"'

    place.add(page=Page(cuts=[90_000], careless=True, then=change))
    place.run()
    assert (place.root / "d/thing").read_bytes() == BODY[::-1]


def test_another_part_than_asked_for_is_not_used(place: Place) -> None:
    place.add(page=Page(cuts=[90_000], shift=100))
    place.run()
    assert (place.root / "d/thing").read_bytes() == BODY


def test_an_announced_length_that_is_too_long(place: Place) -> None:
    page = place.add(page=Page(announce=len(BODY) + 7))
    assert f"ended after {len(BODY)} of {len(BODY) + 7} bytes" in place.run(status=2)
    assert [r.get("Range") for r in page.requests] == [None] + [f"bytes={len(BODY)}-"] * 4
    assert not (place.root / "d/thing").exists()


def test_an_announced_length_that_is_too_short(place: Place) -> None:
    place.add(page=Page(announce=len(BODY) - 7))
    assert f"more than the announced {len(BODY) - 7} bytes" in place.run(status=2)
    assert place.left() == []


def test_another_size_than_in_the_manifest(place: Place) -> None:
    place.add(size=len(BODY) + 1)
    assert f"expected {len(BODY) + 1} bytes, the server has {len(BODY)}" in place.run(status=2)
    assert place.left() == []


def test_a_wrong_checksum_removes_the_file(place: Place) -> None:
    place.add(sha256="0" * 64)
    assert f"expected SHA-256 {'0' * 64}, got {sha(BODY)}; the file was removed" in place.run(status=2)
    assert place.left() == []


def test_the_next_mirror_is_tried(place: Place) -> None:
    bad = place.add("bad", Page(body=b"other"))
    busy = place.add("busy", Page(statuses=[503] * 9))
    web = place.add("web", Page(kind="text/html"))
    place.add("moved", Page(location="ftp://127.0.0.1/x"))
    place.add()
    urls = [f"{place.address}/{name}" for name in ("none", "bad", "busy", "web", "moved", "thing")]
    place.items = [place.items[-1] | {"urls": urls, "sha256": sha(BODY)}]
    shown = place.run()
    assert (place.root / "d/thing").read_bytes() == BODY
    assert len(bad.requests) == len(web.requests) == 1
    assert len(busy.requests) == 4  # 1 + --retries
    assert all(text in shown for text in ("404", "503", "web page", "redirected to ftp"))


def test_no_server_at_all(place: Place) -> None:
    place.add(urls=["http://127.0.0.1:9/x"])
    assert "no connection" in place.run(status=2)
    assert place.left() == []


def test_a_killed_download_is_resumed(place: Place) -> None:
    page = place.add(page=Page(slow=0.05))
    part = place.root / "d/thing.part"
    with subprocess.Popen(place.command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not (part.exists() and part.stat().st_size):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    have = part.stat().st_size
    assert 0 < have < len(BODY)
    assert " of it" in place.run("--list")
    page.slow = 0
    place.run()
    assert page.requests[1]["Range"] == f"bytes={have}-"
    assert (place.root / "d/thing").read_bytes() == BODY
    assert place.left() == ["d/thing", "d/thing.sha256"]


def test_archives_are_unpacked_and_removed(place: Place) -> None:
    page = place.add("z", Page(zipped(("z/a", b"1"), ("z/b/c", b"2"))), unpack=True)
    place.add("t", Page(tarred("x/y", b"3")), unpack=True)
    place.run()
    assert place.left() == ["d/t.sha256", "d/t/x/y", "d/z.sha256", "d/z/a", "d/z/b/c"]
    place.run()
    assert len(page.requests) == 1


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (zipped(("good", b""), ("../../out", b"x")), "'../../out'"),
        (zipped(("/tmp/out", b"x")), "'/tmp/out'"),
        (tarred("../out", b"x"), "'../out'"),
        (tarred("/tmp/out", b"x"), "'/tmp/out'"),
        (tarred("link", link="../../.."), "'link'"),
    ],
    ids=[
        "zip ..",
        "zip /",
        "tar ..",
        "tar /",
        "tar link",
    ],  # a gzip holds the time: workers must agree on names
)
def test_bad_archives_leave_nothing(place: Place, body: bytes, name: str) -> None:
    place.add("bad", Page(body), unpack=True)
    assert f"member {name} refused" in place.run(status=2)
    assert place.left() == []
    assert not (place.root / "d/bad").exists()


def test_one_failure_does_not_stop_the_others(place: Place) -> None:
    place.add("first", sha256="0" * 64)
    place.add("second")
    place.run(status=2)
    assert place.left() == ["d/second", "d/second.sha256"]


def test_not_enough_space(place: Place) -> None:
    page = place.add(size=10**18)
    assert "not enough disk space" in place.run("--yes", status=2)
    assert page.requests == []
    place.items = []
    place.add(page=Page(announce=10**18))
    assert "not enough disk space" in place.run(status=2)
    assert place.left() == []


def test_a_full_disk_is_one_line(place: Place) -> None:
    place.add()
    shell = ["bash", "-c", 'ulimit -f 64; trap "" XFSZ; exec "$@"', "bash", *place.command()]
    done = subprocess.run(shell, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.count("error: ") == 1
    assert "disk is full" in done.stderr
    place.run()
    assert (place.root / "d/thing").read_bytes() == BODY


def test_a_large_download_needs_consent(place: Place) -> None:
    page = place.add(size=2 * 10**9)
    assert "2.0 GB would be fetched" in place.run(status=2)
    assert page.requests == []


def test_the_list(place: Place) -> None:
    page = place.add("open-one", size=len(BODY))
    place.add("far", urls=[], status="gone", advice="Ask the library.", licence="CC BY 4.0", size=13510573713)
    lines = place.run("--list").splitlines()
    rows = {line.split()[0]: line for line in lines if line and not line.startswith(" ")}
    assert rows["open-one"].split() == ["open-one", "307", "kB", "open", "no", "CC0"]
    assert rows["far"].split() == ["far", "13.5", "GB", "gone", "no", "CC", "BY", "4.0"]
    assert any("Ask the library." in line for line in lines)
    assert page.requests == []
    assert not place.root.exists()
    place.run()
    assert " yes " in next(line for line in place.run("--list").splitlines() if line.startswith("open-one "))


def test_what_is_gated_is_told(place: Place) -> None:
    place.add("form", urls=[], status="gated", advice="Fill in the form at http://example.org.")
    place.add("open-one")
    assert "form (gated): Fill in the form" in place.run()
    shown = place.run("--only", "form", status=2)
    assert shown == "error: form is gated: Fill in the form at http://example.org.\n"
    (place.root / "d/form").write_text("by hand")
    assert "is there" in place.run("--only", "form")


def test_unknown_names(place: Place) -> None:
    place.add()
    assert "no item 'thin'; there are thing" in place.run("--only", "thin", status=2)
    command = [sys.executable, str(SCRIPT), "nopaper", "--list"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no paper 'nopaper'")


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"colour": "red"}, "items[0] (thing): unknown key 'colour'"),
        ({"size": "12"}, "items[0] (thing): size: expected bytes, or null, found '12'"),
        ({"size": True}, "items[0] (thing): size"),
        ({"sha256": "xyz"}, "items[0] (thing): sha256"),
        (
            {"status": "shut"},
            "items[0] (thing): status: expected open | gated | gone | made | unknown, found 'shut'",
        ),
        ({"status": ["open"]}, "items[0] (thing): status"),
        ({"urls": "http://x/y"}, "items[0] (thing): urls: expected a list"),
        ({"urls": ["file:///etc/passwd"]}, "items[0] (thing): urls: expected a list of http(s)"),
        ({"urls": ["http://[x"]}, "items[0] (thing): urls"),
        ({"urls": []}, "items[0] (thing): urls: expected an address"),
        ({"status": "gone", "urls": []}, "items[0] (thing): advice: expected what to do"),
        ({"destination": "../x"}, "items[0] (thing): destination"),
        ({"destination": "/x"}, "items[0] (thing): destination"),
        ({"unpack": "yes"}, "items[0] (thing): unpack"),
        ({"name": "a b"}, "items[0] (a b): name"),
    ],
)
def test_a_bad_manifest_is_named(place: Place, changed: dict[str, Any], named: str) -> None:
    place.add(**changed)
    place.command()
    with pytest.raises(InputError) as caught:
        READ_MANIFEST(place.folder / "download.yaml")
    assert str(caught.value).startswith(f"{place.folder / 'download.yaml'}: {named}")


@pytest.mark.parametrize(
    "text", ["", "- a", "items: 3", "items: [1]", "items: [{", "items: [{name: x}]", "\x00"]
)
def test_a_malformed_manifest_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "download.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        READ_MANIFEST(tmp_path / "download.yaml")
    assert str(caught.value).startswith(f"{tmp_path / 'download.yaml'}: ")
    assert "\n" not in str(caught.value)


def test_a_bad_manifest_is_one_line_and_status_2(place: Place) -> None:
    place.add(colour="red")
    assert place.run("--list", status=2).count("\n") == 1


@pytest.mark.parametrize("manifest", sorted(REPOSITORY.glob("projects/*/download.yaml")), ids=str)
def test_the_manifests_of_the_projects(manifest: Path) -> None:
    command = [sys.executable, str(SCRIPT), manifest.parent.name, "--list"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = [item["name"] for item in yaml.safe_load(manifest.read_text(encoding="utf-8"))["items"]]
    assert all(f"\n{name}: " in done.stdout for name in names)


def test_it_starts_without_torch() -> None:
    code = f"import sys, runpy; runpy.run_path({os.fspath(SCRIPT)!r}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
