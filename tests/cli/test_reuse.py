"""Inputs that were encoded before, estimates, and tidying up."""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tokend import Tokenizer, reuse
from tokend.cli import main
from tokend.estimate import estimate


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state directory of its own, and no job too small to be remembered."""
    monkeypatch.setenv("TOKEND_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(reuse, "MIN_BYTES", 0)


def encode(source: Path, output: Path, *options: str) -> int:
    return main(["encode", str(source), "-o", str(output), "--local", *options])


def test_the_same_inputs_are_not_encoded_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("Hello, world!|again|")
    (tmp_path / "moved.txt").write_text("Hello, world!|again|")
    options = ["--separator", "|"]
    assert encode(tmp_path / "a.txt", tmp_path / "a.bin", *options) == 0
    capsys.readouterr()
    assert encode(tmp_path / "moved.txt", tmp_path / "b.bin", *options) == 0
    assert f"shared with {tmp_path / 'a.bin'}: the same inputs, verified" in capsys.readouterr().err
    assert main(["verify", str(tmp_path / "b.bin")]) == 0
    assert encode(tmp_path / "moved.txt", tmp_path / "c.bin", "--no-reuse", *options) == 0
    for suffix in ("", ".ends", ".json"):
        linked, made = ((tmp_path / f"{name}.bin{suffix}").read_bytes() for name in "bc")
        assert linked.replace(b"b.bin", b"c.bin") == made
    # Formats are made from it as well.
    capsys.readouterr()
    assert encode(tmp_path / "moved.txt", tmp_path / "m", "--format", "megatron", *options) == 0
    assert "the same inputs are in" in capsys.readouterr().err
    assert (tmp_path / "m.bin").read_bytes() == (tmp_path / "c.bin").read_bytes()


@pytest.mark.parametrize("change", ["input", "option", "tokenizer", "damage", "gone"])
def test_what_is_not_the_same_is_encoded(change: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "a.txt"
    source.write_text("Hello, world!")
    assert encode(source, tmp_path / "a.bin") == 0
    options = []
    match change:
        case "input":
            source.write_text("Hello, wor1d!")
        case "option":
            options = ["--eot", "prepend"]
        case "tokenizer":
            model = tmp_path / "x.model"
            model.write_text("simple-bpe v1\n\\S+|\\s+\n1\n<|endoftext|> 256\n")
            options = ["--tokenizer", str(model)]
        case "damage":
            data = bytearray((tmp_path / "a.bin").read_bytes())
            data[0] ^= 1
            (tmp_path / "a.bin").write_bytes(data)
        case "gone":
            os.unlink(tmp_path / "a.bin.json")
    capsys.readouterr()
    assert encode(source, tmp_path / "b.bin", *options) == 0
    assert "shared" not in capsys.readouterr().err
    assert main(["verify", str(tmp_path / "b.bin")]) == 0


def test_what_stands_there_stays(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Hello")
    assert encode(tmp_path / "a.txt", tmp_path / "a.bin") == 0
    (tmp_path / "b.bin.ends").write_text("mine")
    assert encode(tmp_path / "a.txt", tmp_path / "b.bin") == 1
    assert (tmp_path / "b.bin.ends").read_text() == "mine"
    assert not (tmp_path / "b.bin").exists()


def test_gc(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "place"
    place.mkdir()
    (tmp_path / "a.txt").write_text("Hello")
    for name in ("a", "b"):
        assert encode(tmp_path / "a.txt", place / f"{name}.bin", "--no-reuse") == 0
    assert encode(tmp_path / "a.txt", place / "c.bin") == 0
    assert encode(tmp_path / "a.txt", place / "d.bin") == 0
    os.unlink(place / "c.bin.json")
    (place / ".x.tokend-export").mkdir()
    (place / ".busy.tokend-export").mkdir()
    # What a killed update, sharing and encoding for a trainer's format left.
    for name in (".a.bin.update", ".z.bin.reuse"):
        (place / name).mkdir()
    for part in ("", ".ends", ".json"):
        shutil.copy(place / f"a.bin{part}", place / f".y.tokend-set.bin{part}")
    gone = [".a.bin.update", ".x.tokend-export", ".y.tokend-set.bin", ".z.bin.reuse"]
    held = os.open(place / ".busy.tokend-export", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    before = sorted(os.listdir(place))
    capsys.readouterr()
    assert main(["gc", str(place), "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["forgotten"] == [str(place / "c.bin")] and found["removed"] == [str(place / name) for name in gone]
    assert sorted(os.listdir(place)) == before
    assert main(["gc", str(place)]) == 0
    assert sorted(os.listdir(place)) == [name for name in before if not name.startswith(tuple(gone))]
    os.close(held)
    capsys.readouterr()
    assert main(["gc", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"forgotten": [], "removed": [], "known": 1}
    assert main(["gc", str(tmp_path / "none")]) == 1


@pytest.mark.parametrize("kind", ["txt", "jsonl"])
def test_estimates_hold_what_they_say(kind: str, tmp_path: Path, gpt2: Tokenizer) -> None:
    chance = random.Random(5)
    words = ["hello", "tokenizer", "1234", "日本", " ", " ", "\n"]
    with (tmp_path / f"a.{kind}").open("w") as file:
        for number in range(30_000):
            text = "".join(chance.choices(words[: 4 + number // 10_000], k=chance.randrange(10, 200)))
            file.write(json.dumps({"text": text}) + "\n" if kind == "jsonl" else f"{text}<end>\n")
    options = {"separator": "<end>\n" if kind == "txt" else None, "threads": 1}
    files = [str(tmp_path / f"a.{kind}")]
    found = estimate(gpt2, files, str(tmp_path / "o.bin"), options)
    made = gpt2.encode_files(files, tmp_path / "o.bin", special="text", **options)
    # Four standard errors: one in 16,000 would lie outside.
    assert abs(found.n_tokens - made["n_tokens"]) <= 2 * found.n_tokens_error
    assert abs(found.n_documents - made["n_documents"]) <= 2 * found.n_documents_error
    if found.sample_bytes < found.n_bytes:
        assert 0 < found.n_tokens_error < found.n_tokens // 2


def test_dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import gzip

    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "Hello, world!"}\n' * 1000))
    (tmp_path / "b.jsonl").write_text('{"text": "x"}\n[]\n')
    assert encode(tmp_path, tmp_path / "o.bin", "--dry-run", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n_tokens"] == 5002 and found["n_documents"] == 1001 and found["n_tokens_error"] == 0
    assert found["n_bad"] == 1
    assert encode(tmp_path, tmp_path / "o.bin", "--dry-run", "--format", "llmc") == 0
    told = capsys.readouterr().out
    assert "tokens       5,002\n" in told and "all of the inputs" in told and "--bad-documents skip" in told
    assert sorted(os.listdir(tmp_path)) == ["a.jsonl.gz", "b.jsonl", "state"] or not (tmp_path / "o.bin").exists()
    assert np.array(found["output_bytes"]) == 5002 * 2 + 8 * 1001


def test_a_dry_run_counts_what_the_job_would_refuse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "in"
    place.mkdir()
    (place / "a.jsonl").write_bytes(b'{"text":"\xff"}\n{"text":"ok"}\n{"text":"<|endoftext|>"}\n')
    (place / "b.txt").write_bytes(b"a\xffb")
    (place / "c.txt").write_text("good")
    (place / "d.txt").write_text("a <|endoftext|>")
    for options, n_bad in ([], 3), (["--special", "raise"], 4), (["--special", "text", "--errors", "replace"], 0):
        capsys.readouterr()
        assert encode(place, tmp_path / "o.bin", "--dry-run", "--json", *options) == 0
        found = json.loads(capsys.readouterr().out)
        assert encode(place, tmp_path / "o.bin", "--bad-documents", "skip", "--force", "--json", *options) == 0
        made = json.loads(capsys.readouterr().out)
        assert found["n_bad"] == n_bad == sum(source["records"]["n_bad"] for source in made["sources"])
        assert (found["n_tokens"], found["n_documents"]) == (made["n_tokens"], made["n_documents"])
    assert encode(place, tmp_path / "o.bin", "--dry-run") == 0
    assert "3 documents, not counted: the job would fail" in capsys.readouterr().out


def test_windows_of_text_without_lines_hold_whole_characters(tmp_path: Path, gpt2: Tokenizer) -> None:
    for unit in ("é", "日", "😀", "aé日😀"):
        (tmp_path / "a.txt").write_text("x" + unit * (9_000_000 // len(unit.encode())))
        found = estimate(gpt2, [str(tmp_path / "a.txt")], str(tmp_path / "o.bin"), {"threads": 1})
        assert found.n_bad == 0 and found.sample_bytes < found.n_bytes


DIES = """
import os, sys
from tokend import reuse
from tokend.cli import main

reuse.MIN_BYTES = 0
left, link = int(sys.argv[1]), os.link

def dies(old, new):
    global left
    if left == 0 and os.path.basename(new).startswith("b.bin"):
        os._exit(9)
    left -= os.path.basename(new).startswith("b.bin")
    link(old, new)

os.link = dies
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("step", range(4))
def test_sharing_that_was_killed_is_brought_to_its_end(
    step: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text('{"text": "one"}\n')
    assert encode(source, tmp_path / "a.bin") == 0
    arguments = ["encode", str(source), "-o", str(tmp_path / "b.bin"), "--local"]
    assert subprocess.run([sys.executable, "-c", DIES, str(step), *arguments], check=False).returncode == 9
    assert not (tmp_path / "b.bin.json").exists()
    capsys.readouterr()
    assert main(arguments) == 0
    assert "up to date" in capsys.readouterr().err
    assert main(["verify", str(tmp_path / "b.bin")]) == 0
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
