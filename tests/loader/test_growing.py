"""Reading while it is written: when a batch comes, and a reason for every wait. See also `test_any_run.py`."""

from __future__ import annotations

import logging
import multiprocessing
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tokend_client import TokenLoader, TokenStream
from tokend_client.errors import InputInvalidError, InternalError, NoSpaceError, StarvedError, TokendError
from tokend_client.feed import Cursor, Polling, WriterStatus
from tokend_client.testing import FakeDaemon, StreamWriter

from . import naive

DOCUMENTS = naive.documents(seed=7, n=150, longest=90)


def finished(folder: Path, documents: list[Any] = DOCUMENTS) -> Path:
    writer = StreamWriter(folder)
    for document in documents:
        writer.append(document)
    writer.seal()
    return folder


def test_a_batch_comes_as_soon_as_its_window_is_there(tmp_path: Path) -> None:
    """Not before all of it is committed, and without waiting for a token more."""
    writer = StreamWriter(tmp_path / "s")
    stop = threading.Event()
    loader = TokenLoader(
        tmp_path / "s", seq_len=10, global_batch=2, window_tokens=40, follow=True, prefetch=0, stall_timeout_s=0.1
    )
    batches = iter(loader)
    writer.append(range(40))
    writer.commit()
    with pytest.raises(StarvedError, match="waiting for stream 'stream' at token 41: 40 are committed"):
        next(batches)
    writer.append([40])
    writer.commit()
    batches = iter(loader)
    assert sorted(next(batches).tokens[:, 0].tolist() + next(batches).tokens[:, 0].tolist()) == [0, 10, 20, 30]
    with pytest.raises(StarvedError, match="at token 81: 41 are committed"):
        next(batches)
    stop.set()


def test_the_end_of_a_run_is_the_same_for_all_ranks(tmp_path: Path) -> None:
    """A rank whose rows are there must not hand out a batch that the sealed stream turns out not to have."""
    writer = StreamWriter(tmp_path / "s")
    writer.append(range(45))
    writer.commit()
    options: dict[str, Any] = {"seq_len": 10, "global_batch": 4, "world_size": 2, "shuffle": "none", "follow": True}
    first = iter(TokenLoader(tmp_path / "s", rank=0, **options))
    assert next(first).tokens[:, 0].tolist() == [0, 20]
    waiting = threading.Timer(0.1, writer.seal)
    waiting.start()
    # Sample 4 is there (tokens 40 to 44 and more could come), but its batch never is.
    assert list(first) == []
    assert [len(batch) for batch in TokenLoader(tmp_path / "s", rank=1, **options)] == [2]
    waiting.join()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_failed_stream(tmp_path: Path, workers: int) -> None:
    expected = naive.digest(TokenLoader(finished(tmp_path / "whole"), seq_len=16, global_batch=4, window_tokens=500))
    with FakeDaemon(tmp_path) as daemon:
        path = daemon.stream("s", DOCUMENTS, fail_after=90, tokens_per_commit=700)
        loader = TokenLoader(path, seq_len=16, global_batch=4, window_tokens=500, follow=True, workers=workers)
        seen: list[str] = []
        with pytest.raises(InputInvalidError, match=r"failed at [\d,]+ tokens: not UTF-8"):
            for batch in loader:
                seen += naive.digest([batch])
        assert seen and seen == expected[: len(seen)]
        # What is whole is still there, the same each time.
        again = TokenLoader(path, seq_len=16, global_batch=4, window_tokens=500, follow=True)
        with pytest.raises(InputInvalidError):
            for n, batch in enumerate(again):
                assert naive.digest([batch]) == [expected[n]]
        assert n + 1 == len(seen)
    failing = StreamWriter(tmp_path / "full")
    failing.fail("NO_SPACE", "no space left")
    with pytest.raises(NoSpaceError, match="no space left"):
        next(iter(TokenLoader(tmp_path / "full", seq_len=16, global_batch=4, follow=True)))


class Recorder(Polling):
    """A feed that keeps what it is told, and knows a little."""

    def __init__(self) -> None:
        super().__init__()
        self.cursors: list[Sequence[Cursor]] = []

    def report(self, cursors: Sequence[Cursor]) -> None:
        self.cursors.append(cursors)

    def status(self, stream: str) -> WriterStatus | None:
        return WriterStatus(n_tokens=30, tokens_per_s=4e6, note="paused")


