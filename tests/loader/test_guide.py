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


def start(script: Path, stream: Path, checkpoint: str, steps: int = STEPS) -> subprocess.Popen[str]:
    command = [sys.executable, str(script), str(stream), str(script.parent / checkpoint), str(steps)]
    # One thread, so that sums are made in the same order and the losses can be compared exactly.
    environment = {"TOKEND_ENDPOINT": f"ipc://{script.parent}/none", **os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


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


def test_started_early_killed_and_resumed(script: Path, tmp_path: Path) -> None:
    """Also the writer is killed and restarted while training runs."""
    documents = naive.documents(seed=12, n=300, longest=300)
    with FakeDaemon(tmp_path) as daemon:
        stream = daemon.stream("corpus", documents, tokens_per_commit=2000, pause_s=0.05, segment_tokens=9000)
        first = killed_after(script, stream, "other.pt", 7)
        state = json.loads((stream / "manifest.json").read_bytes())["state"]
        daemon.kill()
        daemon.restart()
        second = killed_after(script, stream, "other.pt", 16)
        third = run(script, stream, "other.pt")
        daemon.join()
        whole = run(script, stream, "run.pt")
    assert state in ("growing", "sealed")
    assert [line["step"] for line in whole] == list(range(1, STEPS + 1))
    assert first == whole[:7]
    for part in (second, third):
        gone_on_at = part[0]["step"] - 1
        assert gone_on_at % 10 == 0, "it goes on from a checkpoint"
        assert part == whole[gone_on_at : gone_on_at + len(part)], "losses and batches as ever"
    assert third[0]["step"] > 10 and third[-1]["step"] == STEPS


def test_with_the_real_writer(script: Path, tmp_path: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guide's shell commands, with a daemon that they start."""
    shell = re.findall(r"```sh\n(.*?)```", GUIDE, re.DOTALL)[0]
    monkeypatch.setenv("TOKEND_ENDPOINT", f"ipc://{run_folder}/run/tokend.sock")
    monkeypatch.setenv("TOKEND_STATE_DIR", str(run_folder / "state"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    subprocess.run(["bash", "-ec", shell], cwd=tmp_path, check=True, capture_output=True)
    try:
        killed_and_gone_on_with(script, tmp_path)
    finally:
        subprocess.run(["tokend", "stop", "--now"], check=True, capture_output=True)


def killed_and_gone_on_with(script: Path, tmp_path: Path) -> None:
    whole = run(script, tmp_path / "corpus", "run.pt")
    assert killed_after(script, tmp_path / "corpus", "other.pt", 12) == whole[:12]
    rest = run(script, tmp_path / "corpus", "other.pt")
    assert rest == whole[-len(rest) :] and rest[0]["step"] > 10
