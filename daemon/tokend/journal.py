"""The journal: every accepted job, on disk before its client hears of it.

    <state directory>/journal-<8 hex digits of the endpoint>[.<generation>].db   SQLite, WAL, synchronous=FULL

    application_id  0x544B444A ("TKDJ")      user_version  1
    jobs (
        seq     INTEGER PRIMARY KEY,    order of acceptance
        job_id  TEXT UNIQUE NOT NULL,
        record  BLOB NOT NULL,          a `Record` as msgpack
        digest  BLOB NOT NULL           BLAKE2b-128 of "job_id NUL record"
    )

SQLite does not notice a bit that flips inside a page, so each record carries its own digest: a record
is what was written, or the journal is damaged. A damaged journal (also one whose file or log is cut
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
import hashlib
import logging
import os
import re
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
from tokend_client.errors import BadRequestError, BusyError, IoError, NoSpaceError, TokendError
from tokend_client.protocol import ErrorReply, JobSpec

from .journal_log import damage_of
from .lifecycle import filesystem_of

log = logging.getLogger("tokend.journal")

APPLICATION_ID = 0x544B444A
VERSION = 1

_PAGE_BYTES = 4096
_RETRY_S = 1.0

_SPOILING = (sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_NOT_DAMAGE = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_NOMEM)
"""Errors at opening that say nothing about the content."""

_NETWORK_FILESYSTEMS = frozenset(
    "9p afs beegfs ceph cifs coda gfs2 glusterfs gpfs lustre nfs nfs4 ocfs2 orangefs smb3 smbfs".split(" ")  # noqa: SIM905
)


class Record(msgspec.Struct, kw_only=True):
    """What is remembered of a job. Times are seconds since the epoch."""

    job_id: str
    key: str | None
    spec: JobSpec
    tokenizer: str
    fingerprint: str
    bytes_total: int
    state: str
    submitted_s: float
    deadline_s: float | None = None
    started_s: float | None = None
    finished_s: float | None = None
    attempts: int = 0
    """How often it was begun; more than once, and there may be something to go on from."""
    deaths: int = 0
    """Daemons that died while they ran this job."""
    pid: int | None = None
    """The daemon that runs or last ran the job."""
    cancelled: bool = False
    """Somebody asked for the job's end; it must not run again."""
    error: ErrorReply | None = None
    n_tokens: int = 0
    n_documents: int = 0
    up_to_date: bool = False
    n_skipped: int = 0
    partial_key: str | None = None
    """The job that failed at a bad document and that this one goes on with: its files bear that one's id."""


def journal_path(state_dir: Path, endpoint: str, generation: int = 0) -> Path:
    """Each endpoint has a journal of its own, so that daemons may share a state directory."""
    name = hashlib.blake2b(endpoint.encode(), digest_size=4).hexdigest()
    return state_dir / (f"journal-{name}.{generation}.db" if generation else f"journal-{name}.db")


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
        self._generation = max(_generations(self._path_of(), state_dir), default=0)
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
        _check_directory(state_dir)
        try:
            self._database = self._open()
        except sqlite3.OperationalError as error:
            raise _translate(error, self.path) from error
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
                _transact(self._database, rows, {change.job_id for change in batch})
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
        problem = _translate(error, self.path)
        if problem.message != self.trouble:
            log.error("%s", problem.message)
        # A write that failed was taken back by SQLite; of a failed fsync nobody knows.
        self._is_spoilt |= getattr(error, "sqlite_errorcode", 0) in _SPOILING
        return problem

    def _replace(self, rows: dict[str, tuple[int, bytes]]) -> TokendError | None:
        """Puts the next generation in the place of a spoilt file; returns None if `rows` are in it."""
        path = self._path_of(self._generation + 1)
        try:
            database = _create(path, rows)
        except (sqlite3.Error, OSError) as error:
            log.error("%s: cannot be replaced: %s", self.path, error)
            return _translate(error, path)
        spoilt, old = self._database, self.path
        self._database, self.path, self._generation, self._is_spoilt = database, path, self._generation + 1, False
        log.warning("%s: replaced by %s after a failed fsync", old, path.name)
        with contextlib.suppress(sqlite3.Error):
            # Closing would fsync the descriptor again.
            spoilt.execute("PRAGMA synchronous=OFF")
            spoilt.close()
        _remove(old)
        return None

    # Opening.

    def _open(self) -> sqlite3.Connection:
        if not self.path.exists():
            # A log without its database is what is left of one.
            if _log(self.path).exists():
                return self._rebuild("its file is missing, its log is there")
            return _create(self.path, {})
        if self.path.stat().st_size % _PAGE_BYTES:
            return self._rebuild("its file is cut short")
        torn = damage_of(_log(self.path))
        if torn is not None:
            return self._rebuild(torn)
        database = None
        try:
            database = _connect(self.path)
            self._load(database)
        except sqlite3.DatabaseError as error:
            if database is not None:
                database.close()
            if "locked" in str(error):
                raise BusyError(f"{self.path}: in use by another daemon", "give each its own --state-dir") from None
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _NOT_DAMAGE:
                raise
            return self._rebuild(" ".join(str(error).split()))
        for generation in range(self._generation):
            # A daemon died right after it had made the present one.
            _remove(self._path_of(generation))
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
        for (found,) in database.execute("PRAGMA integrity_check(1)"):
            if found != "ok":
                raise sqlite3.DatabaseError(found)
        for seq, job_id, record, digest in database.execute("SELECT seq, job_id, record, digest FROM jobs"):
            if not _verifies(job_id, record, digest):
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
        self._rows = _salvage(damaged, _new(damaged))
        self._next_seq = 1 + max((seq for seq, _ in self._rows.values()), default=0)
        self._generation += 1
        self.path = self._path_of(self._generation)
        database = _create(self.path, self._rows)
        for source, target in ((damaged, aside), (_log(damaged), _log(aside))):
            with contextlib.suppress(FileNotFoundError):
                source.rename(target)
        self.damage = (
            f"the journal was damaged ({problem}) and set aside as {aside}; {len(self._rows)} jobs were saved, "
            "others that it held are unknown"
        )
        log.error("%s", self.damage)
        return database


