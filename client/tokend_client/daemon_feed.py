"""A loader's link to the daemon that writes its streams.

The daemon hears how far the loader is, and keeps the streams ahead of it (`docs/concepts/pacing.md`); the
loader hears who writes, how far and how fast, for its messages. It reads manifests and goes on by itself
if the daemon does not answer.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Sequence

from . import requests
from .client import Client
from .errors import TokendError
from .feed import Cursor, Polling, WriterStatus
from .protocol import CursorReport

_TIMEOUT_S = 5.0
_NEWS_S = 0.05
_STALE_S = 3600.0
"""A loader that has reported nothing for so long is taken for given up, though its process lives."""


class DaemonFeed(Polling):
    """Tells a daemon, once in `interval_s` and when they want more, how far the loaders that use it are.

        loader = TokenLoader("corpus", seq_len=1024, global_batch=8, follow=True, feed=DaemonFeed())

    `client`: default, this user's daemon. `run`: a name that is the same for all ranks and all starts of a
    training run; default, one made of what the loader reads and in which order. Two runs that read the same
    streams in the same order at the same time need names of their own if segments are retired.

    Reports from a thread of its own, begun with the first one and ended by `close` or with the process;
    nothing here blocks the loader. Thread-safe; a forked child begins its own thread.
    """

    def __init__(self, client: Client | None = None, *, run: str | None = None, interval_s: float = 1.0) -> None:
        super().__init__()
        self._client = client if client is not None else Client()
        self._run = run
        self._interval_s = interval_s
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._loader = uuid.uuid4().hex[:16]
        self._lock = threading.Lock()
        self._cursors: dict[str, tuple[float, list[Cursor]]] = {}
        """By run: when it was told, and what."""
        self._known: dict[str, WriterStatus] = {}
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()
        self._news = threading.Event()

    def report(self, cursors: Sequence[Cursor]) -> None:
        """Takes how far a loader is."""
        if self._pid != os.getpid():
            self._begin()
        if not cursors:
            return
        with self._lock:
            run = self._run or cursors[0].run
            _, before = self._cursors.get(run, (0.0, []))
            self._cursors[run] = time.monotonic(), list(cursors)
            if [cursor.wanted for cursor in cursors] != [cursor.wanted for cursor in before]:
                self._news.set()
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(target=self._talk, name="tokend-feed", daemon=True)
                self._thread.start()

    def status(self, stream: str) -> WriterStatus | None:
        """What the daemon said last of a stream's writer."""
        with self._lock:
            return self._known.get(stream)

    def _talk(self) -> None:
        while not self._closed.is_set():
            now = time.monotonic()
            with self._lock:
                told = [(run, cursors) for run, (then, cursors) in self._cursors.items() if now - then < _STALE_S]
            for run, cursors in told:
                known = self._ask(run, cursors)
                with self._lock:
                    self._known |= known
            self.wake()
            # Another window is wanted: at once, but not at every batch of small windows.
            self._closed.wait(min(_NEWS_S, self._interval_s))
            self._news.wait(max(self._interval_s - _NEWS_S, 0.0))
            self._news.clear()

    def _ask(self, run: str, cursors: list[Cursor]) -> dict[str, WriterStatus]:
        call = requests.cursors(run, self._loader, _reports(cursors))
        try:
            found = self._client._call(call, _TIMEOUT_S)
        except TokendError as error:
            note = f"the daemon does not answer ({error.message})"
            return {cursor.stream: WriterStatus(0, 0.0, note) for cursor in cursors}
        return {
            cursor.stream: WriterStatus(report.n_tokens, report.tokens_per_s, report.note)
            for cursor, report in zip(cursors, found, strict=True)
        }

    def finish(self) -> None:
        """Says that the runs are over, and ends: no state of theirs will be loaded again, so what was kept for
        that may be retired (blocking, some seconds at most). Raises what `Client` raises.
        """
        with self._lock:
            told = [(run, cursors) for run, (_, cursors) in self._cursors.items()]
        self.close()
        for run, cursors in told:
            self._client._call(requests.cursors(run, self._loader, _reports(cursors), is_over=True), _TIMEOUT_S)

    def close(self) -> None:
        """Stops reporting: the streams' jobs are not paced for these loaders any more, a minute later."""
        self._closed.set()
        self._news.set()
        if self._thread is not None:
            self._thread.join()


def _reports(cursors: Sequence[Cursor]) -> list[CursorReport]:
    return [
        CursorReport(
            path=os.path.abspath(cursor.path),
            stream_id=cursor.stream_id,
            low_water=cursor.low_water,
            position=cursor.position,
            wanted=cursor.wanted,
        )
        for cursor in cursors
    ]
