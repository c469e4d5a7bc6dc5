"""A daemon whose jobs are read while they write: they wait for readers, never the other way round for long."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Daemon
from loader import naive
from tokend import Tokenizer
from tokend_client import Client, Stream, TokenLoader, TokenStream
from tokend_client.daemon_feed import DaemonFeed
from tokend_client.errors import BadRequestError, RetiredError
from tokend_client.feed import Cursor
from tokend_client.protocol import JobInfo

AHEAD = 60_000
OPTIONS: dict[str, Any] = {"seq_len": 64, "global_batch": 32, "window_tokens": 1 << 14, "prefetch": 0}


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes minutes and gigabytes in life."""
    for name, value in {
        "TOKEND_CHUNK_BYTES": 1 << 15,
        "TOKEND_COMMIT_BYTES": 1 << 17,
        "TOKEND_COMMIT_MS": 200,
        "TOKEND_SEGMENT_BYTES": 1 << 16,
        "TOKEND_EXPIRY_S": 2,
    }.items():
        monkeypatch.setenv(name, str(value))


@pytest.fixture
def daemon(run_folder: Path) -> Iterator[Daemon]:
    running = Daemon(run_folder, "--ahead-tokens", str(AHEAD))
    yield running
    running.stop()


def corpus(path: Path, n_documents: int = 2000, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    words = [word for word in Path(naive.__file__).read_text().split() if word.isascii()]
    path.write_text("|".join(" ".join(rng.choice(words, rng.integers(0, 300))) for _ in range(n_documents)) + "|")
    return path


def until(what: Callable[[], Any], timeout_s: float = 60.0) -> Any:
    """What `what` gives once it is true."""
    deadline = time.monotonic() + timeout_s
    while not (found := what()):
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.02)
    return found


def standing_still(client: Client, job_id: str) -> JobInfo | None:
    info = client.job(job_id).status()
    return info if "stands still" in (info.note or "") else None


def test_a_job_waits_for_its_reader(daemon: Daemon, client: Client, tmp_path: Path, gpt2: Tokenizer) -> None:
    text = corpus(tmp_path / "a.txt")
    gpt2.encode_files([text], tmp_path / "whole.bin", separator="|")
    whole = TokenStream(tmp_path / "whole.bin")
    assert len(whole) > 4 * AHEAD
    expected = naive.digest(TokenLoader(whole, **OPTIONS))
    feed = DaemonFeed(client, interval_s=0.1)
    loader = TokenLoader(tmp_path / "s", follow=True, feed=feed, stall_timeout_s=60, **OPTIONS)
    reports = loader._assembler.cursors(0)
    feed.report(reports)  # It registers before there is a job.
    job = client.submit([text], tmp_path / "s", separator="|", format="stream")
    batches = iter(loader)
    seen = naive.digest([next(batches)])

    def settled() -> JobInfo | None:
        before = standing_still(client, job.job_id)
        time.sleep(0.6)
        after = standing_still(client, job.job_id)
        return after if before and after and before.n_tokens == after.n_tokens else None

    info = until(settled)
    # It wrote as far ahead as it is to, plus what was in its workers' hands.
    lead = int(re.findall(r"stands still: ([\d,]+) tokens ahead", info.note or "")[0].replace(",", ""))
    most = AHEAD + 60_000
    assert AHEAD * 3 // 4 <= lead < most and info.n_tokens < most + OPTIONS["window_tokens"] < len(whole)
    # What stands still is committed, and holds up nobody else.
    until(lambda: len(TokenStream(tmp_path / "s")) == info.n_tokens)
    other = client.submit([text], tmp_path / "other.bin", separator="|")
    assert other.wait(timeout=60).n_tokens == len(whole)
    assert standing_still(client, job.job_id)
    status = until(lambda: feed.status("stream"))
    assert status.n_tokens == info.n_tokens and "stands still" in status.note
    seen += naive.digest(batches)
    assert seen == expected
    assert job.wait(timeout=60).n_tokens == len(whole)
    feed.close()


def test_a_reader_that_is_gone_is_not_waited_for(daemon: Daemon, client: Client, tmp_path: Path) -> None:
    text = corpus(tmp_path / "a.txt")
    feed = DaemonFeed(client, interval_s=0.1)
    with TokenLoader(tmp_path / "s", follow=True, feed=feed, stall_timeout_s=60, **OPTIONS) as loader:
        feed.report(loader._assembler.cursors(0))
        job = client.submit([text], tmp_path / "s", separator="|", format="stream")
        until(lambda: standing_still(client, job.job_id))
    feed.close()
    assert job.wait(timeout=60).n_tokens > 4 * AHEAD


def test_streams_of_a_mixture_are_written_side_by_side(
    daemon: Daemon, client: Client, tmp_path: Path, gpt2: Tokenizer
) -> None:
    """The second would wait for the end of the first, and that for a reader who needs the second."""
    texts = {name: corpus(tmp_path / f"{name}.txt", seed=seed) for seed, name in enumerate(("web", "code"))}
    for name, text in texts.items():
        gpt2.encode_files([text], tmp_path / f"{name}.bin", separator="|")

    def mixture(suffix: str) -> dict[str, Stream]:
        return {
            "web": Stream(tmp_path / f"web{suffix}", weight=3),
            "code": Stream(tmp_path / f"code{suffix}", max_epochs=None),
        }

    expected = naive.digest(TokenLoader(mixture(".bin"), **OPTIONS))
    feed = DaemonFeed(client, interval_s=0.1)
    with TokenLoader(mixture(""), follow=True, feed=feed, stall_timeout_s=60, **OPTIONS) as loader:
        feed.report(loader._assembler.cursors(0))
        jobs = [client.submit([text], tmp_path / name, separator="|", format="stream") for name, text in texts.items()]
        batches = iter(loader)
        seen = naive.digest([next(batches)])
        for job in jobs:
            until(lambda job=job: standing_still(client, job.job_id))
        assert [info.state for info in client.jobs()] == ["running", "running"]
        seen += naive.digest(batches)
    assert seen == expected
    feed.close()


