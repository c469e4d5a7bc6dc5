"""The slow, plain reference for inputs: lines by `json`, texts by `split`, ids by `Tokenizer.encode`."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from tokend import Tokenizer
from tokend_client.errors import TokendError


def compress(kind: str, data: bytes) -> bytes:
    """Two members, or frames, one after the other."""
    half = len(data) // 2
    pack = {
        "": lambda part: part,
        "gz": lambda part: gzip.compress(part, 6, mtime=0),
        "bz2": bz2.compress,
        "xz": lzma.compress,
        "zst": lambda part: zstandard.ZstdCompressor(write_checksum=True).compress(part),
    }[kind]
    return pack(data[:half]) + pack(data[half:]) if kind else data


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


class _LoneSurrogate(Exception):
    pass


def text_of(line: bytes) -> str:
    """The text of a line of JSON; raises for a bad one."""
    value = json.loads(line.decode(), parse_constant=_refuse)
    if not isinstance(value, dict) or not isinstance(value.get("text"), str):
        raise ValueError("no text")
    value["text"].encode()
    return value["text"]


def _refuse(name: str) -> Any:
    raise ValueError(name)


def jsonl(tokenizer: Tokenizer, data: bytes, *, special: str = "text", deduplicate: bool = False) -> Expected:
    """What a file of JSON lines becomes."""
    made, seen = Expected(), set[str]()
    at = 3 if data.startswith(b"\xef\xbb\xbf") else 0
    lines = data[at:].split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    for number, line in enumerate(lines, 1):
        if not line.strip(b" \t\r"):
            made.n_blank_lines += 1
        else:
            made.n_in += 1
            try:
                text = text_of(line)
                ids = tokenizer.encode(text, special=special).tolist()
            except (ValueError, UnicodeError, RecursionError, TokendError):
                made.skipped.append(("bad", number, at))
            else:
                if deduplicate and text in seen:
                    made.skipped.append(("duplicate", number, at))
                else:
                    seen.add(text)
                    made.ids += [*ids, tokenizer.eot_id or 0]
                    made.ends.append(len(made.ids))
                    made.places.append((at, len(line)))
        at += len(line) + 1
    return made


def check(manifest: dict[str, Any], output: Path, expected: Expected) -> None:
    """Demands that a set over one source holds exactly what is expected, and accounts for the rest."""
    assert np.fromfile(output, np.uint16).tolist() == expected.ids
    assert np.fromfile(f"{output}.ends", "<u8").tolist() == expected.ends
    assert np.fromfile(f"{output}.docs", "<u8").reshape(-1, 2).tolist() == [list(place) for place in expected.places]
    (source,) = manifest["sources"]
    counts = source["records"]
    skipped = skipped_of(output)
    assert [(entry["kind"], entry["line"], entry["offset_bytes"]) for entry in skipped] == expected.skipped
    assert all(entry["path"] == source["path"] and entry["reason"] for entry in skipped)
    left_out = counts["n_bad"] + counts["n_filtered"] + counts["n_duplicates"]
    assert counts["n_in"] == expected.n_in == source["n_documents"] + left_out
    assert left_out == len(skipped)
    assert counts["n_blank_lines"] == expected.n_blank_lines
    assert (source["n_documents"], source["n_tokens"]) == (len(expected.ends), len(expected.ids))


def skipped_of(output: Path) -> list[dict[str, Any]]:
    """What is listed as left out."""
    path = Path(f"{output}.skipped.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