def test_waits_are_explained(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokend_client.feed.FIRST_WARNING_S", 0.05)
    writer = StreamWriter(tmp_path / "s")
    feed = Recorder()
    loader = TokenLoader(
        {"web": tmp_path / "s"}, seq_len=10, global_batch=2, window_tokens=40, follow=True, feed=feed, prefetch=1
    )

    def write() -> None:
        """Goes on when the wait has been said."""
        while "to begin" not in caplog.text:
            time.sleep(0.01)
        writer.append(range(25))
        writer.commit()
        while "25 are committed" not in caplog.text:
            time.sleep(0.01)
        writer.append(range(60))
        writer.seal()
        feed.wake()

    writing = threading.Thread(target=write, daemon=True)
    with caplog.at_level(logging.WARNING, "tokend_client.loader"):
        writing.start()
        assert len(list(loader)) == 4
    text = caplog.text
    assert "waiting for stream 'web' to begin" in text
    assert "'web' at token 41: 25 are committed (the writer is at 30), 4.0 M tokens/s, ETA 0.0 s, paused" in text
    assert loader.stats.wait_s > 0 and loader.stats.n_batches == 4
    writing.join(60)
    (cursor,) = feed.cursors[-1]
    assert (cursor.stream, cursor.low_water, cursor.position, cursor.wanted) == ("web", 0, 0, 41)


def test_low_water_follows_what_is_retained(tmp_path: Path) -> None:
    path = finished(tmp_path / "s")
    feed = Recorder()
    loader = TokenLoader(path, seq_len=10, global_batch=2, window_tokens=40, follow=True, feed=feed, prefetch=0)
    batches = [batch for batch, _ in zip(loader, range(60), strict=False)]
    cursor = loader._assembler.cursors(loader.position)[0]
    assert cursor.low_water == 0 and cursor.position == 30 * 40 and cursor.wanted == 31 * 40 + 1
    loader.retain(batches[40].state)
    cursor = loader._assembler.cursors(loader.position)[0]
    # Samples from 82 on are retained for; sample 81, which a resume checks, is in window 20.
    assert cursor.low_water == 20 * 40
    loader.close()


def test_closing_ends_a_wait(tmp_path: Path) -> None:
    loader = TokenLoader(tmp_path / "never", seq_len=10, global_batch=2, follow=True)
    thread = threading.Thread(target=lambda: list(loader))
    thread.start()
    time.sleep(0.1)
    loader.close()
    thread.join(60)
    assert not thread.is_alive()


def _reader(rank: int, path: str, answers: Any) -> None:
    loader = TokenLoader(path, seq_len=16, global_batch=8, rank=rank, world_size=8, window_tokens=2000, follow=True)
    answers.put((rank, naive.digest(loader)))


def test_eight_processes_over_one_growing_stream(tmp_path: Path) -> None:
    """The writer is killed and restarted in the middle."""
    whole = finished(tmp_path / "whole")
    expected = {
        rank: naive.digest(TokenLoader(whole, seq_len=16, global_batch=8, rank=rank, world_size=8, window_tokens=2000))
        for rank in range(8)
    }
    context = multiprocessing.get_context("fork")  # Before any thread is started: cheap, and safe.
    answers = context.Queue()
    readers = [context.Process(target=_reader, args=(rank, str(tmp_path / "s"), answers)) for rank in range(8)]
    for reader in readers:
        reader.start()
    with FakeDaemon(tmp_path) as daemon:
        pauses = [0.01] * 4 + [60.0]
        path = daemon.stream(
            "s",
            DOCUMENTS,
            tokens_per_commit=300,
            segment_tokens=2500,
            pause_s=lambda: pauses.pop(0) if pauses else 0.01,
        )
        while pauses:
            time.sleep(0.01)
        daemon.kill()
        assert TokenStream(path).state == "growing"
        daemon.restart()
        got = dict(answers.get(timeout=60) for _ in readers)
    for reader in readers:
        reader.join(60)
        assert reader.exitcode == 0
    assert got == expected


def test_fake_daemon_pauses(tmp_path: Path) -> None:
    with FakeDaemon(tmp_path) as daemon:
        daemon.pause()
        path = daemon.stream("s", DOCUMENTS, tokens_per_commit=100)
        time.sleep(0.05)
        assert not (path / "manifest.json").exists()
        daemon.resume()
        daemon.join()
        assert len(TokenStream(path)) == sum(len(document) for document in DOCUMENTS)


@pytest.mark.parametrize(("tokens_per_s", "said"), [(4_100_000, "4.1 M tokens/s"), (30_400, "30,400 tokens/s")])
def test_the_rate_of_a_slow_writer_is_no_zero(tmp_path: Path, tokens_per_s: float, said: str) -> None:
    class Slow(Polling):
        def status(self, stream: str) -> WriterStatus | None:
            return WriterStatus(50, tokens_per_s)

    writer = StreamWriter(tmp_path / "s")
    writer.append(range(40))
    writer.commit()
    loader = TokenLoader(
        tmp_path / "s", seq_len=10, global_batch=20, follow=True, prefetch=0, feed=Slow(), stall_timeout_s=0.1
    )
    with pytest.raises(StarvedError, match=said):
        next(iter(loader))


def test_documents_that_raise_fail_the_stream(tmp_path: Path) -> None:
    def documents() -> Any:
        yield from DOCUMENTS[:20]
        raise ValueError("no more of these")

    with FakeDaemon(tmp_path) as daemon:
        path = daemon.stream("s", documents(), tokens_per_commit=100)
        with pytest.raises(TokendError, match="documents of stream 's' raised ValueError: no more of these"):
            daemon.join(60)
        with pytest.raises(InternalError, match="ValueError: no more"):
            list(TokenLoader(path, seq_len=10, global_batch=4, window_tokens=100, follow=True))


def test_the_feed_of_the_stand_in(tmp_path: Path) -> None:
    """It hears how far a loader is, and says how far the stream is."""
    with FakeDaemon(tmp_path) as daemon:
        feed = daemon.feed()
        assert feed.status("s") is None
        path = daemon.stream("s", DOCUMENTS, tokens_per_commit=500)
        daemon.join(60)
        loader = TokenLoader(path, seq_len=10, global_batch=4, window_tokens=100, follow=True, feed=feed)
        n = len([batch.end for batch in loader])
        assert n > 0 and feed.cursors["stream"].path == str(path)
        status = feed.status("stream")
        assert status is not None and status.n_tokens == TokenStream(path).n_tokens and "sealed" in status.note
