"""Requests that take longer than a moment: who works on them, and what has come of it.

    hand_over ─► (lane, where the tokenizer has to be looked for) ─► pool ─► finished ─► the I/O thread

Every request that is handed over is finished once, with a reply or an error, and what it took of the budget is
given back when that is fetched. Short and long texts and submits have pools of their own, so that none of them
waits for another kind.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from tokend_client.errors import DeadlineExceededError, InternalError, TokendError
from tokend_client.protocol import Message

from ._core import Tokenizer
from .budget import Budget
from .config import ServerConfig
from .handlers import TEXT_OPS, Handlers, Reply
from .lanes import Lanes

log = logging.getLogger("tokend.server")


class Finished(NamedTuple):
    """What came of a request."""

    peer: bytes
    op: int
    request_id: int
    n_bytes: int
    """What it still has of the budget."""
    reply: Reply | TokendError


class Workers:
    """Threads for requests. All but the threads' own part is used by the I/O thread alone."""

    def __init__(self, config: ServerConfig, handlers: Handlers, wake: Callable[[], None]) -> None:
        self._config = config
        self._handlers = handlers
        self._wake = wake
        self._budget = Budget(config.max_request_bytes)
        # Texts of some length; those that take long have workers of their own, and are not waited for by others.
        self._texts = ThreadPoolExecutor(max_workers=4, thread_name_prefix="tokend-worker")
        self._large_texts = ThreadPoolExecutor(max_workers=4, thread_name_prefix="tokend-large")
        # Submits wait for the disk: they have threads of their own, so that no long text holds them up, and
        # many, so that a disk that does not answer holds up few of them.
        self._submits = ThreadPoolExecutor(max_workers=32, thread_name_prefix="tokend-submit")
        self._lanes = Lanes()
        self.finished: deque[Finished] = deque()
        """What waits to be fetched; threads add to it, and wake the I/O thread."""
        self.n_working = 0
        """Requests that are not fetched yet."""

    def hand_over(self, peer: bytes, message: Message, deadline: float) -> None:
        """Has a request worked on. Raises `BusyError` where its bytes have no room."""
        n_bytes = _n_bytes(message)
        name = self._handlers.unsettled(message)
        self._budget.take(n_bytes)
        self.n_working += 1
        if name is not None:
            self._lanes.submit(name, partial(self._look, name, peer, message, deadline))
        elif message.op in TEXT_OPS:
            self._texts_of(n_bytes).submit(self._work, peer, message, deadline)
        else:
            self._submits.submit(self._work, peer, message, deadline)

    def read_result(self, peer: bytes, message: Message, deadline: float) -> None:
        """Has a request answered that waited for a job and needs what the disk has of it; it takes no budget."""
        self.n_working += 1
        self._submits.submit(self._work, peer, message, deadline)

    def expect(self) -> None:
        """Counts a request that others work on, and `finish`."""
        self.n_working += 1

    def finish(self, peer: bytes, message: Message, n_bytes: int, reply: Reply | TokendError) -> None:
        """Puts a reply where the I/O thread fetches it. On any thread."""
        self.finished.append(Finished(peer, message.op, message.request_id, n_bytes, reply))
        self._wake()

    def fetch(self) -> Iterator[Finished]:
        """What is finished, one after the other."""
        while self.finished:
            done = self.finished.popleft()
            self._budget.give(done.n_bytes)
            self.n_working -= 1
            yield done

    def close(self) -> None:
        """Begins nothing more; does not wait for what hangs."""
        self._lanes.close()
        for pool in (self._texts, self._large_texts, self._submits):
            pool.shutdown(wait=False, cancel_futures=True)

    def _texts_of(self, n_bytes: int) -> ThreadPoolExecutor:
        return self._large_texts if n_bytes > self._config.large_bytes else self._texts

    def _look(self, name: str, peer: bytes, message: Message, deadline: float) -> None:
        """Finds a request's tokenizer, in its lane; what is more than a moment's work goes on to a pool."""
        n_bytes = _n_bytes(message)
        try:
            found = self._handlers.registry.get(name)
        except BaseException as error:
            self.finish(peer, message, n_bytes, typed(error, message))
            return
        if n_bytes <= self._config.inline_bytes:
            self._work(peer, message, deadline, found)
        else:
            self._texts_of(n_bytes).submit(self._work, peer, message, deadline, found)

    def _work(self, peer: bytes, message: Message, deadline: float, found: Tokenizer | None = None) -> None:
        n_bytes = _n_bytes(message)
        reply: Reply | TokendError
        try:
            if time.monotonic() > deadline:
                raise DeadlineExceededError("the request waited longer than its deadline")
            if message.op in TEXT_OPS:
                # Before anything is made: what will be made has to have its place.
                reply_bytes = self._handlers.reply_bytes(message, found)
                self._budget.take(reply_bytes, n_bytes)
                n_bytes += reply_bytes
            reply = self._handlers.handle(message, found)
        except BaseException as error:
            reply = typed(error, message)
        self.finish(peer, message, n_bytes, reply)


def _n_bytes(message: Message) -> int:
    return sum(len(frame) for frame in message.body)


def typed(error: BaseException, message: Message) -> TokendError:
    """The error that a client is told; the log is told of what is no error of ours to tell."""
    if isinstance(error, TokendError):
        return error
    log.error("operation %d", message.op, exc_info=error)
    return InternalError(f"{type(error).__name__}: {error}")
