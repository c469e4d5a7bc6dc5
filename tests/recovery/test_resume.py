"""Runs that are killed at random moments and gone on with, and what they leave and end with."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from interrupt import suspended_at
from tokend import Tokenizer, _core
from tokend.cli import main
from tokend_client import TokenStream
from tokend_client.errors import CancelledError, ConflictError, InputChangedError, OutputExistsError, StreamError

SMALL = {"TOKEND_CHUNK_BYTES": "20000", "TOKEND_COMMIT_MS": "5", "TOKEND_SEGMENT_BYTES": "300000"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Small files, a big one with documents, small ones again."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = random.Random(3)
    words = ["word", " the", "\n", " naïve", " 日本", "123", "  ", "sep|", "x" * 50, "'ll"]
    paths = []
    for n, n_words in enumerate([10, 0, 1_500_000, 3000, 400_000, 5]):
        path = folder / f"{n}.txt"
        path.write_text("".join(rng.choices(words, k=n_words)))
        paths.append(path)
    old = time.time() - 60
    for path in paths:
        os.utime(path, (old, old))
    return paths


def contents(output: Path) -> dict[str, bytes]:
    """All files of an output by name, without what differs from stream to stream."""
    if output.is_dir():
        files = {path.name: path.read_bytes() for path in output.iterdir()}
        manifest = json.loads(files.pop("manifest.json"))
        for name in ("stream_id", "commit"):
            manifest.pop(name)
        return {**files, "manifest": json.dumps(manifest).encode()}
    files = {path.name: path.read_bytes() for path in output.parent.glob(f"{output.name}*")}
    return {
        name.replace(output.name, "OUT"): data.replace(output.name.encode(), b"OUT") for name, data in files.items()
    }


def run(corpus: list[Path], output: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tokend", "encode", "--local", "--separator", "|", "-o", str(output), *options]
    return subprocess.Popen([*command, *map(str, corpus)], env={**os.environ, **SMALL}, stderr=subprocess.PIPE)


@pytest.mark.parametrize("format", ["bin", "stream"])
@pytest.mark.parametrize("threads", [1, 2])
def test_killed_and_resumed(format: str, threads: int, corpus: list[Path], tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    with run(corpus, whole, "--format", format, "--threads", "1") as process:
        assert process.wait(240) == 0
    expected = contents(whole)
    rng = random.Random(threads)
    output = tmp_path / "resumed"
    kills, seen = 0, 0
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        with run(corpus, output, "--format", format, "--threads", str(threads), "--resume") as process:
            # The interpreter's start takes most of a run: wait for the job itself.
            if kills < 6:
                checkpoint = (output if format == "stream" else output.parent).glob(".*checkpoint*")
                while process.poll() is None and not any(checkpoint):
                    checkpoint = (output if format == "stream" else output.parent).glob(".*checkpoint*")
                time.sleep(rng.uniform(0, 0.06))
            else:
                process.wait(240)
            process.send_signal(signal.SIGKILL)
            process.wait(240)
            stderr = process.stderr.read().decode() if process.stderr else ""
        if process.returncode == 0:
            if kills:
                break
            # The kill came too late, on a busy machine: once more.
            for path in output.glob("*") if format == "stream" else tmp_path.glob("resumed*"):
                path.unlink()
            continue
        assert process.returncode == -signal.SIGKILL, stderr
        kills += 1
        if format == "bin":
            assert not Path(f"{output}.json").exists() or output.exists()
        elif (output / "manifest.json").exists():
            _core.verify(str(output))
            manifest = json.loads((output / "manifest.json").read_text())
            assert manifest["n_tokens"] >= seen
            seen = manifest["n_tokens"]
    assert process.returncode == 0 and kills > 0
    assert contents(output) == {
        name: data.replace(b"whole", b"resumed") if format == "stream" else data for name, data in expected.items()
    }
    assert not list(tmp_path.glob("**/.*.partial"))


def test_suspended_runs_resume_and_cancelled_ones_leave_nothing(
    corpus: list[Path], tmp_path: Path, gpt2: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEND_CHUNK_BYTES", "20000")
    output = tmp_path / "out.bin"
    control = _core.JobControl()
    control.cancel()
    with pytest.raises(CancelledError):
        gpt2.encode_files(corpus, output, separator="|", control=control)
    assert list(tmp_path.iterdir()) == []
    assert suspended_at(gpt2, 0, corpus, output, separator="|")
    assert len(list(tmp_path.glob(".out.bin*.local.partial"))) == 4
    with pytest.raises(ConflictError, match="other options"):
        gpt2.encode_files(corpus, output, separator="||", resume=True)
    with pytest.raises(ConflictError, match="other inputs"):
        gpt2.encode_files(corpus[1:], output, separator="|", resume=True)
    assert not _core.discard_partials(str(output), "another")
    assert _core.discard_partials(str(output))
    assert list(tmp_path.iterdir()) == []


def test_damaged_partial_files_are_noticed(
    tmp_path: Path, corpus: list[Path], gpt2: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that are not what the checkpoint says are made again."""
    output = tmp_path / "out.bin"
    for name, value in SMALL.items():
        monkeypatch.setenv(name, value)
    whole = gpt2.encode_files(corpus, tmp_path / "whole.bin", separator="|")
    assert suspended_at(gpt2, whole["n_tokens"] // 2, corpus, output, separator="|")
    partial = tmp_path / ".out.bin.local.partial"
    with partial.open("r+b") as file:
        assert file.seek(0, os.SEEK_END) > 200_000
        file.seek(100_000)
        file.write(b"damage!")
    gpt2.encode_files(corpus, output, separator="|", resume=True)
    assert output.read_bytes() == (tmp_path / "whole.bin").read_bytes()


def test_inputs_that_changed_since(tmp_path: Path, gpt2: Tokenizer) -> None:
    source = tmp_path / "a.txt"
    source.write_text("hello " * 100_000)
    assert suspended_at(gpt2, 0, [source], tmp_path / "out.bin")
    source.write_text("other " * 100_001)
    with pytest.raises(InputChangedError, match=r"a\.txt.*since the interrupted run"):
        gpt2.encode_files([source], tmp_path / "out.bin", resume=True)
    gpt2.encode_files([source], tmp_path / "out.bin")
    assert gpt2.decode(np.fromfile(tmp_path / "out.bin", "<u2")[:-1]) == source.read_text()


@pytest.mark.parametrize("format", ["bin", "stream"])
def test_a_resume_that_is_refused_can_be_had_later(
    format: str, tmp_path: Path, gpt2: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who puts the input back as it was goes on where the run had stopped."""
    for name, value in SMALL.items():
        monkeypatch.setenv(name, value)
    source, output = tmp_path / "a.txt", tmp_path / "out"
    source.write_text("hello there " * 100_000)
    whole = gpt2.encode_files([source], tmp_path / "whole", format=format)
    assert suspended_at(gpt2, whole["n_tokens"] // 2, [source], output, format=format)
    times = source.stat()
    with source.open("r+b") as file:
        file.write(b"HELLO")
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(InputChangedError, match="since the interrupted run"):
        gpt2.encode_files([source], output, format=format, resume=True)
    with source.open("r+b") as file:
        file.write(b"hello")
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
    control = _core.JobControl()
    assert gpt2.encode_files([source], output, format=format, resume=True, control=control)["n_tokens"]
    data = "tokens-00000.bin" if format == "stream" else ""
    assert (output / data).read_bytes() == (tmp_path / "whole" / data).read_bytes()


@pytest.mark.parametrize("format", ["bin", "stream"])
def test_force_and_resume(format: str, tmp_path: Path, gpt2: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """An output that is there is replaced by what an interrupted run had begun."""
    for name, value in SMALL.items():
        monkeypatch.setenv(name, value)
    old, source, output = tmp_path / "old.txt", tmp_path / "a.txt", tmp_path / "out"
    old.write_text("old")
    source.write_text("hello there " * 100_000)
    whole = gpt2.encode_files([source], tmp_path / "whole", format=format)
    gpt2.encode_files([old], output, format=format)
    assert suspended_at(gpt2, whole["n_tokens"] // 2, [source], output, format=format, force=True)
    made = gpt2.encode_files([source], output, format=format, force=True, resume=True)
    assert made["n_tokens"] == whole["n_tokens"]
    data = "tokens-00000.bin" if format == "stream" else ""
    assert (output / data).read_bytes() == (tmp_path / "whole" / data).read_bytes()
    _core.verify(str(output))


def test_a_stream_is_replaced_only_by_force(tmp_path: Path, gpt2: Tokenizer) -> None:
    source, output = tmp_path / "a.txt", tmp_path / "out"
    source.write_text("one")
    first = gpt2.encode_files([source], output, format="stream")
    assert gpt2.encode_files([source], output, format="stream")["up_to_date"]
    source.write_text("another")
    with pytest.raises(OutputExistsError):
        gpt2.encode_files([source], output, format="stream")
    second = gpt2.encode_files([source], output, format="stream", force=True)
    assert second["stream_id"] != first["stream_id"] and second["state"] == "sealed"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "keep").write_text("me")
    with pytest.raises(OutputExistsError):
        gpt2.encode_files([source], tmp_path / "mine", format="stream", force=True)
    assert (tmp_path / "mine" / "keep").read_text() == "me"


def test_the_remains_of_a_stream_are_removed_by_the_next_job(tmp_path: Path, gpt2: Tokenizer) -> None:
    """A job that replaces a stream and is killed while it removes the old one leaves no manifest."""
    source, output = tmp_path / "a.txt", tmp_path / "out"
    source.write_text("one")
    gpt2.encode_files([source], output, format="stream")
    whole = contents(output)

    def remains(*gone: str) -> None:
        gpt2.encode_files([source], output, format="stream", force=True)
        (output / "manifest.json").rename(output / ".manifest.json.retired.partial")
        for name in gone:
            (output / name).unlink()

    for gone in ([], ["tokens-00000.bin"], ["tokens-00000.bin", "ends-00000.u64"]):
        for options in ({}, {"force": True}, {"force": True, "resume": True}):
            remains(*gone)
            with pytest.raises(StreamError, match="no manifest"):
                TokenStream(output)
            gpt2.encode_files([source], output, format="stream", **options)  # type: ignore[arg-type]
            found = contents(output)
            assert found.keys() == whole.keys()
            assert all(found[name] == whole[name] for name in whole if not name.endswith("manifest.json"))
    # With somebody else's file in it, it is not ours to remove.
    remains()
    (output / "keep").write_text("me")
    with pytest.raises(OutputExistsError):
        gpt2.encode_files([source], output, format="stream", force=True)


def test_a_manifest_removed_by_hand(tmp_path: Path, gpt2: Tokenizer) -> None:
    source, output = tmp_path / "a.txt", tmp_path / "out"
    source.write_text("one")
    gpt2.encode_files([source], output, format="stream")
    (output / "manifest.json").unlink()
    with pytest.raises(OutputExistsError):
        gpt2.encode_files([source], output, format="stream")
    assert main(["verify", str(output)]) == 1
    gpt2.encode_files([source], output, format="stream", force=True)
    _core.verify(str(output))


def test_a_failed_job_is_made_anew_by_force(tmp_path: Path, gpt2: Tokenizer) -> None:
    source, output = tmp_path / "a.txt", tmp_path / "out"
    source.write_bytes(b"fine\xff")
    with pytest.raises(Exception, match="not valid UTF-8"):
        gpt2.encode_files([source], output, format="stream")
    source.write_bytes(b"fine")
    gpt2.encode_files([source], output, format="stream", force=True, resume=True)
    _core.verify(str(output))


def test_what_a_killed_job_left_beside_its_sealed_stream_goes(tmp_path: Path, gpt2: Tokenizer) -> None:
    source, output = tmp_path / "a.txt", tmp_path / "out"
    source.write_text("one")
    gpt2.encode_files([source], output, format="stream")
    left = output / ".checkpoint.local.partial"
    left.write_bytes(b"x")
    assert gpt2.encode_files([source], output, format="stream", resume=True)["up_to_date"]
    assert not left.exists()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["fifo", "directory", "nested"])
def test_odd_things_in_a_manifests_place(kind: str, tmp_path: Path, gpt2: Tokenizer) -> None:
    source, output = tmp_path / "a.txt", tmp_path / "out"
    source.write_text("one")
    gpt2.encode_files([source], output, format="stream")
    manifest = output / "manifest.json"
    manifest.unlink()
    if kind == "fifo":
        os.mkfifo(manifest)
    elif kind == "directory":
        manifest.mkdir()
    else:
        manifest.write_text("[" * 100_000)
    with pytest.raises(StreamError, match=r"manifest\.json"):
        TokenStream(output)
    assert main(["verify", str(output)]) == main(["inspect", str(output)]) == 1


def test_a_failed_stream_says_so(tmp_path: Path, gpt2: Tokenizer) -> None:
    source, output = tmp_path / "a.txt", tmp_path / "out"
    source.write_bytes(b"fine\xff")
    with pytest.raises(Exception, match="not valid UTF-8"):
        gpt2.encode_files([source], output, format="stream")
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["state"] == "failed" and manifest["resume"] is None
    assert manifest["error"]["code"] == "INPUT_INVALID"


@pytest.mark.parametrize("format", ["bin", "stream"])
def test_looking_whether_an_output_is_up_to_date_can_be_cancelled(format: str, tmp_path: Path, gpt2: Tokenizer) -> None:
    """All of it is read for that, which takes its time."""
    source, output = tmp_path / "a.txt", tmp_path / "out"
    source.write_text("one")
    gpt2.encode_files([source], output, format=format)
    control = _core.JobControl()
    control.cancel()
    with pytest.raises(CancelledError):
        gpt2.encode_files([source], output, format=format, control=control)
    assert gpt2.encode_files([source], output, format=format)["up_to_date"]
