"""Small files are taken for what their names let suppose until they are read; what they are in truth decides."""

from __future__ import annotations

import gzip
import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
from tokend.tokenizer import Tokenizer
from tokend_client.errors import TokendError


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load("gpt2")


def documents(text: str, separator: str | None) -> list[str]:
    """The documents of a source's text."""
    if separator is None:
        return [text]
    *whole, rest = text.split(separator)
    return [*whole, rest] if rest or not text else whole


@pytest.mark.parametrize("odd", [None, "gzip", "json", "both"])
@pytest.mark.parametrize("separator", [None, "--\n", "\n"])
def test_what_files_hold_decides(tokenizer: Tokenizer, tmp_path: Path, odd: str | None, separator: str | None) -> None:
    source = random.Random(f"{odd} {separator}")
    words = ["the", " cat", "'s", "  ", "\n", "--\n", "中文", "é", " 12", "{", '"text"', "\u3000"]
    paths: list[str] = []
    expected: list[list[int]] = []
    for number in range(200):
        path = tmp_path / f"{number:03}{source.choice(['', '.txt', '.c', '.md'])}"
        text = "".join(source.choices(words, k=source.randrange(30)))
        found = documents(text, separator)
        path.write_text(text, newline="")
        if number == 150 and odd in ("gzip", "both"):
            path.write_bytes(gzip.compress(text.encode()))
        if number == 170 and odd in ("json", "both"):
            path = tmp_path / "170"
            path.write_text(json.dumps({"text": text}) + "\n")
            found = [text]
        paths.append(str(path))
        expected += [[*tokenizer.encode(document, special="text").tolist(), 50256] for document in found]
    ids = [one for document in expected for one in document]
    output = str(tmp_path / "all.bin")
    for threads in (1, 2):
        made = tokenizer.encode_files(paths, output, separator=separator, threads=threads, force=True)
        assert np.fromfile(output, np.uint16).tolist() == ids
        ends = np.fromfile(f"{output}.ends", np.uint64).tolist()
        assert ends == np.cumsum([len(document) for document in expected]).tolist()
        assert made["n_tokens"] == len(ids) == sum(entry["n_tokens"] for entry in made["sources"])
        assert [entry["path"] for entry in made["sources"]] == paths
    assert {path.name for path in tmp_path.glob("all*")} <= {"all.bin", "all.bin.ends", "all.bin.json", "all.bin.docs"}


def test_errors_name_the_file_and_the_offset_in_it(tokenizer: Tokenizer, tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{number:02}") for number in range(40)]
    for path in paths:
        Path(path).write_text("some text. ")
    Path(paths[30]).write_text("text <|endoftext|>")
    output = str(tmp_path / "out.bin")
    with pytest.raises(TokendError, match=r"30.*byte 5|30.*offset 5"):
        tokenizer.encode_files(paths, output)
    Path(paths[20]).write_bytes(b"abc\xff")
    with pytest.raises(TokendError, match=r"20.*3"):
        tokenizer.encode_files(paths, output)
    # A character that is cut apart by the end of a file is one in neither, though together they are.
    Path(paths[20]).write_bytes("é".encode()[:1])
    Path(paths[21]).write_bytes("é".encode()[1:])
    with pytest.raises(TokendError, match="20"):
        tokenizer.encode_files(paths, output)
    tokenizer.encode_files(paths, output, errors="replace", special="text")
    assert np.fromfile(output, np.uint16).tolist().count(50256) == len(paths)
    assert sorted(os.listdir(tmp_path)) == sorted(
        [Path(path).name for path in paths] + ["out.bin", "out.bin.ends", "out.bin.json"]
    )


def test_what_is_no_file_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("text")
    os.mkfifo(tmp_path / "b")
    with pytest.raises(TokendError, match="FIFO"):
        tokenizer.encode_files([str(tmp_path / "a"), str(tmp_path / "b")], str(tmp_path / "out.bin"))
    assert not (tmp_path / "out.bin").exists()


def test_the_same_file_twice_and_many_empty_ones(tokenizer: Tokenizer, tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{number:04}") for number in range(1500)]
    for path in paths:
        Path(path).touch()
    Path(paths[700]).write_text("one")
    made = tokenizer.encode_files(paths + paths, str(tmp_path / "out.bin"), eot="prepend")
    assert made["n_documents"] == 3000
    assert made["n_tokens"] == 3002
    ids = np.fromfile(tmp_path / "out.bin", np.uint16)
    assert ids.tolist().count(50256) == 3000 and ids[701] == ids[2202] != 50256
