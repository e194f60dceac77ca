"""One LMDB written in transactions of many values: made beside, continued after a kill, moved to its place."""

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from shared.atomic import first_line
from shared.errors import InputError
from shared.files import free_bytes
from shared.progress import Progress

_ROOM = 64 << 20  # bytes of the map beyond the values


def write_database(
    target: Path,
    scratch: Path,
    count: int,
    values: Callable[[int], Iterator[tuple[bytes, bytes]]],
    *,
    size: int,
    commit: int = 1000,
    silent: bool = False,
) -> None:
    """Write `count` values; a target that is there stays as it is.

    Args:
        target: the folder in the end; until then the database is `scratch/<name of target>`.
        scratch: a folder of this run alone, on the same disk.
        count: number of values.
        values: (key, value) pairs from a position on, keys ascending (so pages are filled one after another,
            and only the last is in memory); what a kill left is not written again.
        size: bytes that the values will take, about.
        commit: values in a transaction.
        silent: no progress.

    Raises:
        InputError: not enough room on the disk, then or on the way; what was written stays in `scratch`.
    """
    import lmdb

    if target.exists():
        return
    if size > free_bytes(target):
        raise InputError(
            f"{target}: {size / 2**30:.1f} GiB to write, {free_bytes(target) / 2**30:.1f} GiB free"
        )
    folder = scratch / target.name
    folder.mkdir(parents=True, exist_ok=True)
    with (
        lmdb.open(os.fspath(folder), map_size=2 * size + _ROOM) as environment,
        Progress(count, unit="recipe", label=target.name, silent=silent) as bar,
    ):
        done = environment.stat()["entries"]  # transactions are whole: a kill leaves those that ended
        bar.update(done)
        pairs = values(done)
        while batch := list(itertools.islice(pairs, commit)):
            while True:
                try:
                    with environment.begin(write=True) as transaction, transaction.cursor() as cursor:
                        cursor.putmulti(batch, append=True)
                    break
                except lmdb.MapFullError:  # the values were larger than thought
                    environment.set_mapsize(2 * environment.info()["map_size"])
                except lmdb.Error as error:  # a full disk, above all
                    raise InputError(f"{target}: cannot be written: {first_line(error)}") from None
            bar.update(len(batch))
    (folder / "lock.mdb").unlink(missing_ok=True)
    os.rename(folder, target)
