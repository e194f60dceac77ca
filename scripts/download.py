"""Fetch what a paper needs and others publish: `python scripts/download.py vseinfty --list`, then without `--list`.

`projects/<paper>/download.yaml` says for each item what it is, where it is, its size, checksum, licence and
state: open (fetched here); gated, gone, made from other files, or unknown (the advice says what to do). A
download that was cut or killed continues with the same command; what is there already is checked and left alone.
"""

import argparse
import contextlib
import os
import re
import sys
import textwrap
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from scripts.fetching import archives
from scripts.fetching import fetch as download
from scripts.fetching.byte_meter import human
from shared.errors import InputError
from shared.files import atomic_write, remove_leftovers, sha256

REPOSITORY = Path(__file__).resolve().parents[1]
STATES = ("open", "gated", "gone", "made", "unknown")
ASK_FROM = 10**9  # bytes
SIDE_FILE = ".sha256"


@dataclass(frozen=True)
class Item:
    """One file, or one archive that becomes a folder; the keys of an item in download.yaml."""

    name: str
    what: str
    urls: tuple[str, ...]  # mirrors, tried in this order
    size: int | None  # bytes of the download
    sha256: str | None  # or its first digits, at least eight
    licence: str
    status: str  # one of STATES
    advice: str  # what to do where it is not open
    destination: str  # of the file, or of the folder it is unpacked to; relative to the data root
    unpack: bool


def main(argv: Sequence[str] | None = None, repository: Path = REPOSITORY) -> int:
    """Returns the exit status: 0, 2 for what the user can mend, 130 when interrupted."""
    options = _parse(argv)
    try:
        items = read_manifest(options.manifest or _manifest_of(options.paper, repository))
        chosen = _chosen(items, options.only)
        root = Path(options.data_root or os.environ.get("WORDSIGHT_DATA") or repository / "data")
        root = root.expanduser().absolute()
        if options.list:
            print(table(chosen, root))
            return 0
        return run(chosen, root, options)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        return 130


def run(items: Sequence[Item], root: Path, options: argparse.Namespace) -> int:
    """Fetch the open items, say what to do about the others; 2 when a named one is not open or one failed."""
    closed = [item for item in items if item.status != "open" and not present(item, root)]
    if options.only and closed:
        item = closed[0]
        raise InputError(f"{item.name} is {item.status}: {item.advice}")
    wanted = [item for item in items if item.status == "open" and not present(item, root)]
    _ask(wanted, root, options.yes)
    failed = 0
    for item in items:
        if item in closed:
            continue
        if not (item in wanted or item.status == "open"):
            print(f"{item.name}: is there: {root / item.destination}")
            continue
        try:
            get(item, root, options)
        except InputError as error:
            print(f"error: {item.name}: {error}", file=sys.stderr)
            failed += 1
    if closed:
        print("\nNot to be fetched from here:")
    for item in closed:
        print(_wrapped(f"{item.name} ({item.status}): {item.advice}"))
    return 2 if failed else 0


def get(item: Item, root: Path, options: argparse.Namespace) -> None:
    """Fetch, check and unpack one item; where it is there already, check that."""
    destination = root / item.destination
    side = destination.with_name(destination.name + SIDE_FILE)
    if present(item, root):
        _check_present(item, destination, side)
        return
    file = destination.with_name(destination.name + ".archive") if item.unpack else destination
    if file.exists():  # an archive, complete, that was not unpacked yet
        digest = sha256(file)
    else:
        needed = 2 * (item.size or 0) if item.unpack else (item.size or 0)
        download.require_space(file, needed - _size(file.with_name(file.name + ".part")), item.size)
        digest = download.fetch(
            item.urls,
            file,
            size=item.size,
            checksum=item.sha256,
            retries=options.retries,
            delay=options.delay,
            timeout=options.timeout,
        )
    note = "as expected" if item.sha256 else f"none was published; kept in {side.name}"
    print(f"{item.name}: SHA-256 {digest} ({note})")
    with atomic_write(side, "w") as output:
        output.write(f"{digest}  {file.name}\n")
    if item.unpack:
        try:
            count = archives.extract(file, destination)
        except InputError:
            file.unlink()
            side.unlink()
            raise
        file.unlink()
        print(f"{item.name}: {count} files unpacked in {destination}")
    else:
        print(f"{item.name}: {destination}")


