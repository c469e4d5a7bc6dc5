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
from tokend import Tokenizer, _core
from tokend import watch as module
from tokend.cli import main
from tokend.explain import explain
from tokend.watch import Watch
from tokend_client import TokenStream
from tokend_client.errors import InputChangedError, TokendError


def watch(folder: Path, *options: str) -> int:
    arguments = ["encode", "--watch", str(folder / "in"), "-o", str(folder / "out"), "--local", "--once"]
    return main([*arguments, *options])


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
    # Of the same size.
    path.write_text('{"text": "0ne"}\n')
    assert watch(tmp_path) == 1
    assert "a.jsonl: the 16 bytes that were encoded have changed" in capsys.readouterr().err
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
    # A stream is made in one way.
    with path.open("a") as file:
        file.write('{"text": "three"}\n')
    assert watch(tmp_path, "--min-tokens", "2") == 2
    assert "made with other options" in capsys.readouterr().err
    assert watch(tmp_path, "--force") == 2
    assert watch(tmp_path, "--eot", "both") == 2
    for option in (["--shuffle"], ["--seed", "3"], ["--val-fraction", "0.1"], ["--row-tokens", "8"]):
        assert watch(tmp_path, *option) == 2
    for option in ("--once", "--seal"):
        assert main(["encode", str(path), "-o", str(tmp_path / "o3"), option, "--local"]) == 2
    assert main(["encode", "--watch", str(tmp_path / "none"), "-o", str(tmp_path / "o2"), "--once", "--local"]) == 1
    assert not (tmp_path / "o2").exists()


@pytest.mark.timeout(280)
def test_it_runs_is_killed_and_goes_on(tmp_path: Path, gpt2: Tokenizer) -> None:
    (tmp_path / "in").mkdir()
    arguments = ["encode", "--watch", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--interval", "0.05"]
    arguments.append("--local")
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


@pytest.mark.timeout(280)
@pytest.mark.parametrize("kind", ["jsonl", "txt"])
def test_what_is_left_out_is_listed_as_one_job_lists_it(kind: str, tmp_path: Path, gpt2: Tokenizer) -> None:
    """A stream made in many rounds accounts for every record as a single run over the whole files does."""
    chance = random.Random(11)
    (tmp_path / "in").mkdir()
    options = {"bad_documents": "skip", "min_tokens": 2, "max_tokens": 12, "deduplicate": True}
    arguments = ["--bad-documents", "skip", "--min-tokens", "2", "--max-tokens", "12", "--deduplicate"]
    if kind == "jsonl":
        options["id_field"] = "id"
        arguments += ["--id-field", "id"]
    else:
        options["separator"] = "||"
        arguments += ["--separator", "||"]
    texts = ["one text", "another text", "x", "word " * 20, "naïve 日本語", ""]

    def some() -> bytes:
        if kind == "txt":
            return b"".join(chance.choice([text.encode(), b"bad \xff"]) + b"||" for text in texts * chance.randrange(2))
        lines = [json.dumps({"text": chance.choice(texts), "id": chance.randrange(99)}).encode() for _ in range(3)]
        return b"".join(
            line + b"\n" for line in [*lines, *chance.sample([b"{}", b"{", b"", b"[1]", b'{"text": 3}'], 2)]
        )

    for step in range(5):
        for name in "ab"[: 1 + step]:
            with (tmp_path / "in" / f"{name}.{kind}").open("ab") as file:
                file.write(some())
        if step == 3:
            # A round of nothing but records that are left out.
            with (tmp_path / "in" / f"b.{kind}").open("ab") as file:
                file.write(b"||" if kind == "txt" else b"{}\n")
        assert watch(tmp_path, *arguments) == 0
    assert watch(tmp_path, "--seal", *arguments) == 0
    assert main(["verify", str(tmp_path / "out")]) == 0
    assert main(["inspect", str(tmp_path / "out")]) == 0
    files = sorted(str(path) for path in (tmp_path / "in").iterdir())
    made = gpt2.encode_files(files, tmp_path / "full.bin", **options)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())

    def account(sources: list[dict[str, object]], path: str) -> dict[str, int]:
        total: dict[str, int] = {}
        for source in sources:
            if source["path"] == path:
                for name, number in source["records"].items():  # type: ignore[attr-defined]
                    total[name] = total.get(name, 0) + number
        return total

    def listed(path: Path) -> list[dict[str, object]]:
        return sorted(map(json.loads, path.read_text().splitlines()), key=lambda entry: (entry["path"], entry["line"]))

    found, expected = listed(tmp_path / "out.skipped.jsonl"), listed(tmp_path / "full.bin.skipped.jsonl")
    if kind == "jsonl":
        # Which of two equal texts in different files is the duplicate depends on the order of the rounds.
        places = [
            [(e["path"], e["line"], e["offset_bytes"]) for e in some if e["kind"] != "duplicate"]
            for some in (found, expected)
        ]
        assert places[0] == places[1]
    for path in files:
        counts, whole = account(manifest["sources"], path), account(made["sources"], path)
        # Each is in or out, and bad is bad in whatever order files come.
        assert {k: v for k, v in counts.items() if k != "n_duplicates"} == {
            k: v for k, v in whole.items() if k != "n_duplicates"
        }
    documents_made = documents(tmp_path, gpt2)
    assert len(set(documents_made)) == len(documents_made) == made["n_documents"]
    with TokenStream(tmp_path / "full.bin") as stream:
        assert sorted(documents_made) == sorted(gpt2.decode(stream.document(n)[:-1]) for n in range(stream.n_documents))
    if kind == "jsonl":
        ids = b"".join((tmp_path / "out" / segment["ids"]["file"]).read_bytes() for segment in manifest["segments"])
        assert ids.count(b"\n") == len(documents_made)
    assert explain(tmp_path / "out", 0, tokenizer=gpt2).is_exact


