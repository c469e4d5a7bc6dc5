"""One connection to a daemon, shared by any number of threads.

A background thread owns the socket; callers hand it requests and wait on futures. It says hello at
every (re)connection and sends again what was waiting, because each request is harmless to repeat: the
daemon forgets a lost connection's requests, and a submit carries a key. Nothing waits past its deadline.

After a fork the child makes a connection of its own; the parent's socket is never touched there.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
import uuid
from collections import deque
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any

import msgspec
import zmq
from zmq.utils.monitor import recv_monitor_message

from . import protocol
from .errors import (
    BadRequestError,
    DeadlineExceededError,
    HelloRequiredError,
    NotConnectedError,
    TokendError,
)
from .protocol import Message, Op

CLIENT_NAME = "tokend-client/0.1.0"
_POLL_MS = 50


@dataclass
class _Request:
    op: int
    header: msgspec.Struct
    body: list[Any]
    deadline: float
    future: Future[Message] = field(default_factory=Future)


class Connection:
    """A lazily made, self-healing connection.

    Parameters: `endpoint`; `connect_timeout_s`, how long a request waits for a daemon to answer at
    all before `NotConnectedError`, also after a daemon went away (it may be restarting).
    """

    def __init__(self, endpoint: str, *, connect_timeout_s: float) -> None:
        self.endpoint = endpoint
        self.connect_timeout_s = connect_timeout_s
        self._lock = threading.Lock()
        self._pid = -1
        self._thread: _Thread | None = None

    def request(self, op: Op, header: msgspec.Struct, body: list[Any], timeout_s: float) -> Future[Message]:
        """Sends a request; the future gives the reply or the typed error by the deadline at the latest."""
        request = _Request(op, header, body, time.monotonic() + timeout_s)
        protocol.pack(op, 0, 0, header, body)  # refuses what is too large here, not on the thread
        with self._lock:
            if self._thread is None or self._pid != os.getpid() or not self._thread.is_alive():
                self._pid = os.getpid()
                self._thread = _Thread(self.endpoint, self.connect_timeout_s)
                self._thread.start()
            self._thread.submit(request)
        return request.future

    def hello(self) -> protocol.HelloReply | None:
        """What the daemon said of itself at the last hello."""
        return self._thread.hello if self._thread is not None and self._pid == os.getpid() else None

    def close(self) -> None:
        """Ends the thread; waiting requests fail. Bounded to about a second."""
        with self._lock:
            thread, self._thread = self._thread, None
            if thread is not None and self._pid == os.getpid():
                thread.stop()
                thread.join(timeout=1.0)


class _Thread(threading.Thread):
    def __init__(self, endpoint: str, connect_timeout_s: float) -> None:
        super().__init__(name="tokend-client", daemon=True)
        self.endpoint = endpoint
        self.connect_timeout_s = connect_timeout_s
        self.hello: protocol.HelloReply | None = None
        self._new: deque[_Request] = deque()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stopping = False
        self._ids = itertools.count(1)
        self._waiting: dict[int, _Request] = {}
        self._unsent: deque[int] = deque()
        self._sent: set[int] = set()
        self._client_id = str(uuid.uuid4())
        self._hello_id = 0
        self._ready = False
        self._lost_at = time.monotonic()

    def submit(self, request: _Request) -> None:
        self._new.append(request)
        os.eventfd_write(self._wake, 1)

    def stop(self) -> None:
        self._stopping = True
        os.eventfd_write(self._wake, 1)

    def run(self) -> None:
        context = zmq.Context()
        socket = context.socket(zmq.DEALER)
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.IMMEDIATE, 1),
            (zmq.MAXMSGSIZE, protocol.FRAME_MAX_BYTES),
            (zmq.RECONNECT_IVL, 50),
            (zmq.RECONNECT_IVL_MAX, 1000),
            (zmq.SNDHWM, 256),
            (zmq.RCVHWM, 256),
        ):
            socket.setsockopt(option, value)
        monitor = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        poller = zmq.Poller()
        for source in (socket, monitor, self._wake):
            poller.register(source, zmq.POLLIN)
        error: TokendError = NotConnectedError("the client was closed")
        try:
            socket.connect(self.endpoint)
            while not self._stopping:
                events = dict(poller.poll(_POLL_MS if self._waiting else 1000))
                if self._wake in events:
                    os.eventfd_read(self._wake)
                while self._new:
                    self._admit(self._new.popleft())
                if monitor in events:
                    self._watch(monitor)
                if socket in events:
                    self._receive(socket)
                self._send(socket)
                self._expire()
        except zmq.ZMQError as failure:
            error = NotConnectedError(f"{self.endpoint}: {failure}")
        finally:
            for request in (*self._waiting.values(), *self._new):
                _fail(request, error)
            socket.disable_monitor()
            monitor.close(linger=0)
            socket.close(linger=0)
            context.term()
            os.close(self._wake)

    def _admit(self, request: _Request) -> None:
        if not self._waiting and not self._ready:
            self._lost_at = time.monotonic()
        request_id = next(self._ids)
        self._waiting[request_id] = request
        self._unsent.append(request_id)

    def _watch(self, monitor: zmq.Socket[bytes]) -> None:
        while monitor.poll(0):
            event = recv_monitor_message(monitor)["event"]
            if event == zmq.EVENT_DISCONNECTED:
                self._ready = False
                self._lost_at = time.monotonic()
            elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._greet()

    def _greet(self) -> None:
        """Queues a hello; everything that waits goes out (again) once it is answered."""
        self._ready = False
        self._hello_id = next(self._ids)
        self._unsent = deque([self._hello_id])
        self._sent.clear()

    def _send(self, socket: zmq.Socket[bytes]) -> None:
        while self._unsent:
            request_id = self._unsent[0]
            if request_id == self._hello_id:
                header: msgspec.Struct = protocol.Hello(
                    versions=[protocol.VERSION], client_id=self._client_id, client=CLIENT_NAME, pid=os.getpid()
                )
                frames = protocol.pack(Op.HELLO, 0, request_id, header)
            elif not self._ready or len(self._sent) >= self._max_inflight():
                return
            else:
                request = self._waiting.get(request_id)
                if request is None:
                    self._unsent.popleft()
                    continue
                frames = protocol.pack(request.op, 0, request_id, request.header, request.body)
            try:
                socket.send_multipart(frames, zmq.NOBLOCK)
            except zmq.Again:
                return
            self._unsent.popleft()
            if request_id != self._hello_id:
                self._sent.add(request_id)

    def _max_inflight(self) -> int:
        """What the daemon takes from one client at a time; more would be refused, so it waits here."""
        return self.hello.limits.max_inflight if self.hello is not None else 1

    def _receive(self, socket: zmq.Socket[bytes]) -> None:
        while True:
            try:
                frames = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                message = protocol.unpack(frames)
            except BadRequestError:
                continue
            self._dispatch(message)

    def _dispatch(self, message: Message) -> None:
        error: TokendError | None = None
        if message.flags & protocol.FLAG_ERROR:
            try:
                error = protocol.decode_header(message.header, protocol.ErrorReply).exception()
            except BadRequestError as broken:
                error = broken
        if message.request_id == self._hello_id:
            if error is None:
                self.hello = protocol.decode_header(message.header, protocol.HelloReply)
                self._ready = True
                self._unsent = deque(self._waiting)
            else:
                for request in self._waiting.values():
                    _fail(request, error)
                self._waiting.clear()
            return
        if isinstance(error, HelloRequiredError):
            self._greet()
            return
        self._sent.discard(message.request_id)
        if message.request_id not in self._waiting:
            return
        request = self._waiting.pop(message.request_id)
        if error is not None:
            _fail(request, error)
        else:
            with contextlib.suppress(InvalidStateError):
                request.future.set_result(message)

    def _expire(self) -> None:
        now = time.monotonic()
        gone = not self._ready and now - self._lost_at > self.connect_timeout_s
        for request_id, request in list(self._waiting.items()):
            if request.future.cancelled():
                # Its reply, if it was sent, still comes and frees its place among the sent ones.
                del self._waiting[request_id]
            elif now > request.deadline:
                del self._waiting[request_id]
                _fail(request, DeadlineExceededError(f"{self.endpoint}: no answer within the time given"))
            elif gone:
                del self._waiting[request_id]
                _fail(request, no_daemon(self.endpoint))


def no_daemon(endpoint: str) -> NotConnectedError:
    """The error for an endpoint at which nobody answers."""
    return NotConnectedError(f"no daemon answers at {endpoint}", "start one with `tokend serve`")


def _fail(request: _Request, error: TokendError) -> None:
    with contextlib.suppress(InvalidStateError):
        request.future.set_exception(error)
