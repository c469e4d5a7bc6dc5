"""The slow, plain reference for inputs: lines by `json`, texts by `split`, ids by tiktoken."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken
import zstandard


def compress_one(kind: str, data: bytes) -> bytes:
    """One member, or frame."""
    return {
        "gz": lambda: gzip.compress(data, 6, mtime=0),
        "bz2": lambda: bz2.compress(data),
        "xz": lambda: lzma.compress(data),
        "zst": lambda: zstandard.ZstdCompressor(write_checksum=True).compress(data),
    }[kind]()


def compress(kind: str, data: bytes) -> bytes:
    """Two members, or frames, one after the other."""
    half = len(data) // 2
    return compress_one(kind, data[:half]) + compress_one(kind, data[half:]) if kind else data


KINDS = ("gz", "bz2", "xz", "zst")


@dataclass
class Expected:
    """What a job makes of its records."""

    ids: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    places: list[tuple[int, int]] = field(default_factory=list)
    skipped: list[tuple[str, int, int]] = field(default_factory=list)
    """Kind, line, byte offset."""
    n_in: int = 0
    n_blank_lines: int = 0
    n_byte_order_marks: int = 0


def text_of(line: bytes) -> str:
    """The text of a line of JSON; raises for a bad one."""
    value = json.loads(line.decode(), parse_constant=_refuse)
    if not isinstance(value, dict) or not isinstance(value.get("text"), str):
        raise ValueError("no text")
    value["text"].encode()
    return value["text"]


def _refuse(name: str) -> Any:
    raise ValueError(name)


def ids_of(reference: tiktoken.Encoding, text: str, special: str) -> list[int]:
    """The ids of a document; raises for a special token that must not be there."""
    if special == "raise":
        return reference.encode(text)
    return reference.encode(text, allowed_special="all" if special == "token" else set(), disallowed_special=())


def jsonl(reference: tiktoken.Encoding, data: bytes, *, special: str = "text", **options: Any) -> Expected:
    """What a file of JSON lines becomes."""
    made = Expected(n_byte_order_marks=int(data.startswith(BOM_UTF8)))
    at = len(BOM_UTF8) * made.n_byte_order_marks
    lines = []
    for number, line in enumerate(_split(data[at:], b"\n"), 1):
        if line.strip(b" \t\r"):
            lines.append((number, at, line))
        else:
            made.n_blank_lines += 1
        at += len(line) + 1
    return _add(made, reference, lines, text_of, special, **options)


def text(
    reference: tiktoken.Encoding, data: bytes, separator: bytes, *, special: str = "raise", **options: Any
) -> Expected:
    """What a text becomes whose documents are looked at as a whole."""
    texts, at = [], 0
    for number, part in enumerate(_split(data, separator), 1):
        texts.append((number, at, part))
        at += len(part) + len(separator)
    return _add(Expected(), reference, texts, bytes.decode, special, **options)


def _split(data: bytes, separator: bytes) -> list[bytes]:
    parts = data.split(separator)
    return parts if parts[-1] else parts[:-1]


def _add(
    made: Expected,
    reference: tiktoken.Encoding,
    records: list[tuple[int, int, bytes]],
    decode: Callable[[bytes], str],
    special: str,
    seen: set[str] | None = None,
    min_tokens: int = 0,
) -> Expected:
    """Adds records: number, offset, bytes. `seen`: texts that are duplicates, where these are left out."""
    for number, at, record in records:
        made.n_in += 1
        try:
            text = decode(record)
            ids = ids_of(reference, text, special)
        except (ValueError, RecursionError):
            made.skipped.append(("bad", number, at))
            continue
        if len(ids) < min_tokens:
            made.skipped.append(("filtered", number, at))
        elif seen is not None and text in seen:
            made.skipped.append(("duplicate", number, at))
        else:
            if seen is not None:
                seen.add(text)
            made.ids += [*ids, reference.eot_token]
            made.ends.append(len(made.ids))
            made.places.append((at, len(record)))
    return made


def check(manifest: dict[str, Any], output: Path, *expected: Expected) -> None:
    """Demands that a set holds exactly what is expected of each source, and accounts for the rest."""
    assert np.fromfile(output, np.uint16).tolist() == [id for made in expected for id in made.ids]
    starts = np.cumsum([0, *(len(made.ids) for made in expected)]).tolist()
    ends = [start + end for start, made in zip(starts, expected, strict=False) for end in made.ends]
    assert np.fromfile(f"{output}.ends", "<u8").tolist() == ends
    places = [list(place) for made in expected for place in made.places]
    assert np.fromfile(f"{output}.docs", "<u8").reshape(-1, 2).tolist() == places
    skipped = skipped_of(output)
    for source, made in zip(manifest["sources"], expected, strict=True):
        own = [entry for entry in skipped if entry["path"] == source["path"]]
        assert [(entry["kind"], entry["line"], entry["offset_bytes"]) for entry in own] == made.skipped, source["path"]
        assert all(entry["reason"] for entry in own)
        counts, listed = source["records"], Counter(kind for kind, _, _ in made.skipped)
        assert (counts["n_bad"], counts["n_filtered"]) == (listed["bad"], listed["filtered"])
        assert counts["n_duplicates"] == listed["duplicate"]
        assert counts["n_in"] == made.n_in == source["n_documents"] + len(own)
        assert counts["n_blank_lines"] == made.n_blank_lines
        assert counts["n_byte_order_marks"] == made.n_byte_order_marks
        assert (source["n_documents"], source["n_tokens"]) == (len(made.ends), len(made.ids))
    assert len(skipped) == sum(len(made.skipped) for made in expected)


def skipped_of(output: Path) -> list[dict[str, Any]]:
    """What is listed as left out."""
    path = Path(f"{output}.skipped.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