def test_a_stopping_daemon_pauses_nothing(daemon: Daemon, client: Client, tmp_path: Path) -> None:
    text = corpus(tmp_path / "a.txt")
    feed = DaemonFeed(client, interval_s=0.1)
    with TokenLoader(tmp_path / "s", follow=True, feed=feed, **OPTIONS) as loader:
        feed.report(loader._assembler.cursors(0))
        job = client.submit([text], tmp_path / "s", separator="|", format="stream")
        until(lambda: standing_still(client, job.job_id))
        client.shutdown(drain=True, timeout=60.0)
        daemon.process.wait(60)
        feed.close()
    assert TokenStream(tmp_path / "s").state == "sealed"


def test_what_a_killed_daemon_wrote_is_shown_though_its_job_stands_still(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was far enough ahead, but had not committed: the next daemon has nothing to write, and must commit."""
    monkeypatch.setenv("TOKEND_COMMIT_MS", "600000")
    monkeypatch.setenv("TOKEND_COMMIT_BYTES", str(1 << 40))
    daemon = Daemon(run_folder, "--ahead-tokens", str(AHEAD))
    try:
        with Client(daemon.endpoint) as client:
            feed = DaemonFeed(client, interval_s=0.1)
            feed.report([Cursor("s", str(tmp_path / "s"), None, low_water=0, position=0, wanted=0, run="run")])
            job = client.submit([corpus(tmp_path / "a.txt")], tmp_path / "s", separator="|", format="stream")
            info = until(lambda: standing_still(client, job.job_id))
            assert len(TokenStream(tmp_path / "s")) == 0
            daemon.process.kill()
            daemon.process.wait()
            monkeypatch.setenv("TOKEND_COMMIT_MS", "100")
            daemon.start()
            assert until(lambda: len(TokenStream(tmp_path / "s"))) >= info.n_tokens
            feed.close()
    finally:
        daemon.stop()


def test_segments_are_retired_and_a_kill_changes_nothing(
    daemon: Daemon, client: Client, tmp_path: Path, gpt2: Tokenizer
) -> None:
    """Files behind the retained checkpoint go, what a resume from it needs stays; daemon and trainer are killed."""
    text = corpus(tmp_path / "a.txt")
    gpt2.encode_files([text], tmp_path / "whole.bin", separator="|")
    expected = naive.digest(TokenLoader(tmp_path / "whole.bin", pack="bestfit", block_tokens=1 << 13, **OPTIONS))
    folder = tmp_path / "s"
    feed = DaemonFeed(client, interval_s=0.1)
    options: dict[str, Any] = {**OPTIONS, "pack": "bestfit", "block_tokens": 1 << 13, "follow": True}

    def files() -> set[str]:
        return {path.name for path in folder.glob("tokens-*")}

    loader = TokenLoader(folder, feed=feed, stall_timeout_s=60, **options)
    feed.report(loader._assembler.cursors(0))
    job = client.submit([text], folder, separator="|", format="stream", retire=True)
    batches = iter(loader)
    n = len(expected) // 3
    seen = naive.digest(itertools.islice(batches, n))
    until(lambda: standing_still(client, job.job_id))
    time.sleep(3)
    assert "tokens-00000.bin" in files(), "nothing goes before somebody says that it may"
    kept = loader.state_dict()
    loader.retain(kept)
    more = itertools.islice(batches, n // 2)
    while "tokens-00000.bin" in files():
        seen += naive.digest([next(more)])
        time.sleep(0.1)
    loader.close()
    feed.close()

    daemon.process.kill()
    daemon.process.wait()
    stream = TokenStream(folder)
    with pytest.raises(RetiredError, match="tokens 0 to"):
        stream[0:10]
    daemon.start()
    # The trainer was killed too; a minute later (two seconds here) it is back, from its checkpoint.
    feed = DaemonFeed(client, interval_s=0.1)
    with TokenLoader(folder, feed=feed, stall_timeout_s=60, **options) as again:
        again.load_state_dict(kept)
        assert naive.digest(again) == expected[n:]
        end = again.state_dict()
        again.retain(end)
        job.wait(timeout=60)
        # A finished stream is retired too, up to its last segment.
        again._assembler._reported = 0.0
        again._assembler.report(again.position)
        until(lambda: len(files()) <= 4)
    assert seen == expected[: len(seen)]
    with pytest.raises(RetiredError):
        next(iter(TokenLoader(folder, **{**options, "follow": False})))
    # A job that is asked for again is still that job; another one must make the stream anew.
    assert client.job(job.job_id).wait().n_tokens == len(TokenStream(tmp_path / "whole.bin"))
    feed.finish()


def test_only_streams_can_be_retired(client: Client, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(BadRequestError, match="retire"):
        client.submit([tmp_path / "a.txt"], tmp_path / "a.bin", retire=True)
