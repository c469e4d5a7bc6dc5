"""Disks that are full, files that are damaged, directories that others write to."""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from interrupt import suspended_at
from tokend import Tokenizer, _core
from tokend.cli import main
from tokend_client.errors import ConflictError, NoSpaceError, StreamError, TokendError


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("format", ["bin", "stream"])
def test_full_and_freed(
    format: str, small_disk: Path, tmp_path: Path, gpt2: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEND_CHUNK_BYTES", "50000")
    monkeypatch.setenv("TOKEND_COMMIT_MS", "1")
    source, output = tmp_path / "a.txt", small_disk / "out"
    source.write_text("a b c d e f " * 100_000)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(3_200_000))
    with pytest.raises(NoSpaceError, match="no space left"):
        gpt2.encode_files([source], output, format=format)
    assert not output.is_file()
    assert list(small_disk.glob("**/.*checkpoint*.partial"))
    if format == "stream":
        _core.verify(str(output))
    ballast.unlink()
    manifest = gpt2.encode_files([source], output, format=format, resume=True)
    data = output / "tokens-00000.bin" if format == "stream" else output
    assert gpt2.decode(np.fromfile(data, "<u2")[:-1]) == source.read_text()
    assert manifest["n_tokens"] * 2 == data.stat().st_size
    assert not list(small_disk.glob("**/.*.partial"))


@pytest.mark.parametrize("format", ["bin", "stream"])
def test_verify_finds_every_flipped_bit(format: str, tmp_path: Path, gpt2: Tokenizer) -> None:
    rng = random.Random(1)
    source, output = tmp_path / "a.txt", tmp_path / "out"
    source.write_text("".join(rng.choices(["one ", "two ", "|"], k=3000)))
    gpt2.encode_files([source], output, format=format, separator="|")
    assert json.loads(_core.verify(str(output)))["n_bytes"] > 0
    data, ends = (
        (output / "tokens-00000.bin", output / "ends-00000.u64")
        if format == "stream"
        else (output, tmp_path / "out.ends")
    )
    for path in (data, ends):
        good = path.read_bytes()
        for _ in range(100):
            bad = bytearray(good)
            bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
            path.write_bytes(bad)
            with pytest.raises(StreamError, match=path.name):
                _core.verify(str(output))
        for bad in (good[:-1], good + b"\0", b""):
            path.write_bytes(bad)
            with pytest.raises(StreamError, match="bytes, but the manifest says"):
                _core.verify(str(output))
        path.write_bytes(good)
    _core.verify(str(output))


def test_verify_names_the_first_fault(tmp_path: Path, gpt2: Tokenizer, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("one two three")
    output = tmp_path / "out.bin"
    gpt2.encode_files([tmp_path / "a.txt"], output)
    assert main(["verify", str(output)]) == 0 and main(["verify", f"{output}.json"]) == 0
    assert "complete, 4 tokens" in capsys.readouterr().out
    ids = np.fromfile(output, "<u2")
    ids[2] = 60000
    ids.tofile(output)
    assert main(["verify", str(output)]) == 1
    assert "id 60000 at token 2 is not below 50257" in capsys.readouterr().err
    os.unlink(f"{output}.json")
    assert main(["verify", str(output)]) == 1
    assert "the manifest is missing" in capsys.readouterr().err
    assert main(["verify", str(tmp_path / "none")]) == 1


def test_another_keys_partials_are_not_touched(tmp_path: Path, gpt2: Tokenizer) -> None:
    theirs = tmp_path / ".out.bin.theirs.partial"
    theirs.write_text("theirs")
    (tmp_path / "a.txt").write_text("text")
    gpt2.encode_files([tmp_path / "a.txt"], tmp_path / "out.bin")
    assert theirs.read_text() == "theirs"


def test_half_published_sets(tmp_path: Path, gpt2: Tokenizer) -> None:
    """A kill between the renames: data without a manifest, known as ours by its inode."""
    (tmp_path / "a.txt").write_text("text " * 1000)
    output = tmp_path / "out.bin"
    assert suspended_at(gpt2, 0, [tmp_path / "a.txt"], output)
    partial, ends = tmp_path / ".out.bin.local.partial", tmp_path / ".out.bin.ends.local.partial"
    inodes = [partial.stat().st_ino, ends.stat().st_ino]
    with (tmp_path / ".out.bin.checkpoint.local.partial").open("a") as log:
        log.write(json.dumps({"publishing": inodes}) + "\n")
    partial.rename(output)
    manifest = gpt2.encode_files([tmp_path / "a.txt"], output, resume=True)
    assert manifest["n_tokens"] == len(np.fromfile(output, "<u2")) and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("force", [False, True])
def test_two_jobs_do_not_make_one_output(force: bool, tmp_path: Path, gpt2: Tokenizer) -> None:
    (tmp_path / "a.txt").write_text("text of a file " * 4_000_000)
    (tmp_path / "b.txt").write_text("other")
    output, control = tmp_path / "out.bin", _core.JobControl()
    errors: list[BaseException] = []

    def first() -> None:
        try:
            gpt2.encode_files([tmp_path / "a.txt"], output, threads=1, control=control)
        except TokendError as error:
            errors.append(error)

    worker = threading.Thread(target=first)
    worker.start()
    while not (tmp_path / ".out.bin.local.partial").exists():
        assert worker.is_alive()
        time.sleep(0.001)
    with pytest.raises(ConflictError, match=r"out\.bin"):
        encode(gpt2, [tmp_path / "b.txt"], output, force=force, partial_key="another")
    assert worker.is_alive(), "the first was done too early to be in the way"
    assert not list(tmp_path.glob("*.another.partial"))
    control.cancel()
    worker.join(60)
    assert len(errors) == 1
    # It is free again, also where a killed job left its lock file.
    (tmp_path / ".out.bin.lock").touch()
    encode(gpt2, [tmp_path / "b.txt"], output, force=force, partial_key="another")
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "b.txt", "out.bin", "out.bin.ends", "out.bin.json"]


