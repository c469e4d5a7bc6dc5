"""`OUT.docs` of text that is no records: where each document stands, whatever it is packed in and however it is cut."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interrupt import suspended_at
from tokend import Tokenizer, _core
from tokend.explain import explain

from . import naive
from .test_fields import old
from .test_resume import SMALL, contents


def text(seed: int, separator: str) -> str:
    """Documents of all lengths, many of them empty, some longer than a chunk."""
    chance = random.Random(seed)
    words = ["word", " the", "\n", " naïve", " 日本", "123", "  ", "😀", "x" * 900]
    parts = ["".join(chance.choices(words, k=chance.choice((0, 0, 3, 9, 40)))) for _ in range(120)]
    return separator.join(parts)


def naive_places(data: bytes, separator: bytes | None) -> list[list[int]]:
    """By Python's `split`."""
    parts = data.split(separator) if separator else [data]
    if len(parts) > 1 and not parts[-1]:
        parts.pop()
    places, at = [], 0
    for part in parts:
        places.append([at, len(part)])
        at += len(part) + len(separator or b"")
    return places


def places_of(output: Path) -> list[list[int]]:
    """Of a set, or of all segments of a stream."""
    files = sorted(output.glob("docs-*.u64")) if output.is_dir() else [Path(f"{output}.docs")]
    found: list[list[int]] = np.concatenate([np.fromfile(file, "<u8") for file in files]).reshape(-1, 2).tolist()
    return found


@pytest.fixture(scope="module", params=["borders", "none"])
def tokenizer(request: pytest.FixtureRequest, gpt2: Tokenizer) -> Tokenizer:
    """One whose text is cut into pieces, and one whose files are streamed: its pattern has no border that is known."""
    if request.param == "borders":
        return gpt2
    vocabulary = {number: bytes([number]) for number in range(256)}
    return Tokenizer.from_merges(vocabulary, [], {"<|endoftext|>": 256}, pattern=r"(?:[^\n]\n?){1,4}|\n")


@pytest.mark.parametrize("format", ["bin", "stream"])
@pytest.mark.parametrize("separator", ["|", "##\n", None])
def test_places_are_those_of_a_split(
    separator: str | None, format: str, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, expected = [], []
    monkeypatch.setenv("TOKEND_SEGMENT_BYTES", "9000")
    for number, kind in enumerate(("", *naive.KINDS, "", "")):
        # The last two are small, one of nothing: they go in a batch.
        content = text(number, separator or "\n")[: (None, 70, 0)[max(0, number - 4)]].encode()
        content = content.decode(errors="ignore").encode()
        path = tmp_path / f"{number}.txt"
        path.write_bytes(naive.compress(kind, content))
        inputs.append(path)
        expected += naive_places(content, (separator and separator.encode()) or None)
    for chunk_bytes, threads in ((1 << 20, 1), (700, 3)):
        monkeypatch.setenv("TOKEND_CHUNK_BYTES", str(chunk_bytes))
        output = tmp_path / f"o{chunk_bytes}"
        made = tokenizer.encode_files(inputs, output, separator=separator, format=format, threads=threads)
        assert places_of(output) == expected
        assert made["n_documents"] == len(expected) and all(source["places"] for source in made["sources"])
        _core.verify(str(output))


def test_interrupted_within_a_document(tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SMALL.items():
        monkeypatch.setenv(name, value)
    inputs = []
    for number, kind in enumerate(("", "zst")):
        path = tmp_path / f"{number}.txt"
        # Documents of several chunks. A stream is read by the MiB.
        n_times = 16 if tokenizer.vocab_size == 257 else 3
        path.write_bytes(naive.compress(kind, (text(number, "\n") + "||" + text(7, "\n")).encode() * n_times))
        inputs.append(old(path))
    tokenizer.encode_files(inputs, tmp_path / "whole.bin", separator="||")
    made = json.loads((tmp_path / "whole.bin.json").read_text())
    n_stops, is_streamed = 0, False
    for share in range(1, 8, 2):
        n_tokens = made["n_tokens"] * share // 8
        n_stops += suspended_at(tokenizer, n_tokens, inputs, tmp_path / "cut.bin", separator="||", resume=True)
        # Only what is streamed carries text from step to step.
        logs = b"".join(log.read_bytes() for log in tmp_path.glob(".cut.bin.checkpoint*"))
        assert (b'"carry"' in logs) <= (tokenizer.vocab_size == 257)
        is_streamed |= b'"carry"' in logs
    assert n_stops and is_streamed == (tokenizer.vocab_size == 257)
    tokenizer.encode_files(inputs, tmp_path / "cut.bin", separator="||", resume=True)
    files = [{name: data for name, data in contents(tmp_path / name).items()} for name in ("whole.bin", "cut.bin")]
    assert files[0] == files[1]


def test_beside_records_and_where_there_are_none(tmp_path: Path, gpt2: Tokenizer) -> None:
    (tmp_path / "a.txt").write_text("one|two|")
    (tmp_path / "b.jsonl").write_text('{"text": "three"}\n')
    (tmp_path / "c.txt").write_text("four|five")
    inputs = [tmp_path / name for name in ("a.txt", "b.jsonl", "c.txt")]
    made = gpt2.encode_files(inputs, tmp_path / "o.bin", separator="|")
    assert places_of(tmp_path / "o.bin") == [[0, 3], [4, 3], [0, 17], [0, 4], [5, 4]]
    assert [source.get("places") for source in made["sources"]] == [True, None, True]
    # U+FFFD moves what follows it: of such text there are none.
    (tmp_path / "a.txt").write_bytes(b"o\xffe|two|")
    replaced = gpt2.encode_files(inputs, tmp_path / "r.bin", separator="|", errors="replace")
    assert places_of(tmp_path / "r.bin") == [[0, 17]] and "places" not in replaced["sources"][0]
    ends = np.fromfile(tmp_path / "r.bin.ends", "<u8").tolist()
    found = [explain(tmp_path / "r.bin", end - 1, tokenizer=gpt2) for end in ends]
    assert [one.document_offset_bytes for one in found] == [0, 4, 0, 0, 5] and all(one.is_exact for one in found)
    # A file of plain text that is one document is its own place.
    alone = gpt2.encode_files([tmp_path / "c.txt"], tmp_path / "c.bin")
    assert "docs" not in alone and not (tmp_path / "c.bin.docs").exists()


def test_far_into_compressed_text(tmp_path: Path, gpt2: Tokenizer) -> None:
    words = [f"word {number}" for number in range(30_000)]
    data = (" ".join(words[:20_000]) + "||" + " ".join(words[20_000:])).encode()
    (tmp_path / "a.txt.gz").write_bytes(naive.compress("gz", data))
    made = gpt2.encode_files([tmp_path / "a.txt.gz"], tmp_path / "o.bin", separator="||")
    options: dict[str, Any] = {"tokenizer": gpt2, "context_bytes": 30}
    for token in (0, made["n_tokens"] // 3, made["n_tokens"] - 2):
        found = explain(tmp_path / "o.bin", token, **options)
        assert found.is_exact and found.offset_bytes is not None
        assert data[found.offset_bytes :].startswith(gpt2.decode_bytes([found.id]))
    assert found.document == 1 and found.document_offset_bytes == data.index(b"||") + 2
