"""Clients that wait for a job's end: each is answered once, when the job is over or the client's time is.

Used by the I/O thread alone.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from tokend_client import protocol
from tokend_client.errors import ShuttingDownError
from tokend_client.protocol import TERMINAL_STATES, Message, Op

from .handlers import Handlers
from .job import Job
from .peers import Peer, Peers
from .workers import Workers

_WAIT_MAX_S = 3600.0


@dataclass
class _Waiter:
    peer: bytes
    message: Message
    job: Job
    deadline: float


class Waiting:
    """Those who wait."""

    def __init__(self, handlers: Handlers, workers: Workers, peers: Peers) -> None:
        self._handlers = handlers
        self._workers = workers
        self._peers = peers
        self._waiters: list[_Waiter] = []

    def add(self, identity: bytes, peer: Peer, message: Message) -> None:
        """Answers a request to wait, at once or later."""
        wait = protocol.decode_header(message.header, protocol.JobWait)
        now = time.monotonic()
        job = self._handlers.jobs.get(wait.job_id)
        # Without a body, which would be kept for as long as it waits.
        waiter = _Waiter(identity, message._replace(body=[]), job, now + min(wait.timeout_ms / 1000, _WAIT_MAX_S))
        if not self._answer(waiter, peer, now):
            self._waiters.append(waiter)

    def peers(self) -> set[bytes]:
        """Who waits."""
        return {waiter.peer for waiter in self._waiters}

    def answer(self) -> None:
        """Answers all whose time has come; who has gone is forgotten."""
        now = time.monotonic()
        left = []
        for waiter in self._waiters:
            peer = self._peers.get(waiter.peer)
            if peer is not None and not self._answer(waiter, peer, now):
                left.append(waiter)
        self._waiters = left

    def dismiss(self) -> None:
        """Tells those who wait for jobs that another daemon will finish."""
        self.answer()
        for waiter in self._waiters:
            lives = ShuttingDownError(
                f"the daemon is stopping; job {waiter.job.job_id} is kept, and goes on with the next one",
                "wait for it again once a daemon runs (`tokend serve`)",
                retry_after_s=0.2,
            )
            self._peers.reply(waiter.peer, Op.JOB_WAIT, waiter.message.request_id, lives)
        self._waiters = []

    def _answer(self, waiter: _Waiter, peer: Peer, now: float) -> bool:
        """Answers one, if it is time to; True if so."""
        job = waiter.job
        if job.state == "done" and job.manifest is None:
            # It is read from the disk.
            peer.inflight += 1
            self._workers.read_result(waiter.peer, waiter.message, now + _WAIT_MAX_S)
        elif job.state in TERMINAL_STATES or now >= waiter.deadline:
            reply = self._handlers.result_reply(job)
            self._peers.reply(waiter.peer, Op.JOB_WAIT, waiter.message.request_id, reply)
        else:
            return False
        return True
