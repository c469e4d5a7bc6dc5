"""A finished set written again as one of ours: `bin` or `stream`, of ids that are there already.

    TokenSource ─► ids of the vocabulary's width, ends ─► .OUT.convert/ ─► OUT, OUT.ends ... OUT.json   (bin)
                                                                      ─► OUT/                          (stream)

Ids and end-of-text ids stay as they are, but for one that a document lacks at the very border of a set without an
index: the set is one of whole documents, so it gets it, and that is said. A set appears whole or not at all
(`publish`; a stream with one rename); a killed run's hidden directory is removed by the next.
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from tokend_client.errors import BadRequestError, OutputExistsError
from tokend_client.sidecars import MANIFEST, OF_SET

from . import __version__, _core, publish
from .foreign import Span
from .foreign.scan import blocks
from .foreign.sets import fault
from .reuse import is_taken, read_manifest
from .sources import has_places, is_of_records
from .token_source import TokenSource

PURPOSE = "convert"
"""Of the hidden directory."""
SEGMENT_BYTES = 256 << 20
"""A segment of a stream is closed by the first block of ids that fills it, as the core does."""


class Meter:
    """How far a rewrite is, for whoever shows it, and whether it is to go on."""

    def __init__(self, control: _core.JobControl | None = None) -> None:
        self.control = control or _core.JobControl()
        self.n_bytes = self.total_bytes = self.n_tokens = self.n_documents = 0

    def progress(self) -> tuple[int, int, int, int]:
        """Bytes done, bytes in all, tokens, documents."""
        return self.n_bytes, self.total_bytes, self.n_tokens, self.n_documents

    def check(self) -> None:
        """Raises `CancelledError` where the control says so."""
        self.control.check()


@dataclass
class _Part:
    """A segment; `bin` has one."""

    n_tokens: int = 0
    n_documents: int = 0


@dataclass
class _Written:
    """What the ids became."""

    parts: list[_Part] = field(default_factory=list)
    by_file: dict[Path, list[int]] = field(default_factory=dict)
    """Tokens and documents of each file that was read."""
    remarks: list[str] = field(default_factory=list)

    @property
    def n_tokens(self) -> int:
        return sum(part.n_tokens for part in self.parts)

    @property
    def n_documents(self) -> int:
        return sum(part.n_documents for part in self.parts)


def check_place(output: str, format: str, *, force: bool) -> None:
    """Refuses what cannot be made there, before any work is done. Raises `OutputExistsError`, `BadRequestError`."""
    if format == "bin":
        if is_taken(output) and not force:
            raise OutputExistsError(f"{output}: output exists", "choose another, or replace it with --force")
        if force and is_taken(output) and read_manifest(output) is None:
            raise BadRequestError(f"{output} is no set that tokend made, and stays", "choose another output")
        return
    if os.path.lexists(output):
        if not force:
            raise OutputExistsError(f"{output}: output exists", "choose another, or replace it with --force")
        if not os.path.exists(os.path.join(output, "manifest.json")):
            raise BadRequestError(f"{output} is no stream that tokend made, and stays", "choose another output")


def rewrite(
    source: TokenSource, output: str, format: str = "bin", *, force: bool = False, meter: Meter | None = None
) -> dict[str, Any]:
    """Writes a set that was checked as `format` (bin, stream) at `output`; returns its manifest.

    Raises `OutputExistsError` where something stands without `force`, `ConflictError` where another job writes there,
    `StreamError` for a file that changed meanwhile, `CancelledError`; nothing is left then.
    """
    meter = meter or Meter()
    meter.total_bytes = source.n_bytes
    with publish.claimed(output):
        folder = publish.hidden_folder(output, PURPOSE)
        publish.finish(output, folder)
        check_place(output, format, force=force)
        shutil.rmtree(folder, ignore_errors=True)
        os.mkdir(folder)
        try:
            written = _write(source, folder, SEGMENT_BYTES if format == "stream" else None, meter)
            source.found.remarks += written.remarks
            make = _publish_bin if format == "bin" else _publish_stream
            return make(source, written, folder, output)
        finally:
            # What a set or stream was replaced by, or was, is in there while it has no other name.
            if not publish.is_begun(output, folder):
                shutil.rmtree(folder, ignore_errors=True)


class _Parts:
    """The files of ids and ends that are being written, a pair for each segment."""

    def __init__(self, folder: str, source: TokenSource, written: _Written, meter: Meter) -> None:
        self._folder, self._dtype, self._written, self._meter = folder, source.dtype, written, meter
        self._files: list[IO[bytes]] = []
        self.next()

    @property
    def n_bytes(self) -> int:
        """Of ids in the present segment."""
        return self._written.parts[-1].n_tokens * self._dtype.itemsize

    def next(self) -> None:
        """Begins a segment."""
        self.close()
        number = len(self._written.parts)
        self._files = [
            open(os.path.join(self._folder, f"{name}-{number:05}"), "w+b")  # noqa: SIM115
            for name in ("tokens", "ends")
        ]
        self._written.parts.append(_Part())

    def add(self, span: Span, ids: NDArray[Any], ends: NDArray[np.uint64]) -> None:
        """Ids of a span, and ends of documents in the whole set."""
        self._files[0].write(np.ascontiguousarray(ids, self._dtype).data)
        self._files[1].write(np.ascontiguousarray(ends, "<u8").data)
        counts = self._written.by_file.setdefault(span.path, [0, 0])
        counts[0] += len(ids)
        counts[1] += len(ends)
        part = self._written.parts[-1]
        part.n_tokens += len(ids)
        part.n_documents += len(ends)
        self._meter.n_bytes += len(ids) * self._dtype.itemsize
        self._meter.n_tokens += len(ids)
        self._meter.n_documents += len(ends)

    def complete_last(self, span: Span, eot_id: int) -> None:
        """Gives the last document its end-of-text id: its end, which was written last, moves by one."""
        self.add(span, np.array([eot_id]), np.empty(0, np.uint64))
        self._files[1].seek(-8, os.SEEK_END)
        self._files[1].write(np.array([self._written.n_tokens], "<u8").data)

    def close(self) -> None:
        """Closes the present segment."""
        for file in self._files:
            file.close()


def _write(source: TokenSource, folder: str, segment_bytes: int | None, meter: Meter) -> _Written:
    """Writes ids and ends as `tokens-N` and `ends-N` in the folder."""
    written = _Written()
    parts = _Parts(folder, source, written, meter)
    try:
        last = _write_spans(source, parts, segment_bytes, meter, written)
        eot, eot_id = source.options["eot"], source.options["eot_id"]
        if eot in ("append", "both") and not source.is_own and last not in (None, eot_id):
            parts.complete_last(source.found.spans[-1], eot_id)
            written.remarks.append(f"the last document had no end-of-text id: {eot_id} was added")
    finally:
        parts.close()
    return written


def _write_spans(
    source: TokenSource, parts: _Parts, segment_bytes: int | None, meter: Meter, written: _Written
) -> int | None:
    """Writes all ids, and returns the last."""
    eot, eot_id, vocab_size = source.options["eot"], source.options["eot_id"], source.tokenizer["vocab_size"]
    n_added, n_read, last = 0, 0, None
    for span, ends in zip(source.found.spans, source.document_ends(), strict=True):
        n_ends = 0
        for _, ids in blocks(span):
            meter.check()
            if segment_bytes is not None and parts.n_bytes >= segment_bytes:
                parts.next()
            low, high = int(ids.min()), int(ids.max())
            if low < 0 or high >= vocab_size:
                raise fault(span.path, None, f"has ids from {low} to {high} now: it was changed while it was read")
            is_first, n_read, last = n_read == 0, n_read + len(ids), int(ids[-1])
            if is_first and eot in ("prepend", "both") and not source.is_own and int(ids[0]) != eot_id:
                n_added = 1
                ids = np.concatenate([np.array([eot_id], "<u4"), ids.astype("<u4")])
                written.remarks.append(f"the first document had no end-of-text id: {eot_id} was added")
            upto = int(np.searchsorted(ends, n_read, "right"))
            parts.add(span, ids, ends[n_ends:upto] + np.uint64(n_added))
            n_ends = upto
        if n_ends < len(ends):
            # Documents of no ids, in a span of none.
            parts.add(span, np.empty(0, source.dtype), ends[n_ends:] + np.uint64(n_added))
    return last


def _manifest(source: TokenSource, written: _Written) -> dict[str, Any]:
    """What `bin` and `stream` manifests have in common."""
    sources = source.sources
    if sources is None:
        # Made of token files, which say nothing of the text that they came from.
        sources = [
            {
                **one,
                "n_tokens": written.by_file.get(Path(one["path"]), [0, 0])[0],
                "n_documents": written.by_file.get(Path(one["path"]), [0, 0])[1],
                "format": source.found.kind,
            }
            for one in source.own_sources()
        ]
    return {
        "dtype": source.dtype.name,
        "n_tokens": written.n_tokens,
        "n_documents": written.n_documents,
        "tokenizer": source.tokenizer,
        "options": source.options,
        "sources": sources,
    }


def _publish_bin(source: TokenSource, written: _Written, folder: str, output: str) -> dict[str, Any]:
    for name, part in (("tokens-00000", "data"), ("ends-00000", "ends")):
        os.rename(os.path.join(folder, name), os.path.join(folder, part))
    for part, paths in source.sidecars.items():
        join(paths, os.path.join(folder, part))
    base = os.path.basename(output)
    files = {
        part: _file(os.path.join(folder, part), base + suffix)
        for part, suffix in OF_SET.items()
        if os.path.exists(os.path.join(folder, part))
    }
    made = {"format": "tokend-bin", "version": 1, **_manifest(source, written), **files, "tokend_version": __version__}
    publish.seal(folder, made)
    if os.path.exists(f"{output}{MANIFEST}"):
        publish.replace(folder, output)
        shutil.rmtree(folder, ignore_errors=True)
    else:
        publish.add(folder, output)
    return made


def _publish_stream(source: TokenSource, written: _Written, folder: str, output: str) -> dict[str, Any]:
    stream = os.path.join(folder, "stream")
    os.mkdir(stream)
    segments = []
    first = 0
    for number, part in enumerate(written.parts):
        names = {"tokens": f"tokens-{number:05}.bin", "ends": f"ends-{number:05}.u64"}
        for name, target in names.items():
            os.rename(os.path.join(folder, f"{name}-{number:05}"), os.path.join(stream, target))
        hashes = {f"{name}_xxh3": _file(os.path.join(stream, target), "")["xxh3"] for name, target in names.items()}
        counts = {"first_token": first, "n_tokens": part.n_tokens, "n_documents": part.n_documents}
        segments.append({**names, **counts, **hashes})
        first += part.n_tokens
    _deal_out(source, stream, segments)
    made: dict[str, Any] = {
        "format": "tokend-stream",
        "version": 1,
        "state": "sealed",
        "stream_id": secrets.token_hex(16),
        "commit": 1,
        **_manifest(source, written),
        "segments": segments,
    }
    skipped = os.path.join(folder, "skipped.jsonl")
    if "skipped" in source.sidecars:
        join(source.sidecars["skipped"], skipped)
        made["skipped"] = _file(skipped, f"{os.path.basename(output)}.skipped.jsonl")
    made |= {"error": None, "resume": None, "tokend_version": __version__}
    with open(os.path.join(stream, "manifest.json"), "w", encoding="utf-8") as file:
        file.write(json.dumps(made, indent=2, ensure_ascii=False) + "\n")
    for name in os.listdir(stream):
        with open(os.path.join(stream, name), "rb") as opened:
            os.fsync(opened.fileno())
    publish.sync_folder(stream)
    publish.put_folder(folder, output)
    return made


def _deal_out(source: TokenSource, stream: str, segments: list[dict[str, Any]]) -> None:
    """Gives each segment the places and ids of its documents."""
    sources = source.sources or []
    bounds = np.cumsum([0, *(one["n_documents"] for one in sources)])
    for name, suffix in (("docs", "u64"), ("ids", "jsonl")):
        if name not in source.sidecars:
            continue
        joined = os.path.join(stream, f".{name}")
        join(source.sidecars[name], joined)
        with open(joined, "rb") as file:
            n_before = 0
            for number, segment in enumerate(segments):
                target = os.path.join(stream, f"{name}-{number:05}.{suffix}")
                upto = n_before + segment["n_documents"]
                with open(target, "wb") as made:
                    if name == "docs":
                        made.write(file.read(16 * _n_of(sources, bounds, n_before, upto, has_places)))
                    else:
                        n_records = _n_of(sources, bounds, n_before, upto, is_of_records)
                        made.writelines(itertools.islice(file, n_records))
                n_before = upto
                segment[name] = _file(target, os.path.basename(target))
        os.unlink(joined)


def _n_of(
    sources: list[dict[str, Any]],
    bounds: NDArray[np.int64],
    first: int,
    upto: int,
    is_one: Callable[[dict[str, Any]], bool],
) -> int:
    """How many of a range of documents are of such sources."""
    n_found = 0
    for number, source in enumerate(sources):
        if is_one(source):
            n_found += max(0, min(upto, int(bounds[number + 1])) - max(first, int(bounds[number])))
    return n_found


def _file(path: str, name: str) -> dict[str, Any]:
    size = os.path.getsize(path)
    return {"file": name, "size_bytes": size, "xxh3": _core.hash_prefixes(path, [size])[0]}


def join(paths: list[Path], target: str) -> None:
    """Writes files one behind the other."""
    with open(target, "wb") as joined:
        for path in paths:
            with path.open("rb") as file:
                shutil.copyfileobj(file, joined, 1 << 20)
