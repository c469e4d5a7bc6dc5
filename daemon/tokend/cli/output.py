"""What commands print: progress for a person at a terminal, numbers that can be read."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar


class Progress(Protocol):
    """What tells how far some work is."""

    def progress(self) -> tuple[int, int, int, int]:
        """Bytes done, bytes in all, tokens, documents."""


T = TypeVar("T")
Update = Callable[[int, int, int, str | None], None]
"""Called with bytes done, bytes in all, tokens, and what is being done."""


def size(n_bytes: float) -> str:
    """A number of bytes, in decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} B" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.2f} TB"


def plural(number: int, noun: str) -> str:
    """A number of things."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def duration(seconds: float) -> str:
    """A time that is over."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"


def short(path: str) -> str:
    """A path as somebody who works in this directory would write it."""
    here = os.getcwd()
    return os.path.relpath(path, here) if path.startswith(f"{here}{os.sep}") else path


def check_utf8(text: str) -> None:
    """Refuses a text or a path that is not UTF-8: the protocol and the manifest could not hold it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        from tokend_client.errors import BadRequestError

        raise BadRequestError(
            f"{text!r} is not valid UTF-8", "rename the file; give other text through stdin, as UTF-8"
        ) from None


def _say_nothing(done: int, total: int, tokens: int, phase: str | None) -> None:
    pass


@contextlib.contextmanager
def progress_bar(label: str) -> Iterator[Update]:
    """A bar on stderr if that is a terminal, silence otherwise."""
    if not sys.stderr.isatty():
        yield _say_nothing
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.table import Column

    # One line of 80 columns, as long as the name is short; a long one is cut.
    columns = (
        TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis")),
        BarColumn(bar_width=15),
        DownloadColumn(table_column=Column(no_wrap=True, min_width=14)),
        TransferSpeedColumn(table_column=Column(no_wrap=True, min_width=9)),
        TextColumn("{task.fields[tokens]}", table_column=Column(no_wrap=True, min_width=13)),
        TimeRemainingColumn(table_column=Column(no_wrap=True, min_width=7)),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None, tokens="")

        def update(done: int, total: int, tokens: int, phase: str | None) -> None:
            said = f"{label}: {phase}" if phase else label
            count = f"{tokens:,} tokens" if tokens < 1_000_000 else f"{tokens / 1e6:,.1f} M tokens"
            bar.update(task, completed=done, total=total or None, tokens=count, description=said)

        yield update


def watched(work: Callable[[], T], control: Progress, label: str, interrupt: Callable[[], None]) -> T:
    """Does work in a thread with a bar that follows `control`; returns or raises what it does.

    Ctrl-C calls `interrupt` and is raised again once the work has ended.
    """
    done: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(work())
        except BaseException as error:
            failed.append(error)

    worker = threading.Thread(target=run)
    worker.start()
    try:
        with progress_bar(label) as update:
            while worker.is_alive():
                worker.join(0.1)
                n_bytes, total, tokens, _ = control.progress()
                update(n_bytes, total, tokens, None)
    except KeyboardInterrupt:
        interrupt()
        worker.join()
        raise
    if failed:
        raise failed[0]
    return done[0]
