"""Eight trainers over one daemon that is killed in the middle, as are a trainer and another one's worker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Daemon
from loader import trainer
from tokend import Tokenizer
from tokend_client import Client, TokenLoader, TokenStream, requests
from tokend_client.protocol import CursorReport

from .test_daemon import corpus, until

RANKS = 8
OPTIONS: dict[str, Any] = {"seq_len": 64, "global_batch": 64, "window_tokens": 1 << 14, "seed": 5}
SETTINGS = {
    "TOKEND_CHUNK_BYTES": 1 << 15,
    "TOKEND_COMMIT_BYTES": 1 << 17,
    "TOKEND_COMMIT_MS": 200,
    "TOKEND_SEGMENT_BYTES": 1 << 18,
}


class Rank:
    """A trainer process and what it has printed."""

    def __init__(self, folder: Path, config: dict[str, Any], rank: int, state: Any = None, workers: int = 0) -> None:
        options = {**OPTIONS, "rank": rank, "world_size": RANKS, "workers": workers, "stall_timeout_s": 60}
        path = folder / f"rank-{rank}.json"
        path.write_text(json.dumps({**config, "options": options, "state": state}))
        command = [sys.executable, trainer.__file__, str(path)]
        self.lines: list[dict[str, Any]] = []
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.lines.append(json.loads(line))

    def end(self) -> int:
        """Its exit code, once it has ended."""
        code = self.process.wait(120)
        self._reader.join(10)
        return code

    @property
    def batches(self) -> list[str]:
        return [line["batch"] for line in self.lines if "batch" in line]


@pytest.fixture
def daemon(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, str(value))
    running = Daemon(run_folder, "--ahead-tokens", "60000")
    yield running
    running.stop()


def test_eight_trainers_over_one_daemon(daemon: Daemon, tmp_path: Path, gpt2: Tokenizer) -> None:
    text = corpus(tmp_path / "a.txt")
    gpt2.encode_files([text], tmp_path / "whole.bin", separator="|")
    expected = [
        [trainer.digest(batch) for batch in TokenLoader(tmp_path / "whole.bin", rank=rank, world_size=RANKS, **OPTIONS)]
        for rank in range(RANKS)
    ]
    config: dict[str, Any] = {"endpoint": daemon.endpoint, "path": str(tmp_path / "s"), "run": "eight", "step_s": 0.02}
    again: dict[int, Rank] = {}
    ranks = [Rank(tmp_path, config, rank, workers=2 if rank == 3 else 0) for rank in range(RANKS)]
    try:
        with Client(daemon.endpoint) as client:
            # The trainers take a second to start; until then somebody else holds the job back.
            held = CursorReport(path=config["path"], stream_id=None, low_water=0, position=0, wanted=1)
            client._call(requests.cursors("held", "back", [held]))
            job = client.submit([text], tmp_path / "s", separator="|", format="stream").job_id
        until(lambda: all(len(rank.batches) >= 10 for rank in ranks))
        assert TokenStream(tmp_path / "s").state == "growing"
        daemon.process.kill()
        daemon.process.wait()
        os.kill(ranks[3].lines[-1]["workers"][0], signal.SIGKILL)
        ranks[5].process.kill()
        assert ranks[5].end() == -signal.SIGKILL
        assert ranks[3].end() == 3, "a dead worker ends its rank"
        daemon.start()
        for number in (3, 5):
            again[number] = Rank(tmp_path, config, number, ranks[number].lines[-2]["state"])
        assert all(rank.end() == 0 for number, rank in enumerate(ranks) if number not in again)
        assert all(rank.end() == 0 for rank in again.values())
        with Client(daemon.endpoint) as client:
            assert client.job(job).wait(timeout=60).n_tokens == len(TokenStream(tmp_path / "whole.bin"))
    finally:
        for rank in [*ranks, *again.values()]:
            rank.process.kill()
            rank.end()
    assert ranks[3].lines[-1] == {"error": "WORKER_DIED"}
    for number, rank in enumerate(ranks):
        assert rank.batches == expected[number][: len(rank.batches)], "what was delivered is right"
        if number not in again:
            assert rank.batches == expected[number]
    for number, rank in again.items():
        first = ranks[number].lines[-2]["state"]["k"] // OPTIONS["global_batch"]
        assert rank.batches == expected[number][first:], "it goes on after the state it was given"
