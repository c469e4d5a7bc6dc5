"""Who is connected, and what they are sent.

libzmq takes hundreds of replies for a peer that does not read, of whatever size. So it is given no more than a
window of bytes for each, until the peer's socket is seen empty: the kernel says how much of what was written to a
Unix socket is not read yet. What is beyond waits in the peer's outbox. Outboxes and windows together are bounded;
over that bound the peer that reads slowest is hung up on, which frees what libzmq holds for it, too.

    reply ─► outbox ─► window: libzmq ─► kernel ─► peer

Used by the I/O thread alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socket
import struct
import termios
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import msgspec
import zmq
import zmq.backend
from tokend_client import protocol
from tokend_client.errors import TokendError
from tokend_client.protocol import ErrorReply

from .handlers import Reply

log = logging.getLogger("tokend.server")

# The binding's own methods and plain numbers: its conveniences (a function per frame, flags as enums,
# options as enums) cost a short request a tenth of its round trip.
_send = zmq.backend.Socket.send
_NOBLOCK, _NOBLOCK_MORE = int(zmq.NOBLOCK), int(zmq.NOBLOCK) | int(zmq.SNDMORE)

_WINDOW_BYTES = 4 << 20
"""Bytes of replies that libzmq is given for a peer before its socket is looked at."""
_MESSAGE_BYTES = 512
"""What a waiting reply takes beside its frames."""
_PATIENCE_MS = (1, 64)
"""Between two looks at peers that read slowly: at first, and when none of them reads."""
_SILENCE_S = 60.0
"""A peer that said nothing for so long is forgotten; it says hello again if it is still there."""


@dataclass
class Peer:
    """A client that has said hello."""

    last_seen: float
    fd: int = -1
    """Its connection, as libzmq has it; only looked at, and shut down."""
    inflight: int = 0
    """Its requests that are worked on."""
    outbox: deque[list[Any]] = field(default_factory=deque)
    outbox_bytes: int = 0
    window_bytes: int = 0
    """What libzmq was given since the peer's socket was last seen empty."""
    unread_since: float = 0.0
    """When that was, or when it was given something after it had read all."""

    def slowness(self, now: float) -> float:
        """Bytes it has not read, times seconds: a long reply that is just being read counts little, and so does a
        short one that a sleeping client leaves.
        """
        return (self.outbox_bytes + self.window_bytes) * (now - self.unread_since)

    def has_unread(self) -> bool:
        """Whether the kernel holds anything that the peer has not read."""
        try:
            (n_bytes,) = struct.unpack("i", fcntl.ioctl(self.fd, termios.TIOCOUTQ, b"\0\0\0\0"))
            return bool(n_bytes)
        except OSError:
            # It is gone, as sending to it will show.
            return False

    def hang_up(self) -> None:
        """Ends its connection."""
        with contextlib.suppress(OSError):
            fd = os.dup(self.fd)
            try:
                connection = socket.socket(fileno=fd)
            except OSError:
                os.close(fd)
                raise
            with connection:
                connection.shutdown(socket.SHUT_RDWR)


