"""What jobs and conversions made, as what stands on the disk says: manifests of our sets, notes of trainers'."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace
from tokend_client.sidecars import MANIFEST

from .record import Record

NATIVE = ("bin", "stream")
"""Formats of ours."""


def note_path(output: str, format: str) -> Path:
    """Where the note or manifest of a conversion is."""
    if format in NATIVE:
        return Path(output, "manifest.json") if format == "stream" else Path(f"{output}{MANIFEST}")
    return Path(f"{output}.tokend.json") if format == "megatron" else Path(output, "tokend.json")


def read_note(output: str, format: str) -> dict[str, Any] | None:
    """What a conversion made, if it is there."""
    note = _read(note_path(output, format))
    return note if note is not None and note.get("format") == "tokend-export" else None


def read_made(output: str, format: str) -> dict[str, Any] | None:
    """The note of what stands there in this format, or its manifest."""
    if format not in NATIVE:
        return read_note(output, format)
    manifest = _read(note_path(output, format))
    is_whole = manifest is not None and manifest.get("format") == f"tokend-{format}"
    return manifest if manifest is not None and is_whole and manifest.get("state", "sealed") == "sealed" else None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def manifest_path(record: Record) -> Path:
    """Where the manifest of a job's output is."""
    output = record.spec.output
    if record.spec.layout is not None:
        return note_path(record.spec.output, record.spec.format)
    return Path(output, "manifest.json") if record.spec.format == "stream" else Path(f"{output}{MANIFEST}")


def read_manifest(record: Record) -> bytes | None:
    """The manifest of a job that is done, from the disk; None if what is there is not what it made."""
    data = _read_manifest(record)
    if data is None or not (record.spec.more or record.spec.exports):
        return data
    manifest = msgspec.json.decode(data)
    if record.spec.exports:
        manifest["exports"] = []
        for export in record.spec.exports:
            note = read_note(export.output, export.format)
            if note is None:
                return None
            manifest["exports"].append({"path": export.output, **note})
    if not record.spec.more:
        return msgspec.json.encode(manifest)
    manifest["more"] = []
    for output in record.spec.more.values():
        one = replace(record.spec, output=output, more={})
        # How much the others hold is not in the journal.
        other = _read_manifest(replace(record, spec=one), is_counted=False)
        if other is None:
            return None
        manifest["more"].append(msgspec.json.decode(other))
    return msgspec.json.encode(manifest)


def _read_manifest(record: Record, *, is_counted: bool = True) -> bytes | None:
    try:
        data = manifest_path(record).read_bytes()
        manifest = msgspec.json.decode(data)
        same = (
            manifest["tokenizer"]["fingerprint"] == record.fingerprint
            and (
                record.spec.layout is not None
                or [source["path"] for source in manifest["sources"]] == record.spec.names()
            )
            and (not is_counted or manifest["n_tokens"] == record.n_tokens)
            and (not is_counted or manifest["n_documents"] == record.n_documents)
            and manifest.get("state", "sealed") == "sealed"
            and all(os.stat(path).st_size >= size for path, size in _files(record, manifest))
        )
    except (OSError, msgspec.DecodeError, KeyError, TypeError):
        return None
    return data if same else None


def _files(record: Record, manifest: dict) -> list[tuple[str, int]]:  # type: ignore[type-arg]
    """The data files of an output and the least size of each."""
    output = record.spec.output
    if record.spec.layout is not None:
        note = note_path(record.spec.output, record.spec.format)
        return [(str(note.parent / file["file"]), file["size_bytes"]) for file in manifest["files"]]
    if record.spec.format != "stream":
        folder = os.path.dirname(output)
        return [
            (os.path.join(folder, manifest[part]["file"]), manifest[part]["size_bytes"]) for part in ("data", "ends")
        ]
    width = 2 if manifest["dtype"] == "uint16" else 4
    there = [segment for segment in manifest["segments"] if not segment.get("retired")]
    sizes = [(segment["tokens"], segment["n_tokens"] * width) for segment in there]
    sizes += [(segment["ends"], segment["n_documents"] * 8) for segment in there]
    return [(os.path.join(output, name), size) for name, size in sizes]
