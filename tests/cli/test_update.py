"""`tokend encode --update`: what comes of growing inputs is what a full run makes, byte for byte."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
from tokend import publish, splice
from tokend.cli import main

RENAME = os.rename
OUTPUTS = ("", ".ends", ".docs", ".ids", ".skipped.jsonl", ".json")


def encode(folder: Path, name: str, *options: str) -> int:
    inputs = sorted(str(path) for path in (folder / "in").iterdir())
    common = ["-o", str(folder / f"{name}.bin"), "--local", "--no-reuse", "--threads", "1"]
    return main(["encode", *inputs, *common, *options])


def compare(folder: Path, *options: str) -> None:
    """The updated set against a full run."""
    assert encode(folder, "full", "--force", *options) == 0
    for suffix in OUTPUTS:
        full, updated = folder / f"full.bin{suffix}", folder / f"set.bin{suffix}"
        assert full.exists() == updated.exists()
        if suffix == ".json":
            assert updated.read_text() == full.read_text().replace("full.bin", "set.bin")
        elif full.exists():
            assert full.read_bytes() == updated.read_bytes()
    left = [path.name for path in folder.iterdir() if path.name.startswith(".")]
    assert left == []


@pytest.mark.timeout(280)
@pytest.mark.parametrize("kind", ["jsonl", "txt"])
@pytest.mark.parametrize("eot", ["append", "prepend"])
def test_growing_inputs(kind: str, eot: str, tmp_path: Path) -> None:
    chance = random.Random(7)
    (tmp_path / "in").mkdir()
    separator = "||"
    options = ["--eot", eot] + (["--separator", separator] if kind == "txt" else [])
    words = ["hello", "world", "naïve", "日本", " ", "|", "\n", "the end", ""]

    def some(n_documents: int) -> str:
        texts = ["".join(chance.choice(words) for _ in range(chance.randrange(9))) for _ in range(n_documents)]
        if kind == "txt":
            return "".join(text + separator for text in texts)
        return "".join(json.dumps({"text": text}) + "\n" for text in texts)

    (tmp_path / "in" / f"b.{kind}").write_text(some(5))
    (tmp_path / "in" / f"d.{kind}").write_text(some(4))
    assert encode(tmp_path, "set", *options) == 0
    for step in range(6):
        for path in (tmp_path / "in").iterdir():
            if chance.random() < 0.5:
                with path.open("a") as file:
                    file.write(some(chance.randrange(4)))
                    if kind == "txt":
                        # The last document is not complete; half a separator may stand there.
                        file.write(chance.choice(["", "begun", "begun|", "|"]))
        if step in (1, 3):
            (tmp_path / "in" / f"{'ac'[step == 3]}.{kind}").write_text(some(3))
        if step == 4:
            (tmp_path / "in" / f"b.{kind}").write_text(some(6))
        assert encode(tmp_path, "set", "--update", *options) == 0
        compare(tmp_path, *options)


def test_a_line_that_was_not_complete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a.jsonl"
    path.write_text('{"text": "one"}\n{"text": "two"}')
    assert encode(tmp_path, "set") == 0
    with path.open("a") as file:
        file.write('\n{"text": "three"}\n')
    assert encode(tmp_path, "set", "--update") == 0
    assert "34 B of that new and encoded" in capsys.readouterr().err
    compare(tmp_path)
    capsys.readouterr()
    assert encode(tmp_path, "set", "--update") == 0
    assert "up to date" in capsys.readouterr().err


def test_what_is_taken_over_is_what_was_encoded(tmp_path: Path) -> None:
    """A file that grew and was changed at its start is encoded whole."""
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a.jsonl"
    path.write_text('{"text": "one"}\n')
    assert encode(tmp_path, "set") == 0
    path.write_text('{"text": "0ne"}\n{"text": "two"}\n')
    assert encode(tmp_path, "set", "--update") == 0
    compare(tmp_path)


def test_damage_is_not_taken_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a.jsonl"
    path.write_text('{"text": "one"}\n')
    assert encode(tmp_path, "set") == 0
    data = bytearray((tmp_path / "set.bin").read_bytes())
    data[0] ^= 1
    (tmp_path / "set.bin").write_bytes(data)
    with path.open("a") as file:
        file.write('{"text": "two"}\n')
    capsys.readouterr()
    assert encode(tmp_path, "set", "--update") == 0
    assert "the set is damaged" in capsys.readouterr().err
    compare(tmp_path)


@pytest.mark.parametrize("options", [["--deduplicate"], ["--eot", "both"]])
def test_what_looks_at_the_whole_is_encoded_whole(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a.jsonl"
    path.write_text('{"text": "one"}\n')
    assert encode(tmp_path, "set", *options) == 0
    with path.open("a") as file:
        file.write('{"text": "one"}\n')
    capsys.readouterr()
    assert encode(tmp_path, "set", "--update", *options) == 0
    assert "all of it is encoded" in capsys.readouterr().err
    compare(tmp_path, *options)


def test_an_update_that_fails_leaves_the_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a.jsonl"
    path.write_text('{"text": "one"}\n')
    assert encode(tmp_path, "set") == 0
    parts = [suffix for suffix in OUTPUTS if (tmp_path / f"set.bin{suffix}").exists()]
    before = {suffix: (tmp_path / f"set.bin{suffix}").read_bytes() for suffix in parts}
    with path.open("a") as file:
        file.write('{"text": 1}\n')
    assert encode(tmp_path, "set", "--update") == 1
    with path.open("a") as file:
        file.write('{"text": "x"}\n')

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(splice, "copy", full)
    path.write_text('{"text": "one"}\n{"text": "two"}\n')
    assert encode(tmp_path, "set", "--update") == 1
    assert before == {suffix: (tmp_path / f"set.bin{suffix}").read_bytes() for suffix in parts}
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["in", *sorted(f"set.bin{s}" for s in parts)]


@pytest.mark.parametrize(
    "options",
    [["--eot", "prepend"], ["--separator", "|"], ["--errors", "replace"], ["--special", "token"], ["--min-tokens", "2"],
     ["--input-format", "jsonl"], ["--bad-documents", "skip"]],
    ids=lambda options: options[0],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["jsonl", "txt"])
def test_other_options_are_noticed(
    kind: str, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where no input has changed."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / f"a.{kind}").write_text('{"text": "one|two three"}\n')
    assert encode(tmp_path, "set") == 0
    capsys.readouterr()
    assert encode(tmp_path, "set", "--update", *options) == 0
    assert "other options" in capsys.readouterr().err
    compare(tmp_path, *options)
    assert encode(tmp_path, "set", "--update", *options) == 0
    assert "up to date" in capsys.readouterr().err


def test_a_killed_update_is_brought_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each step of publishing, and what stands there by somebody else stays."""
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a.jsonl"
    path.write_text('{"text": "one"}\n')
    for step in range(5):
        assert encode(tmp_path, "set", "--force") == 0
        with path.open("a") as file:
            file.write('{"text": "two"}\n')
        left = step

        def dies(source: str, target: str) -> None:
            nonlocal left
            if target.startswith(str(tmp_path / "set.bin")):
                if left == 0:
                    raise KeyboardInterrupt
                left -= 1
            RENAME(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(publish.os, "rename", dies)
            if step < 4:
                assert encode(tmp_path, "set", "--update") == 130
                assert not (tmp_path / "set.bin.json").exists()
        if step == 2:
            # A file that is neither the old set's nor the new one's.
            (tmp_path / "set.bin.docs").unlink()
            (tmp_path / "set.bin.docs").write_text("mine")
        assert encode(tmp_path, "set", "--update") == (1 if step == 2 else 0)
        if step == 2:
            assert (tmp_path / "set.bin.docs").read_text() == "mine"
        else:
            compare(tmp_path)


@pytest.mark.timeout(280)
@pytest.mark.parametrize("kind", ["jsonl", "txt"])
@pytest.mark.parametrize("eot", ["append", "none"])
def test_records_that_are_left_out(kind: str, eot: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Lists, ids and accounts are those of a full run, wherever the last record of a growing file was cut."""
    chance = random.Random(23)
    (tmp_path / "in").mkdir()
    options = ["--bad-documents", "skip", "--min-tokens", "2", "--max-tokens", "9", "--truncate-tokens", "7"]
    options += ["--eot", eot] + (["--separator", "||"] if kind == "txt" else ["--id-field", "id"])
    texts = ["one text", "x", "word " * 12, "", "naïve 日本語", "seven words are in this very text", "a b c"]
    odd = [b"{}", b"{", b"", b" ", b"[1]", b'{"text": 3}', b"\xef\xbb\xbf{}", b'{"text": "\xff"}']

    def some() -> bytes:
        if kind == "txt":
            return b"".join(chance.choice([*(text.encode() for text in texts), b"bad \xff"]) + b"||" for _ in range(4))
        lines = [json.dumps({"text": text, "id": chance.randrange(99)}).encode() for text in chance.sample(texts, 3)]
        return b"".join(line + b"\n" for line in chance.sample([*lines, *chance.sample(odd, 2)], 5))

    (tmp_path / "in" / f"b.{kind}").write_bytes(some())
    assert encode(tmp_path, "set", *options) == 0
    n_updates = 0
    for step in range(12):
        for path in (tmp_path / "in").iterdir():
            if chance.random() < 0.8:
                data = some()
                # The next time it goes on where it is cut.
                with path.open("ab") as file:
                    file.write(data[: chance.randrange(len(data))] if chance.random() < 0.5 else data)
        if step in (3, 6):
            (tmp_path / "in" / f"{'ac'[step == 6]}.{kind}").write_bytes(some())
        capsys.readouterr()
        assert encode(tmp_path, "set", "--update", *options) == 0
        n_updates += "of that new and encoded" in capsys.readouterr().err
        compare(tmp_path, *options)
    assert n_updates > 8


@pytest.mark.timeout(280)
def test_an_empty_text_that_grows_leaves_no_document(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for text in ("", "x||y||"):
        (tmp_path / "in" / "t.txt").write_text(text)
        assert encode(tmp_path, "set", "--update", "--separator", "||") == 0
        compare(tmp_path, "--separator", "||")
