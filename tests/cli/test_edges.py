"""What only a hostile shell gives: broken encodings, broken manifests' neighbours, a daemon that dies or is busy."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest


def tokend(*arguments: str | bytes, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "tokend", *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=60, env={**os.environ, **environment})
    assert b"Traceback" not in done.stderr, done.stderr
    return done


@pytest.mark.parametrize(
    "arguments",
    [["text", b"\xff"], ["encode", "--local", b"x\xff", "-o", "o.bin"], ["encode", "--local", "x", "-o", b"\xff"]],
)
def test_arguments_that_are_not_utf8(arguments: list[str | bytes]) -> None:
    done = tokend(*arguments)
    assert done.returncode == 2 and b"is not valid UTF-8" in done.stderr


def test_a_list_with_a_name_that_is_not_utf8() -> None:
    done = tokend("encode", "--local", "--files-from", "-", "-o", "o.bin", stdin=b"x\xff\n")
    assert done.returncode == 2 and b"is not valid UTF-8" in done.stderr


@pytest.mark.parametrize("arguments", [["", "-o", "o.bin"], ["x", "-o", ""]])
def test_empty_paths(arguments: list[str]) -> None:
    done = tokend("encode", "--local", *arguments)
    assert done.returncode == 2 and b"path is empty" in done.stderr


@pytest.mark.parametrize("word", [b"4294967296", b"99999999999999999999999", b"9" * 5000])
def test_ids_beyond_all_vocabularies(word: bytes) -> None:
    done = tokend("decode", stdin=b"1 " + word)
    assert done.returncode == 2 and b"(number 2 on stdin) is above the largest id" in done.stderr


def test_a_manifest_stands_for_its_set(tmp_path: Path) -> None:
    source, output = tmp_path / "naïve.txt", tmp_path / "o.bin"
    source.write_text("日本")
    assert tokend("encode", "--local", str(source), "-o", str(output), "--eot", "none").returncode == 0
    assert tokend("decode", f"{output}.json").stdout == "日本".encode()
    assert tokend("inspect", str(output), PYTHONIOENCODING="ascii").returncode == 0


def test_a_daemon_that_cannot_start_is_told_at_once(run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    environment = {"TOKEND_ENDPOINT": f"ipc://{run_folder}/d/t.sock", "TOKEND_STATE_DIR": str(run_folder / "state")}
    (run_folder / "d").mkdir(mode=0o700)
    with (run_folder / "d" / "t.sock.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = tokend("encode", str(tmp_path / "a.txt"), "-o", str(tmp_path / "o.bin"), **environment)
    assert done.returncode == 1 and b"ended as it started" in done.stderr and b"daemon.log" in done.stderr
