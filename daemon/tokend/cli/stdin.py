"""`tokend encode -`: what comes through stdin, put into a file beside the output first.

A job reads its inputs from files: it checks them again at the end, a killed one goes on in them, and the
daemon opens them itself. So stdin is copied to `.OUT.stdin`, which is removed once the output is there; manifests,
lists and errors call it `-`. A stdin that is a file from its beginning (`tokend encode - < FILE`) is taken by its own
path. After an interrupted run `--resume` takes what was copied, if that was all of it, and does not read stdin.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Iterator

from tokend_client.errors import BadRequestError

from ..sources import copy_of_stdin
from .output import progress_bar

_READ_BYTES = 1 << 20


@contextlib.contextmanager
def as_file(output: str, *, resume: bool, is_kept_on: tuple[type[BaseException], ...]) -> Iterator[tuple[str, bool]]:
    """The path of a file with what stdin holds, and whether it is a copy. That is removed in the end, but not after one
    of the exceptions `is_kept_on`.
    """
    own = _own_path()
    if own is not None:
        yield own, False
        return
    copy = copy_of_stdin(output)
    if resume and os.path.exists(copy):
        print(f"tokend: going on with what was read from stdin before, {copy}", file=sys.stderr)
    else:
        if sys.stdin.isatty():
            raise BadRequestError("stdin is a terminal", "pipe the text into it, as in `zcat FILE | tokend encode -`")
        _copy(copy)
    try:
        yield copy, True
    except is_kept_on:
        raise
    except BaseException:
        _remove(copy)
        raise
    _remove(copy)


def _own_path() -> str | None:
    """The path of the file that stdin is, if it is one that was not read from yet."""
    try:
        here = os.fstat(0)
        path = os.readlink("/proc/self/fd/0")
        there = os.stat(path)
        at = os.lseek(0, 0, os.SEEK_CUR)
    except OSError:
        return None
    same = (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
    return path if stat.S_ISREG(here.st_mode) and same and at == 0 else None


def _copy(path: str) -> None:
    partial = f"{path}.partial"
    try:
        with open(partial, "wb") as file, progress_bar("stdin") as update:
            n_bytes = 0
            while piece := os.read(0, _READ_BYTES):
                file.write(piece)
                n_bytes += len(piece)
                update(n_bytes, 0, 0, None)
            file.flush()
            os.fsync(file.fileno())
        os.rename(partial, path)
    except BaseException:
        _remove(partial)
        raise


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
