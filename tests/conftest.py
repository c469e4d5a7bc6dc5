"""What all tests share: tokenizers, references, a daemon of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiktoken
from tokend import GPT2_PATTERN, Tokenizer
from tokend_client import Client


@pytest.fixture(scope="session")
def gpt2() -> Tokenizer:
    return Tokenizer.load("gpt2")


@pytest.fixture(scope="session")
def tiktoken_gpt2(gpt2: Tokenizer) -> tiktoken.Encoding:
    """The real tiktoken over the bundled vocabulary's tokens, with GPT-2's ranks."""
    ranks = {gpt2.decode_bytes([id]): id for id in range(50256)}
    return tiktoken.Encoding(
        "gpt2", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 50256}
    )


@pytest.fixture(scope="session")
def shared_models() -> list[Path]:
    """`simple-bpe` models that are not part of the project."""
    folder = Path(os.environ.get("TOKEND_SHARED", Path(__file__).parents[2] / "shared")) / "data" / "simple_bpe"
    models = sorted(folder.glob("*.model"))
    if not models:
        pytest.skip("no simple-bpe models beside the project (TOKEND_SHARED)")
    return models


class Daemon:
    """A daemon process of the tests' own."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.endpoint = f"ipc://{folder}/run/tokend.sock"
        self.folder = folder
        self.options = options
        self.start()

    def start(self) -> None:
        """Starts it and waits until it answers; it does not outlive a failure."""
        state = ["--state-dir", str(self.folder / "state")]
        command = [sys.executable, "-m", "tokend", "serve", "--endpoint", self.endpoint, *state, *self.options]
        with (self.folder / "daemon.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            with Client(self.endpoint, connect_timeout=60.0) as client:
                client.ping(timeout=60.0)
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.kill()


@pytest.fixture
def run_folder() -> Iterator[Path]:
    """A folder with a short path, as sockets need."""
    with tempfile.TemporaryDirectory(prefix="tkd-") as folder:
        yield Path(folder)


@pytest.fixture
def daemon(run_folder: Path) -> Iterator[Daemon]:
    running = Daemon(run_folder)
    yield running
    running.stop()


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    with Client(daemon.endpoint) as connected:
        yield connected
