"""Bad input through the command line: a message with the path and a hint, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def tokend(*arguments: object, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "tokend", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=60, env={**os.environ, **environment})


def test_what_is_no_set_and_what_is_no_option(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a text")
    for command in ("verify", "inspect", "convert"):
        more = ["-o", tmp_path / "o", "--format", "mds"] if command == "convert" else []
        for name, message in (
            ("a.txt", "a.txt: no token set that is known here"),
            ("none", "none: no such file or set"),
        ):
            failed = tokend(command, tmp_path / name, *more)
            assert failed.returncode == 1 and message in failed.stderr.decode(), (command, failed.stderr)
    failed = tokend("encode", "a.txt", "-o", "b.bin", "--format", "foo")
    said = failed.stderr.decode()
    assert failed.returncode == 2 and said.startswith("tokend: error: argument --format: invalid choice: 'foo'")
    assert said.endswith("hint: tokend encode --help\n") and "usage" not in said


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "good.txt").write_text("good text")
    (tmp_path / "bad.txt").write_bytes(b"good \xff")
    (tmp_path / "special.txt").write_text("a <|endoftext|>")
    (tmp_path / "dir").mkdir()
    (tmp_path / "broken.model").write_text("simple-bpe v1\n\\S+\n0\n97 98\n97 x\n")
    (tmp_path / "there.bin").write_bytes(b"precious")
    os.mkfifo(tmp_path / "fifo")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "code", "message", "hint"),
    [
        (["none.txt"], 1, "none.txt: no such file", "check the path"),
        (["dir"], 1, "dir: the directory holds no files", "begin with a dot"),
        (["none/*.txt"], 1, "none/*.txt: nothing matches", "check the pattern"),
        (["fifo"], 1, "fifo: is a FIFO", "regular file"),
        (["/dev/zero"], 1, "/dev/zero: is a device", "regular file"),
        (["bad.txt"], 1, "bad.txt: not valid UTF-8 at byte 5 (0xff)", "--errors replace"),
        (["special.txt"], 1, 'special.txt: text contains the special token "<|endo', "--special text"),
        (["good.txt", "--tokenizer", "gpt9"], 1, "gpt9: unknown tokenizer", ""),
        (["good.txt", "--tokenizer", "broken.model"], 1, "broken.model:5: expected a merge of two ids", ""),
        (["good.txt", "-o", "there.bin"], 1, "there.bin: output exists", "--force"),
        (["good.txt", "-o", "good.txt", "--force"], 2, "good.txt: output is also an input", "another output"),
        (["good.txt", "-o", "no/such/dir.bin"], 1, "no/such", "check the path"),
        (["good.txt", "--eot-token", "<end>"], 1, "no special token '<end>'", "<|endoftext|>"),
        (["good.txt", "--separator", ""], 2, "separator: it is empty", ""),
        ([], 2, "no input files", "--files-from"),
    ],
)  # fmt: skip
def test_encode(folder: Path, arguments: list[str], code: int, message: str, hint: str) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    output = [] if "-o" in arguments else ["-o", "out.bin"]
    command = [sys.executable, "-m", "tokend", "encode", "--local", *arguments, *output]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    assert message in done.stderr and hint in done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_empty_files_are_fine(folder: Path) -> None:
    (folder / "empty.txt").write_bytes(b"")
    assert tokend("encode", "--local", folder / "empty.txt", "-o", folder / "out.bin").returncode == 0
    assert (folder / "out.bin").read_bytes() == (50256).to_bytes(2, "little")


def test_an_unreadable_file(folder: Path) -> None:
    (folder / "good.txt").chmod(0)
    if os.access(folder / "good.txt", os.R_OK):
        pytest.skip("this user may read everything")
    done = tokend("encode", "--local", folder / "good.txt", "-o", folder / "out.bin")
    assert done.returncode == 1 and b"check the permissions" in done.stderr


def test_no_daemon(run_folder: Path) -> None:
    for command in (["jobs"], ["status"], ["stop"], ["wait", "x"], ["cancel", "x"]):
        done = tokend(*command, "--endpoint", f"ipc://{run_folder}/none.sock")
        assert done.returncode == 3 and b"tokend serve" in done.stderr, command


def test_endpoints(tmp_path: Path) -> None:
    done = tokend("status", "--endpoint", "ipc:///" + "x" * 120)
    assert done.returncode == 2 and b"107 are the limit" in done.stderr
    done = tokend("status", "--endpoint", "tcp://127.0.0.1:1")
    assert done.returncode == 2 and b"ipc://" in done.stderr


def test_a_set_without_its_manifest_is_not_there(folder: Path) -> None:
    done = tokend("inspect", folder / "there.bin")
    assert done.returncode == 0 and b"another tool" in done.stdout and b"pass --dtype" in done.stdout
    (folder / "there.bin.ends").write_bytes(b"")
    done = tokend("inspect", folder / "there.bin")
    assert done.returncode == 1 and b"no manifest" in done.stderr
    done = tokend("decode", folder / "there.bin")
    assert done.returncode == 2 and b"--tokenizer" in done.stderr


def test_the_whole_way_through_a_daemon_of_its_own(folder: Path, run_folder: Path) -> None:
    environment = {
        "TOKEND_ENDPOINT": f"ipc://{run_folder}/d/tokend.sock",
        "TOKEND_STATE_DIR": str(run_folder / "state"),
    }
    listed = os.fsencode(folder / "good.txt") + b"\0"
    output = folder / "out.bin"
    done = tokend("encode", "--files-from", "-", "-o", output, stdin=listed, **environment)
    try:
        assert done.returncode == 0, done.stderr
        assert b"started a daemon" in done.stderr and b"3 tokens, 1 document" in done.stderr
        again = tokend("encode", folder / "good.txt", "-o", output, **environment)
        assert again.returncode == 0 and b"up to date" in again.stderr and b"started" not in again.stderr
        assert tokend("decode", output, "--count", 2).stdout == b"good text"
        assert b"tokens       3" in tokend("inspect", output).stdout
        assert b"2 done" in tokend("status", **environment).stdout
        forced = tokend(
            "encode", folder / "good.txt", "-o", output, "--eot", "none", "--force", "--json", **environment
        )
        assert forced.stdout.startswith(b"{") and output.stat().st_size == 4
        changed = tokend("encode", folder / "good.txt", "-o", output, **environment)
        assert changed.returncode == 1 and b"output exists" in changed.stderr
    finally:
        assert tokend("stop", **environment).returncode == 0
    assert tokend("status", **environment).returncode == 3


def test_text_and_decode() -> None:
    assert tokend("text", "Hello, world!").stdout == b"15496 11 995 0\n"
    assert tokend("text", "-", stdin="é".encode()).stdout == b"2634\n"
    assert tokend("text", "-", stdin=b"\xff").returncode == 1
    assert tokend("decode", stdin=b"15496 11 995 0").stdout == b"Hello, world!"
    done = tokend("decode", stdin=b"15496 x")
    assert done.returncode == 2 and b"number 2 on stdin" in done.stderr
    assert b"id 99999 at position 0" in tokend("decode", stdin=b"99999").stderr