def present(item: Item, root: Path) -> bool:
    """Whether the item's file or folder is there."""
    path = root / item.destination
    return path.is_dir() and any(path.iterdir()) if item.unpack or path.is_dir() else path.is_file()


def table(items: Sequence[Item], root: Path) -> str:
    """What there is, for `--list`."""
    rows = [("name", "size", "state", "here", "licence")]
    for item in items:
        here = "yes" if present(item, root) else "no"
        part = root / (item.destination + (".archive.part" if item.unpack else ".part"))
        if here == "no" and part.is_file():
            here = f"{human(part.stat().st_size)} of it"
        rows.append((item.name, human(item.size) if item.size else "?", item.status, here, item.licence))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [f"data root: {root}", ""]
    lines += ["  ".join([*map(str.ljust, row[:4], widths), row[4]]).rstrip() for row in rows]
    for item in items:
        lines += ["", f"{item.name}: {item.what}", f"    to {item.destination}{'/' if item.unpack else ''}"]
        lines += [f"    from {url}" for url in item.urls]
        if item.advice:
            lines.append(_wrapped(item.advice, "    "))
    return "\n".join(lines)


def _wrapped(text: str, first: str = "") -> str:
    """Lines of 110 characters; an address stays in one piece."""
    return textwrap.fill(
        text,
        110,
        initial_indent=first,
        subsequent_indent="    ",
        break_on_hyphens=False,
        break_long_words=False,
    )


