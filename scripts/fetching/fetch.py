"""Fetching a file over HTTP so that it is complete and the one that was meant: resumed, measured, checked."""

import contextlib
import errno
import fcntl
import http.client
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from scripts.fetching.byte_meter import Meter, human
from shared.errors import InputError
from shared.files import free_bytes, sha256, write_json

CHUNK = 1 << 18
SCHEMES = ("http", "https")
Say = Callable[[str], None]


class _CutError(Exception):
    """The connection ended early or the server is busy: worth another try."""


class _UselessError(Exception):
    """This address will not give the file: on to the next one."""


class _NoMoreError(Exception):
    """Status 416: the file has fewer bytes than we asked to skip; the argument is how many, if known."""


@dataclass
class _State:
    """What a `.part` file is a part of; beside it as `.part.json`."""

    url: str
    validator: str  # strong ETag or Last-Modified; "" = cannot be resumed
    total: int | None


def fetch(
    urls: Sequence[str],
    target: Path,
    *,
    size: int | None = None,
    checksum: str | None = None,
    retries: int = 5,
    delay: float = 1.0,
    timeout: float = 60.0,
    say: Say = print,
) -> str:
    """Fetch `target` from the first of `urls` that has it; returns its SHA-256.

    The data go to `<target>.part`, which a later call continues where the server can and the file has not
    changed there; else it starts again. An address gets `retries` tries in a row without progress, with
    pauses of `delay`, 2 `delay`, 4 `delay` ... seconds.

    Args:
        size: bytes; another length on the server is an error. checksum: hexadecimal SHA-256, or its first
            digits. A file that differs is removed.

    Raises:
        InputError: no address gave the file, or there is no room for it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    failures = []
    with _part_file(target) as part:
        require_space(target, (size or 0) - _length(part), size)
        for url in urls:
            try:
                _fetch_from(url, part, size, retries, delay, timeout, say, target.name)
                return _accept(part, target, size, checksum)
            except _UselessError as error:
                failures.append(f"{url}: {error}")
                say(f"{target.name}: {failures[-1]}")
    raise InputError(f"{target}: not fetched: {'; '.join(failures) or 'no address'}")


def require_space(path: Path, needed: int, size: int | None = None) -> None:
    """InputError unless the disk of `path` has `needed` bytes."""
    free = free_bytes(path.parent)
    if needed > free:
        of = f" (of {human(size)})" if size else ""
        raise InputError(
            f"{path}: not enough disk space: {human(needed)}{of} to be written, {human(free)} free"
        )


def matches(digest: str, checksum: str) -> bool:
    """Whether a SHA-256 is the expected one, of which the first digits may be all that is known."""
    return digest.startswith(checksum.lower())


def _fetch_from(
    url: str, part: Path, size: int | None, retries: int, delay: float, timeout: float, say: Say, name: str
) -> None:
    """Fill `part` from one address."""
    tries, furthest = 0, _length(part)
    while True:
        try:
            return _transfer(url, part, size, timeout, name)
        except _CutError as error:
            tries = 0 if _length(part) > furthest else tries + 1
            furthest = max(furthest, _length(part))
            if tries > retries:
                raise _UselessError(f"{error} ({tries} tries)") from None
            pause = delay * 2 ** max(tries - 1, 0)
            say(f"{name}: {error}; trying again in {pause:.3g} s")
            time.sleep(pause)


def _transfer(url: str, part: Path, size: int | None, timeout: float, name: str) -> None:
    state, have = _known(part), _length(part)
    if state is None or state.url != url or not have or not state.validator:
        have = 0
    elif state.total is not None and have >= state.total:
        if have == state.total:
            return  # killed between the last byte and the check
        have = 0
    headers = {"User-Agent": "wordsight-download/1", "Accept-Encoding": "identity"}
    if have and state is not None:
        headers |= {"Range": f"bytes={have}-", "If-Range": state.validator}
    try:
        response = _open(urllib.request.Request(url, headers=headers), timeout)
    except _NoMoreError as error:
        if error.args[0] != have:  # another file by now
            _discard(part)
        raise _CutError(f"ended after {error.args[0]} of {state.total if state else None} bytes") from None
    with response:
        start, total = _placed(response, have, state, part)
        if size is not None and total is not None and total != size:
            raise _UselessError(f"expected {size} bytes, the server has {total}")
        if total is not None:
            require_space(part, total - start, total)
        if start == 0:
            part.write_bytes(b"")
            write_json(_state_path(part), asdict(_State(url, _validator(response), total)))
        limit = total if total is not None else size
        with open(part, "ab") as file, Meter(name, total or size, start) as meter:
            got = start
            for data in _pieces(response, limit - start if limit is not None else None):
                got += len(data)
                if limit is not None and got > limit:
                    break
                _append(file, data, part)
                meter.update(len(data))
    if limit is not None and got > limit:
        _discard(part)
        raise _UselessError(f"sends more than the {'announced' if total else 'expected'} {limit} bytes")
    if limit is not None and got < limit:
        raise _CutError(f"ended after {got} of {limit} bytes")


def _open(request: urllib.request.Request, timeout: float) -> Any:
    try:
        return _opener().open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416:
                raise _NoMoreError(
                    _number(error.headers.get("Content-Range", "").rpartition("/")[2])
                ) from None
            if error.code in (408, 425, 429) or error.code >= 500:
                raise _CutError(f"HTTP status {error.code}") from None
            raise _UselessError(f"HTTP status {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, OSError):
            raise _CutError(f"no connection: {error.reason}") from None
        raise _UselessError(str(error.reason)) from None
    except (OSError, http.client.HTTPException) as error:
        raise _CutError(f"connection lost: {error or type(error).__name__}") from None


def _opener() -> urllib.request.OpenerDirector:
    """Only HTTP: urllib's own would follow a redirection to ftp, and open file: and data: addresses."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        scheme = urllib.parse.urlsplit(newurl).scheme
        if scheme not in SCHEMES or (req.type == "https" and scheme == "http"):
            raise _UselessError(f"redirected to {newurl}: refused")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _placed(response: Any, have: int, state: _State | None, part: Path) -> tuple[int, int | None]:
    """(first byte that comes, length of the whole file if announced)."""
    kind = response.headers.get_content_type() if response.headers.get("Content-Type") else ""
    if kind == "text/html" and not part.name.endswith((".html.part", ".htm.part")):
        raise _UselessError("sends a web page, not the file")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise _UselessError(f"sends the file encoded as {response.headers['Content-Encoding']}")
    if response.status != 206:
        return 0, response.length  # asked for a part or not: this is all of it
    span, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    other = _validator(response)
    if not have or span.partition("-")[0] != str(have) or (state and other and other != state.validator):
        _discard(part)
        raise _CutError("the server sent another part or another version; starting again")
    if _number(total) is None and response.length is not None:
        return have, have + response.length
    return have, _number(total)


