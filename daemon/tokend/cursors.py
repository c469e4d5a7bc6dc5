"""Who reads which stream, and how far they are.

Loaders report for each stream they follow (`protocol.CursorReport`), once a second or so. A *reader* is one
loader on one stream; the ranks of a training run are readers of one *run*, and so are those of the next start
of that run.

Two things follow from the reports, with different lives:

* Pacing looks at readers that were heard of within `EXPIRY_S`. A reader that falls silent is not waited for.
* Retirement looks at every reader that ever was: nothing at or behind the lowest `low_water` is deleted,
  because a dead trainer is started again from its checkpoint. A silent reader is forgotten only when
  its run says that it is over, or when another reader of the same run, which came after it fell silent, has
  been there for `EXPIRY_S`: by then every rank of the new start has reported.

What retirement knows of streams that may be retired is kept on disk, in

    <state directory>/cursors-<8 hex digits of the endpoint>.json, replaced as a whole, fsynced

    {"version": 1, "streams": {PATH: {RUN: [stream_id or null, low_water]}}, "digest": BLAKE2b-128 of streams}

A new run is in there before its first report is answered. Low waters only rise, so an old one is safe; they
are written again every `SAVE_S`. A file that cannot be read frees nothing: nothing is retired until it is
moved away.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec
from tokend_client.errors import IoError
from tokend_client.protocol import CursorReport

log = logging.getLogger("tokend.cursors")

EXPIRY_S = float(os.environ.get("TOKEND_EXPIRY_S", "60"))  # shorter in tests
SAVE_S = 10.0
_VERSION = 1
_RATE_S = 20.0
"""Over which a reader's rate is averaged."""

Kept = dict[str, dict[str, tuple[str | None, int]]]


class _File(msgspec.Struct):
    version: int
    streams: Kept
    digest: str


@dataclass
class Reader:
    """A loader on a stream; positions in tokens, times of the monotonic clock."""

    run: str
    loader: str
    stream_id: str | None
    low_water: int
    position: int = 0
    wanted: int = 0
    tokens_per_s: float = 0.0
    first_s: float = 0.0
    heard_s: float = float("-inf")

    def take(self, report: CursorReport, now: float) -> None:
        """Takes a later report."""
        seconds = now - self.heard_s
        if report.wanted > self.wanted and 0 < seconds < float("inf"):
            part = min(1.0, seconds / _RATE_S)
            self.tokens_per_s += part * ((report.wanted - self.wanted) / seconds - self.tokens_per_s)
        self.stream_id = report.stream_id or self.stream_id
        self.low_water, self.position, self.wanted = report.low_water, report.position, report.wanted
        self.heard_s = now


