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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ..errors import StreamError
from . import manifest_file
from .segment import Segment, Segments, Snapshot, map_array

_ENDS = np.dtype("<u8")
_STATES = ("growing", "sealed", "failed")


def read_manifest(path: Path, format: str) -> dict[str, Any]:
    """A manifest of the given format, version 1. Raises `StreamError`; `FileNotFoundError` is the caller's."""
    try:
        manifest = manifest_file.decode(path, manifest_file.read(path))
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


def identity(
    fingerprint: str, options: dict[str, Any], sources: Sequence[Source], otherwise: Sequence[str | int]
) -> tuple[str | int, ...]:
    """Tokenizer, options, names and sizes of the inputs: the same while a stream grows, and for sets made alike.

    Not the inputs' folders, which may differ between machines, nor what is known only when it is done. A stream
    that takes up inputs as they come (`--watch`) has no fixed list of them, and one made by hand may have none:
    for these it is `otherwise`, the stream's own id, or what a set holds.
    """
    if not sources or any(source.offset_bytes is not None for source in sources):
        kept = {name: value for name, value in options.items() if name != "records"}
        return (fingerprint, json.dumps(kept, sort_keys=True), "", *otherwise)
    of_sources: list[str | int] = []
    for source in sources:
        of_sources += [os.path.basename(source.path), source.size_bytes]
    return (fingerprint, json.dumps(options, sort_keys=True), *of_sources)


def open_bin(path: Path) -> Snapshot:
    """The set whose data file is `path`."""
    manifest_path = Path(f"{path}.json")
    try:
        manifest = read_manifest(manifest_path, "tokend-bin")
    except FileNotFoundError:
        hint = "check the path"
        if path.exists():
            hint = "the set is incomplete, or not tokend's; raw ids need to be told what they are: dtype='uint16'"
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
        fingerprint = str(manifest["tokenizer"]["fingerprint"])
        sources = msgspec.convert(manifest["sources"], list[Source])
        own = identity(fingerprint, manifest["options"], sources, (n_tokens, str(manifest["data"].get("xxh3"))))
        return Snapshot((segment,), dtype, "sealed", manifest, fingerprint, own)
    except (KeyError, TypeError, ValueError) as error:
        raise _broken(manifest_path, error) from None


class _Entry(msgspec.Struct, gc=False):
    """A segment in the manifest of a stream."""

    tokens: str
    ends: str
    first_token: int
    n_tokens: int
    n_documents: int
    retired: bool = False


class Source(msgspec.Struct, gc=False):
    """An input in a manifest."""

    path: str
    size_bytes: int = -1
    offset_bytes: int | None = None


class _Manifest(msgspec.Struct):
    """What is needed of the manifest of a stream; decoding no more halves the time it takes."""

    format: str
    version: int
    state: str
    dtype: str
    stream_id: str
    commit: int
    n_tokens: int
    n_documents: int
    tokenizer: dict[str, Any]
    options: dict[str, Any]
    sources: list[Source]
    segments: list[_Entry]
    error: dict[str, Any] | None = None


def stamp_of(folder: Path) -> tuple[int, ...]:
    """What tells one manifest of a directory from the next: it is replaced by another file."""
    found = os.stat(f"{folder}/manifest.json")
    return found.st_ino, found.st_size, found.st_mtime_ns


def open_directory(folder: Path, before: Snapshot | None = None) -> Snapshot:
    """The stream in `folder` as its manifest has it now; maps of `before` that still hold are kept."""
    path = folder / "manifest.json"
    try:
        stamp = stamp_of(folder)
        data = manifest_file.read(path)
    except (FileNotFoundError, NotADirectoryError):
        raise StreamError(f"{path}: no manifest", "nothing is committed yet, or this is no stream") from None
    try:
        manifest = manifest_file.decode(path, data, _Manifest)
        if (manifest.format, manifest.version) != ("tokend-stream", 1):
            read_manifest(path, "tokend-stream")
    except msgspec.DecodeError as error:
        read_manifest(path, "tokend-stream")
        raise _broken(path, error) from None
    try:
        return _snapshot(folder, manifest, data, stamp, before)
    except (KeyError, TypeError, ValueError) as error:
        raise _broken(path, error) from None


def _snapshot(
    folder: Path, manifest: _Manifest, data: bytes, stamp: tuple[int, ...], before: Snapshot | None
) -> Snapshot:
    path = folder / "manifest.json"
    state, entries = manifest.state, manifest.segments
    if state not in _STATES:
        raise StreamError(f"{path}: state {state!r} is none of {', '.join(_STATES)}")
    dtype = id_dtype(manifest.dtype, path)
    firsts = np.cumsum([0, *[entry.n_tokens for entry in entries]])
    documents = np.cumsum([0, *[entry.n_documents for entry in entries]])
    for number in np.flatnonzero(firsts[:-1] != [entry.first_token for entry in entries]).tolist():
        entry = entries[number]
        raise StreamError(f"{path}: {entry.tokens} begins at {entry.first_token}, not at {firsts[number]}")
    if (firsts[-1], documents[-1]) != (manifest.n_tokens, manifest.n_documents):
        raise StreamError(
            f"{path}: {manifest.n_tokens} tokens and {manifest.n_documents} documents, "
            f"but its segments have {firsts[-1]} and {documents[-1]}"
        )
    n_known = 0
    if before is None:
        # Of thousands of segments only the names are checked here; a length when a file is mapped.
        there = set(os.listdir(folder))
        for entry in entries:
            if not (entry.retired or (entry.tokens in there and entry.ends in there)):
                raise StreamError(f"{folder}/{entry.tokens}: missing, or its ends are, though the manifest names both")
        n_known = max(len(entries) - 1, 0)
    else:
        n_known = max(len(before.segments) - 1, 0)
    for entry in entries[n_known:]:
        _check_size(folder / entry.tokens, entry.n_tokens * dtype.itemsize, exact=False)
        _check_size(folder / entry.ends, entry.n_documents * _ENDS.itemsize, exact=False)

    def make(number: int) -> Segment:
        entry = entries[number]
        ends = f"{folder}/{entry.ends}"
        return Segment(
            f"{folder}/{entry.tokens}",
            dtype,
            first_token=entry.first_token,
            n_tokens=entry.n_tokens,
            n_documents=entry.n_documents,
            load_ends=lambda _: map_array(ends, _ENDS, entry.n_documents),
            retired=entry.retired,
        )

    made: dict[int, Segment] = {}
    if before is not None and isinstance(before.segments, Segments):
        for number, segment in list(before.segments.made.items()):
            if number < len(entries) and (segment.n_tokens, segment.n_documents, segment.retired) == (
                entries[number].n_tokens, entries[number].n_documents, entries[number].retired,
            ):  # fmt: skip
                made[number] = segment
    fingerprint = str(manifest.tokenizer["fingerprint"])
    return Snapshot(
        Segments(len(entries), make, made),
        dtype,
        state,  # type: ignore[arg-type]
        data,
        fingerprint,
        identity(fingerprint, manifest.options, manifest.sources, (manifest.stream_id,)),
        manifest.stream_id,
        manifest.commit,
        manifest.error,
        stamp,
        firsts.astype(np.int64),
        documents.astype(np.int64),
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
