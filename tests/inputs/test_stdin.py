"""What came through stdin is called `-` wherever a source is named; the private copy of it is nobody's business."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Daemon
from tokend import reuse
from tokend.sources import copy_of_stdin
from tokend_client import Client
from tokend_client.errors import BadRequestError

DATA = b'{"id":1,"text":"one"}\n{bad\n{"id":2,"text":"two"}\n'
SKIP = ("--bad-documents", "skip")
pytestmark = pytest.mark.timeout(300)


def tokend(*arguments: str | Path, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tokend", *map(str, arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=120, env={**os.environ, **environment})
    return subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())


def paths(manifest: dict[str, Any]) -> list[str]:
    return [source["path"] for source in manifest["sources"]]


def check_nowhere(folder: Path, name: str) -> None:
    """No file of the directory names the copy, and it is gone."""
    for path in folder.rglob("*"):
        assert name not in path.name
        assert not path.is_file() or name.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("where", ["local", "daemon"])
@pytest.mark.parametrize("format", ["bin", "stream"])
def test_sets_lists_and_errors_name_it(where: str, format: str, tmp_path: Path, daemon: Daemon) -> None:
    output = tmp_path / "o"
    to = ["--local"] if where == "local" else ["--endpoint", daemon.endpoint]
    command = ["encode", "-", "-o", output, "--format", format, *to]
    failed = tokend(*command, stdin=DATA)
    assert failed.returncode == 1 and "error: -: line 2, byte 22: not valid JSON" in failed.stderr
    assert ".o.stdin" not in failed.stderr
    again = [*command, *SKIP, *(["--resume"] if where == "local" else [])]
    done = tokend(*again, "--json", stdin=DATA)
    assert done.returncode == 0, done.stderr
    assert paths(json.loads(done.stdout)) == ["-"]
    listed = [json.loads(line) for line in Path(f"{output}.skipped.jsonl").read_text().splitlines()]
    assert [(entry["path"], entry["line"]) for entry in listed] == [("-", 2)]
    check_nowhere(tmp_path, ".o.stdin")
    # The same once more is the same.
    again = tokend(*command, *SKIP, stdin=DATA)
    assert again.returncode == 0 and "is up to date" in again.stderr
    other = tokend(*command, *SKIP, stdin=DATA + DATA)
    assert other.returncode == 1 and "output exists" in other.stderr
    explained = tokend("explain", output, "--token", "2")
    assert "source       stdin, document 1 in it" in explained.stdout and "'two'" in explained.stdout
    assert "the text came through stdin, and no copy of it is kept" in explained.stdout
    # While there is one, for instance beside a stream that grows, it is looked at.
    Path(copy_of_stdin(str(output))).write_bytes(DATA)
    explained = tokend("explain", output, "--token", "2", "--json")
    assert json.loads(explained.stdout)["is_exact"] and json.loads(explained.stdout)["document_offset_bytes"] == 27
    assert "3 = 2 out + 1 bad" in tokend("inspect", output).stdout


def test_a_daemon_that_was_killed_finds_its_sets(tmp_path: Path, daemon: Daemon) -> None:
    """The name is in the journal: what a manifest says of the inputs is compared with it."""
    output = tmp_path / "o.bin"
    done = tokend("encode", "-", "-o", output, *SKIP, "--json", "--endpoint", daemon.endpoint, stdin=DATA)
    assert done.returncode == 0, done.stderr
    daemon.kill()
    daemon.start()
    with Client(daemon.endpoint) as client:
        (info,) = client.jobs()
        assert paths(client.job(info.job_id).wait(timeout=60).manifest) == ["-"]
        (tmp_path / "a.txt").write_text("a")
        with pytest.raises(BadRequestError, match="holds what came through stdin, but is no input"):
            client.submit([tmp_path / "a.txt"], tmp_path / "p.bin", stdin=tmp_path / "b.txt")


@pytest.mark.parametrize("where", ["local", "daemon"])
def test_formats_fields_and_updates_name_it(where: str, tmp_path: Path, daemon: Daemon) -> None:
    to = ["--local"] if where == "local" else ["--endpoint", daemon.endpoint]
    command = ["encode", "-", *SKIP, *to]
    formats = [*command, "-o", tmp_path / "o", "--format", "olmo", "--format", "mds"]
    assert tokend(*formats, stdin=DATA).returncode == 0
    for name in ("olmo", "mds"):
        assert paths(json.loads((tmp_path / f"o.{name}" / "tokend.json").read_text())) == ["-"]
    again = tokend(*formats, stdin=DATA)
    assert again.returncode == 0 and again.stderr.count("is up to date") == 2
    fields = [*command, "--field", f"text={tmp_path}/a.bin", "--field", f"id={tmp_path}/b.bin", "--json"]
    done = tokend(*fields, stdin=DATA.replace(b":1", b':"1"').replace(b":2", b':"2"'))
    assert done.returncode == 0, done.stderr
    assert paths(json.loads(done.stdout)) == paths(json.loads(done.stdout)["more"][0]) == ["-"]
    whole = [*command, "-o", tmp_path / "u.bin"]
    assert tokend(*whole, stdin=DATA).returncode == 0
    grown = tokend(*whole, "--update", stdin=DATA + DATA)
    assert grown.returncode == 0 and f"({len(DATA)} B of that new and encoded)" in grown.stderr
    check_nowhere(tmp_path, ".u.bin.stdin")
    failed = tokend("encode", "-", "-o", tmp_path / "u.bin", "--update", *to, stdin=DATA + DATA + b"{")
    assert failed.returncode == 1 and ".u.bin.stdin" not in failed.stderr
    entries = [json.loads(line) for line in (tmp_path / "u.bin.skipped.jsonl").read_text().splitlines()]
    assert [(entry["path"], entry["line"]) for entry in entries] == [("-", 2), ("-", 5)]


def test_known_texts_are_shared_under_its_name(tmp_path: Path) -> None:
    text = b"".join(b"line %d of some text that is long enough to be looked up\n" % n for n in range(200_000))
    assert len(text) > reuse.MIN_BYTES
    (tmp_path / "in.txt").write_bytes(text)
    state = {"TOKEND_STATE_DIR": str(tmp_path / "state")}
    assert tokend("encode", tmp_path / "in.txt", "-o", tmp_path / "a.bin", "--local", **state).returncode == 0
    done = tokend("encode", "-", "-o", tmp_path / "b.bin", "--local", stdin=text, **state)
    assert "shared with" in done.stderr, done.stderr
    assert paths(json.loads((tmp_path / "b.bin.json").read_text())) == ["-"]
    assert tokend("verify", tmp_path / "b.bin").returncode == 0
    again = tokend("encode", "-", "-o", tmp_path / "b.bin", "--local", stdin=text, **state)
    assert "is up to date" in again.stderr
