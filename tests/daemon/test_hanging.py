"""Files and disks that never answer: they hold up whoever named them, and nobody else."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Daemon
from tokend import GPT2_PATTERN, Tokenizer
from tokend_client import Client
from tokend_client.errors import DeadlineExceededError, InputInvalidError, TokendError, TokenizerInvalidError

PATIENCE_S = 60.0
FIRST_LINES = f"simple-bpe v1\n{GPT2_PATTERN}\n0\n"


def make_hostile(folder: Path, kind: str) -> str:
    """What to give as a tokenizer."""
    if kind == "named":
        os.mkfifo(folder / "f")
        return f"cl100k_base={folder / 'f'}"
    if kind == "zero":
        (folder / "z.model").symlink_to("/dev/zero")
        return str(folder / "z.model")
    if kind == "model":
        os.mkfifo(folder / "f.model")
        return str(folder / "f.model")
    for name in ("tokenizer.json",) if kind == "json" else ("vocab.json", "merges.txt"):
        os.mkfifo(folder / name)
    return str(folder)


@pytest.mark.parametrize("kind", ["named", "zero", "model", "json", "pair"])
def test_a_tokenizer_that_is_no_file(kind: str, daemon: Daemon, tmp_path: Path) -> None:
    name = make_hostile(tmp_path, kind)
    (tmp_path / "a.txt").write_text("a")
    with Client(daemon.endpoint, timeout=PATIENCE_S) as client:
        with pytest.raises(InputInvalidError, match="not a regular file"):
            client.encode("x", tokenizer=name)
        with pytest.raises(InputInvalidError, match="not a regular file"):
            client.submit([tmp_path / "a.txt"], tmp_path / "out.bin", tokenizer=name)
        with pytest.raises(InputInvalidError, match="not a regular file"):
            client.cache_stats(name)
        assert client.status().rss_bytes < 1 << 30
        assert client.encode("Hello").tolist() == [15496]
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(PATIENCE_S) == 0


def test_a_tokenizer_that_is_too_large(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "huge.model"
    path.write_text(FIRST_LINES)
    os.truncate(path, 1 << 40)
    with pytest.raises(TokenizerInvalidError, match=r"huge.model: more than 268435456 bytes"):
        client.encode("x", tokenizer=str(path))
    assert client.status().rss_bytes < 1 << 30


@contextlib.contextmanager
def hanging(daemon: Daemon, path: Path) -> Iterator[None]:
    """Lets the daemon hang for a while wherever it opens a file, as on a disk that does not answer."""
    strace = shutil.which("strace")
    if strace is None or subprocess.run([strace, "-o", os.devnull, "true"], capture_output=True).returncode != 0:
        pytest.skip("strace is not installed, or may not trace")
    command = [strace, "-f", "-o", os.devnull, "-p", str(daemon.process.pid), "-P", str(path)]
    command += ["-e", "trace=openat", "-e", "inject=openat:delay_enter=20000000"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as tracer:
        assert tracer.stderr is not None
        try:
            assert b"attached" in tracer.stderr.readline()
            yield
        finally:
            # Which ends the delay; by itself it lets go of nobody before.
            tracer.kill()


def test_a_disk_that_does_not_answer(run_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.model"
    path.write_text(FIRST_LINES)
    (tmp_path / "a.txt").write_text("a b c")
    daemon = Daemon(run_folder, "--drain-timeout", "1")
    try:
        with Client(daemon.endpoint, timeout=PATIENCE_S) as client, Client(daemon.endpoint) as other:
            client.encode("x" * 100_000)
            outcomes: list[object] = []

            def call(n: int) -> None:
                try:
                    if n % 2:
                        other.submit([tmp_path / "a.txt"], tmp_path / f"{n}.bin", tokenizer=str(path), timeout=3)
                    else:
                        other.encode("x" * 20_000 * n, tokenizer=str(path), timeout=3)
                except TokendError as error:
                    outcomes.append(error)

            with hanging(daemon, path):
                callers = [threading.Thread(target=call, args=(n,)) for n in range(12)]
                for caller in callers:
                    caller.start()
                for caller in callers:
                    caller.join(PATIENCE_S)
                assert [type(outcome) for outcome in outcomes] == [DeadlineExceededError] * 12
                # All of it while they hang: what is quick, what needs a worker, a whole job, a cancel.
                assert client.ping() < PATIENCE_S
                assert "gpt2" in client.status().tokenizers
                assert client.cache_stats("gpt2") and client.cache_stats()
                assert len(client.encode("x " * 100_000)) > 100_000
                job = client.submit([tmp_path / "a.txt"], tmp_path / "out.bin")
                assert job.wait(timeout=PATIENCE_S).n_tokens == 4
                assert job.cancel().state == "done"
                assert [info.state for info in client.jobs()] == ["done"]
                daemon.process.send_signal(signal.SIGTERM)
                assert daemon.process.wait(PATIENCE_S) == 0
    finally:
        daemon.stop()
    assert not Path(daemon.endpoint.removeprefix("ipc://")).exists()


def test_those_who_want_one_tokenizer_share_its_load(daemon: Daemon, tmp_path: Path) -> None:
    """Many at once, of several tokenizers given by path: each gets its own."""
    names = []
    for n in range(4):
        path = tmp_path / f"t{n}.model"
        path.write_text(FIRST_LINES + "".join(f"{97 + k} {98 + k}\n" for k in range(n + 1)))
        names.append(str(path))
    own = [Tokenizer.load(name) for name in names]
    wrong: list[object] = []

    def call(n: int) -> None:
        with Client(daemon.endpoint, timeout=PATIENCE_S) as client:
            for text in ("abcdefgh", "abcdefgh " * 30_000):
                ids = client.encode(text, tokenizer=names[n % 4]).tolist()
                if ids != own[n % 4].encode(text).tolist():
                    wrong.append((n, ids[:9]))

    callers = [threading.Thread(target=call, args=(n,)) for n in range(16)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(PATIENCE_S)
    assert not wrong
    with Client(daemon.endpoint) as client:
        assert set(client.status().tokenizers) == {*names}
