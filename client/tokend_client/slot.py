"""A request under way, and who moves it on.

A signal may interrupt a thread between any two steps (Ctrl-C raises `KeyboardInterrupt` there). So nothing
here is taken by a step whose outcome only the thread itself would know, as with `Lock.acquire`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import msgspec

from . import protocol
from .errors import DeadlineExceededError, InternalError, TokendError
from .protocol import Message


class Slot:
    """A request under way, and the place of its reply. Raises `TooLargeError` for what no daemon would take."""

    __slots__ = (
        "deadline_s",
        "frames",
        "is_done",
        "is_sent",
        "is_waited_for",
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
        self.frames = protocol.pack(op, 0, request_id, header, body)
        self.deadline_s = deadline_s
        self.request_id = request_id
        self.is_sent = self.is_done = False
        # By a thread that drives, or sleeps until it is woken.
        self.is_waited_for = False
        self.not_before_s = self.refused_at_s = 0.0
        self.refusal: TokendError | None = None
        self.outcome: Message | TokendError | None = None
        self.on_done: Callable[[], None] | None = None
        # A lock that is held until there is something to wake up for: cheaper than an event.
        self.wake = threading.Lock()
        self.wake.acquire()

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


class Wheel:
    """The right to drive: one holder at a time, named, so that it can be given back after an interrupt that
    came between taking it and hearing so.
    """

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: dict[str, object] = {}

    def take(self, who: object) -> bool:
        """Takes it if it is free; True if it is `who`'s now. One atomic step."""
        return self._held.setdefault("by", who) is who

    def give(self, who: object) -> None:
        """Gives it back, if it is `who`'s."""
        if self._held.get("by") is who:
            self._held.pop("by", None)
