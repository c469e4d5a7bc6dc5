"""Worker processes: the same batches by any number of them, and no death goes unnoticed."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokend_client import Stream, TokenLoader
from tokend_client.errors import StreamError, WorkerDiedError
from tokend_client.feed import Polling, WriterStatus
from tokend_client.testing import FakeDaemon, StreamWriter

from . import naive

DOCUMENTS = naive.documents(seed=9, n=200, longest=90)
OPTIONS: dict[str, Any] = {"seq_len": 16, "global_batch": 4, "window_tokens": 1500, "block_tokens": 700}


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Path:
    writer = StreamWriter(tmp_path_factory.mktemp("web"), segment_tokens=2000)
    for number, document in enumerate(DOCUMENTS):
        writer.append(document)
        if number % 20 == 0:
            writer.commit()
    writer.seal()
    return writer.folder


@pytest.mark.parametrize("start_method", ["fork", "spawn", "forkserver"])
def test_start_methods(web: Path, start_method: str) -> None:
    expected = naive.digest(TokenLoader(web, **OPTIONS))
    with TokenLoader(web, workers=2, start_method=start_method, **OPTIONS) as loader:
        assert naive.digest(loader) == expected


@pytest.mark.parametrize("pack", ["concat", "bos", "bestfit"])
@pytest.mark.parametrize("workers", [1, 4])
def test_their_number_changes_nothing(web: Path, pack: Any, workers: int) -> None:
    streams = {"a": Stream(web, weight=2, max_epochs=2), "b": Stream(web, max_epochs=None)}
    options = {**OPTIONS, "pack": pack, "world_size": 2, "rank": 1, "start_method": "fork"}
    batches = [(b.tokens.copy(), b.targets, b.epochs, b.document_ids) for b in TokenLoader(streams, **options)]
    with TokenLoader(streams, workers=workers, **options) as loader:
        for n, (batch, (tokens, targets, epochs, ids)) in enumerate(zip(loader, batches, strict=True)):
            assert np.array_equal(batch.tokens, tokens) and np.array_equal(batch.targets, targets)
            assert np.array_equal(batch.epochs, epochs) and np.array_equal(batch.document_ids, ids)
            if n == 7:
                state = batch.state
    with TokenLoader(streams, workers=2, **options) as loader:
        loader.load_state_dict(state)
        assert all(np.array_equal(b.tokens, t[0]) for b, t in zip(loader, batches[8:], strict=True))


def test_a_script_without_the_guard_is_told_so(web: Path, tmp_path: Path) -> None:
    """Spawned workers run the main module once more, which would make workers of its own."""
    script = tmp_path / "train.py"
    script.write_text(
        f"""from tokend_client import TokenLoader
with TokenLoader({str(web)!r}, seq_len=16, global_batch=4, workers=1, start_method="spawn") as loader:
    next(iter(loader))
