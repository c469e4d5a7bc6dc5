"""A loader's link to the daemon that writes its streams: who writes, how fast, and what it waits for.

Only for messages. The loader reads manifests and goes on by itself if the daemon does not answer.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence

from .client import Client
from .errors import TokendError
from .feed import Cursor, Polling, WriterStatus
from .protocol import TERMINAL_STATES


class DaemonFeed(Polling):
    """Asks a daemon once in `interval_s` for the jobs that write the streams a loader follows.

        loader = TokenLoader("corpus", seq_len=1024, global_batch=8, follow=True, feed=DaemonFeed())

    `client`: default, this user's daemon. Asks from a thread of its own, begun with the first report and
    ended by `close` or with the process; nothing here blocks the loader. Thread-safe.
    """

    def __init__(self, client: Client | None = None, *, interval_s: float = 1.0) -> None:
        super().__init__()
        self._client = client if client is not None else Client()
        self._interval_s = interval_s
        self._lock = threading.Lock()
        self._paths: dict[str, str] = {}
        self._known: dict[str, WriterStatus] = {}
        self._counts: dict[str, tuple[float, int]] = {}
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    def report(self, cursors: Sequence[Cursor]) -> None:
        """Notes which streams are followed, and begins to ask."""
        with self._lock:
            self._paths = {cursor.stream: os.path.abspath(cursor.path) for cursor in cursors}
            if self._thread is None and cursors:
                self._thread = threading.Thread(target=self._ask, name="tokend-feed", daemon=True)
                self._thread.start()

    def status(self, stream: str) -> WriterStatus | None:
        """What the daemon said last of a stream's writer."""
        with self._lock:
            return self._known.get(stream)

    def _ask(self) -> None:
        while not self._closed.is_set():
            try:
                jobs = {job.output: job for job in self._client.jobs(timeout=5.0)}
                trouble = ""
            except TokendError as error:
                jobs, trouble = {}, f"the daemon does not answer ({error.message})"
            now = time.monotonic()
            with self._lock:
                for stream, path in self._paths.items():
                    job = jobs.get(path)
                    if job is None:
                        note = trouble or "no job of the daemon writes it"
                        self._known[stream] = WriterStatus(n_tokens=0, tokens_per_s=0.0, note=note)
                        continue
                    then, before = self._counts.get(stream, (now, job.n_tokens))
                    rate = (job.n_tokens - before) / (now - then) if now > then else 0.0
                    self._counts[stream] = now, job.n_tokens
                    ended = f"job {job.job_id} is {job.state}"
                    note = job.note or (ended if job.state in TERMINAL_STATES | {"queued"} else "")
                    self._known[stream] = WriterStatus(job.n_tokens, max(rate, 0.0), note)
            self.wake()
            self._closed.wait(self._interval_s)

    def close(self) -> None:
        """Stops asking."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()
