"""The journal: what was accepted is there, what is damaged is said."""

from __future__ import annotations

import os
import random
import sqlite3
import time
from pathlib import Path

import msgspec
import pytest
from tokend import journal_file
from tokend.journal import Journal
from tokend.journal_file import journal_path
from tokend.lifecycle import filesystem_of
from tokend.record import Record
from tokend_client.errors import BadRequestError, BusyError
from tokend_client.protocol import ErrorReply, JobSpec

ENDPOINT = "ipc:///tmp/x.sock"


def record(number: int, **fields: object) -> Record:
    spec = JobSpec(inputs=[f"/in/{number}.txt"], output=f"/out/{number}.bin")
    values = {
        "job_id": f"job{number}",
        "key": None,
        "spec": spec,
        "tokenizer": "gpt2",
        "fingerprint": "f",
        "bytes_total": 1,
        "state": "queued",
        "submitted_s": 1.0,
    }
    return Record(**{**values, **fields})


def filled(folder: Path, n: int) -> tuple[Path, bytes, list[Record]]:
    journal = Journal(folder, ENDPOINT)
    records = [record(number, error=ErrorReply(code="IO_ERROR", message="é" * number)) for number in range(n)]
    for future in [journal.write(each) for each in records]:
        future.result(60)
    journal.close()
    return journal.path, journal.path.read_bytes(), records


def test_records_come_back_in_order(tmp_path: Path) -> None:
    journal = Journal(tmp_path, ENDPOINT)
    for number in (3, 1, 2):
        journal.write(record(number)).result(60)
    journal.write(record(1, state="done", n_tokens=5)).result(60)
    journal.forget("job3").result(60)
    journal.close()
    again = Journal(tmp_path, ENDPOINT)
    assert again.records == [record(1, state="done", n_tokens=5), record(2)]
    assert again.damage is None
    again.close()
    assert os.listdir(tmp_path) == [journal.path.name]


def test_a_journal_belongs_to_one_daemon(tmp_path: Path) -> None:
    journal = Journal(tmp_path, ENDPOINT)
    with pytest.raises(BusyError, match="in use"):
        Journal(tmp_path, ENDPOINT)
    other = Journal(tmp_path, "ipc:///tmp/y.sock")
    for each in (journal, other):
        each.close()


def opened(path: Path, data: bytes, records: list[Record]) -> bool:
    """Opens a journal of these bytes, which must have its records or say that it is damaged; whether it did."""
    for left in path.parent.glob("journal-*.db"):
        left.unlink()
    path.write_bytes(data)
    journal = Journal(path.parent, ENDPOINT)
    found = journal.records
    journal.close()
    assert all(each in records for each in found)
    assert journal.damage is not None or found == records
    return journal.damage is not None


def test_each_flipped_bit_is_harmless_or_said(tmp_path: Path) -> None:
    path, whole, records = filled(tmp_path, 60)
    chance = random.Random(7)
    said = 0
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        said += opened(path, damaged, records)
    assert said > 0
    asides = [name for name in os.listdir(tmp_path) if ".damaged-" in name and not name.endswith("-wal")]
    assert len(asides) == said


def test_a_schema_that_is_no_utf8_is_said(tmp_path: Path) -> None:
    """SQLite quotes the schema in its message, which then cannot be decoded."""
    path, whole, records = filled(tmp_path, 3)
    start = whole.index(b"CREATE TABLE jobs")
    end = whole.index(b")", whole.index(b"digest", start))
    said = 0
    for at in range(start - 12, end, 2):
        damaged = bytearray(whole)
        damaged[at] ^= 0x80
        said += opened(path, damaged, records)
    assert said > 50


@pytest.mark.parametrize("size", [0, 1, 100, 4096, 8192, -1])
def test_a_cut_file_is_said(tmp_path: Path, size: int) -> None:
    path, whole, records = filled(tmp_path, 60)
    path.write_bytes(whole[:size])
    journal = Journal(tmp_path, ENDPOINT)
    assert journal.damage is not None and str(len(journal.records)) in journal.damage
    assert all(each in records for each in journal.records)
    journal.write(record(100)).result(60)
    journal.close()
    assert Journal(tmp_path, ENDPOINT).records[-1] == record(100)