def _validator(response: Any) -> str:
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "")


def _pieces(response: Any, remaining: int | None) -> Iterator[bytes]:
    """The body; of a body with a known end one byte more, which tells whether it keeps its word."""
    if response.length is not None:
        response.length += 1
    while True:
        want = CHUNK if remaining is None else min(CHUNK, max(remaining, 1))
        try:
            data = response.read1(want)
        except (OSError, http.client.HTTPException) as error:
            if remaining is not None and remaining <= 0:
                return  # all is there; how the connection ends does not matter
            raise _CutError(f"connection lost: {error or type(error).__name__}") from None
        if not data:
            return
        if remaining is not None:
            remaining -= len(data)
        yield data


def _append(file: BinaryIO, data: bytes, part: Path) -> None:
    try:
        file.write(data)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise InputError(f"{part}: the disk is full; make room and run again, it continues") from None
        raise


def _accept(part: Path, target: Path, size: int | None, checksum: str | None) -> str:
    """Check the complete part and give it its name."""
    length = _length(part)
    if size is not None and length != size:
        _discard(part)
        raise _UselessError(f"expected {size} bytes, got {length}; the file was removed")
    digest = sha256(part)
    if checksum and not matches(digest, checksum):
        _discard(part)
        raise _UselessError(f"expected SHA-256 {checksum}, got {digest}; the file was removed")
    with open(part, "rb") as file:
        os.fsync(file.fileno())
    os.replace(part, target)
    _state_path(part).unlink(missing_ok=True)
    return digest


@contextlib.contextmanager
def _part_file(target: Path) -> Iterator[Path]:
    part = target.with_name(target.name + ".part")
    with open(part, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{part}: another download is writing it") from None
        try:
            yield part
        finally:
            if part.exists() and not _length(part):
                part.unlink()
                _state_path(part).unlink(missing_ok=True)


def _known(part: Path) -> _State | None:
    try:
        state = _State(**json.loads(_state_path(part).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    right = isinstance(state.url, str) and isinstance(state.validator, str)
    return state if right and (state.total is None or isinstance(state.total, int)) else None


def _state_path(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _discard(part: Path) -> None:
    """Empty the part; the file itself stays, it carries the lock."""
    part.write_bytes(b"")
    _state_path(part).unlink(missing_ok=True)


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else None
