"""The client's end of a ZeroMQ connection over a Unix socket: ZMTP 3, NULL mechanism, as a DEALER.

    greeting  64 bytes   FF, 8 bytes of padding, 7F | version 3 0 | "NULL" padded to 20 | as-server 0 | 31 zeros
    command   04 n | 5 "READY" | (length u8, name, length u32 big-endian, value)*
    frame     flags u8 | length u8 | body              flags: 1 more frames follow, 2 the length is a
              flags u8 | length u64 big-endian | body         u64, 4 a command

The daemon's end is libzmq. Here libzmq would cost a request two more threads to wake, a third of its
round trip, and a training process a context that does not survive a fork; what a client needs of the
protocol is this file. See docs/decisions/0121.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import time
from typing import Any

import numpy as np

_GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
_READY = b"\x05READY\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER\x08Identity" + struct.pack(">I", 0)
_HANDSHAKE = _GREETING + bytes([4, len(_READY)]) + _READY
_MORE, _LONG, _COMMAND = 1, 2, 4
_LONG_HEADER = struct.Struct(">BQ")
_FRAMES_MAX = 32
_SPIN_S = 100e-6
_POLL_MAX_S = 3600.0
_BUFFER_BYTES = 64 * 1024
_SEND_BYTES = 1 << 20
"""What the kernel takes before the daemon reads, if the system allows so much: to be full costs two wake-ups."""
_JOINED_BYTES = 64 * 1024
"""Smaller messages are copied into one piece: a system call costs more than that."""


class Channel:
    """A connection to a listening ZeroMQ socket. One thread may send while another receives.

    `connect` first: it raises `OSError` where nobody listens. Then nothing may be sent until `is_open`:
    libzmq ends a connection on which a message lies behind the greeting before its own has gone out, as
    happens when it is late to accept. Nothing blocks but `send` and `wait`. Raises `ConnectionError` when
    the peer is gone or breaks the protocol; it is of no use then.

    Whoever makes one keeps it before it connects, so that an interrupt at any place leaves somebody to close it.
    """

    def __init__(self, path: str, frame_max_bytes: int) -> None:
        self._path = path
        self._frame_max_bytes = frame_max_bytes
        # It has its descriptor once `connect` was called.
        self._socket = socket.SocketType.__new__(socket.SocketType)
        self.is_open = False
        """Whether the peer has said that it is ready: messages may be sent."""
        self._greeted = self._is_ended = False
        self._buffer = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._large: tuple[int, memoryview, int] | None = None
        self._frames: list[Any] = []
        self._readable = select.poll()
        self._writable = select.poll()

    def connect(self) -> None:
        """Connects and greets."""
        socket.SocketType.__init__(self._socket, socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
        try:
            self._socket.connect(self._path)
            self._socket.sendall(_HANDSHAKE)
        except BlockingIOError:
            raise ConnectionRefusedError(f"{self._path}: too many connections wait") from None
        self._readable.register(self._socket.fileno(), select.POLLIN)
        self._writable.register(self._socket.fileno(), select.POLLOUT)

    def shutdown(self) -> None:
        """Ends it for every thread: one that waits wakes up, and all that follows fails.

        Also what has arrived already: an interrupted thread may have taken some of it away.
        """
        self._is_ended = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Gives the descriptor back; for a thread that knows that no other uses it."""
        self._socket.close()

    def wait(self, timeout_s: float) -> bool:
        """Blocks until there is something to receive; False if there is nothing in time.

        For a moment it looks without sleeping: a short answer is there before a thread has woken up.
        """
        until = time.monotonic() + min(_SPIN_S, timeout_s)
        while time.monotonic() < until:
            if self._readable.poll(0):
                return True
            os.sched_yield()
        return bool(self._readable.poll(max(0.0, timeout_s * 1000)))

    def send(self, frames: list[Any], deadline_s: float) -> None:
        """Sends a message whole, or raises `TimeoutError` at the deadline (of the monotonic clock)."""
        pieces: list[Any] = []
        last, n_bytes = len(frames) - 1, 0
        for number, frame in enumerate(frames):
            size = len(frame) if isinstance(frame, bytes) else memoryview(frame).nbytes
            more = _MORE if number < last else 0
            pieces.append(bytes((more, size)) if size < 256 else _LONG_HEADER.pack(more | _LONG, size))
            pieces.append(frame)
            n_bytes += size
        if n_bytes < _JOINED_BYTES:
            pieces = [b"".join(pieces)]
        views = [memoryview(piece).cast("B") for piece in pieces if memoryview(piece).nbytes]
        while views:
            try:
                sent = self._socket.sendmsg(views)
            except BlockingIOError:
                left = deadline_s - time.monotonic()
                if left <= 0:
                    raise TimeoutError("the daemon does not read") from None
                self._writable.poll(min(left, _POLL_MAX_S) * 1000)
                continue
            while views and sent >= views[0].nbytes:
                sent -= views.pop(0).nbytes
            if sent:
                views[0] = views[0][sent:]

    def receive(self) -> list[list[Any]]:
        """The messages that have arrived, as lists of frames: `bytes`, large ones `memoryview`."""
        messages: list[list[Any]] = []
        if self._is_ended:
            raise ConnectionAbortedError("the connection was given up")
        while True:
            if self._large is not None:
                flags, body, have = self._large
                room = body[have:]
            else:
                room = self._view[self._end :]
            try:
                n = self._socket.recv_into(room)
            except BlockingIOError:
                return messages
            if n == 0:
                if messages:
                    return messages
                raise ConnectionResetError("the daemon closed the connection")
            if self._large is None:
                self._end += n
                self._parse(messages)
            elif have + n < len(body):
                self._large = (flags, body, have + n)
            else:
                self._large = None
                self._frame(flags, body, messages)
            if n < room.nbytes:
                return messages

    def _parse(self, messages: list[list[Any]]) -> None:
        view = self._view
        while True:
            start, n = self._start, self._end - self._start
            if not self._greeted:
                if n < len(_GREETING):
                    break
                greeting = bytes(view[start : start + len(_GREETING)])
                if greeting[0] != 0xFF or greeting[9:11] < b"\x7f\x03" or greeting[12:17] != b"NULL\0":
                    raise ConnectionAbortedError("the peer does not speak ZMTP 3 with the NULL mechanism")
                self._greeted = True
                self._start += len(_GREETING)
                continue
            if n < 2:
                break
            flags, size, head = view[start], view[start + 1], 2
            if flags & _LONG:
                if n < _LONG_HEADER.size:
                    break
                _, size = _LONG_HEADER.unpack_from(view, start)
                head = _LONG_HEADER.size
            if size > self._frame_max_bytes:
                raise ConnectionAbortedError(f"a frame of {size} bytes is over the limit of {self._frame_max_bytes}")
            if n >= head + size:
                self._start += head + size
                self._frame(flags, bytes(view[start + head : start + head + size]), messages)
            elif head + size > _BUFFER_BYTES // 2:
                # Not filled with zeros, as a bytearray would be.
                body = np.empty(size, np.uint8).data
                body[: n - head] = view[start + head : self._end]
                self._large = (flags, body, n - head)
                self._start = self._end
                break
            else:
                break
        # What is left is the beginning of a frame of less than half the buffer.
        left = self._end - self._start
        if self._start > 0:
            self._buffer[:left] = self._buffer[self._start : self._end]
            self._start, self._end = 0, left

    def _frame(self, flags: int, body: bytes | memoryview, messages: list[list[Any]]) -> None:
        if flags & _COMMAND:
            body = bytes(body)
            if body.startswith(b"\x05ERROR"):
                raise ConnectionAbortedError(f"the daemon refuses the connection: {body[7:]!r}")
            self.is_open = self.is_open or body.startswith(b"\x05READY")
            return
        self._frames.append(body)
        if not flags & _MORE:
            messages.append(self._frames)
            self._frames = []
        elif len(self._frames) > _FRAMES_MAX:
            raise ConnectionAbortedError(f"a message of more than {_FRAMES_MAX} frames")
