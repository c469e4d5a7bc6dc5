"""Between a loader and whoever writes its streams: how it waits, and what it tells of itself.

A loader that follows a growing stream needs two things of its writer: a hint that more may be there, and
that the writer knows how far the loader is. Both are optional. What is committed is always read from the
stream's manifest, so a lost hint or a dead daemon costs at most a poll interval.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from .errors import StarvedError, StreamError, TokendError, from_code
from .stream import TokenStream

log = logging.getLogger("tokend_client.loader")

POLL_S = 0.02
"""Between two looks at a manifest, if nobody calls `wake`."""
FIRST_WARNING_S = 5.0
"""A wait this long is worth a line in the log; the next ones come at twice the time."""


@dataclass(frozen=True)
class Cursor:
    """How far a loader is in one stream, in tokens of the stream."""

    stream: str
    """The loader's name for it."""
    path: str
    stream_id: str | None
    low_water: int
    """Nothing before this position will be read again, not even after a resume from a retained state."""
    position: int
    """Where the window of the next batch begins."""
    wanted: int
    """What must be committed for the next batch."""
    run: str = ""
    """Equal for loaders that read the same streams in the same order, whatever their rank."""


@dataclass(frozen=True)
class WriterStatus:
    """What a daemon knows of a stream that it writes."""

    n_tokens: int
    tokens_per_s: float
    note: str = ""


class Feed(Protocol):
    """The link to a writer; `Polling` is the one that needs none. Called from the loader's threads."""

    def report(self, cursors: Sequence[Cursor]) -> None:
        """Takes how far the loader is; must not block. Called once a second at most, in waits as well."""

    def wait(self, timeout_s: float) -> None:
        """Returns when more may be there, after `timeout_s` at the latest."""

    def status(self, stream: str) -> WriterStatus | None:
        """What is known of a stream's writer, for messages; None if nothing. Must not block."""


class Polling:
    """Looks at the manifest every 20 ms; `wake()`, from any thread, makes it look at once."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def wake(self) -> None:
        """More may be there."""
        self._event.set()

    def report(self, cursors: Sequence[Cursor]) -> None:
        """Nobody to tell."""

    def wait(self, timeout_s: float) -> None:
        """Returns after a wake-up or `timeout_s`."""
        if self._event.wait(timeout_s):
            self._event.clear()

    def status(self, stream: str) -> WriterStatus | None:
        """Nothing is known."""
        return None


class Stopped(Exception):
    """The loader was closed while it waited; never leaves the package."""


def wait_for_tokens(
    stream: TokenStream,
    name: str,
    n_tokens: int,
    feed: Feed,
    stopped: Callable[[], bool],
    stall_timeout_s: float,
    report: Callable[[], None] = lambda: None,
) -> None:
    """Blocks until `n_tokens` of a stream are committed, or it is sealed.

    Raises the writer's own error if the stream has failed, and `StarvedError` when it has not grown for
    `stall_timeout_s`; says in the log why it waits.
    """
    begun = grown = time.monotonic()
    begun_tokens, warn_after = stream.n_tokens, FIRST_WARNING_S
    while True:
        if stream.n_tokens >= n_tokens or stream.state == "sealed":
            return
        if stream.refresh():
            grown = time.monotonic()
            continue
        if stream.state == "failed":
            raise failure(stream, name)
        if stopped():
            raise Stopped
        now = time.monotonic()
        if now - grown > stall_timeout_s:
            why = reason(stream, name, n_tokens, begun_tokens, now - begun, feed)
            raise StarvedError(
                f"{why}; nothing has been added for {now - grown:.0f} s",
                f"see whether its writer still runs (tokend jobs); its manifest is {stream.path}/manifest.json",
            )
        if now - begun > warn_after:
            log.warning("%s", reason(stream, name, n_tokens, begun_tokens, now - begun, feed))
            warn_after *= 2
        report()
        feed.wait(POLL_S)


def wait_for_stream(
    open_stream: Callable[[], TokenStream],
    name: str,
    feed: Feed,
    stopped: Callable[[], bool],
    stall_timeout_s: float,
    report: Callable[[], None] = lambda: None,
) -> TokenStream:
    """Opens a stream whose writer may not have made it yet. Raises `StarvedError` after `stall_timeout_s`."""
    begun, warn_after = time.monotonic(), FIRST_WARNING_S
    while True:
        try:
            return open_stream()
        except StreamError as error:
            if not has_not_begun(error):
                raise
            missing = error
        waited = time.monotonic() - begun
        if waited > stall_timeout_s:
            raise StarvedError(f"stream {name!r} has not begun within {waited:.0f} s: {missing.message}", missing.hint)
        if stopped():
            raise Stopped
        if waited > warn_after:
            status = feed.status(name)
            note = f", {status.note}" if status is not None and status.note else ""
            log.warning("waiting for stream %r to begin: %s%s", name, missing.message, note)
            warn_after *= 2
        report()
        feed.wait(POLL_S)


def has_not_begun(error: StreamError) -> bool:
    """Whether a stream could not be opened because its writer has committed nothing yet."""
    return "no manifest" in error.message


def failure(stream: TokenStream, name: str) -> TokendError:
    """The error of a failed stream's writer, with where it happened."""
    error = stream.error or {}
    text = f"stream {name!r} ({stream.path}) failed at {stream.n_tokens:,} tokens: {error.get('message', 'no reason')}"
    return from_code(str(error.get("code", "INTERNAL")), text, error.get("hint"))


def reason(stream: TokenStream, name: str, n_tokens: int, begun_tokens: int, waited_s: float, feed: Feed) -> str:
    """Why `n_tokens` of a stream are waited for: how far it is, its writer and how fast, and how long it will take."""
    status = feed.status(name)
    have, rate, writer = stream.n_tokens, (stream.n_tokens - begun_tokens) / max(waited_s, 1e-9), ""
    if status is not None and status.n_tokens:
        have, rate = max(have, status.n_tokens), status.tokens_per_s
        writer = f" (the writer is at {status.n_tokens:,})"
    eta = f"ETA {max(n_tokens - have, 0) / rate:.1f} s" if rate > 0 else "no ETA"
    note = f", {status.note}" if status is not None and status.note else ""
    return (
        f"waiting for stream {name!r} at token {n_tokens:,}: {stream.n_tokens:,} are committed{writer}, "
        f"{_rate(rate)}, {eta}{note} (waited {waited_s:.1f} s)"
    )


def _rate(tokens_per_s: float) -> str:
    """A rate in the unit that shows it."""
    return f"{tokens_per_s / 1e6:.1f} M tokens/s" if tokens_per_s >= 1e5 else f"{tokens_per_s:,.0f} tokens/s"
