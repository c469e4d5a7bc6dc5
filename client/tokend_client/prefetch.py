"""Batches made when they are asked for, or ahead by a thread."""

from __future__ import annotations

import queue
import threading
from typing import Protocol

from .assemble import Assembler
from .batch import Batch
from .feed import Stopped


class Source(Protocol):
    """Makes batches one after the other; None when the run has ended."""

    @property
    def depth(self) -> int: ...
    def next(self) -> Batch | None: ...
    def close(self) -> None: ...


class InlineSource:
    """Makes each batch when it is asked for."""

    depth = 0

    def __init__(self, assembler: Assembler, k: int) -> None:
        self._assembler = assembler
        self._k = k

    def next(self) -> Batch | None:
        batch = self._assembler.build(self._k)
        self._k += self._assembler.config.global_batch
        return batch

    def close(self) -> None:
        """Nothing runs."""


class ThreadSource:
    """A thread that makes batches ahead. It holds no reference to the iterator, so that one can be dropped."""

    def __init__(self, assembler: Assembler, k: int, ahead: int) -> None:
        self._ready: queue.Queue[Batch | BaseException | None] = queue.Queue()
        self._room = threading.Semaphore(ahead)
        self._stop = threading.Event()
        self._assembler = assembler
        assembler.stopped = self._stop.is_set
        self._thread = threading.Thread(
            target=_produce, args=(assembler, k, self._ready, self._room, self._stop), name="tokend-loader", daemon=True
        )
        self._thread.start()

    @property
    def depth(self) -> int:
        return self._ready.qsize()

    def next(self) -> Batch | None:
        item = self._ready.get()
        self._room.release()
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        self._stop.set()
        self._room.release()
        # The collector may run in any thread, also in the one that is to end.
        if self._thread is not threading.current_thread():
            self._thread.join()
        self._assembler.stopped = lambda: False


def _produce(
    assembler: Assembler,
    k: int,
    ready: queue.Queue[Batch | BaseException | None],
    room: threading.Semaphore,
    stop: threading.Event,
) -> None:
    try:
        while True:
            room.acquire()
            batch = None if stop.is_set() else assembler.build(k)
            ready.put(batch)
            if batch is None:
                return
            k += assembler.config.global_batch
    except Stopped:
        ready.put(None)
    except BaseException as error:
        ready.put(error)
