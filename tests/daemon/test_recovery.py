"""A daemon dies or stops; the next one goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import time
from pathlib import Path

import pytest
from conftest import Daemon
from tokend import Tokenizer
from tokend_client import Client, TokenStream
from tokend_client.errors import ConflictError, DeadlineExceededError, NotFoundError, TokendError, UnknownJobError

WORDS = "words and words, 123 times\n"


def big(path: Path, n_bytes: int = 200_000_000) -> Path:
    path.write_text(WORDS * (n_bytes // len(WORDS)))
    return path


def await_state(client: Client, job_id: str, state: str, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while client.job(job_id).status().state != state:
        assert time.monotonic() < deadline, client.job(job_id).status()
        time.sleep(0.005)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def test_accepted_jobs_are_done_by_the_next_daemon(daemon: Daemon, tmp_path: Path, gpt2: Tokenizer) -> None:
    source = big(tmp_path / "big.txt")
    (tmp_path / "small.txt").write_text("a b c")
    with Client(daemon.endpoint) as client:
        first = client.submit([source], tmp_path / "big.bin", threads=1, key="first").job_id
        second = client.submit([tmp_path / "small.txt"], tmp_path / "small.bin", key="second").job_id
        await_state(client, first, "running")
    daemon.kill()
    assert "big.bin.json" not in names(tmp_path)
    daemon.start()
    with Client(daemon.endpoint) as client:
        assert client.job(first).wait(timeout=60).n_tokens > 0
        assert client.job(second).wait(timeout=60).n_tokens == 4
        assert client.submit([tmp_path / "small.txt"], tmp_path / "small.bin", key="second").job_id == second
        with pytest.raises(ConflictError):
            client.submit([tmp_path / "small.txt"], tmp_path / "other.bin", key="second")
    assert names(tmp_path) == sorted(
        ["big.txt", "small.txt"] + [f"{name}.bin{end}" for name in ("big", "small") for end in ("", ".ends", ".json")]
    )
    with TokenStream(tmp_path / "big.bin") as stream:
        assert stream[:-1].tolist() == gpt2.encode(source.read_text()).tolist()


def test_a_job_goes_on_inside_its_file(daemon: Daemon, tmp_path: Path, gpt2: Tokenizer) -> None:
    source = big(tmp_path / "big.txt")
    for format, output in (("bin", tmp_path / "big.bin"), ("stream", tmp_path / "stream")):
        with Client(daemon.endpoint) as client:
            job = client.submit([source], output, threads=1, format=format)
            while job.status().bytes_done < 50_000_000:
                time.sleep(0.005)
        daemon.kill()
        daemon.start()
        with Client(daemon.endpoint) as client:
            await_state(client, job.job_id, "running")
            first = 0
            while not first:
                first = client.job(job.job_id).status().bytes_done
            assert first > 30_000_000
            result = client.job(job.job_id).wait(timeout=120)
        assert result.n_documents == 1
    data = (tmp_path / "big.bin").read_bytes()
    assert b"".join(path.read_bytes() for path in sorted((tmp_path / "stream").glob("tokens-*.bin"))) == data
    n_tokens = len(gpt2.encode(WORDS * 1000)) // 1000 * (200_000_000 // len(WORDS)) + 1
    assert len(data) == 2 * n_tokens
    assert [name for name in names(tmp_path) if "partial" in name] == []


def test_what_is_done_is_remembered(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a b c")
    (tmp_path / "bad.txt").write_bytes(b"\xff")
    with Client(daemon.endpoint) as client:
        done = client.submit([tmp_path / "a.txt"], tmp_path / "a.bin").wait(timeout=60)
        failed = client.submit([tmp_path / "bad.txt"], tmp_path / "bad.bin")
        with pytest.raises(TokendError, match="not valid UTF-8"):
            failed.wait(timeout=60)
    daemon.kill()
    daemon.start()
    with Client(daemon.endpoint) as client:
        assert client.job(done.job_id).wait(timeout=60) == done
        with pytest.raises(TokendError, match="not valid UTF-8"):
            client.job(failed.job_id).wait(timeout=60)
        (tmp_path / "a.bin.json").unlink()
    daemon.kill()
    daemon.start()
    with Client(daemon.endpoint) as client, pytest.raises(NotFoundError, match="removed or replaced"):
        client.job(done.job_id).wait(timeout=60)


def test_a_cancelled_job_does_not_come_back(daemon: Daemon, tmp_path: Path) -> None:
    source = big(tmp_path / "big.txt")
    with Client(daemon.endpoint) as client:
        running = client.submit([source], tmp_path / "a.bin", threads=1)
        queued = client.submit([source], tmp_path / "b.bin", threads=1)
        await_state(client, running.job_id, "running")
        running.cancel()
        queued.cancel()
    daemon.kill()
    daemon.start()
    with Client(daemon.endpoint) as client:
        for job in (running, queued):
            await_state(client, job.job_id, "cancelled")
    assert names(tmp_path) == ["big.txt"]


def test_a_job_that_kills_the_daemon_twice_is_parked(daemon: Daemon, tmp_path: Path) -> None:
    source = big(tmp_path / "big.txt", 400_000_000)
    more = [tmp_path / f"more{n}" for n in range(3)]
    for link in more:
        link.symlink_to(source)
    (tmp_path / "small.txt").write_text("a b c")
    with Client(daemon.endpoint) as client:
        poison = client.submit([source, *more], tmp_path / "big.bin", threads=1).job_id
        good = client.submit([tmp_path / "small.txt"], tmp_path / "small.bin").job_id
    n_deaths = 0
    for _ in range(8):
        with Client(daemon.endpoint) as client:
            while (state := client.job(poison).status().state) == "queued":
                time.sleep(0.002)
        if state == "failed":
            break
        daemon.kill()
        n_deaths += 1
        daemon.start()
    # On a busy machine a kill may come so late that it is at another place.
    assert n_deaths >= 2
    with Client(daemon.endpoint) as client:
        with pytest.raises(TokendError, match="died 2 times") as caught:
            client.job(poison).wait(timeout=60)
        assert caught.value.code == "POISON"
        assert client.job(good).wait(timeout=60).n_tokens == 4
    for link in more:
        link.unlink()
    assert names(tmp_path) == ["big.txt", "small.bin", "small.bin.ends", "small.bin.json", "small.txt"]


def test_sigterm_keeps_what_waits_for_the_next_daemon(run_folder: Path, tmp_path: Path) -> None:
    daemon = Daemon(run_folder, "--drain-timeout", "0.2")
    source = big(tmp_path / "big.txt", 400_000_000)
    try:
        with Client(daemon.endpoint) as client:
            jobs = [client.submit([source], tmp_path / f"{n}.bin", threads=1).job_id for n in range(2)]
            await_state(client, jobs[0], "running")
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(60) == 0
        daemon.start()
        with Client(daemon.endpoint) as client:
            assert [client.job(job).status().state in ("queued", "running") for job in jobs] == [True, True]
            for job in jobs:
                client.job(job).cancel()
                await_state(client, job, "cancelled")
    finally:
        daemon.stop()
    assert names(tmp_path) == ["big.txt"]


def test_a_deadline_holds(client: Client, tmp_path: Path) -> None:
    """Of a job that runs, and of one that waits behind another."""
    source = big(tmp_path / "big.txt", 400_000_000)
    late = client.submit([source], tmp_path / "a.bin", threads=1, deadline=0.3)
    with pytest.raises(DeadlineExceededError, match="by its deadline"):
        late.wait(timeout=60)
    busy = client.submit([source], tmp_path / "c.bin", threads=1)
    waiting = client.submit([source], tmp_path / "b.bin", threads=1, deadline=0.05)
    with pytest.raises(DeadlineExceededError, match="by its deadline"):
        waiting.wait(timeout=60)
    assert waiting.status().started_s is None
    busy.cancel()
    await_state(client, busy.job_id, "cancelled")
    assert names(tmp_path) == ["big.txt"]


def test_a_force_job_that_was_published_is_done(daemon: Daemon, tmp_path: Path) -> None:
    """The daemon dies after the output is there and before the journal says so."""
    (tmp_path / "a.txt").write_text("a b c")
    with Client(daemon.endpoint) as client:
        job = client.submit([tmp_path / "a.txt"], tmp_path / "a.bin", force=True)
        job.wait(timeout=60)
    daemon.stop()
    rewrite(daemon, job.job_id, state="running", pid=daemon.process.pid)
    inode = os.stat(tmp_path / "a.bin").st_ino
    daemon.start()
    with Client(daemon.endpoint) as client:
        assert client.job(job.job_id).wait(timeout=60).up_to_date
    assert os.stat(tmp_path / "a.bin").st_ino == inode


def rewrite(daemon: Daemon, job_id: str, **fields: object) -> None:
    """Changes a record of a daemon that does not run."""
    from msgspec.structs import replace
    from tokend.journal import Journal

    journal = Journal(daemon.folder / "state", daemon.endpoint)
    (found,) = [record for record in journal.records if record.job_id == job_id]
    journal.write(replace(found, **fields)).result(10)
    journal.close()


def test_a_damaged_journal_is_said_and_believed_only_with_proof(daemon: Daemon, tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text("a b c")
    with Client(daemon.endpoint) as client:
        jobs = [client.submit([tmp_path / f"{n}.txt"], tmp_path / f"{n}.bin").wait(timeout=60).job_id for n in "abc"]
    daemon.stop()
    (journal,) = (daemon.folder / "state").glob("journal-*.db")
    with contextlib.closing(sqlite3.connect(journal)) as database, database:
        database.execute("UPDATE jobs SET digest = zeroblob(16) WHERE seq = 1")
    (tmp_path / "b.bin.json").unlink()
    daemon.start()
    with Client(daemon.endpoint) as client:
        (problem,) = client.status().problems
        assert "damaged" in problem and "2 jobs were saved" in problem
        # The first record is damaged, the second has no output any more; the third has.
        for job in jobs[:2]:
            with pytest.raises(UnknownJobError):
                client.job(job).status()
        assert client.job(jobs[2]).wait(timeout=60).n_tokens == 4
        (tmp_path / "d.txt").write_text("d")
        assert client.submit([tmp_path / "d.txt"], tmp_path / "d.bin").wait(timeout=60).n_tokens == 2
