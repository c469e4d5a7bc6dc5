"""One connection to a daemon, shared by any number of threads.

There is no thread behind it as long as callers wait for themselves: of the threads that wait for a
reply, one *drives* — it connects, says hello, reads, hands replies to whom they belong — until its own
reply is there; then it passes the wheel to another that still waits. A lone caller so costs no switch of
threads at all. Asyncio's requests have nobody who waits in a thread; a helper drives for them.

    caller: slot ─► send ─► wheel free? ─┬─ yes ─► drive: read, dispatch, reconnect, send again ─► own reply
                                         └─ no ──► sleep until the slot is filled, or the wheel is passed

After a lost connection everything that waits is sent again to whatever daemon answers next, because each
request is harmless to repeat (a submit carries a key) but for `shutdown`. `BUSY` and `SHUTTING_DOWN` are
waited out. Nothing waits past its deadline.

After a fork the child makes a connection of its own; the parent's is never used there.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import threading
import time
import uuid
import weakref
from collections.abc import Callable
from typing import Any

import msgspec

from . import protocol
from .errors import (
    BadRequestError,
    BusyError,
    DeadlineExceededError,
    HelloRequiredError,
    InternalError,
    NotConnectedError,
    ShuttingDownError,
    TokendError,
)
from .paths import socket_path
from .protocol import Message, Op
from .zmtp import Channel

CLIENT_NAME = "tokend-client/0.1.0"
_RECONNECT_S = 0.02
_LOOK_S = 0.25
"""How often a thread that waits looks at the clock when nothing comes."""


class Slot:
    """A request under way, and the place of its reply."""

    __slots__ = (
        "body",
        "deadline_s",
        "header",
        "is_done",
        "is_sent",
        "not_before_s",
        "on_done",
        "op",
        "outcome",
        "refusal",
        "refused_at_s",
        "request_id",
        "wake",
    )

    def __init__(self, op: int, header: msgspec.Struct, body: list[Any], deadline_s: float, request_id: int) -> None:
        self.op = op
        self.header = header
        self.body = body
        self.deadline_s = deadline_s
        self.request_id = request_id
        self.is_sent = self.is_done = False
        self.not_before_s = self.refused_at_s = 0.0
        self.refusal: TokendError | None = None
        self.outcome: Message | TokendError | None = None
        self.on_done: Callable[[], None] | None = None
        # A lock that is held until there is something to wake up for: cheaper than an event.
        self.wake = threading.Lock()
        self.wake.acquire()

    def frames(self) -> list[Any]:
        """The request as it is sent."""
        return protocol.pack(self.op, 0, self.request_id, self.header, self.body)

    def nudge(self) -> None:
        """Wakes the thread that waits."""
        with contextlib.suppress(RuntimeError):
            self.wake.release()

    def finish(self, outcome: Message | TokendError) -> None:
        """Fills the slot; only the first time counts."""
        if self.is_done:
            return
        self.outcome, self.is_done = outcome, True
        if self.on_done is not None:
            self.on_done()
        else:
            self.nudge()

    def too_late(self, endpoint: str) -> TokendError:
        """The error of a slot whose deadline has passed."""
        return self.refusal or DeadlineExceededError(f"{endpoint}: no answer within the time given")

    def result(self) -> Message:
        """The reply; raises the error that came instead."""
        if isinstance(self.outcome, Message):
            return self.outcome
        raise self.outcome or InternalError("a request ended without an answer")


class Connection:
    """A lazily made, self-healing connection.

    Parameters: `endpoint`; `connect_timeout_s`, how long a request waits for a daemon to answer at all
    before `NotConnectedError`; `reconnect_timeout_s`, the same once a daemon has answered before and is
    gone (it may be restarting).
    """

    def __init__(self, endpoint: str, *, connect_timeout_s: float, reconnect_timeout_s: float) -> None:
        self.endpoint = endpoint
        self.connect_timeout_s = connect_timeout_s
        self.reconnect_timeout_s = max(connect_timeout_s, reconnect_timeout_s)
        self._path = os.fspath(socket_path(endpoint))
        self._client_id = str(uuid.uuid4())
        self._ids = itertools.count(1)
        self._reset()
        _connections.add(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._wheel = threading.Lock()
        self._sending = threading.Lock()
        self._channel: Channel | None = None
        self._hello_id = 0
        self._slots: dict[int, Slot] = {}
        self._inflight: set[int] = set()
        """Requests that the daemon works on, those that nobody waits for any more included."""
        self._is_ready = False
        self._has_unsent = False
        self._lost_at_s = 0.0
        self._helper: threading.Thread | None = None
        self._helper_wake = threading.Event()
        self.hello: protocol.HelloReply | None = None
        """What the daemon said of itself at the last hello."""

    def after_fork(self) -> None:
        """In the child: forgets the parent's connection, without a word to the daemon."""
        channel = self._channel
        self._reset()
        if channel is not None:
            channel.close()

    def call(self, op: Op, header: msgspec.Struct, body: list[Any], timeout_s: float) -> Message:
        """Sends a request and waits for its reply, `timeout_s` at most. Raises the typed error."""
        slot = self._open(op, header, body, timeout_s, None)
        try:
            while not slot.is_done:
                if self._wheel.acquire(blocking=False):
                    try:
                        self._drive(slot)
                    finally:
                        self._wheel.release()
                else:
                    slot.wake.acquire(timeout=max(0.0, min(slot.deadline_s - time.monotonic(), _LOOK_S)))
                if not slot.is_done and time.monotonic() >= slot.deadline_s:
                    slot.finish(slot.too_late(self.endpoint))
            return slot.result()
        finally:
            with self._lock:
                self._slots.pop(slot.request_id, None)
                for other in self._slots.values():
                    if other.on_done is None and not other.is_done:
                        # Somebody has to drive on.
                        other.nudge()
                        break

    def begin(
        self, op: Op, header: msgspec.Struct, body: list[Any], timeout_s: float, on_done: Callable[[], None]
    ) -> Slot:
        """Sends a request; `on_done` is called, on any thread, when the slot has its outcome.

        The caller gives up by itself at the deadline, and then calls `drop`.
        """
        slot = self._open(op, header, body, timeout_s, on_done)
        with self._lock:
            if self._helper is None or not self._helper.is_alive():
                self._helper = threading.Thread(target=self._help, name="tokend-client", daemon=True)
                self._helper.start()
        self._helper_wake.set()
        return slot

    def drop(self, slot: Slot) -> None:
        """Nobody waits for the slot any more."""
        with self._lock:
            self._slots.pop(slot.request_id, None)

    def close(self) -> None:
        """Closes; requests that wait fail. A later request connects again."""
        with self._lock:
            slots = list(self._slots.values())
            self._slots.clear()
            self._helper = None
            self._lose(self._channel)
        self._helper_wake.set()
        for slot in slots:
            slot.finish(NotConnectedError("the client was closed"))

    # Sending: any thread.

    def _open(
        self,
        op: Op,
        header: msgspec.Struct,
        body: list[Any],
        timeout_s: float,
        on_done: Callable[[], None] | None,
    ) -> Slot:
        now = time.monotonic()
        slot = Slot(op, header, body, now + timeout_s, next(self._ids))
        slot.on_done = on_done
        # Refuses what is too large, before anything waits.
        frames = slot.frames()
        with self._lock:
            if not self._slots and not self._is_ready:
                self._lost_at_s = now
            self._slots[slot.request_id] = slot
            channel = self._claim(slot)
        if channel is not None:
            self._send(channel, frames, slot.deadline_s)
        return slot

    def _claim(self, slot: Slot) -> Channel | None:
        """The channel on which to send a slot now, if it is its turn. Under the lock."""
        if not self._is_ready or self.hello is None or len(self._inflight) >= self.hello.limits.max_inflight:
            self._has_unsent = True
            return None
        slot.is_sent = True
        self._inflight.add(slot.request_id)
        return self._channel

    def _send(self, channel: Channel, frames: list[Any], deadline_s: float) -> None:
        try:
            with self._sending:
                channel.send(frames, deadline_s)
        except OSError:
            # Part of a message may have gone out: whoever drives finds the channel ended and starts anew.
            channel.shutdown()

    def _send_waiting(self, now: float) -> None:
        """Sends what waits, as far as the daemon takes it."""
        while self._is_ready:
            with self._lock:
                waiting = [slot for slot in self._slots.values() if not slot.is_sent and not slot.is_done]
                self._has_unsent = bool(waiting)
                slot = next((slot for slot in waiting if slot.not_before_s <= now), None)
                channel = self._claim(slot) if slot is not None else None
            if slot is None or channel is None:
                return
            self._send(channel, slot.frames(), slot.deadline_s)

    # Driving: whoever holds the wheel.

    def _help(self) -> None:
        while self._helper is threading.current_thread():
            self._helper_wake.wait()
            self._helper_wake.clear()
            with self._wheel:
                self._drive(None)

    def _drive(self, own: Slot | None) -> None:
        """Moves everything on until `own` is done or late; without `own` until nothing waits."""
        while True:
            now = time.monotonic()
            if own is not None and (own.is_done or now >= own.deadline_s):
                return
            if own is None and not self._slots:
                return
            until = now + _LOOK_S if own is None else min(own.deadline_s, now + _LOOK_S)
            channel = self._channel or self._connect(now)
            if not self._is_ready:
                self._give_up(now)
            if channel is None:
                time.sleep(max(0.0, min(_RECONNECT_S, until - now)))
                continue
            if self._has_unsent:
                self._send_waiting(now)
                until = min(until, now + _RECONNECT_S)
            try:
                if channel.wait(until - now):
                    for frames in channel.receive():
                        self._dispatch(frames)
            except OSError:
                with self._lock:
                    self._lose(channel)
            except BaseException:
                # Interrupted: replies may be half read, so they are asked for again.
                with self._lock:
                    self._lose(channel)
                raise

    def _connect(self, now: float) -> Channel | None:
        try:
            channel = Channel(self._path, protocol.FRAME_MAX_BYTES)
        except OSError:
            return None
        with self._lock:
            self._channel, self._lost_at_s = channel, now
        self._greet(channel, now)
        return channel

    def _greet(self, channel: Channel, now: float) -> None:
        self._hello_id = next(self._ids)
        hello = protocol.Hello(
            versions=[protocol.VERSION], client_id=self._client_id, client=CLIENT_NAME, pid=os.getpid()
        )
        self._send(channel, protocol.pack(Op.HELLO, 0, self._hello_id, hello), now + 1.0)

    def _lose(self, channel: Channel | None) -> None:
        """The connection is gone; what waits is sent again on the next one. Under the lock."""
        if channel is None or self._channel is not channel:
            return
        channel.shutdown()
        with self._sending:
            channel.close()
        self._channel, self._is_ready, self._lost_at_s = None, False, time.monotonic()
        self._inflight.clear()
        for slot in self._slots.values():
            if slot.is_sent and slot.op == Op.SHUTDOWN:
                slot.finish(NotConnectedError(f"{self.endpoint}: the daemon ended before it answered"))
            slot.is_sent = False

    def _give_up(self, now: float) -> None:
        """Fails what waits for a daemon that does not come."""
        limit = self.connect_timeout_s if self.hello is None else self.reconnect_timeout_s
        if now - self._lost_at_s > limit:
            with self._lock:
                slots = list(self._slots.values())
            for slot in slots:
                slot.finish(slot.refusal or no_daemon(self.endpoint))

    def _dispatch(self, frames: list[Any]) -> None:
        try:
            message = protocol.unpack(frames)
            error = None
            if message.flags & protocol.FLAG_ERROR:
                error = protocol.decode_header(message.header, protocol.ErrorReply).exception()
        except BadRequestError:
            return
        if message.request_id == self._hello_id:
            self._welcome(message, error)
            return
        with self._lock:
            self._inflight.discard(message.request_id)
            slot = self._slots.get(message.request_id)
        if slot is None:
            return
        if error is None:
            slot.finish(message)
            return
        now = time.monotonic()
        if isinstance(error, HelloRequiredError):
            self._is_ready = slot.is_sent = False
            if self._channel is not None:
                self._greet(self._channel, now)
        elif isinstance(error, BusyError | ShuttingDownError) and error.retry_after_s is not None:
            self._retry(slot, error, error.retry_after_s, now)
        else:
            slot.finish(error)

    def _welcome(self, message: Message, error: TokendError | None) -> None:
        if error is None:
            try:
                self.hello = protocol.decode_header(message.header, protocol.HelloReply)
            except BadRequestError as broken:
                error = broken
        if error is None:
            self._is_ready = self._has_unsent = True
            self._send_waiting(time.monotonic())
            return
        with self._lock:
            slots = list(self._slots.values())
        for slot in slots:
            slot.finish(error)

    def _retry(self, slot: Slot, error: TokendError, after_s: float, now: float) -> None:
        if slot.refusal is None:
            slot.refused_at_s = now
        slot.refusal = error
        if isinstance(error, ShuttingDownError) and now - slot.refused_at_s > self.reconnect_timeout_s:
            slot.finish(error)
            return
        # Spread out, so that those who were refused together do not come back together.
        slot.not_before_s = now + after_s * random.uniform(0.5, 1.5)
        slot.is_sent = False
        self._has_unsent = True


def no_daemon(endpoint: str) -> NotConnectedError:
    """The error for an endpoint at which nobody answers."""
    return NotConnectedError(f"no daemon answers at {endpoint}", "start one with `tokend serve`")


_connections: weakref.WeakSet[Connection] = weakref.WeakSet()


def _after_fork() -> None:
    for connection in list(_connections):
        connection.after_fork()


os.register_at_fork(after_in_child=_after_fork)