def read_manifest(path: Path) -> list[Item]:
    """The items of a download.yaml. InputError naming file and field for anything that is not as it should
    be."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or set(content) != {"items"} or not isinstance(content["items"], list):
        raise InputError(f"{path}: expected one key, items, with a list")
    items = [_item(entry, f"{path}: items[{index}]") for index, entry in enumerate(content["items"])]
    for field in ("name", "destination"):
        values = [getattr(item, field) for item in items]
        if twice := sorted({value for value in values if values.count(value) > 1}):
            raise InputError(f"{path}: {field} {twice[0]!r} is there twice")
    return items


def _item(entry: Any, where: str) -> Item:
    names = [field.name for field in fields(Item)]
    if not isinstance(entry, dict):
        raise InputError(f"{where}: expected a mapping, found {type(entry).__name__}")
    if isinstance(entry.get("name"), str):
        where += f" ({entry['name']})"
    if unknown := sorted(str(key) for key in entry if key not in names):
        raise InputError(f"{where}: unknown key {unknown[0]!r}; the keys are {', '.join(names)}")
    if missing := [name for name in names if name not in entry]:
        raise InputError(f"{where}: {missing[0]} is missing")
    for name, value in entry.items():
        right, expected = _FIELDS[name]
        if not right(value):
            raise InputError(f"{where}: {name}: expected {expected}, found {value!r}")
    if entry["status"] == "open" and not entry["urls"]:
        raise InputError(f"{where}: urls: expected an address, the status being open, found none")
    if entry["status"] != "open" and not entry["advice"]:
        raise InputError(
            f"{where}: advice: expected what to do, the status being {entry['status']}, found ''"
        )
    return Item(**{**entry, "urls": tuple(entry["urls"])})


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_address(value: Any) -> bool:
    if not isinstance(value, str) or value != value.strip():
        return False
    try:
        parts = urllib.parse.urlsplit(value)
    except ValueError:
        return False
    return parts.scheme in download.SCHEMES and bool(parts.hostname)


def _is_inside(value: Any) -> bool:
    return (
        _is_text(value)
        and not value.startswith("/")
        and all(p not in ("", ".", "..") for p in value.split("/"))
    )


_FIELDS: dict[str, tuple[Any, str]] = {
    "name": (lambda v: isinstance(v, str) and re.fullmatch(r"[\w.-]+", v), "letters, digits, . _ -"),
    "what": (_is_text, "a text"),
    "urls": (lambda v: isinstance(v, list) and all(map(_is_address, v)), "a list of http(s) addresses"),
    "size": (lambda v: v is None or (type(v) is int and v > 0), "bytes, or null"),
    "sha256": (
        lambda v: v is None or (isinstance(v, str) and re.fullmatch(r"[0-9a-f]{8,64}", v)),
        "8 to 64 hexadecimal digits in quotes, or null",
    ),
    "licence": (_is_text, "a text"),
    "status": (lambda v: v in STATES, " | ".join(STATES)),
    "advice": (lambda v: isinstance(v, str), "a text"),
    "destination": (_is_inside, "a path below the data root"),
    "unpack": (lambda v: isinstance(v, bool), "true or false"),
}


def _check_present(item: Item, destination: Path, side: Path) -> None:
    """What is there already against the published checksum, or that of the first time."""
    known = item.sha256
    if known is None and side.is_file():
        known = side.read_text(encoding="utf-8").split(" ")[0].strip() or None
    if item.unpack or destination.is_dir() or (known is None and item.size is None):
        print(f"{item.name}: is there: {destination}")
        remove_leftovers(destination)
        return
    if item.size is not None and _size(destination) != item.size:
        raise InputError(
            f"{destination}: expected {item.size} bytes, found {_size(destination)}; remove the file to fetch it again"
        )
    if known and not download.matches(digest := sha256(destination), known):
        raise InputError(
            f"{destination}: expected SHA-256 {known}, found {digest}; remove the file to fetch it again"
        )
    print(f"{item.name}: is there and {'as expected' if known else 'of the expected size'}: {destination}")


def _ask(wanted: Sequence[Item], root: Path, yes: bool) -> None:
    """Consent to a large download."""
    total = sum(item.size or 0 for item in wanted)
    if total <= ASK_FROM or yes:
        return
    if not sys.stdin.isatty():
        raise InputError(f"{human(total)} would be fetched to {root}: say --yes, or choose with --only")
    if input(f"Fetch {len(wanted)} items, {human(total)}, to {root}? [y/N] ").strip().lower() not in (
        "y",
        "yes",
    ):
        raise InputError("nothing was fetched")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _chosen(items: Sequence[Item], names: Sequence[str]) -> list[Item]:
    if unknown := [name for name in names if name not in {item.name for item in items}]:
        raise InputError(f"no item {unknown[0]!r}; there are {', '.join(item.name for item in items)}")
    return [item for item in items if not names or item.name in names]


def _manifest_of(paper: str, repository: Path) -> Path:
    papers = sorted(path.parent.name for path in (repository / "projects").glob("*/download.yaml"))
    if paper not in papers:
        raise InputError(f"no paper {paper!r} with a download.yaml; there are {', '.join(papers)}")
    return repository / "projects" / paper / "download.yaml"


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/download.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paper", help="a folder of projects/")
    parser.add_argument("--list", action="store_true", help="say what there is, fetch nothing")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these items")
    parser.add_argument("--data-root", metavar="DIR", help="default: $WORDSIGHT_DATA, else data/")
    parser.add_argument("--yes", action="store_true", help="do not ask before more than 1 GB")
    parser.add_argument("--manifest", type=Path, metavar="FILE", help="in place of the paper's download.yaml")
    parser.add_argument("--retries", type=int, default=5, help="tries in a row without progress (default 5)")
    parser.add_argument(
        "--delay", type=float, default=1.0, help="seconds before the second try, then doubled"
    )
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds without a byte (default 60)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main())
