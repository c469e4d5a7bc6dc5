"""The guide "train while tokenizing", done as written: started early, killed, resumed, and nothing changed.

Its training script runs with PyTorch where that is installed, and always with a bigram model in its place.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tokend_client.testing import FakeDaemon

from . import naive

GUIDE = (Path(__file__).parents[2] / "docs/guides/train-while-tokenizing.md").read_text()
STEPS = 30

BIGRAM = """
import time

import numpy as np

counts = np.ones(1 << 12, np.int64)


def train(batch):
    keep = batch.targets >= 0
    pairs = (batch.inputs[keep].astype(np.int64) * 31 + batch.targets[keep]) % len(counts)
    loss = float(-np.log(counts[pairs] / counts.sum()).mean())
    np.add.at(counts, pairs, 1)
    time.sleep(0.01)
    return loss


def save(step, state):
    with open(CHECKPOINT + ".tmp", "w") as file:
        json.dump({"counts": counts.tolist(), "step": step, "loader": state}, file)
    os.replace(CHECKPOINT + ".tmp", CHECKPOINT)


def load():
    with open(CHECKPOINT) as file:
        everything = json.load(file)
    counts[:] = everything["counts"]
    return everything["step"], everything["loader"]


"""


@pytest.fixture(params=["numpy", "torch"])
def script(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    code = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)[0]
    if request.param == "torch":
        if importlib.util.find_spec("torch") is None:
            pytest.skip("PyTorch is not installed (make loader-torch)")
    else:
        before, rest = code.split("# --- the model\n")
        code = before + BIGRAM + "# --- the run" + rest.split("# --- the run")[1]
    path = tmp_path / "train.py"
    path.write_text(code)
    return path


def start(script: Path, stream: Path, checkpoint: str, errors: Any = None) -> subprocess.Popen[str]:
    command = [sys.executable, str(script), str(stream), str(script.parent / checkpoint), str(STEPS)]
    # One thread, so that sums are made in the same order and the losses can be compared exactly.
    environment = {"TOKEND_ENDPOINT": f"ipc://{script.parent}/none", **os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)


def lines(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def run(script: Path, stream: Path, checkpoint: str) -> list[dict[str, Any]]:
    process = start(script, stream, checkpoint)
    try:
        output, _ = process.communicate(timeout=200)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0
    return lines(output)


def killed_after(script: Path, stream: Path, checkpoint: str, n_lines: int) -> list[dict[str, Any]]:
    process = start(script, stream, checkpoint)
    assert process.stdout is not None
    try:
        return [json.loads(process.stdout.readline()) for _ in range(n_lines)]
    finally:
        process.kill()
        process.communicate()


def state_of(stream: Path) -> str:
    return str(json.loads((stream / "manifest.json").read_bytes())["state"])


def test_started_early_killed_and_resumed(script: Path, tmp_path: Path) -> None:
    """Also the writer is killed and restarted while training runs. It stands still until training has begun."""
    documents = naive.documents(seed=12, n=300, longest=300)
    has_begun = threading.Event()
    n_commits = 0

    def pause() -> float:
        nonlocal n_commits
        n_commits += 1
        if n_commits == 12:  # The first window of 2^14 tokens is there.
            has_begun.wait()
        return 0.05

    with FakeDaemon(tmp_path) as daemon:
        stream = daemon.stream("corpus", documents, tokens_per_commit=2000, pause_s=pause, segment_tokens=9000)
        try:
            first = killed_after(script, stream, "other.pt", 7)
            assert state_of(stream) == "growing", "training began before the corpus was done"
        finally:
            has_begun.set()
        daemon.kill()
        daemon.restart()
        second = killed_after(script, stream, "other.pt", 16)
        third = run(script, stream, "other.pt")
        daemon.join(60)
        whole = run(script, stream, "run.pt")
    assert [line["step"] for line in whole] == list(range(1, STEPS + 1))
    assert first == whole[:7]
    for part in (second, third):
        gone_on_at = part[0]["step"] - 1
        assert gone_on_at % 10 == 0, "it goes on from a checkpoint"
        assert part == whole[gone_on_at : gone_on_at + len(part)], "losses and batches as ever"
    assert third[0]["step"] > 10 and third[-1]["step"] == STEPS


def test_with_the_real_writer(script: Path, tmp_path: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guide's shell commands: a daemon, a trainer that waits for its stream, and then the stream."""
    serve, _, encode = re.findall(r"```sh\n(.*?)```", GUIDE, re.DOTALL)[:3]
    monkeypatch.setenv("TOKEND_ENDPOINT", f"ipc://{run_folder}/run/tokend.sock")
    monkeypatch.setenv("TOKEND_STATE_DIR", str(run_folder / "state"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    corpus = tmp_path / "corpus"
    with (run_folder / "daemon.log").open("ab") as log:
        daemon = subprocess.Popen(["bash", "-ec", f"exec {serve}"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        whole = in_step(script, corpus, encode)
        # The daemon may be a million tokens ahead of a reader that was there until now; the corpus is far larger.
        assert state_of(corpus) == "growing", "training was over before the corpus was done"
        assert killed_after(script, corpus, "other.pt", 12) == whole[:12]
        rest = run(script, corpus, "other.pt")
        assert rest == whole[-len(rest) :] and rest[0]["step"] > 10
    finally:
        subprocess.run(["tokend", "stop", "--now"], check=False, capture_output=True)
        try:
            daemon.wait(60)
        finally:
            daemon.kill()
            daemon.wait()


def in_step(script: Path, corpus: Path, encode: str) -> list[dict[str, Any]]:
    """Starts training; tokenizes once the daemon knows of it; what training printed."""
    with (script.parent / "stderr.log").open("wb") as errors:
        process = start(script, corpus, "run.pt", errors)
    try:
        deadline = time.monotonic() + 120
        while b"no job of the daemon writes it" not in (said := (script.parent / "stderr.log").read_bytes()):
            assert process.poll() is None and time.monotonic() < deadline, said.decode()
            time.sleep(0.1)
        subprocess.run(["bash", "-ec", encode], cwd=corpus.parent, check=True, capture_output=True)
        output, _ = process.communicate(timeout=200)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0
    return lines(output)