"""
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False)
    last = done.stderr.strip().splitlines()[-2:]
    assert done.returncode == 1 and "exit code 1" in last[0]
    assert "__main__" in last[1] and "SIGKILL" not in last[1]


def test_a_growing_stream(web: Path, tmp_path: Path) -> None:
    expected = naive.digest(TokenLoader(web, **OPTIONS))
    with FakeDaemon(tmp_path) as daemon:
        path = daemon.stream("web", DOCUMENTS, tokens_per_commit=400, pause_s=0.005)
        with TokenLoader(path, follow=True, workers=3, start_method="forkserver", **OPTIONS) as loader:
            assert naive.digest(loader) == expected


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM])
def test_a_dead_worker_is_an_error(web: Path, kill: signal.Signals) -> None:
    """What was delivered is right, the rest is an error with exit code and place; a resume gives the rest."""
    expected = naive.digest(TokenLoader(web, **OPTIONS))
    loader = TokenLoader(web, workers=2, start_method="fork", **OPTIONS)
    seen: list[str] = []
    state = None
    with pytest.raises(WorkerDiedError, match=rf"worker 1 .* killed by {kill.name}, at sample \d+"):
        for batch in loader:
            seen += naive.digest([batch])
            state = batch.state
            if len(seen) == 5:
                os.kill(loader._iterator._source._processes[1].pid, kill)
    assert 5 <= len(seen) < len(expected) and state is not None
    loader.load_state_dict(state)
    assert seen + naive.digest(loader) == expected


def test_a_stopped_worker_is_an_error(web: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokend_client.workers.SILENCE_S", 1.5)
    loader = TokenLoader(web, workers=1, start_method="fork", **OPTIONS)
    batches = iter(loader)
    next(batches)
    os.kill(loader._iterator._source._processes[0].pid, signal.SIGSTOP)
    with pytest.raises(WorkerDiedError, match="no sign of life"):
        for _ in batches:
            pass


def test_an_error_in_a_worker(tmp_path: Path) -> None:
    writer = StreamWriter(tmp_path / "s", segment_tokens=100)
    for part in range(5):
        writer.append(np.full(100, part))
        writer.commit()
    writer.seal()
    loader = TokenLoader(tmp_path / "s", workers=1, start_method="fork", seq_len=8, global_batch=2, shuffle="none")
    (tmp_path / "s" / "tokens-00003.bin").write_bytes(b"")
    with pytest.raises(StreamError, match=r"worker 0: .*tokens-00003\.bin: 0 bytes"):
        list(loader)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


TRAINER = """
import sys, time, os
from tokend_client import TokenLoader
if __name__ == "__main__":
    loader = TokenLoader(sys.argv[1], workers=3, start_method=sys.argv[2], follow=True, seq_len=16, global_batch=4,
                         window_tokens=1500)
    batches = iter(loader)
    next(batches)
    print(*[process.pid for process in loader._iterator._source._processes], flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("start_method", ["fork", "spawn", "forkserver"])
def test_a_killed_trainer_leaves_nothing(web: Path, tmp_path: Path, start_method: str) -> None:
    """SIGKILL to the trainer: its workers go, shared memory goes, and the next start is like the first."""
    script = tmp_path / "train.py"
    script.write_text(TRAINER)
    for _ in range(2):
        before = set(os.listdir("/dev/shm"))
        trainer = subprocess.Popen(
            [sys.executable, str(script), str(web), start_method], stdout=subprocess.PIPE, text=True
        )
        assert trainer.stdout is not None
        try:
            workers = [int(word) for word in trainer.stdout.readline().split()]
            assert len(workers) == 3 and all(alive(pid) for pid in workers)
        finally:
            trainer.send_signal(signal.SIGKILL)
            trainer.wait()
            trainer.stdout.close()
        deadline = time.monotonic() + 60
        while any(alive(pid) for pid in workers):
            assert time.monotonic() < deadline, "workers outlive their trainer"
            time.sleep(0.05)
        left = {name for name in set(os.listdir("/dev/shm")) - before if "tokend" in name}
        assert not left


def test_a_loader_that_is_dropped_ends_its_workers(web: Path) -> None:
    loader = TokenLoader(web, workers=2, start_method="fork", **OPTIONS)
    next(iter(loader))
    workers = [process.pid for process in loader._iterator._source._processes]
    loader.close()
    assert not any(alive(pid) for pid in workers)


def test_a_wait_is_explained_by_the_parent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, and with what the feed knows of the writer, which no worker does."""
    monkeypatch.setattr("tokend_client.workers.FIRST_WARNING_S", 0.1)

    class Knowing(Polling):
        def status(self, stream: str) -> WriterStatus | None:
            return WriterStatus(n_tokens=30, tokens_per_s=2e6, note="job x has 3 threads")

    writer = StreamWriter(tmp_path / "s")
    writer.append(np.arange(25))
    writer.commit()
    loader = TokenLoader(
        tmp_path / "s", seq_len=8, global_batch=2, window_tokens=40, workers=2, start_method="fork", follow=True,
        feed=Knowing(),
    )  # fmt: skip
    with caplog.at_level(logging.WARNING, "tokend_client.loader"):
        batches = iter(loader)
        seal = threading.Timer(1.5, lambda: (writer.append(np.arange(60)), writer.seal()))
        seal.start()
        assert len(list(batches)) == 5
        seal.join()
    assert "'stream' at token 41: 25 are committed (the writer is at 30), 2.0 M tokens/s, ETA 0.0 s" in caplog.text
    assert "job x has 3 threads" in caplog.text