class Cursors:
    """The readers of all streams, by the streams' real paths. Thread-safe; opening reads the file.

    `now` is the clock, for tests.
    """

    def __init__(self, state_dir: Path, endpoint: str, now: Callable[[], float] = time.monotonic) -> None:
        name = hashlib.blake2b(endpoint.encode(), digest_size=4).hexdigest()
        self.path = state_dir / f"cursors-{name}.json"
        self._now = now
        self._lock = threading.Lock()
        self._readers: dict[str, dict[tuple[str, str], Reader]] = {}
        self._retiring: set[str] = set()
        self._opened_s = now()
        self._saved_s = now()
        self._saved: Kept = {}
        self.damage: str | None = None
        """Why nothing is retired, in words; None if all is well."""
        for path, runs in self._load().items():
            self._retiring.add(path)
            self._readers[path] = {(run, ""): Reader(run, "", stream_id, low) for run, (stream_id, low) in runs.items()}

    def _load(self) -> Kept:
        try:
            found = msgspec.json.decode(self.path.read_bytes(), type=_File)
            if (found.version, found.digest) != (_VERSION, _digest(found.streams)):
                raise ValueError("it does not have its digest")
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            self.damage = f"{self.path}: cannot be read ({error}); no segment is retired until it is moved away"
            log.error("%s", self.damage)
            return {}
        self._saved = found.streams
        return found.streams

    def report(self, run: str, loader: str, reports: Iterable[CursorReport]) -> None:
        """Takes a loader's report; a run that is new on a stream that may be retired is on disk afterwards
        (blocking). Raises `IoError` if it cannot be brought there.
        """
        now = self._now()
        with self._lock:
            for report in reports:
                readers = self._readers.setdefault(os.path.realpath(report.path), {})
                reader = readers.get((run, loader))
                if reader is None:
                    reader = Reader(run, loader, report.stream_id, report.low_water, first_s=now)
                    readers[run, loader] = reader
                reader.take(report, now)
            if self._is_new():
                self._save()

    def over(self, run: str, paths: Iterable[str]) -> None:
        """Forgets a run's readers of streams: nothing is kept for them any more (blocking)."""
        with self._lock:
            for path in map(os.path.realpath, paths):
                readers = self._readers.get(path, {})
                for key in [key for key in readers if key[0] == run]:
                    del readers[key]
            self._save()

    def may_retire(self, path: str) -> None:
        """From now on segments of the stream at a real path may be retired (blocking the first time)."""
        if path in self._retiring:
            return
        with self._lock:
            self._retiring.add(path)
            self._save()

    def retiring(self) -> list[str]:
        """The streams whose segments may be retired."""
        with self._lock:
            return sorted(self._retiring)

    def forget(self, path: str) -> None:
        """A stream that may be retired is gone."""
        with self._lock:
            self._retiring.discard(path)
            self._readers.pop(path, None)
            self._save()

    def live(self, path: str) -> list[Reader]:
        """The readers of a stream that are there now."""
        now = self._now()
        with self._lock:
            return [reader for reader in self._readers.get(path, {}).values() if now - reader.heard_s <= EXPIRY_S]

    def low_water(self, path: str, stream_id: str) -> int:
        """Nothing before this token of a stream will be read again; 0 while that is not certain."""
        with self._lock:
            # After a start, readers of before have not reported yet.
            if self.damage is not None or self._now() - self._opened_s < EXPIRY_S:
                return 0
            readers = self._readers.get(path, {}).values()
            lows = [reader.low_water for reader in readers if reader.stream_id in (stream_id, None)]
            return min(lows, default=0)

    def tick(self) -> None:
        """Forgets who is not waited for, and saves what changed; called every second or so."""
        now = self._now()
        with self._lock:
            for path, readers in list(self._readers.items()):
                for key, reader in list(readers.items()):
                    if now - reader.heard_s > EXPIRY_S and (
                        path not in self._retiring or _is_followed_by_another(reader, readers.values(), now)
                    ):
                        del readers[key]
                if not readers and path not in self._retiring:
                    del self._readers[path]
            if now - self._saved_s >= SAVE_S:
                self._saved_s = now
                try:
                    self._save()
                except IoError as error:
                    log.warning("%s", error.message)

    def _kept(self) -> Kept:
        kept: Kept = {}
        for path in self._retiring:
            runs: dict[str, tuple[str | None, int]] = {}
            for reader in self._readers.get(path, {}).values():
                before = runs.get(reader.run)
                low = reader.low_water if before is None else min(before[1], reader.low_water)
                runs[reader.run] = (reader.stream_id or (before and before[0]), low)
            kept[path] = runs
        return kept

    def _is_new(self) -> bool:
        """Whether a run is not in the file that has to be."""
        return any(
            path in self._retiring and run not in self._saved.get(path, {})
            for path, readers in self._readers.items()
            for run, _ in readers
        )

    def _save(self) -> None:
        """Writes the file, if it would change."""
        kept = self._kept()
        if kept == self._saved or self.damage is not None:
            return
        data = msgspec.json.format(msgspec.json.encode(_File(_VERSION, kept, _digest(kept))))
        fresh = self.path.with_name(self.path.name + ".new")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with fresh.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self.path)
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise IoError(f"{self.path}: cannot be written: {error.strerror}", "check the state directory") from None
        self._saved = kept


def _is_followed_by_another(reader: Reader, readers: Iterable[Reader], now: float) -> bool:
    """Whether another reader of the same run has come since, and stayed."""
    return any(
        other.run == reader.run
        and other.first_s > reader.heard_s
        and now - other.first_s >= EXPIRY_S
        and now - other.heard_s <= EXPIRY_S
        for other in readers
    )


def _digest(streams: Kept) -> str:
    data = msgspec.json.encode(streams, order="deterministic")
    return hashlib.blake2b(data, digest_size=16).hexdigest()
