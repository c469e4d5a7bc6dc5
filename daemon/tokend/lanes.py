"""Work that may wait for a file, one lane for each file's name.

What is asked of a tokenizer that has to be looked for on a disk is done one after the other, on a thread that
only this tokenizer has while there is something to do. A disk that does not answer so holds up one lane, and
neither the other tokenizers nor the workers.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

_LANES_MAX = 32
"""Names at a time; the next waits for one of them."""


class Lanes:
    """Lanes by name. Thread-safe; `close` leaves a thread that hangs to itself."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=_LANES_MAX, thread_name_prefix="tokend-lane")
        self._lock = threading.Lock()
        self._waiting: dict[str, deque[Callable[[], None]]] = {}

    def submit(self, name: str, work: Callable[[], None]) -> None:
        """Has `work`, which raises nothing, done in its turn."""
        with self._lock:
            waiting = self._waiting.get(name)
            if waiting is not None:
                waiting.append(work)
                return
            self._waiting[name] = deque([work])
        self._pool.submit(self._run, name)

    def _run(self, name: str) -> None:
        while True:
            with self._lock:
                waiting = self._waiting[name]
                if not waiting:
                    del self._waiting[name]
                    return
                work = waiting.popleft()
            work()

    def close(self) -> None:
        """Begins nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            for waiting in self._waiting.values():
                waiting.clear()
