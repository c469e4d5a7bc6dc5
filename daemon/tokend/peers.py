"""Who is connected, and what they are sent.

A reply that a peer does not take at once waits in its outbox; all outboxes together are bounded, and the peer
that reads slowest is dropped. Used by the I/O thread alone.
"""

from __future__ import annotations

import logging
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

_SILENCE_S = 60.0
"""A peer that said nothing for so long is forgotten; it says hello again if it is still there."""


@dataclass
class Peer:
    """A client that has said hello."""

    last_seen: float
    inflight: int = 0
    """Its requests that are worked on."""
    outbox: deque[list[Any]] = field(default_factory=deque)
    outbox_bytes: int = 0


class Peers(dict[bytes, Peer]):
    """Peers by their identity on `router`."""

    def __init__(self, router: zmq.Socket[bytes], outbox_max_bytes: int) -> None:
        super().__init__()
        self._router = router
        self._outbox_max_bytes = outbox_max_bytes
        self._outbox_bytes = 0
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
        if peer is not None and peer.outbox:
            # What came before goes first.
            self._queue(identity, peer, frames)
            return
        try:
            self._send(identity, frames)
        except zmq.Again:
            # A peer that has not said hello gets an answer, but no queue.
            if peer is not None:
                self._queue(identity, peer, frames)
        except zmq.ZMQError:
            # The peer is gone: nobody waits for this any more.
            self._forget(identity)

    def _send(self, identity: bytes, frames: list[Any]) -> None:
        """Sends a message whole or not at all: only its first frame can be refused."""
        router = self._router
        _send(router, identity, _NOBLOCK_MORE)
        for frame in frames[:-1]:
            _send(router, frame, _NOBLOCK_MORE)
        _send(router, frames[-1], _NOBLOCK)

    def _queue(self, identity: bytes, peer: Peer, frames: list[Any]) -> None:
        peer.outbox.append(frames)
        self._slow.add(identity)
        n_bytes = sum(memoryview(frame).nbytes for frame in frames)
        peer.outbox_bytes += n_bytes
        self._outbox_bytes += n_bytes
        if self._outbox_bytes > self._outbox_max_bytes:
            worst = max(self._slow, key=lambda slow: self[slow].outbox_bytes)
            log.warning("a client does not read its replies and is dropped")
            self._forget(worst)

    def _forget(self, identity: bytes) -> None:
        peer = self.pop(identity, None)
        self._slow.discard(identity)
        if peer is not None:
            self._outbox_bytes -= peer.outbox_bytes

    def flush(self) -> None:
        """Sends on what peers did not take at once."""
        for identity in list(self._slow):
            peer = self[identity]
            while peer.outbox:
                try:
                    self._send(identity, peer.outbox[0])
                except zmq.Again:
                    break
                except zmq.ZMQError:
                    self._forget(identity)
                    break
                n_bytes = sum(memoryview(frame).nbytes for frame in peer.outbox.popleft())
                peer.outbox_bytes -= n_bytes
                self._outbox_bytes -= n_bytes
            else:
                self._slow.discard(identity)
