"""Worker processes that fill batches, read in turn, so that their number never changes the order.

Worker w of N makes the batches w, w + N, w + 2N, ... and the parent takes one from each in turn. Rows
cross in a ring of shared memory that has no name (a file that is unlinked before it is used), so nothing
is left behind however a process ends:

    N cache lines of 64 bytes, the first 8 a counter that the worker's watch thread moves twice a second
    N x SLOTS slots of rows x (seq_len + 1) ids, slots of one worker together

Everything else goes over one pipe per worker. Parent to worker: the ring's file descriptor, then a byte
for each slot that is free again. Worker to parent, for each batch in order:

    u8 kind | i64 sample | body       kind 0: a batch is in the next slot; body: its pieces, if they are not
                                      implied (packing other than concat)
                                      kind 1: the run has ended before this batch
                                      kind 2: an error; body: msgpack [code, message, hint]

A worker ends when its pipe closes or its parent is gone (it looks twice a second). The parent notices a
worker's death by its sentinel, and one that has stopped by its counter.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import multiprocessing
import os
import signal
import struct
import tempfile
import threading
import time
from multiprocessing import reduction
from multiprocessing.connection import Connection, wait
from typing import Any

import msgspec
import numpy as np

from .assemble import Assembler
from .batch import Batch
from .errors import BadRequestError, TokendError, WorkerDiedError, from_code
from .feed import FIRST_WARNING_S, Polling
from .packing import Pieces
from .run import Config
from .stream import Ids

log = logging.getLogger("tokend_client.loader")

SLOTS = 2
"""Batches that each worker may be ahead."""
SILENCE_S = 30.0
"""A worker whose counter has stood still for so long is taken for dead."""

_HEAD = struct.Struct("<Bq")
_BATCH, _END, _ERROR = range(3)
_LINE_BYTES = 64
_BEAT_S = 0.5


class WorkerSource:
    """Starts `n_workers` processes and yields their batches in order. One thread at a time.

    `assembler` is the parent's own, with which it places and wraps what the workers have filled. Raises
    `WorkerDiedError` for a worker that ended or stopped, and what a worker raised.
    """

    def __init__(self, config: Config, assembler: Assembler, k: int, n_workers: int, start_method: str | None) -> None:
        if multiprocessing.current_process().daemon:
            raise BadRequestError(
                "a daemonic process (a DataLoader's worker, for instance) cannot have workers",
                "give workers=0 there",
            )
        context: Any = multiprocessing.get_context(start_method)
        self._start_method = context.get_start_method()
        assembler.open()
        self._assembler = assembler
        self._config = config
        self._k = k
        self._turn = 0
        self._taken = 0
        self._shape = (config.rows, config.seq_len + 1)
        self._connections: list[Connection] = []
        self._processes: list[Any] = []
        slot_bytes = config.rows * (config.seq_len + 1) * assembler.dtype.itemsize
        n_bytes = n_workers * (_LINE_BYTES + SLOTS * slot_bytes)
        with tempfile.TemporaryFile(prefix="tokend-ring-", dir=_ring_folder()) as ring:
            ring.truncate(n_bytes)
            self._ring = mmap.mmap(ring.fileno(), n_bytes)
            try:
                for number in range(n_workers):
                    ours, theirs = context.Pipe()
                    # A forked child has copies of our ends, with which no sibling would ever see us go.
                    inherited = [*self._connections, ours] if context.get_start_method() == "fork" else []
                    process = context.Process(
                        target=_main,
                        args=(theirs, inherited, config, number, n_workers, k, n_bytes),
                        name=f"tokend-loader-{number}",
                        daemon=True,
                    )
                    process.start()
                    theirs.close()
                    self._connections.append(ours)
                    self._processes.append(process)
                    reduction.send_handle(ours, ring.fileno(), process.pid)
            except BaseException:
                self.close()
                raise
        self._slots, self._beats = _layout(self._ring, n_workers, self._shape, assembler.dtype)

    @property
    def depth(self) -> int:
        """Batches that are ready, one per worker at most counted."""
        return sum(1 for connection in self._connections if not connection.closed and connection.poll(0))

    def next(self) -> Batch | None:
        """The next batch in order; None when the run has ended."""
        number = self._turn
        kind, body = self._receive(number)
        if kind == _END:
            return None
        if kind == _ERROR:
            code, message, hint = msgspec.msgpack.decode(body)
            raise from_code(code, message, hint)
        assembler, k = self._assembler, self._k
        assembler.ready(k)
        samples = assembler.rank_samples(k)
        of, epochs, numbers = assembler.place(samples)
        tokens = assembler.pool.take(self._shape, assembler.dtype)
        np.copyto(tokens, self._slots[number, self._taken // len(self._processes) % SLOTS])
        self._give_back(number)
        pieces = _unpack_pieces(body) if body else assembler.pieces(of, numbers)
        self._taken += 1
        self._turn = (number + 1) % len(self._processes)
        self._k += self._config.global_batch
        return assembler.batch(self._k, tokens, pieces, samples, of, epochs)

    def _receive(self, number: int) -> tuple[int, bytes]:
        connection, process = self._connections[number], self._processes[number]
        beat, silent_s = int(self._beats[number]), 0.0
        begun, warn_after = time.monotonic(), FIRST_WARNING_S
        while True:
            self._assembler.report(self._k)
            waited_s = time.monotonic() - begun
            if waited_s > warn_after:
                warn_after *= 2
                why = self._assembler.waits_for(self._k, waited_s)
                if why is not None:
                    log.warning("%s", why)
            looked = time.monotonic()
            ready = wait([connection, process.sentinel], 1.0)
            if connection in ready or connection.poll(0):
                try:
                    message = connection.recv_bytes()
                except (EOFError, ConnectionError):
                    process.join(5)
                    raise self._died(number) from None
                kind, k = _HEAD.unpack_from(message)
                assert k == self._k, f"worker {number} is at sample {k}, not {self._k}"
                return kind, message[_HEAD.size :]
            if ready:
                process.join(5)
                raise self._died(number)
            now = int(self._beats[number])
            # A pause of all processes together (a frozen container, Ctrl-Z) is no silence of this one.
            silent_s += min(time.monotonic() - looked, 2.0)
            if now != beat:
                beat, silent_s = now, 0.0
            elif silent_s > SILENCE_S:
                raise WorkerDiedError(
                    f"worker {number} (process {process.pid}) has shown no sign of life for {SILENCE_S:.0f} s, "
                    f"at sample {self._k}",
                    "it may be stopped, or the machine out of memory",
                )

    def _give_back(self, number: int) -> None:
        # One that has ended is noticed at its next turn; what it had made is still used.
        with contextlib.suppress(ConnectionError):
            self._connections[number].send_bytes(b"\0")

    def _died(self, number: int) -> WorkerDiedError:
        process = self._processes[number]
        code = process.exitcode
        how = f"exit code {code}"
        hint = "load the last batch's state to go on"
        if code is not None and code < 0:
            how = f"exit code {code}, killed by {signal.Signals(-code).name}"
            hint += "; SIGKILL is often the kernel's, for want of memory"
        elif self._start_method != "fork" and not self._taken:
            # It runs the main module once more, before it comes to our code.
            hint = (
                "what it wrote above says why; a script that makes a loader with workers needs to do so under "
                'if __name__ == "__main__":'
            )
        return WorkerDiedError(f"worker {number} (process {process.pid}) ended with {how}, at sample {self._k}", hint)

    def close(self) -> None:
        """Ends the workers; they have nothing to save."""
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join(5)
            if process.exitcode is not None:
                process.close()
        self._connections.clear()
        self._processes.clear()


def _ring_folder() -> str | None:
    """Where a file is memory, if there is such a place."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _layout(
    ring: mmap.mmap, n_workers: int, shape: tuple[int, int], dtype: np.dtype[Any]
) -> tuple[Ids, np.ndarray[Any, np.dtype[np.uint64]]]:
    """The slots (worker, slot, row, column) and the counters of a ring."""
    beats = np.frombuffer(ring, np.uint64, n_workers * _LINE_BYTES // 8)[:: _LINE_BYTES // 8]
    slots = np.frombuffer(ring, dtype, offset=n_workers * _LINE_BYTES).reshape(n_workers, SLOTS, *shape)
    return slots, beats


def _main(
    connection: Connection,
    inherited: list[Connection],
    config: Config,
    number: int,
    n_workers: int,
    k: int,
    n_bytes: int,
) -> None:
    """A worker's life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # A trainer's handler is of no use here.
    log.setLevel(logging.ERROR)  # The parent says what is waited for, with what its feed knows.
    parent = os.getppid()
    for other in inherited:
        other.close()
    try:
        descriptor = reduction.recv_handle(connection)
        with mmap.mmap(descriptor, n_bytes) as ring:
            os.close(descriptor)
            _work(connection, ring, config.reopened(), number, n_workers, k, parent)
    except (EOFError, ConnectionError):
        pass  # The parent has closed the pipe, or is gone.
    finally:
        # Views of the ring may still be alive, and the exit handlers are the parent's: leave at once.
        os._exit(0)


def _work(
    connection: Connection, ring: mmap.mmap, config: Config, number: int, n_workers: int, k: int, parent: int
) -> None:
    """Makes batches until the run ends, fails, or the pipe closes."""
    beats = np.frombuffer(ring, np.uint64, 1, number * _LINE_BYTES)
    threading.Thread(target=_watch, args=(beats, parent), daemon=True).start()
    k += number * config.global_batch
    try:
        assembler = Assembler(config, Polling())
        assembler.open()
        slots, _ = _layout(ring, n_workers, (config.rows, config.seq_len + 1), assembler.dtype)
        free = SLOTS
        made = 0
        while assembler.ready(k):
            while free == 0 or connection.poll(0):
                connection.recv_bytes()
                free += 1
            of, _, numbers = assembler.place(assembler.rank_samples(k))
            pieces = assembler.fill(of, numbers, slots[number, made % SLOTS])
            body = b"" if config.pack == "concat" else _pack_pieces(pieces)
            connection.send_bytes(_HEAD.pack(_BATCH, k) + body)
            free -= 1
            made += 1
            k += n_workers * config.global_batch
        connection.send_bytes(_HEAD.pack(_END, k))
    except (EOFError, ConnectionError):
        raise
    except TokendError as error:
        body = msgspec.msgpack.encode([error.code, f"worker {number}: {error.message}", error.hint])
        connection.send_bytes(_HEAD.pack(_ERROR, k) + body)
    except Exception as error:
        text = f"worker {number}: {type(error).__name__}: {error}"
        connection.send_bytes(_HEAD.pack(_ERROR, k) + msgspec.msgpack.encode(["INTERNAL", text, None]))
    while True:
        connection.recv_bytes()  # Until the parent closes the pipe: it may not have read the last message.


def _watch(beats: np.ndarray[Any, np.dtype[np.uint64]], parent: int) -> None:
    """Moves the counter, and ends the process when its parent has gone."""
    while True:
        beats[0] += np.uint64(1)
        if os.getppid() != parent:
            os._exit(1)
        time.sleep(_BEAT_S)


def _pack_pieces(pieces: Pieces) -> bytes:
    numbers = np.stack([pieces.row, pieces.column, pieces.start, pieces.length, pieces.cut.astype(np.int64)])
    return bytes(numbers.astype("<i8").tobytes())


def _unpack_pieces(body: bytes) -> Pieces:
    row, column, start, length, cut = np.frombuffer(body, "<i8").reshape(5, -1)
    return Pieces(row, column, start, length, cut.astype(np.bool_))
