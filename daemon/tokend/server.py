"""The daemon's one I/O thread.

It owns every socket and does nothing that takes long: it reads requests, answers the quick ones, hands
the others to workers, and sends what comes back. Every request gets exactly one reply, also one that
cannot be read. Whatever a client sends, the loop goes on.

    ROUTER ─► unpack ─► quick? ─┬─ yes ─► handler ─────────────────────────┐
                                └─ no ──► (lane ─►) worker ─► finished ──┴─► outbox of the peer ─► ROUTER

Who works on requests is in `workers`; who waits for jobs, in `waiting`; who is connected, in `peers`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import zmq
import zmq.backend
from tokend_client import paths, protocol
from tokend_client.errors import (
    BusyError,
    HelloRequiredError,
    TokendError,
    UnknownOpError,
    UnsupportedVersionError,
)
from tokend_client.protocol import Message, Op

from . import __version__, lifecycle
from .config import ServerConfig
from .handlers import Handlers, Reply, deadline_s, job_reply
from .job import Job
from .job_book import stopping
from .jobs import JobTable
from .pacing import Pacer
from .peers import Peer, Peers
from .registry import Registry
from .waiting import Waiting
from .workers import Workers, typed

log = logging.getLogger("tokend.server")

_OPS = frozenset(Op)

# The binding's own methods and plain numbers: its conveniences (a function per frame, flags as enums,
# options as enums) cost a short request a tenth of its round trip.
_recv, _get = zmq.backend.Socket.recv, zmq.backend.Socket.get
_NOBLOCK = int(zmq.NOBLOCK)
_EVENTS, _RCVMORE, _POLLIN = int(zmq.EVENTS), int(zmq.RCVMORE), int(zmq.POLLIN)
_SRCFD = int(zmq.SRCFD)
_HEADER_FRAMES = 3
_FRAMES_MAX = protocol.BODY_MAX_FRAMES + _HEADER_FRAMES + 1
_COPIED_BYTES = 64 * 1024
"""Larger frames stay where libzmq put them: nothing else is done while one is copied."""

_TICK_MS = 100
_SPIN_S = 100e-6
_SUSPEND_LIMIT_S = 5.0
"""How long a job may take to notice that it is suspended."""
_CLOSE_LIMIT_S = 5.0
"""How long the rest may take: then the process ends, whatever a thread hangs in."""


def _events(router: zmq.Socket[bytes]) -> int:
    return int(_get(router, _EVENTS))


class Server:
    """A daemon; `run` blocks until it has stopped. `stop` may be called from anywhere."""

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.epoch = str(uuid.uuid4())
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stop_at: float | None = None
        self._finish_queued = True
        self._last_activity = time.monotonic()
        self._watchdog_s = lifecycle.watchdog_s()
        self._watched_s = 0.0

    def wake(self) -> None:
        """Makes the loop look at what changed."""
        with contextlib.suppress(BlockingIOError, OSError):
            os.eventfd_write(self._wake, 1)

    def stop(self, timeout_s: float, finish_queued: bool) -> None:
        """Stops the daemon once the running job has ended, with `finish_queued` all jobs, at most
        `timeout_s` later. What has not ended by then goes on at the next start.
        """
        at = time.monotonic() + timeout_s
        self._stop_at = at if self._stop_at is None else min(at, self._stop_at)
        self._finish_queued &= finish_queued
        self.wake()

    def run(self) -> int:
        """Serves until stopped; returns the exit code."""
        path = paths.socket_path(self.config.endpoint)
        lifecycle.private_dir(path.parent)
        lifecycle.raise_fd_limit()
        info = {"pid": os.getpid(), "epoch": self.epoch, "version": __version__, "endpoint": self.config.endpoint}
        with lifecycle.lock(path, dict(info)):
            registry = Registry(self.config.roots, self.config.state_dir)
            jobs = JobTable(self.config, registry, self.wake)
            pacer = Pacer(self.config, jobs)
            self.handlers = Handlers(self.config, registry, jobs, pacer, self.epoch, time.monotonic())
            self._workers = Workers(self.config, self.handlers, self.wake)
            for name in self.config.preload:
                self.handlers.registry.get(name)
            context = zmq.Context()
            router = context.socket(zmq.ROUTER)
            self._peers = Peers(router, self.config.outbox_max_bytes)
            self._waiting = Waiting(self.handlers, self._workers, self._peers)
            for option, value in (
                (zmq.ROUTER_MANDATORY, 1),
                (zmq.LINGER, 1000),
                (zmq.SNDHWM, 256),
                (zmq.RCVHWM, 256),
                (zmq.MAXMSGSIZE, protocol.FRAME_MAX_BYTES),
                (zmq.HANDSHAKE_IVL, 5000),
                (zmq.BACKLOG, 1024),
            ):
                router.setsockopt(option, value)
            # libzmq takes the descriptor over and closes it.
            router.setsockopt(zmq.USE_FD, lifecycle.listening_socket(path).detach())
            self._place = lifecycle.place_of(path)
            router.bind(self.config.endpoint)
            jobs.start()
            pacer.start()
            lifecycle.notify(f"READY=1\nSTATUS={self._status_line()}")
            log.info("serving at %s (pid %d)", self.config.endpoint, os.getpid())
            try:
                self._loop(router)
            finally:
                lifecycle.notify("STOPPING=1")
                self._close(router, context, path)
        return 0

    def _close(self, router: zmq.Socket[bytes], context: zmq.Context[zmq.Socket[bytes]], path: Path) -> None:
        """Ends everything within a limit, also where a thread hangs in a disk."""
        self._workers.close()
        self.handlers.jobs.suspend()
        closing = threading.Thread(target=self._close_files, name="tokend-close", daemon=True)
        closing.start()
        closing.join(_CLOSE_LIMIT_S)
        # While it is open no other file has its inode.
        if lifecycle.place_of(path) == self._place:
            path.unlink(missing_ok=True)
        router.close()
        context.term()
        log.info("stopped")

    def _close_files(self) -> None:
        self.handlers.pacer.stop()
        self.handlers.jobs.close(1.0)
        self.handlers.registry.keep_words()

    def _loop(self, router: zmq.Socket[bytes]) -> None:
        poller = zmq.Poller()
        poller.register(router, zmq.POLLIN)
        poller.register(self._wake, zmq.POLLIN)
        tick_at = 0.0
        while True:
            if self._more_soon(router):
                self._receive(router)
            else:
                for source, _ in poller.poll(self._peers.patience_ms(_TICK_MS)):
                    if source is router:
                        self._receive(router)
                    else:
                        self._take_finished()
            self._peers.flush()
            now = time.monotonic()
            if self._stop_at is not None or now >= tick_at:
                tick_at = now + _TICK_MS / 1000
                if self._tick(now):
                    return

    def _take_finished(self) -> None:
        """Sends what workers have finished, and what the journal has."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        for peer, op, request_id, _, reply in self._workers.fetch():
            if peer in self._peers:
                self._peers[peer].inflight -= 1
            self._peers.reply(peer, op, request_id, reply)
        self._waiting.answer()

    def _more_soon(self, router: zmq.Socket[bytes]) -> bool:
        """Looks out for the next request for a moment before the thread goes to sleep: one that comes right
        after a reply would wait for it to wake up, which takes longer than its answer. Yields to whoever
        else wants the core.
        """
        if self._workers.n_working:
            # A worker needs the core, and the interpreter.
            return False
        until = self._last_activity + _SPIN_S
        while not self._workers.finished and time.monotonic() < until:
            if _events(router) & _POLLIN:
                return True
            os.sched_yield()
        return False

    def _tick(self, now: float) -> bool:
        """What has to be looked at every so often; True once the daemon is over."""
        self._waiting.answer()
        jobs = self.handlers.jobs
        jobs.expire()
        if self._watchdog_s is not None and now - self._watched_s > self._watchdog_s / 3:
            self._watched_s = now
            lifecycle.notify(f"WATCHDOG=1\nSTATUS={self._status_line()}")
        if self._stop_at is not None:
            return self._is_stopped(now, self._stop_at)
        idle = self.config.idle_timeout_s
        if idle is not None and now - self._last_activity > idle and jobs.is_idle():
            log.info("idle for %g s", idle)
            return True
        self._peers.forget_silent(now, self._waiting.peers())
        self.handlers.n_clients = len(self._peers)
        return False

    def _is_stopped(self, now: float, stop_at: float) -> bool:
        jobs = self.handlers.jobs
        jobs.stop_admitting(self._finish_queued)
        if now >= stop_at:
            jobs.suspend()
        is_late = now >= stop_at + _SUSPEND_LIMIT_S
        if jobs.is_over() or is_late:
            self._waiting.dismiss()
            return is_late or self._peers.have_all()
        return False

    def _status_line(self) -> str:
        jobs = self.handlers.jobs
        counts = ", ".join(f"{number} {state}" for state, number in sorted(jobs.counts().items())) or "none"
        return "; ".join([f"jobs: {counts}", *jobs.problems()])

    def _receive(self, router: zmq.Socket[bytes]) -> None:
        # Bounded, so that a flood of requests does not keep replies from being sent.
        for _ in range(256):
            # Asking first is cheaper than an exception.
            if not _events(router) & _POLLIN:
                return
            identity = _recv(router, _NOBLOCK)
            is_known = identity in self._peers
            fd = -1
            frames: list[Any] = []
            while _get(router, _RCVMORE):
                if is_known and len(frames) < _HEADER_FRAMES:
                    frames.append(_recv(router, _NOBLOCK))
                    continue
                frame = _recv(router, _NOBLOCK, False)
                if not frames:
                    fd = _fd_of(frame)
                # One more than there may be is kept, for `unpack` to see.
                if len(frames) < _FRAMES_MAX:
                    frames.append(frame.bytes if len(frame) <= _COPIED_BYTES else frame.buffer)
            self._last_activity = time.monotonic()
            self.handlers.n_requests += 1
            try:
                message = protocol.unpack(frames)
            except TokendError as error:
                self._peers.reply(identity, *protocol.request_of(frames), error)
                continue
            try:
                self._request(identity, message, fd)
            except BaseException as error:
                self._peers.reply(identity, message.op, message.request_id, typed(error, message))

    def _request(self, identity: bytes, message: Message, fd: int) -> None:
        if message.op not in _OPS:
            raise UnknownOpError(f"unknown operation {message.op}", "client and daemon are of different versions")
        if message.op == Op.HELLO:
            self._peers.reply(identity, message.op, message.request_id, self._hello(identity, message, fd))
            return
        peer = self._peers.get(identity)
        if peer is None:
            raise HelloRequiredError("say hello first")
        peer.last_seen = self._last_activity
        if self.handlers.is_quick(message):
            self._peers.reply(identity, message.op, message.request_id, self.handlers.handle(message))
            return
        if message.op == Op.SHUTDOWN:
            header = protocol.decode_header(message.header, protocol.Shutdown)
            self._peers.reply(identity, message.op, message.request_id, (protocol.Empty(), []))
            if not header.drain:
                self.handlers.jobs.cancel_all()
            self.stop(header.timeout_ms / 1000 if header.drain else 5.0, finish_queued=True)
            return
        if message.op == Op.JOB_WAIT:
            self._waiting.add(identity, peer, message)
            return
        if message.op == Op.JOB_CANCEL:
            job, written = self.handlers.cancel(message)
            if written is None:
                self._peers.reply(identity, message.op, message.request_id, job_reply(job))
            else:
                peer.inflight += 1
                self._workers.expect()
                written.add_done_callback(lambda written: self._cancelled(identity, message, job))
            return
        if message.op == Op.SUBMIT and self._stop_at is not None:
            raise stopping()
        if peer.inflight >= self.config.max_inflight:
            raise BusyError(f"{peer.inflight} requests of this client are waiting", retry_after_s=0.05)
        self._workers.hand_over(identity, message, time.monotonic() + deadline_s(message))
        peer.inflight += 1

    def _cancelled(self, identity: bytes, message: Message, job: Job) -> None:
        self._workers.finish(identity, message, 0, job_reply(job))

    def _hello(self, identity: bytes, message: Message, fd: int) -> Reply:
        hello = protocol.decode_header(message.header, protocol.Hello)
        if protocol.VERSION not in hello.versions:
            raise UnsupportedVersionError(
                f"the client speaks protocol versions {hello.versions}, this daemon {protocol.VERSION}",
                "install tokend and tokend-client of the same version",
            )
        if identity not in self._peers:
            self._peers[identity] = Peer(time.monotonic(), fd)
        reply = protocol.HelloReply(
            version=protocol.VERSION,
            server_version=__version__,
            server_epoch=self.epoch,
            pid=os.getpid(),
            uid=os.getuid(),
            limits=protocol.Limits(max_frame_bytes=protocol.FRAME_MAX_BYTES, max_inflight=self.config.max_inflight),
            roots=[str(root) for root in self.config.roots],
        )
        return reply, []


def _fd_of(frame: zmq.Frame) -> int:
    """The connection that a message came by; -1 if it is gone."""
    try:
        return int(frame.get(_SRCFD))
    except (zmq.ZMQError, ValueError):
        return -1


def serve(config: ServerConfig) -> int:
    """Runs a daemon in this process until it is stopped; returns its exit code.

    Where threads still hang then (in a file system that does not answer), it ends the process itself with that code:
    the interpreter would wait for them. All that is to be kept is on disk.
    """
    server = Server(config)

    def stop(first: bool) -> None:
        server.stop(config.drain_timeout_s if first else 0.0, finish_queued=False)

    lifecycle.on_signals(stop)
    code = server.run()
    lifecycle.leave_hanging(code)
    return code
