"""The journal: every accepted job, on disk before its client hears of it.

A damaged journal (also one whose file or log is cut
short) is set aside under a dated name, the records that still verify go into a new one, and `damage`
says so until the daemon ends. Whether those jobs did what they say is then looked up on disk, by `jobs`.

One thread touches the database. Writers hand it records and get futures; what is waiting goes into one
transaction, so that many submits share an fsync. A record that must not be lost (`must`: how a job went)
is tried again until the disk takes it. When nothing waits the log is folded into the main
file, which is why a journal at rest is one file whose length SQLite checks. After a failed fsync the
file is never written again: the kernel may have dropped the pages. A new one, the next generation, is
written from the records in memory; it has its name only once it is complete, so the highest is the one.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
from tokend_client.errors import BadRequestError, BusyError, IoError, TokendError

from .journal_file import (
    APPLICATION_ID,
    NOT_DAMAGE,
    PAGE_BYTES,
    SCHEMA,
    SPOILING,
    VERSION,
    check_directory,
    connect,
    create,
    generations,
    journal_path,
    log_path,
    new_path,
    remove,
    salvage,
    transact,
    translate,
    verifies,
)
from .journal_log import damage_of
from .record import Record

log = logging.getLogger("tokend.journal")

_RETRY_S = 1.0


@dataclass(frozen=True)
class _Change:
    job_id: str
    record: bytes | None
    must: bool
    future: Future[None]


class Journal:
    """The journal of one daemon; open until `close`. Thread-safe.

    Blocking: opening reads everything. `write` and `forget` return at once with a future that ends when
    the change is on disk, or with `NoSpaceError` or `IoError` if it could not be brought there.

    Raises at opening: `BadRequestError` for a network file system or a journal of a later version,
    `BusyError` if another daemon has it, `NoSpaceError`, `IoError`.
    """

    def __init__(self, state_dir: Path, endpoint: str) -> None:
        self._path_of = partial(journal_path, state_dir, endpoint)
        self._generation = max(generations(self._path_of(), state_dir), default=0)
        self.path = self._path_of(self._generation)
        self.damage: str | None = None
        """What was wrong with the journal that was found, in words; None if nothing was."""
        self.trouble: str | None = None
        """Why records wait to be written; None if none do."""
        self._waiting: list[_Change] = []
        self._failed: list[_Change] = []
        self._condition = threading.Condition()
        self._closing = False
        self._rows: dict[str, tuple[int, bytes]] = {}
        self._next_seq = 1
        self._is_spoilt = False
        """An fsync of the present file has failed."""
        check_directory(state_dir)
        try:
            self._database = self._open()
        except sqlite3.OperationalError as error:
            raise translate(error, self.path, "opened") from error
        self._thread = threading.Thread(target=self._run, name="tokend-journal", daemon=True)
        self._thread.start()

    @property
    def records(self) -> list[Record]:
        """All records, in the order of acceptance."""
        rows = sorted(self._rows.values())
        return [msgspec.msgpack.decode(record, type=Record) for _, record in rows]

    def write(self, record: Record, must: bool = False) -> Future[None]:
        """Adds or replaces a job's record; with `must` until it succeeds."""
        return self._enqueue(_Change(record.job_id, msgspec.msgpack.encode(record), must, Future()))

    def forget(self, job_id: str) -> Future[None]:
        """Removes a job's record."""
        return self._enqueue(_Change(job_id, None, False, Future()))

    def close(self) -> None:
        """Writes what waits and closes; bounded to some seconds."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._thread.join(5.0)

    def _enqueue(self, change: _Change) -> Future[None]:
        with self._condition:
            if self._closing:
                change.future.set_exception(IoError(f"{self.path}: the journal is closed"))
            else:
                self._waiting.append(change)
                self._condition.notify()
        return change.future

    # The journal's thread.

    def _run(self) -> None:
        while True:
            with self._condition:
                if not self._waiting and not self._closing:
                    self._condition.wait(_RETRY_S if self._failed else None)
                batch = self._failed + self._waiting
                self._failed, self._waiting, closing = [], [], self._closing
            if batch:
                self._commit(batch)
            if not self._waiting:
                self._fold()
            if closing:
                break
        for change in self._failed:
            change.future.set_exception(IoError(f"{self.path}: closed before it could be written"))
        with contextlib.suppress(sqlite3.Error):
            self._database.close()

    def _commit(self, batch: list[_Change]) -> None:
        rows = dict(self._rows)
        for change in batch:
            if change.record is None:
                rows.pop(change.job_id, None)
                continue
            if change.job_id in rows:
                seq = rows[change.job_id][0]
            else:
                seq, self._next_seq = self._next_seq, self._next_seq + 1
            rows[change.job_id] = (seq, change.record)
        problem: TokendError | None = None
        try:
            if not self._is_spoilt:
                transact(self._database, rows, {change.job_id for change in batch})
        except sqlite3.Error as error:
            problem = self._note(error)
        if self._is_spoilt:
            problem = self._replace(rows)
        self.trouble = None if problem is None else problem.message
        if problem is None:
            self._rows = rows
        for change in batch:
            if problem is None:
                change.future.set_result(None)
            elif change.must:
                self._failed.append(change)
            else:
                change.future.set_exception(problem)

    def _fold(self) -> None:
        try:
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.Error as error:
            self._note(error)
            if self._is_spoilt:
                self._replace(self._rows)

    def _note(self, error: sqlite3.Error) -> TokendError:
        problem = translate(error, self.path)
        if problem.message != self.trouble:
            log.error("%s", problem.message)
        # A write that failed was taken back by SQLite; of a failed fsync nobody knows.
        self._is_spoilt |= getattr(error, "sqlite_errorcode", 0) in SPOILING
        return problem

    def _replace(self, rows: dict[str, tuple[int, bytes]]) -> TokendError | None:
        """Puts the next generation in the place of a spoilt file; returns None if `rows` are in it."""
        path = self._path_of(self._generation + 1)
        try:
            database = create(path, rows)
        except (sqlite3.Error, OSError) as error:
            log.error("%s: cannot be replaced: %s", self.path, error)
            return translate(error, path)
        spoilt, old = self._database, self.path
        self._database, self.path, self._generation, self._is_spoilt = database, path, self._generation + 1, False
        log.warning("%s: replaced by %s after a failed fsync", old, path.name)
        with contextlib.suppress(sqlite3.Error):
            # Closing would fsync the descriptor again.
            spoilt.execute("PRAGMA synchronous=OFF")
            spoilt.close()
        remove(old)
        return None

    # Opening.

    def _open(self) -> sqlite3.Connection:
        if not self.path.exists():
            # A log without its database is what is left of one.
            if log_path(self.path).exists():
                return self._rebuild("its file is missing, its log is there")
            return create(self.path, {})
        if self.path.stat().st_size % PAGE_BYTES:
            return self._rebuild("its file is cut short")
        torn = damage_of(log_path(self.path))
        if torn is not None:
            return self._rebuild(torn)
        database = None
        try:
            database = connect(self.path)
            self._load(database)
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            if database is not None:
                database.close()
            if isinstance(error, UnicodeDecodeError):
                return self._rebuild("a text in it is not valid UTF-8")
            if "locked" in str(error):
                raise BusyError(f"{self.path}: in use by another daemon", "give each its own --state-dir") from None
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in NOT_DAMAGE:
                raise
            return self._rebuild(" ".join(str(error).split()))
        for generation in range(self._generation):
            # A daemon died right after it had made the present one.
            remove(self._path_of(generation))
        return database

    def _load(self, database: sqlite3.Connection) -> None:
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if database.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            raise sqlite3.DatabaseError("it is not a journal of tokend")
        if version != VERSION:
            raise BadRequestError(
                f"{self.path}: journal version {version}, this daemon knows {VERSION}",
                "start the daemon that wrote it, or move the file away",
            )
        schema = database.execute("SELECT sql FROM sqlite_master WHERE name = 'jobs'").fetchone()
        if schema != (SCHEMA,):
            raise sqlite3.DatabaseError("its table is another one")
        for (found,) in database.execute("PRAGMA integrity_check(1)"):
            if found != "ok":
                raise sqlite3.DatabaseError(found)
        for seq, job_id, record, digest in database.execute("SELECT seq, job_id, record, digest FROM jobs"):
            if not (isinstance(seq, int) and verifies(job_id, record, digest)):
                raise sqlite3.DatabaseError(f"the record of job {job_id!r} is damaged")
            self._rows[job_id] = (seq, record)
            self._next_seq = max(self._next_seq, seq + 1)

    def _rebuild(self, problem: str) -> sqlite3.Connection:
        damaged = self.path
        aside = damaged.with_name(f"{damaged.name}.damaged-{time.strftime('%Y%m%dT%H%M%S')}")
        for number in range(1, 1000):
            if not aside.exists():
                break
            aside = aside.with_name(f"{aside.name.split('+')[0]}+{number}")
        self._rows = salvage(damaged, new_path(damaged))
        self._next_seq = 1 + max((seq for seq, _ in self._rows.values()), default=0)
        self._generation += 1
        self.path = self._path_of(self._generation)
        database = create(self.path, self._rows)
        for source, target in ((damaged, aside), (log_path(damaged), log_path(aside))):
            with contextlib.suppress(FileNotFoundError):
                source.rename(target)
        self.damage = (
            f"the journal was damaged ({problem}) and set aside as {aside}; {len(self._rows)} jobs were saved, "
            "others that it held are unknown"
        )
        log.error("%s", self.damage)
        return database