def test_a_bad_document_is_named_by_its_own_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a.jsonl"
    path.write_text('{"text": "one"}\n')
    assert watch(tmp_path) == 0
    path.write_text('{"text": "one"}\n{"text": "two"}\n{"text": 3}\n')
    assert watch(tmp_path) == 1
    told = capsys.readouterr().err
    assert "in/a.jsonl: line 3, byte 32: " in told and ".watch.partial" not in told
    # Damaged hashes of texts would let duplicates through.
    with (tmp_path / "in" / "b.jsonl").open("w") as file:
        file.write('{"text": "one"}\n')
    path.unlink()
    output = ["-o", str(tmp_path / "d"), "--deduplicate", "--local", "--once"]
    assert main(["encode", "--watch", str(tmp_path / "in"), *output]) == 0
    texts = tmp_path / "d" / "texts-00000.u128"
    texts.write_bytes(bytes(16))
    assert main(["encode", "--watch", str(tmp_path / "in"), *output]) == 1
    assert "texts-00000.u128 is damaged" in capsys.readouterr().err


def test_one_that_was_killed_in_its_first_round_goes_on(
    tmp_path: Path, gpt2: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text('{"text": "one"}\n')
    (tmp_path / "out" / ".watch.partial" / "0").mkdir(parents=True)
    (tmp_path / "out" / "tokens-00000.bin").write_bytes(b"xx")
    (tmp_path / "out" / "mine").write_text("mine")
    assert watch(tmp_path) == 2
    assert "holds no stream" in capsys.readouterr().err
    (tmp_path / "out" / "mine").unlink()
    assert watch(tmp_path) == 0
    assert documents(tmp_path, gpt2) == ["one"]


def test_what_was_hashed_is_read_again_now_and_then(
    tmp_path: Path, gpt2: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a.jsonl"
    options = {"separator": None, "eot": "append", "input_format": "auto", "deduplicate": False}

    def encode(parts: list[str], place: str, known_texts: list[str] | None) -> dict[str, object]:
        return gpt2.encode_files(parts, place, known_texts=known_texts)

    looks = Watch(gpt2.fingerprint, [str(tmp_path / "in")], str(tmp_path / "out"), options, encode)
    monkeypatch.setattr(module, "_CHECK_EVERY", 1e9)
    with looks.opened():
        for number in range(3):
            with path.open("a") as file:
                file.write(json.dumps({"text": f"text {number}"}) + "\n")
            assert looks.look().n_documents == 1
        data = path.read_bytes()
        assert _core.hash_prefixes(str(path), [len(data)]) == [looks.manifest["sources"][-1]["xxh3"]]
        # Within the time that is set for it, a change of what is published is not looked for.
        with path.open("r+b") as file:
            file.write(data.replace(b"text 0", b"TEXT 0") + b'{"text": "x"}\n')
        assert looks.look().n_documents == 1
        with path.open("a") as file:
            file.write('{"text": "y"}\n')
        monkeypatch.setattr(module, "_CHECK_EVERY", 0.0)
        with pytest.raises(InputChangedError, match="have changed"):
            looks.look()
    monkeypatch.setattr(module, "_CHECK_EVERY", 1e9)
    path.unlink()
    path.write_bytes(data + b'{"text": "x"}\n{"text": "z"}\n')
    looks = Watch(gpt2.fingerprint, [str(tmp_path / "in")], str(tmp_path / "out"), options, encode)
    with looks.opened():
        # The hash that was published is of the bytes that were encoded.
        assert looks.look().n_documents == 1


def test_a_watch_that_failed_goes_on_without_the_document(
    tmp_path: Path, gpt2: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a.jsonl"
    lines = ['{"text": "one"}\n', "\n", '{"text": "two"}\n', '{"text": null}\n', '{"text": "three"}\n']
    path.write_text("".join(lines[:2]))
    assert watch(tmp_path) == 0
    path.write_text("".join(lines))
    assert watch(tmp_path) == 1
    told = capsys.readouterr().err
    assert f"a.jsonl: line 4, byte {len(''.join(lines[:3]))}: " in told and "--bad-documents skip" in told
    assert watch(tmp_path, "--bad-documents", "skip") == 0
    assert documents(tmp_path, gpt2) == ["one", "two", "three"]
    assert watch(tmp_path, "--seal") == 0
    [entry] = (tmp_path / "out.skipped.jsonl").read_text().splitlines()
    assert json.loads(entry)["line"] == 4 and json.loads(entry)["path"] == str(path)


def test_a_running_hash(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(random.Random(3).randbytes(3_000_000))
    lengths = [0, 1, 1000, 1_048_576, 1_048_577, 2_999_999, 3_000_000]
    running = _core.PrefixHash()
    assert [running.advance(str(path), length) for length in lengths] == _core.hash_prefixes(str(path), lengths)
    assert running.n_bytes == 3_000_000
    with pytest.raises(InputChangedError):
        running.advance(str(path), 3_000_001)
    with pytest.raises(TokendError):
        running.advance(str(path), 5)
