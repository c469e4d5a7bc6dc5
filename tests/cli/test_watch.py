"""`tokend encode --watch`: a stream that takes up what comes into directories."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tokend import Tokenizer
from tokend.cli import main
from tokend.explain import explain
from tokend_client import TokenStream


def watch(folder: Path, *options: str) -> int:
    return main(["encode", "--watch", str(folder / "in"), "-o", str(folder / "out"), "--once", *options])


def documents(folder: Path, gpt2: Tokenizer) -> list[str]:
    assert main(["verify", str(folder / "out")]) == 0
    with TokenStream(folder / "out") as stream:
        return [gpt2.decode(stream.document(n)[:-1]) for n in range(stream.n_documents)]


@pytest.mark.timeout(280)
@pytest.mark.parametrize("kind", ["jsonl", "txt"])
def test_documents_are_taken_once_they_are_complete(kind: str, tmp_path: Path, gpt2: Tokenizer) -> None:
    chance = random.Random(3)
    (tmp_path / "in").mkdir()
    options = [] if kind == "jsonl" else ["--separator", "||"]
    pending: dict[str, bytes] = {}
    written: list[str] = []
    before: list[str] = []
    for step in range(6):
        for name in ("a", "b", "c")[: 1 + step // 2]:
            for _ in range(chance.randrange(3)):
                text = f"document {len(written)} naïve {'x' * chance.randrange(5)}"
                written.append(text)
                line = json.dumps({"text": text}) + "\n" if kind == "jsonl" else f"{text}||"
                pending[name] = pending.get(name, b"") + line.encode()
            # Files grow by pieces that end anywhere.
            with (tmp_path / "in" / f"{name}.{kind}").open("ab") as file:
                n_bytes = chance.randrange(len(pending.get(name, b"")) + 1)
                file.write(pending.get(name, b"")[:n_bytes])
                pending[name] = pending.get(name, b"")[n_bytes:]
        assert watch(tmp_path, *options) == 0
        if (tmp_path / "out" / "manifest.json").exists():
            found = documents(tmp_path, gpt2)
            assert found[: len(before)] == before and set(found) <= set(written)
            before = found
    for name, rest in pending.items():
        with (tmp_path / "in" / f"{name}.{kind}").open("ab") as file:
            file.write(rest)
    assert watch(tmp_path, "--seal", *options) == 0
    assert sorted(documents(tmp_path, gpt2)) == sorted(written)
    with TokenStream(tmp_path / "out") as stream:
        assert stream.state == "sealed"
    assert not [name for name in os.listdir(tmp_path / "out") if name.startswith(".")]
    assert main(["convert", str(tmp_path / "out"), "-o", str(tmp_path / "m"), "--format", "megatron"]) == 0


def test_a_published_file_that_changes_ends_it(
    tmp_path: Path, gpt2: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a.jsonl"
    path.write_text('{"text": "one"}\n')
    assert watch(tmp_path) == 0
    path.write_text('{"text": "0ne"}\n{"text": "two"}\n')
    assert watch(tmp_path) == 1
    assert "a.jsonl: the 16 bytes that were encoded have changed" in capsys.readouterr().err
    path.write_text("")
    assert watch(tmp_path) == 1
    assert "it was cut" in capsys.readouterr().err
    path.write_text('{"text": "one"}\n{"text": 2}\n')
    assert watch(tmp_path) == 1
    path.write_text('{"text": "one"}\n{"text": "two"}\n')
    assert watch(tmp_path) == 0
    assert documents(tmp_path, gpt2) == ["one", "two"]
    assert watch(tmp_path, "--bad-documents", "skip") == 2
    assert main(["encode", "--watch", str(tmp_path / "none"), "-o", str(tmp_path / "o2"), "--once"]) == 1
    assert not (tmp_path / "o2").exists()


@pytest.mark.timeout(280)
def test_it_runs_is_killed_and_goes_on(tmp_path: Path, gpt2: Tokenizer) -> None:
    (tmp_path / "in").mkdir()
    arguments = ["encode", "--watch", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--interval", "0.05"]
    expected = []
    for number in range(3):
        process = subprocess.Popen([sys.executable, "-m", "tokend", *arguments], stderr=subprocess.DEVNULL)
        try:
            for part in range(2):
                expected.append(f"text {number} {part}")
                with (tmp_path / "in" / "a.jsonl").open("a") as file:
                    file.write(json.dumps({"text": expected[-1]}) + "\n")
                deadline = time.monotonic() + 60
                while time.monotonic() < deadline:
                    manifest = tmp_path / "out" / "manifest.json"
                    if manifest.exists() and json.loads(manifest.read_text())["n_documents"] == len(expected):
                        break
                    time.sleep(0.05)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(60)
        assert documents(tmp_path, gpt2) == expected
    found = explain(tmp_path / "out", 0, tokenizer=gpt2)
    assert found.text == "text" and found.is_exact


def test_files_of_one_document_wait_until_they_are_still(tmp_path: Path, gpt2: Tokenizer) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("whole")
    assert watch(tmp_path) == 0
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert watch(tmp_path, "--seal") == 0
    assert documents(tmp_path, gpt2) == ["whole"]