def logged(folder: Path) -> tuple[Path, bytes]:
    """A journal that was killed with its log not yet folded in; returns the log's path and content."""
    database = journal_file.create(journal_path(folder, ENDPOINT), {})
    rows: dict[str, tuple[int, bytes]] = {}
    for number in range(5):
        rows[f"job{number}"] = (number + 1, msgspec.msgpack.encode(record(number)))
        journal_file.transact(database, rows, [f"job{number}"])
    log = journal_file.log_path(journal_path(folder, ENDPOINT))
    content = log.read_bytes()
    main = journal_path(folder, ENDPOINT).read_bytes()
    database.close()
    journal_path(folder, ENDPOINT).write_bytes(main)
    log.write_bytes(content)
    return log, content


def test_a_log_left_by_a_killed_daemon_is_read(tmp_path: Path) -> None:
    logged(tmp_path)
    journal = Journal(tmp_path, ENDPOINT)
    assert journal.damage is None and len(journal.records) == 5
    journal.close()


def test_a_damaged_frame_inside_the_log_is_said(tmp_path: Path) -> None:
    log, content = logged(tmp_path)
    damaged = bytearray(content)
    damaged[32 + 24 + 100] ^= 1
    log.write_bytes(damaged)
    journal = Journal(tmp_path, ENDPOINT)
    assert journal.damage is not None and "log" in journal.damage
    journal.close()


def test_a_torn_end_of_the_log_is_what_a_crash_leaves(tmp_path: Path) -> None:
    log, content = logged(tmp_path)
    log.write_bytes(content[:-100])
    journal = Journal(tmp_path, ENDPOINT)
    assert journal.damage is None and 4 <= len(journal.records) < 5
    journal.close()


def test_a_log_without_its_file_is_said(tmp_path: Path) -> None:
    log, _ = logged(tmp_path)
    log.with_name(log.name.removesuffix("-wal")).unlink()
    journal = Journal(tmp_path, ENDPOINT)
    assert journal.damage is not None
    journal.close()


class Failing:
    """A database whose next COMMIT fails as an fsync does."""

    def __init__(self, database: object) -> None:
        self.database = database
        self.calls_after: list[str] = []
        self.has_failed = False

    def execute(self, statement: str, *rest: object) -> object:
        if self.has_failed:
            self.calls_after.append(statement)
        if statement == "COMMIT" and not self.has_failed:
            self.has_failed = True
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
            raise error
        return self.database.execute(statement, *rest)  # type: ignore[attr-defined]

    def close(self) -> None:
        self.database.close()  # type: ignore[attr-defined]


def test_a_failed_fsync_is_not_tried_again_but_nothing_is_lost(tmp_path: Path) -> None:
    journal = Journal(tmp_path, ENDPOINT)
    for number in range(3):
        journal.write(record(number)).result(60)
    log = Path(f"{journal.path}-wal")
    while log.exists() and log.stat().st_size:
        # It is folded in when nothing waits.
        time.sleep(0.01)
    failing = Failing(journal._database)
    journal._database = failing  # type: ignore[assignment]
    journal.write(record(3)).result(60)
    assert failing.calls_after == ["ROLLBACK", "PRAGMA synchronous=OFF"]
    journal.write(record(4)).result(60)
    journal.close()
    assert os.listdir(tmp_path) == [journal_path(tmp_path, ENDPOINT, 1).name]
    again = Journal(tmp_path, ENDPOINT)
    assert again.records == [record(number) for number in range(5)] and again.damage is None
    again.close()


def test_of_two_generations_the_later_counts(tmp_path: Path) -> None:
    """A daemon died between making the next one and removing the one before."""
    filled(tmp_path, 2)
    journal_file.create(journal_path(tmp_path, ENDPOINT, 1), {"job9": (7, msgspec.msgpack.encode(record(9)))}).close()
    journal = Journal(tmp_path, ENDPOINT)
    assert journal.records == [record(9)]
    journal.close()
    assert os.listdir(tmp_path) == [journal_path(tmp_path, ENDPOINT, 1).name]


def test_network_file_systems_are_told_by_their_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = (
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        "30 22 0:40 / /data rw shared:1 - nfs4 server:/data rw\n"
        "31 30 8:2 / /data/local\\040disk rw - xfs /dev/sdb rw\n"
    )
    assert filesystem_of(Path("/etc"), mounts) == "ext4"
    assert filesystem_of(Path("/data/x"), mounts) == "nfs4"
    assert filesystem_of(Path("/data/local disk/x"), mounts) == "xfs"
    assert filesystem_of(Path("/database"), mounts) == "ext4"
    assert filesystem_of(tmp_path) != ""
    for kind in ("nfs4", "fuse.sshfs", "9p"):
        monkeypatch.setattr(journal_file, "filesystem_of", lambda path, kind=kind: kind)
        with pytest.raises(BadRequestError, match=f"network file system \\({kind}\\)"):
            Journal(tmp_path, ENDPOINT)