def _check_directory(state_dir: Path) -> None:
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise IoError(
            f"{state_dir}: the state directory cannot be made: {error.strerror}", "choose another with --state-dir"
        ) from None
    kind = filesystem_of(state_dir)
    if kind in _NETWORK_FILESYSTEMS or (kind.startswith("fuse.") and kind != "fuse.fuse-overlayfs"):
        raise BadRequestError(
            f"{state_dir}: the state directory is on a network file system ({kind})",
            "its locks and fsyncs cannot be trusted; choose a local directory with --state-dir or TOKEND_STATE_DIR",
        )


def _log(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def _new(path: Path) -> Path:
    return path.with_name(path.name + ".new")


def _remove(path: Path) -> None:
    """Removes a journal and what SQLite may have put beside it."""
    for file in (path, _log(path), path.with_name(path.name + "-shm")):
        with contextlib.suppress(FileNotFoundError):
            file.unlink()


def _generations(base: Path, state_dir: Path) -> list[int]:
    """The generations of a journal that are there, be it only their log."""
    pattern = re.compile(rf"{re.escape(base.stem)}(?:\.([1-9][0-9]{{0,8}}))?\.db(?:-wal)?")
    found = [pattern.fullmatch(name) for name in (os.listdir(state_dir) if state_dir.is_dir() else [])]
    return [int(match[1] or 0) for match in found if match is not None]


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=0.0, isolation_level=None, check_same_thread=False)
    # Exclusive: no shared-memory file, and a second daemon is refused.
    for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=FULL", "wal_autocheckpoint=0"):
        database.execute(f"PRAGMA {pragma}").fetchall()
    return database


def _create(path: Path, rows: dict[str, tuple[int, bytes]]) -> sqlite3.Connection:
    """Makes a journal where none is: complete under another name first, so that a short file is always damage."""
    fresh = _new(path)
    _remove(fresh)
    database = sqlite3.connect(fresh, isolation_level=None)
    try:
        database.execute(f"PRAGMA page_size={_PAGE_BYTES}")
        database.execute("PRAGMA journal_mode=MEMORY")
        database.execute("PRAGMA synchronous=FULL")
        database.execute(f"PRAGMA application_id={APPLICATION_ID}")
        database.execute(f"PRAGMA user_version={VERSION}")
        database.execute(
            "CREATE TABLE jobs (seq INTEGER PRIMARY KEY, job_id TEXT UNIQUE NOT NULL,"
            " record BLOB NOT NULL, digest BLOB NOT NULL)"
        )
        _transact(database, rows, rows)
    finally:
        database.close()
    os.rename(fresh, path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return _connect(path)


def _transact(database: sqlite3.Connection, rows: dict[str, tuple[int, bytes]], changed: Iterable[str]) -> None:
    database.execute("BEGIN IMMEDIATE")
    try:
        for job_id in changed:
            if job_id in rows:
                seq, record = rows[job_id]
                values = (seq, job_id, record, _digest(job_id, record))
                database.execute("INSERT OR REPLACE INTO jobs VALUES (?, ?, ?, ?)", values)
            else:
                database.execute("DELETE FROM jobs WHERE job_id = ?", (job_id,))
        database.execute("COMMIT")
    except sqlite3.Error:
        with contextlib.suppress(sqlite3.Error):
            database.execute("ROLLBACK")
        raise


def _digest(job_id: str, record: bytes) -> bytes:
    return hashlib.blake2b(job_id.encode() + b"\0" + record, digest_size=16).digest()


def _verifies(job_id: object, record: object, digest: object) -> bool:
    if not (isinstance(job_id, str) and isinstance(record, bytes) and isinstance(digest, bytes)):
        return False
    if _digest(job_id, record) != digest:
        return False
    try:
        return msgspec.msgpack.decode(record, type=Record).job_id == job_id
    except msgspec.DecodeError:
        return False


def _salvage(damaged: Path, scratch: Path) -> dict[str, tuple[int, bytes]]:
    """The records of a damaged journal that still verify; read from a copy, which SQLite may repair."""
    for source, copy in ((damaged, scratch), (_log(damaged), _log(scratch))):
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(source, copy)
    rows: dict[str, tuple[int, bytes]] = {}
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(scratch, timeout=0.0)) as database:
        for order in ("ASC", "DESC"):
            with contextlib.suppress(sqlite3.Error):
                # Two directions: a damaged page stops a scan.
                for row in database.execute(f"SELECT seq, job_id, record, digest FROM jobs ORDER BY seq {order}"):
                    seq, job_id, record, digest = row
                    if isinstance(seq, int) and _verifies(job_id, record, digest):
                        rows[job_id] = (seq, record)
    _remove(scratch)
    return rows


def _translate(error: sqlite3.Error | OSError, path: Path) -> TokendError:
    if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
        return NoSpaceError(f"{path}: the journal cannot be written: no space left", "free some space and try again")
    return IoError(f"{path}: the journal cannot be written: {error}", "check the disk of the state directory")