def encode(
    gpt2: Tokenizer, inputs: list[Path], output: Path, *, force: bool = False, partial_key: str, format: str = "bin"
) -> None:
    _core.encode_files(
        gpt2._core,
        [str(path) for path in inputs],
        str(output),
        separator=None,
        eot="append",
        eot_id=50256,
        special="raise",
        errors="strict",
        threads=1,
        force=force,
        roots=[],
        control=_core.JobControl(),
        partial_key=partial_key,
        format=format,
    )


@pytest.mark.parametrize("format", ["bin", "stream"])
def test_what_is_there_is_looked_at_only_beneath_the_roots(format: str, tmp_path: Path, gpt2: Tokenizer) -> None:
    """A link out of the root in the place of a manifest or a file of an output: the set behind it is not read."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    source = root / "a.txt"
    source.write_text("text " * 100)
    gpt2.encode_files([source], outside / "out", format=format)
    output = root / "out"
    if format == "stream":
        output.mkdir()
        links = {output / name: outside / "out" / name for name in os.listdir(outside / "out")}
    else:
        links = {root / name: outside / name for name in os.listdir(outside)}
    for link, target in links.items():
        link.symlink_to(target)
    # Without roots it is as good as any.
    assert gpt2.encode_files([source], output, format=format)["up_to_date"]
    assert json.loads(_core.verify(str(output)))["n_documents"] == 1
    for look in (
        lambda: _core.check_paths([str(source)], str(output), force=False, roots=[str(root)], format=format),
        lambda: _core.verify(str(output), roots=[str(root)]),
    ):
        with pytest.raises(TokendError, match="outside the allowed roots"):
            look()
    # The manifest is inside, the data is not.
    manifest = next(link for link in links if link.name.endswith(".json"))
    text = manifest.read_text()
    manifest.unlink()
    manifest.write_text(text)
    with pytest.raises(TokendError, match="outside the allowed roots"):
        _core.verify(str(output), roots=[str(root)])


@pytest.mark.parametrize("format", ["bin", "stream"])
def test_a_manifest_names_no_files_elsewhere(format: str, tmp_path: Path, gpt2: Tokenizer) -> None:
    (tmp_path / "a.txt").write_text("text " * 100)
    output = tmp_path / "out"
    gpt2.encode_files([tmp_path / "a.txt"], output, format=format)
    path = output / "manifest.json" if format == "stream" else tmp_path / "out.json"
    name = "tokens-00000.bin" if format == "stream" else "out"
    path.write_text(path.read_text().replace(f'"{name}"', f'"../{tmp_path.name}/{name}"'))
    with pytest.raises(StreamError, match="is no name of a file beside it"):
        _core.verify(str(output))


def test_a_lock_file_that_a_killed_job_left_goes(tmp_path: Path) -> None:
    """Killed before its first partial file: nothing but the lock tells of the job."""
    lock = tmp_path / ".out.bin.lock"
    assert not _core.discard_partials(str(tmp_path / "out.bin"), "key")
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert not _core.discard_partials(str(tmp_path / "out.bin"), "key")
        assert lock.exists(), "another job has it"
    assert _core.discard_partials(str(tmp_path / "out.bin"), "key")
    assert not lock.exists()


def test_where_renames_replace_always_a_link_does_not(tmp_path: Path) -> None:
    """A file system without RENAME_NOREPLACE: EINVAL from renameat2, as it would say."""
    strace = shutil.which("strace")
    if strace is None or subprocess.run([strace, "-o", os.devnull, "true"], capture_output=True).returncode != 0:
        pytest.skip("strace is not installed, or may not trace")
    source = tmp_path / "a.txt"
    source.write_text("a b c")
    log = tmp_path / "trace"
    command = [strace, "-f", "--seccomp-bpf", "-o", str(log), "-e", "trace=renameat2,linkat,unlinkat"]
    command += ["-e", "inject=renameat2:error=EINVAL", sys.executable, "-m", "tokend", "encode", "--local"]
    done = subprocess.run([*command, "-o", str(tmp_path / "out.bin"), str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    calls = log.read_text()
    assert calls.count("(INJECTED)") == calls.count(" linkat(") == 3
    _core.verify(str(tmp_path / "out.bin"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.txt", "out.bin", "out.bin.ends", "out.bin.json", "trace",
    ]  # fmt: skip
