"""tokend's own two layouts.

`.bin` set (published whole): `OUT.bin` raw little-endian ids, `OUT.bin.ends` uint64 tokens up to the
end of each document, `OUT.bin.json` the manifest, published last.

Stream directory (read while it grows): `manifest.json`, replaced atomically at each commit, and for each
segment `tokens-NNNNN.bin` (raw ids) and `ends-NNNNN.u64` (uint64, tokens of the whole stream up to the
end of each document that ends within the segment). The manifest's counts are of the committed prefix;
files may be longer, and what lies beyond is not there yet. Committed bytes never change. Segments at the
start that are marked `retired` have no files any more.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ..errors import StreamError
from .segment import Segment, Snapshot, map_array

_ENDS = np.dtype("<u8")
_STATES = ("growing", "sealed", "failed")


def read_manifest(path: Path, format: str) -> dict[str, Any]:
    """A manifest of the given format, version 1. Raises `StreamError`; `FileNotFoundError` is the caller's."""
    try:
        manifest = msgspec.json.decode(path.read_bytes())
    except msgspec.DecodeError as error:
        raise StreamError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(manifest, dict):
        raise StreamError(f"{path}: not a manifest")
    if manifest.get("format") != format or manifest.get("version") != 1:
        found = f"{manifest.get('format')!r} version {manifest.get('version')!r}"
        raise StreamError(f"{path}: expected {format!r} version 1, found {found}")
    return manifest


def id_dtype(name: Any, path: Path) -> np.dtype[Any]:
    """The dtype that a manifest names."""
    if name not in ("uint16", "uint32"):
        raise StreamError(f"{path}: dtype {name!r} is neither uint16 nor uint32")
    return np.dtype("<u2" if name == "uint16" else "<u4")


def identity(manifest: dict[str, Any]) -> tuple[str | int, ...]:
    """Tokenizer, options, names of the inputs: the same while a stream grows, and for sets made alike.

    Not the inputs' folders, which may differ between machines, nor what is known only when it is done.
    """
    sources = [Path(source["path"]).name for source in manifest["sources"]]
    options = json.dumps(manifest["options"], sort_keys=True)
    return (str(manifest["tokenizer"]["fingerprint"]), options, *sources)


def open_bin(path: Path) -> Snapshot:
    """The set whose data file is `path`."""
    manifest_path = Path(f"{path}.json")
    try:
        manifest = read_manifest(manifest_path, "tokend-bin")
    except FileNotFoundError:
        hint = "the set is incomplete or was not made by tokend" if path.exists() else "check the path"
        raise StreamError(f"{manifest_path}: no manifest", hint) from None
    try:
        dtype = id_dtype(manifest["dtype"], manifest_path)
        n_tokens, n_documents = int(manifest["n_tokens"]), int(manifest["n_documents"])
        tokens, ends = path.parent / manifest["data"]["file"], path.parent / manifest["ends"]["file"]
        _check_size(tokens, n_tokens * dtype.itemsize, exact=True)
        _check_size(ends, n_documents * _ENDS.itemsize, exact=True)
        segment = Segment(
            str(tokens),
            dtype,
            first_token=0,
            n_tokens=n_tokens,
            n_documents=n_documents,
            load_ends=lambda _: map_array(ends, _ENDS, n_documents),
        )
        last = int(segment.ends[-1]) if n_documents else 0
        if last != n_tokens:
            raise StreamError(f"{ends}: the last document ends at {last} of {n_tokens} tokens")
        return Snapshot(
            (segment,), dtype, "sealed", manifest, str(manifest["tokenizer"]["fingerprint"]), identity(manifest)
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _broken(manifest_path, error) from None


def open_directory(folder: Path, before: Snapshot | None = None) -> Snapshot:
    """The stream in `folder` as its manifest has it now; maps of `before` that still hold are kept."""
    path = folder / "manifest.json"
    try:
        manifest = read_manifest(path, "tokend-stream")
    except FileNotFoundError:
        raise StreamError(f"{path}: no manifest", "nothing is committed yet, or this is no stream") from None
    try:
        state = manifest["state"]
        if state not in _STATES:
            raise StreamError(f"{path}: state {state!r} is none of {', '.join(_STATES)}")
        dtype = id_dtype(manifest["dtype"], path)
        # Of thousands of segments only the names are checked here; a length when a file is mapped.
        there = set(os.listdir(folder)) if before is None else set()
        kept = {segment.path: segment for segment in before.segments} if before else {}
        base = f"{folder}/"
        segments: list[Segment] = []
        n_tokens = n_documents = 0
        for entry in manifest["segments"]:
            segment = _segment(base, entry, dtype)
            if segment.first_token != n_tokens:
                raise StreamError(f"{path}: {segment.path} begins at {segment.first_token}, not at {n_tokens}")
            old = kept.get(segment.path)
            if old is not None and old.same_as(segment):
                segment = old
            elif segment.retired:
                pass
            elif before is None and not (entry["tokens"] in there and entry["ends"] in there):
                raise StreamError(f"{segment.path}: missing, or its ends are, though the manifest names both")
            elif before is not None or entry is manifest["segments"][-1]:
                _check_size(Path(segment.path), segment.n_tokens * dtype.itemsize, exact=False)
                _check_size(folder / entry["ends"], segment.n_documents * _ENDS.itemsize, exact=False)
            segments.append(segment)
            n_tokens += segment.n_tokens
            n_documents += segment.n_documents
        if (n_tokens, n_documents) != (manifest["n_tokens"], manifest["n_documents"]):
            raise StreamError(
                f"{path}: {manifest['n_tokens']} tokens and {manifest['n_documents']} documents, "
                f"but its segments have {n_tokens} and {n_documents}"
            )
        return Snapshot(
            tuple(segments),
            dtype,
            state,
            manifest,
            str(manifest["tokenizer"]["fingerprint"]),
            identity(manifest),
            str(manifest["stream_id"]),
            int(manifest["commit"]),
            manifest.get("error"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _broken(path, error) from None


def _segment(base: str, entry: dict[str, Any], dtype: np.dtype[Any]) -> Segment:
    n_documents = int(entry["n_documents"])
    ends = base + entry["ends"]
    return Segment(
        base + entry["tokens"],
        dtype,
        first_token=int(entry["first_token"]),
        n_tokens=int(entry["n_tokens"]),
        n_documents=n_documents,
        load_ends=lambda _: map_array(ends, _ENDS, n_documents),
        retired=bool(entry.get("retired", False)),
    )


def _check_size(path: Path, n_bytes: int, *, exact: bool) -> None:
    """An early look at a file, so that nothing is missing later on."""
    try:
        have = path.stat().st_size
    except FileNotFoundError:
        if n_bytes == 0:
            return
        raise StreamError(f"{path}: missing, though the manifest names it") from None
    if have < n_bytes or (exact and have != n_bytes):
        raise StreamError(f"{path}: {have} bytes, but {n_bytes} bytes are in the manifest", "make the set again")


def _broken(path: Path, error: Exception) -> StreamError:
    if isinstance(error, StreamError):
        return error
    return StreamError(f"{path}: broken manifest ({type(error).__name__}: {error})", "encode the inputs again")