class Peers(dict[bytes, Peer]):
    """Peers by their identity on `router`."""

    def __init__(self, router: zmq.Socket[bytes], outbox_max_bytes: int) -> None:
        super().__init__()
        self._router = router
        self._max_bytes = outbox_max_bytes
        self._held_bytes = 0
        """All outboxes and windows."""
        self._patience_ms = _PATIENCE_MS[0]
        self._slow: set[bytes] = set()
        """Peers with replies in their outbox."""

    def have_all(self) -> bool:
        """Whether nothing waits to be sent."""
        return not self._slow

    def forget_silent(self, now: float, waiting: set[bytes]) -> None:
        """Forgets those of whom nothing is heard, nor owed to; `waiting` are owed a reply."""
        for identity, peer in list(self.items()):
            if now - peer.last_seen > _SILENCE_S and not peer.inflight and identity not in waiting:
                self._forget(identity)

    def reply(self, identity: bytes, op: int, request_id: int, reply: Reply | TokendError) -> None:
        """Answers a request."""
        header: msgspec.Struct
        body: list[Any]
        if isinstance(reply, TokendError):
            flags, header, body = protocol.FLAG_ERROR, ErrorReply.of(reply), []
        else:
            flags, (header, body) = protocol.FLAG_OK, reply
        try:
            frames = protocol.pack(op, flags, request_id, header, body)
        except TokendError as error:
            frames = protocol.pack(op, protocol.FLAG_ERROR, request_id, ErrorReply.of(error))
        peer = self.get(identity)
        n_bytes = _n_bytes(frames)
        if peer is not None and not (peer.outbox or peer.window_bytes):
            peer.unread_since = time.monotonic()
        # What came before goes first.
        if peer is not None and (peer.outbox or not self._has_room(peer, n_bytes)):
            self._queue(identity, peer, frames, n_bytes)
            return
        try:
            self._send(identity, frames)
        except zmq.Again:
            # A peer that has not said hello gets an answer, but no queue.
            if peer is not None:
                self._queue(identity, peer, frames, n_bytes)
        except zmq.ZMQError:
            # The peer is gone: nobody waits for this any more.
            self._forget(identity)
        else:
            if peer is not None:
                peer.window_bytes += n_bytes
                self._held_bytes += n_bytes

    def _has_room(self, peer: Peer, n_bytes: int) -> bool:
        """Whether libzmq may be given so much more for a peer."""
        if peer.window_bytes + n_bytes > _WINDOW_BYTES:
            self._look(peer)
        if self._held_bytes + n_bytes > self._max_bytes:
            self._look_at_all()
        if peer.window_bytes and peer.window_bytes + n_bytes > _WINDOW_BYTES:
            return False
        return self._held_bytes + n_bytes <= self._max_bytes

    def _look_at_all(self) -> None:
        for peer in self.values():
            self._look(peer)

    def _look(self, peer: Peer) -> None:
        """Empties a peer's window if it has read all that was written to it."""
        if peer.window_bytes and not peer.has_unread():
            self._held_bytes -= peer.window_bytes
            peer.window_bytes = 0
            peer.unread_since = time.monotonic()

    def _send(self, identity: bytes, frames: list[Any]) -> None:
        """Sends a message whole or not at all: only its first frame can be refused."""
        router = self._router
        _send(router, identity, _NOBLOCK_MORE)
        for frame in frames[:-1]:
            _send(router, frame, _NOBLOCK_MORE)
        _send(router, frames[-1], _NOBLOCK)

    def _queue(self, identity: bytes, peer: Peer, frames: list[Any], n_bytes: int) -> None:
        peer.outbox.append(frames)
        self._slow.add(identity)
        self._patience_ms = _PATIENCE_MS[0]
        peer.outbox_bytes += n_bytes
        self._held_bytes += n_bytes
        if self._held_bytes > self._max_bytes:
            # Who has read all since it was last looked at would seem to have left it for all that time.
            self._look_at_all()
        while self._held_bytes > self._max_bytes and self:
            # By bytes alone it would be a client that is being sent one long reply, and would ask for it again.
            now = time.monotonic()
            worst = max(self, key=lambda each: self[each].slowness(now))
            held = self[worst].outbox_bytes + self[worst].window_bytes
            log.warning("a client does not read its replies, %d bytes of them, and is hung up on", held)
            self[worst].hang_up()
            self._forget(worst)

    def _forget(self, identity: bytes) -> None:
        peer = self.pop(identity, None)
        self._slow.discard(identity)
        if peer is not None:
            self._held_bytes -= peer.outbox_bytes + peer.window_bytes

    def patience_ms(self, most_ms: int) -> int:
        """When `flush` is to be called again, in milliseconds."""
        return min(self._patience_ms, most_ms) if self._slow else most_ms

    def flush(self) -> None:
        """Sends on what peers did not take at once."""
        if not self._slow:
            return
        self._patience_ms = min(2 * self._patience_ms, _PATIENCE_MS[1])
        for identity in list(self._slow):
            peer = self[identity]
            while peer.outbox:
                n_bytes = _n_bytes(peer.outbox[0])
                # From the outbox into the window: what is held stays as it is.
                if peer.window_bytes + n_bytes > _WINDOW_BYTES:
                    self._look(peer)
                    if peer.window_bytes:
                        break
                try:
                    self._send(identity, peer.outbox[0])
                except zmq.Again:
                    break
                except zmq.ZMQError:
                    self._forget(identity)
                    break
                peer.outbox.popleft()
                peer.outbox_bytes -= n_bytes
                peer.window_bytes += n_bytes
                self._patience_ms = _PATIENCE_MS[0]
            else:
                self._slow.discard(identity)


def _n_bytes(frames: list[Any]) -> int:
    """What a reply fills; the first two frames are small."""
    return _MESSAGE_BYTES + sum([memoryview(frame).nbytes for frame in frames[2:]])
