"""The journal's file: its names, its layout, how it is made, opened, written and salvaged.

    <state directory>/journal-<8 hex digits of the endpoint>[.<generation>].db   SQLite, WAL, synchronous=FULL

    application_id  0x544B444A ("TKDJ")      user_version  1
    jobs (
        seq     INTEGER PRIMARY KEY,    order of acceptance
        job_id  TEXT UNIQUE NOT NULL,
        record  BLOB NOT NULL,          a `Record` as msgpack
        digest  BLOB NOT NULL           BLAKE2b-128 of "job_id NUL record"
    )

SQLite does not notice a bit that flips inside a page, so each record carries its own digest: a record
is what was written, or the journal is damaged.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import sqlite3
from collections.abc import Iterable
from pathlib import Path

import msgspec
from tokend_client.errors import BadRequestError, IoError, NoSpaceError, TokendError

from .lifecycle import filesystem_of
from .record import Record

APPLICATION_ID = 0x544B444A
VERSION = 1

PAGE_BYTES = 4096
SPOILING = (sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
NOT_DAMAGE = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_NOMEM)
"""Errors at opening that say nothing about the content."""

_NETWORK_FILESYSTEMS = frozenset(
    "9p afs beegfs ceph cifs coda gfs2 glusterfs gpfs lustre nfs nfs4 ocfs2 orangefs smb3 smbfs".split(" ")  # noqa: SIM905
)


def journal_path(state_dir: Path, endpoint: str, generation: int = 0) -> Path:
    """Each endpoint has a journal of its own, so that daemons may share a state directory."""
    name = hashlib.blake2b(endpoint.encode(), digest_size=4).hexdigest()
    return state_dir / (f"journal-{name}.{generation}.db" if generation else f"journal-{name}.db")


def check_directory(state_dir: Path) -> None:
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


def log_path(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def new_path(path: Path) -> Path:
    return path.with_name(path.name + ".new")


def remove(path: Path) -> None:
    """Removes a journal and what SQLite may have put beside it."""
    for file in (path, log_path(path), path.with_name(path.name + "-shm")):
        with contextlib.suppress(FileNotFoundError):
            file.unlink()


def generations(base: Path, state_dir: Path) -> list[int]:
    """The generations of a journal that are there, be it only their log."""
    pattern = re.compile(rf"{re.escape(base.stem)}(?:\.([1-9][0-9]{{0,8}}))?\.db(?:-wal)?")
    found = [pattern.fullmatch(name) for name in (os.listdir(state_dir) if state_dir.is_dir() else [])]
    return [int(match[1] or 0) for match in found if match is not None]


SCHEMA = (
    "CREATE TABLE jobs (seq INTEGER PRIMARY KEY, job_id TEXT UNIQUE NOT NULL,"
    " record BLOB NOT NULL, digest BLOB NOT NULL)"
)

DAMAGE = (sqlite3.Error, UnicodeDecodeError)
"""What reading a damaged file raises: texts in it, and in the messages about it, may be no UTF-8."""


def connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=0.0, isolation_level=None, check_same_thread=False)
    try:
        # Exclusive: no shared-memory file, and a second daemon is refused.
        for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=FULL", "wal_autocheckpoint=0"):
            database.execute(f"PRAGMA {pragma}").fetchall()
    except BaseException:
        database.close()
        raise
    return database


def create(path: Path, rows: dict[str, tuple[int, bytes]]) -> sqlite3.Connection:
    """Makes a journal where none is: complete under another name first, so that a short file is always damage."""
    fresh = new_path(path)
    remove(fresh)
    database = sqlite3.connect(fresh, isolation_level=None)
    try:
        database.execute(f"PRAGMA page_size={PAGE_BYTES}")
        database.execute("PRAGMA journal_mode=MEMORY")
        database.execute("PRAGMA synchronous=FULL")
        database.execute(f"PRAGMA application_id={APPLICATION_ID}")
        database.execute(f"PRAGMA user_version={VERSION}")
        database.execute(SCHEMA)
        transact(database, rows, rows)
    finally:
        database.close()
    os.rename(fresh, path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return connect(path)


def transact(database: sqlite3.Connection, rows: dict[str, tuple[int, bytes]], changed: Iterable[str]) -> None:
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


def verifies(job_id: object, record: object, digest: object) -> bool:
    if not (isinstance(job_id, str) and isinstance(record, bytes) and isinstance(digest, bytes)):
        return False
    if _digest(job_id, record) != digest:
        return False
    try:
        return msgspec.msgpack.decode(record, type=Record).job_id == job_id
    except msgspec.DecodeError:
        return False


def salvage(damaged: Path, scratch: Path) -> dict[str, tuple[int, bytes]]:
    """The records of a damaged journal that still verify; read from a copy, which SQLite may repair."""
    for source, copy in ((damaged, scratch), (log_path(damaged), log_path(scratch))):
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(source, copy)
    rows: dict[str, tuple[int, bytes]] = {}
    with contextlib.suppress(*DAMAGE), contextlib.closing(sqlite3.connect(scratch, timeout=0.0)) as database:
        for order in ("ASC", "DESC"):
            with contextlib.suppress(*DAMAGE):
                # Two directions: a damaged page stops a scan.
                for row in database.execute(f"SELECT seq, job_id, record, digest FROM jobs ORDER BY seq {order}"):
                    seq, job_id, record, digest = row
                    if isinstance(seq, int) and verifies(job_id, record, digest):
                        rows[job_id] = (seq, record)
    remove(scratch)
    return rows


def translate(error: sqlite3.Error | OSError, path: Path, action: str = "written") -> TokendError:
    """The typed error of a journal that cannot be written, or whatever `action` says."""
    if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
        return NoSpaceError(f"{path}: the journal cannot be {action}: no space left", "free some space and try again")
    return IoError(f"{path}: the journal cannot be {action}: {error}", "check the disk of the state directory")
