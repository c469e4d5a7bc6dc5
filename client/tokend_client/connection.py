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

A caller may be interrupted between any two steps (Ctrl-C). It then ends the channel, of which nobody knows
what was half sent or half read, and leaves; whoever drives next finds it ended, as after any other loss.

After a fork the child makes a connection of its own; the parent's is never used there.
"""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
import uuid
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import msgspec

from . import protocol
from .errors import (
    BadRequestError,
    BusyError,
    HelloRequiredError,
    NotConnectedError,
    ShuttingDownError,
    TokendError,
)
from .paths import socket_path
from .protocol import Message, Op
from .requests import Call
from .slot import Slot, Wheel
from .zmtp import Channel

T = TypeVar("T")

CLIENT_NAME = "tokend-client/0.1.0"
_RECONNECT_S = 0.02
_CLOSE_S = 1.0
_LOOK_S = 0.25
"""How often a thread that waits looks at the clock when nothing comes."""


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
        self._wheel = Wheel()
        self._sending = threading.Lock()
        self._channel: Channel | None = None
        self._stray: Channel | None = None
        """A channel that is not used yet, or no more; whoever holds the wheel closes it."""
        self._hello_id = 0
        """The request that greets; 0 until the channel is open."""
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
        channels = self._channel, self._stray
        self._reset()
        for channel in channels:
            if channel is not None:
                channel.close()

    def call(self, op: Op, header: msgspec.Struct, body: list[Any], timeout_s: float) -> Message:
        """Sends a request and waits for its reply, `timeout_s` at most. Raises the typed error."""
        slot = self._slot(op, header, body, timeout_s)
        try:
            self._open(slot)
            self._wait(slot)
        except BaseException:
            self._interrupt()
            raise
        finally:
            # Not in a method: an interrupt can come where one is entered, before it has tried anything.
            try:
                self._leave(slot)
            except BaseException:
                # Interrupted even here: all of it once more.
                self._leave(slot)
                raise
        return slot.result()

    def call_each(self, calls: Iterator[Call[T]], window: int, deadline_s: float, take: Callable[[T], None]) -> None:
        """Sends requests, at most `window` of them under way, and has `take` called with each reply in their order.

        Ends with the first typed error, in the same order, or at the deadline (of the monotonic clock).
        """
        under_way: deque[tuple[Slot, Call[T]]] = deque()
        try:
            for call in calls:
                slot = self._slot(call.op, call.header, call.body, deadline_s - time.monotonic())
                under_way.append((slot, call))
                self._open(slot)
                while under_way and (len(under_way) >= window or under_way[0][0].is_done):
                    self._take(under_way, take)
            while under_way:
                self._take(under_way, take)
        except (TokendError, UnicodeError):
            # Of a reply, or of what was to be sent: the channel is as it should be.
            raise
        except BaseException:
            self._interrupt()
            raise
        finally:
            # See `call`.
            try:
                for slot, _ in under_way:
                    self._leave(slot)
            except BaseException:
                for slot, _ in under_way:
                    self._leave(slot)
                raise

    def _take(self, under_way: deque[tuple[Slot, Call[T]]], take: Callable[[T], None]) -> None:
        slot, call = under_way[0]
        self._wait(slot)
        self._leave(slot)
        take(call.read(slot.result()))
        under_way.popleft()

    def _wait(self, slot: Slot) -> None:
        """Waits until a slot has its outcome, its deadline at the latest."""
        slot.is_waited_for = True
        while not slot.is_done:
            if self._wheel.take(slot):
                self._drive(slot)
            else:
                slot.wake.acquire(timeout=max(0.0, min(slot.deadline_s - time.monotonic(), _LOOK_S)))
            if not slot.is_done and time.monotonic() >= slot.deadline_s:
                slot.finish(slot.too_late(self.endpoint))

    def _leave(self, slot: Slot) -> None:
        """A slot is done with; somebody else has to drive on. May be called again."""
        self._wheel.give(slot)
        with self._lock:
            self._slots.pop(slot.request_id, None)
            for other in self._slots.values():
                if other.is_waited_for and not other.is_done:
                    other.nudge()
                    break

    def _interrupt(self) -> None:
        """Ends the channel that an interrupted thread may have been using."""
        channel = self._channel
        if channel is not None:
            channel.shutdown()

    def slot(
        self, op: Op, header: msgspec.Struct, body: list[Any], timeout_s: float, on_done: Callable[[], None]
    ) -> Slot:
        """A request that `begin` sends; `on_done` is called, on any thread, when it has its outcome.

        The caller gives up by itself at the deadline, and calls `drop` in any case.
        """
        slot = self._slot(op, header, body, timeout_s)
        slot.on_done = on_done
        return slot

    def begin(self, slot: Slot) -> None:
        """Sends a request; blocks while its text goes out. Does nothing after a `drop`."""
        try:
            self._open(slot)
        except BaseException:
            self._interrupt()
            self.drop(slot)
            raise
        with self._lock:
            if self._helper is None or not self._helper.is_alive():
                self._helper = threading.Thread(target=self._help, name="tokend-client", daemon=True)
                self._helper.start()
        self._helper_wake.set()

    def drop(self, slot: Slot) -> None:
        """Nobody waits for the slot any more."""
        with self._lock:
            slot.is_done = True
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
        # Whoever drives leaves now; nobody may look at a descriptor while it is given back.
        closer = object()
        until = time.monotonic() + _CLOSE_S
        while not self._wheel.take(closer) and time.monotonic() < until:
            time.sleep(0.0005)
        self._close_stray()
        self._wheel.give(closer)

    # Sending: any thread.

    def _slot(self, op: int, header: msgspec.Struct, body: list[Any], timeout_s: float) -> Slot:
        """A request; refuses what is too large, before anything waits."""
        return Slot(op, header, body, time.monotonic() + timeout_s, next(self._ids))

    def _open(self, slot: Slot) -> None:
        with self._lock:
            if slot.is_done:
                return
            if not self._slots and not self._is_ready:
                self._lost_at_s = time.monotonic()
            self._slots[slot.request_id] = slot
            channel = self._claim(slot)
        if channel is not None:
            self._send(channel, slot.frames, slot.deadline_s)

    def _claim(self, slot: Slot) -> Channel | None:
        """The channel on which to send a slot now, if it is its turn. Under the lock."""
        if not self._is_ready or self.hello is None or len(self._inflight) >= self.hello.limits.max_inflight:
            self._has_unsent = True
            return None
        slot.is_sent = True
        self._inflight.add(slot.request_id)
        return self._channel

    def _send(self, channel: Channel, frames: list[Any], deadline_s: float) -> None:
        with self._sending:
            try:
                channel.send(frames, deadline_s)
            except BaseException as error:
                # Part of a message may have gone out: nothing may follow it. Whoever drives finds the
                # channel ended and starts anew.
                channel.shutdown()
                if not isinstance(error, OSError):
                    raise

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
            self._send(channel, slot.frames, slot.deadline_s)

    # Driving: whoever holds the wheel.

    def _help(self) -> None:
        me = threading.current_thread()
        while self._helper is me:
            self._helper_wake.wait()
            self._helper_wake.clear()
            while self._slots and self._helper is me:
                if self._wheel.take(me):
                    self._drive(None)
                    self._wheel.give(me)
                else:
                    time.sleep(_RECONNECT_S)

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
                    messages = channel.receive()
                    if channel.is_open and not self._hello_id:
                        self._lost_at_s = now
                        self._greet(channel, now)
                    for frames in messages:
                        self._dispatch(frames)
            except OSError:
                was_open = channel.is_open
                with self._lock:
                    self._lose(channel)
                self._close_stray()
                if not was_open:
                    # Whoever accepts and hangs up would be called thousands of times in a second.
                    time.sleep(max(0.0, min(_RECONNECT_S, until - now)))

    def _connect(self, now: float) -> Channel | None:
        self._close_stray()
        channel = self._stray = Channel(self._path, protocol.FRAME_MAX_BYTES)
        try:
            channel.connect()
        except OSError:
            self._close_stray()
            return None
        with self._lock:
            self._channel, self._stray, self._hello_id = channel, None, 0
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
        self._is_ready = False
        if channel.is_open:
            self._lost_at_s = time.monotonic()
        self._inflight.clear()
        for slot in self._slots.values():
            if slot.is_sent and slot.op == Op.SHUTDOWN:
                slot.finish(NotConnectedError(f"{self.endpoint}: the daemon ended before it answered"))
            slot.is_sent = False
        # Last, so that after an interrupt all of this is done again.
        self._stray, self._channel = channel, None

    def _close_stray(self) -> None:
        """Gives a descriptor back, once nobody sends on it. With the wheel."""
        if self._stray is not None:
            with self._sending:
                self._stray.close()
            self._stray = None

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
