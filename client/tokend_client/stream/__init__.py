"""Token streams on disk as arrays, with no daemon and no Rust.

`TokenStream` reads what tokend writes (sets and streams that still grow, `native.py`) and the token files
of other tools (`foreign.py`). A stream is one memory map per file and plain numpy views over them: a
slice costs a microsecond and, within a file, copies nothing.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from ..errors import NotFoundError, StreamError
from . import checksums, foreign, native
from .segment import Ids, Segments, Snapshot

__all__ = ["Ids", "Origin", "TokenStream"]


@dataclass(frozen=True)
class Origin:
    """Where a token came from."""

    position: int
    """Of the token, in its stream."""
    document: int | None
    """Its document, counted over the stream; None where boundaries are unknown."""
    offset_in_document: int | None
    """In tokens."""
    source: str | None
    """The input file; None where the format does not tell."""
    document_in_source: int | None
    """Its document, counted from the start of that input."""


class TokenStream:
    """A token stream, as a read-only sequence of ids.

    `stream[i]` is an int, `stream[a:b]` an array in the stream's dtype (a view, unless the slice crosses
    files), `stream.document(i)` the ids of a document, its end-of-text id included. Lengths are checked
    when it opens. Thread-safe; a forked child may go on using it; it pickles as its path.

    Parameters: `path` of a `.bin` set or its manifest, of a stream directory, of Megatron's `.idx` or
    `.bin` or their prefix, of llm.c shards or datatrove `.ds` files (one, a folder or a glob), or, with
    `dtype`, of raw ids. `fingerprint`, if given, must be that of the tokenizer that made the stream.
    `eot_id` finds documents where a format has no index; `eot_at` says whether it ends them or stands
    at their start (default: as the format has it).

    A directory that is still written shows what was committed when it opened; `refresh()` shows more.
    Arrays that were handed out stay as they are.

    Raises `StreamError` for a stream that is incomplete, not what it says, or another tokenizer's.

        with TokenStream("corpus.bin") as stream:
            x, y = stream[0:1024], stream[1:1025]
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        fingerprint: str | None = None,
        dtype: str | None = None,
        eot_id: int | None = None,
        eot_at: foreign.EotAt | None = None,
    ) -> None:
        text = os.fspath(path)
        self.path = Path(text.removesuffix(".json"))
        if self.path.name == "manifest":
            self.path = self.path.parent
        self._options = {"fingerprint": fingerprint, "dtype": dtype, "eot_id": eot_id, "eot_at": eot_at}
        self._lock = threading.Lock()
        self._snapshot = self._open(dtype, eot_id, eot_at)
        self.require(fingerprint)

    def require(self, fingerprint: str | None) -> None:
        """Raises `StreamError` if a fingerprint is given and is not that of the tokenizer that made the stream."""
        made_by = self._snapshot.fingerprint
        if fingerprint is not None and fingerprint != made_by:
            found = "an unknown tokenizer" if made_by is None else f"tokenizer {made_by[:12]}"
            raise StreamError(
                f"{self.path}: made by {found}, not {fingerprint[:12]}",
                "encode the inputs again with the tokenizer that you train with",
            )

    def _open(self, dtype: str | None, eot_id: int | None, eot_at: foreign.EotAt | None) -> Snapshot:
        path = self.path
        if Path(f"{path}.json").exists():
            return native.open_bin(path)
        if (path / "manifest.json").exists():
            return native.open_directory(path)
        if dtype is not None:
            if not path.exists():
                raise NotFoundError(f"{path}: no such file")
            return foreign.open_raw(path, dtype, eot_id, eot_at)
        if foreign.is_megatron(path):
            return foreign.open_megatron(path)
        files = foreign.shards(path)
        if files and all(file.suffix == ".ds" for file in files):
            return foreign.open_datatrove(files)
        if files and foreign.llmc_magic(files[0]):
            return foreign.open_llmc(files, eot_id, eot_at)
        if path.is_dir():
            return native.open_directory(path)
        return native.open_bin(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (str(self.path), self._options)

    def reopen(self) -> TokenStream:
        """Another stream over the same files, as they are now."""
        return _reopen(str(self.path), self._options)

    def verify(self) -> int:
        """Reads every committed byte and compares it with the manifest's checksums; returns how many bytes.

        Opening checks lengths only: a flipped bit is found by this, or by `tokend verify`, which also checks ids
        and ends and names the place. Blocks for as long as the disk takes. Raises `StreamError` with the first
        file that is not what was written, for formats without checksums, and without the package `xxhash`
        (`pip install 'tokend-client[verify]'`).
        """
        with self._lock:
            manifest = self._snapshot.manifest
        return checksums.verify(self.path, manifest)

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest; for other tools' files what could be told from them."""
        return self._snapshot.manifest

    @property
    def state(self) -> Literal["growing", "sealed", "failed"]:
        """Whether more may come."""
        return self._snapshot.state

    @property
    def identity(self) -> tuple[str | int, ...]:
        """Equal for streams made by the same tokenizer and options of the same inputs, however far they are."""
        return self._snapshot.identity

    @property
    def error(self) -> dict[str, Any] | None:
        """Of a failed stream: code, message, hint."""
        return self._snapshot.error

    @property
    def stream_id(self) -> str | None:
        """The writer's name for a stream directory; None for all else."""
        return self._snapshot.stream_id

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint16 or uint32; int32 for Megatron sets of large vocabularies."""
        return self._snapshot.dtype

    @property
    def n_tokens(self) -> int:
        """The number of ids that are there."""
        return self._snapshot.n_tokens

    @property
    def n_documents(self) -> int:
        """The number of documents that end within them."""
        return int(self._snapshot.documents[-1])

    @property
    def has_documents(self) -> bool:
        """Whether document boundaries are known."""
        return self._snapshot.has_documents

    @property
    def fingerprint(self) -> str | None:
        """That of the tokenizer that made the stream; None where the format has none."""
        return self._snapshot.fingerprint

    @property
    def vocabulary(self) -> str | None:
        """What another tool's format says of the tokenizer: two that differ are of two tokenizers. None for others."""
        return self._snapshot.vocabulary

    @property
    def tokenizer(self) -> str | None:
        """The name or path of the tokenizer that made the stream; None where the format has none."""
        tokenizer = self._snapshot.manifest.get("tokenizer")
        return None if tokenizer is None else str(tokenizer["name"])

    @property
    def eot_id(self) -> int | None:
        """The end-of-text id, where it is known."""
        tokenizer = self._snapshot.manifest.get("tokenizer") or {}
        found = tokenizer.get("eot_id", self._options["eot_id"])
        return None if found is None else int(found)

    @property
    def tokens(self) -> Ids:
        """All ids as one read-only view. Raises `StreamError` for a stream of several files: use slices."""
        segments = self._snapshot.segments
        if len(segments) > 1:
            raise StreamError(f"{self.path}: {len(segments)} files are no one array", "use slices: stream[a:b]")
        return segments[0].tokens if segments else np.empty(0, self.dtype)

    @property
    def ends(self) -> NDArray[np.uint64]:
        """Tokens up to the end of each document, uint64; a copy for a stream of several files."""
        segments = self._snapshot.segments
        if len(segments) == 1 and segments[0].ends_base == 0:
            return segments[0].ends
        parts = [segment.ends + np.uint64(segment.ends_base) for segment in segments]
        return np.concatenate([np.empty(0, np.uint64), *parts])

    def refresh(self) -> bool:
        """Looks for newly committed tokens; True if the manifest has changed. Some microseconds if not.

        Raises `StreamError` if another stream has taken this one's place, or if it has shrunk.
        """
        before = self._snapshot
        if before.stream_id is None or before.state == "sealed":
            return False
        with self._lock:
            if self._is_same(before):
                return False
            now = native.open_directory(self.path, before)
            if now.stream_id != before.stream_id:
                raise StreamError(
                    f"{self.path}: stream {before.stream_id} was replaced by {now.stream_id}", "open it again"
                )
            if now.n_tokens < before.n_tokens or now.commit < before.commit:
                raise StreamError(
                    f"{self.path}: commit {now.commit} has {now.n_tokens} tokens, "
                    f"but commit {before.commit} had {before.n_tokens}"
                )
            self._snapshot = now
        return now.commit != before.commit

    def release(self, before: int) -> None:
        """Lets go of the maps of files that end at or before the position `before`; they are made anew when needed."""
        snapshot = self._snapshot
        n_behind = int(np.searchsorted(snapshot.firsts, before, "right")) - 1
        segments = snapshot.segments
        made = segments.made if isinstance(segments, Segments) else dict(enumerate(segments))
        for number, segment in list(made.items()):
            if number < n_behind:
                segment.release()

    def _is_same(self, snapshot: Snapshot) -> bool:
        try:
            return native.stamp_of(self.path) == snapshot.stamp
        except OSError:
            return False

    def __len__(self) -> int:
        return self._snapshot.n_tokens

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> Ids: ...
    def __getitem__(self, index: int | slice) -> int | Ids:
        snapshot = self._snapshot
        if isinstance(index, slice):
            start, stop, step = index.indices(snapshot.n_tokens)
            if step > 0:
                return _span(snapshot, start, stop)[::step]
            return _span(snapshot, stop + 1, start + 1)[::-1][::-step]
        n = snapshot.n_tokens
        if not -n <= index < n:
            raise IndexError(f"token {index} of {n}")
        index %= n
        segment = snapshot.segments[int(np.searchsorted(snapshot.firsts, index, "right")) - 1]
        return int(segment.tokens[index - segment.first_token])

    def gather(self, starts: NDArray[np.int64], length: int, out: Ids | None = None) -> Ids:
        """Rows of `length` tokens from the positions `starts` on: an array (len(starts), length).

        `out`, if given, is filled and returned. Raises `IndexError` for a row that is not all there.
        """
        snapshot = self._snapshot
        if out is None:
            out = np.empty((len(starts), length), self.dtype)
        if not len(starts):
            return out
        if int(starts.min()) < 0 or int(starts.max()) + length > snapshot.n_tokens:
            raise IndexError(f"rows of {length} tokens up to {int(starts.max()) + length} of {snapshot.n_tokens}")
        if length == 0:
            return out
        if len(snapshot.segments) == 1:
            out[...] = snapshot.segments[0].rows(length)[starts]
            return out
        which = np.searchsorted(snapshot.firsts, starts, "right") - 1
        whole = starts + length <= snapshot.firsts[which + 1]
        for number in np.unique(which).tolist():
            segment = snapshot.segments[number]
            here = np.flatnonzero((which == number) & whole)
            if len(here):
                rows = segment.rows(length)[starts[here] - segment.first_token]
                if len(here) == len(starts):
                    out[...] = rows
                    return out
                out[here] = rows
        for row in np.flatnonzero(~whole).tolist():
            out[row] = _span(snapshot, int(starts[row]), int(starts[row]) + length)
        return out

    def stretches(self, starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> list[Ids]:
        """`stream[start : start + length]` for many at once."""
        snapshot = self._snapshot
        which = np.searchsorted(snapshot.firsts, starts, "right") - 1
        if not len(starts):
            return []
        number = int(which[0])
        segment = snapshot.segments[number]
        if bool((which == number).all()) and int((starts + lengths).max()) <= int(snapshot.firsts[number + 1]):
            tokens = segment.tokens
            begins = starts - segment.first_token
            ends = begins + lengths
            return [tokens[begin:end] for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)]
        return [
            _span(snapshot, start, start + length)
            for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)
        ]

    def document(self, index: int) -> Ids:
        """The ids of a document; negative indices count from the end. Raises `IndexError`."""
        start, stop = self.document_bounds(index)
        return _span(self._snapshot, start, stop)

    def document_bounds(self, index: int) -> tuple[int, int]:
        """The first position of a document, and the one after its last. Raises `IndexError`."""
        snapshot = self._with_documents()
        n = int(snapshot.documents[-1])
        if not -n <= index < n:
            raise IndexError(f"document {index} of {n}")
        index %= n
        return (_end_of(snapshot, index - 1) if index else 0), _end_of(snapshot, index)

    def documents_at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """For each position the index of its document; of the one still being written: `n_documents`."""
        snapshot = self._with_documents()
        which = np.clip(np.searchsorted(snapshot.firsts, positions, "right") - 1, 0, max(len(snapshot.segments) - 1, 0))
        out = np.empty(positions.shape, np.int64)
        before = snapshot.documents
        for number in np.unique(which).tolist():
            segment = snapshot.segments[number]
            here = which == number
            inside = (positions[here] - segment.ends_base).astype(np.uint64)
            out[here] = before[number] + np.searchsorted(segment.ends, inside, "right")
        return out

    def ends_between(self, start: int, stop: int) -> NDArray[np.int64]:
        """The document ends e with start < e ≤ stop, in order, as positions."""
        snapshot = self._with_documents()
        first = max(int(np.searchsorted(snapshot.firsts, start, "right")) - 1, 0)
        found = [np.empty(0, np.int64)]
        for number in range(first, len(snapshot.segments)):
            segment = snapshot.segments[number]
            if segment.first_token >= stop:
                break
            low = np.uint64(max(start - segment.ends_base, 0))
            high = np.uint64(max(stop - segment.ends_base, 0))
            begin, end = np.searchsorted(segment.ends, np.array([low, high]), "right").tolist()
            found.append(segment.ends[begin:end].astype(np.int64) + segment.ends_base)
        return np.concatenate(found)

    def boundaries(
        self, starts: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Where documents begin inside the spans [start, start + length), their first tokens excepted.

        Three arrays: the span's number, the position, and the index of the document that begins there.
        Ordered by span and position; of documents without tokens only the one after them is there.
        """
        snapshot = self._with_documents()
        before = snapshot.documents
        which = np.searchsorted(snapshot.firsts, starts, "right") - 1
        whole = starts + lengths <= snapshot.firsts[np.minimum(which + 1, len(snapshot.segments))]
        spans, positions, documents = [], [], []
        for number in np.unique(which[whole]).tolist():
            segment = snapshot.segments[number]
            here = np.flatnonzero(whole & (which == number))
            first = starts[here] - segment.ends_base
            low = np.searchsorted(segment.ends, first.astype(np.uint64), "right")
            high = np.searchsorted(segment.ends, (first + lengths[here]).astype(np.uint64), "left")
            n = high - low
            index = np.repeat(low - np.cumsum(n) + n, n) + np.arange(int(n.sum()))
            spans.append(np.repeat(here, n))
            positions.append(segment.ends[index].astype(np.int64) + segment.ends_base)
            documents.append(index + 1 + int(before[number]))
        for span in np.flatnonzero(~whole).tolist():
            start = int(starts[span])
            ends = self.ends_between(start, start + int(lengths[span]) - 1)
            spans.append(np.full(len(ends), span))
            positions.append(ends)
            documents.append(int(self.documents_at(np.array([start]))[0]) + 1 + np.arange(len(ends)))
        if not spans:
            return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64)
        found = np.stack([np.concatenate(spans), np.concatenate(positions), np.concatenate(documents)])
        found = found[:, np.lexsort((found[2], found[1], found[0]))]
        last = np.ones(found.shape[1], np.bool_)
        last[:-1] = (found[:2, 1:] != found[:2, :-1]).any(axis=0)
        return found[0, last], found[1, last], found[2, last]

    def explain(self, position: int) -> Origin:
        """Document and input file of the token at a position. Raises `IndexError`."""
        if not 0 <= position < self.n_tokens:
            raise IndexError(f"token {position} of {self.n_tokens}")
        document = offset = source = within = None
        if self.has_documents:
            document = int(self.documents_at(np.array([position]))[0])
            start = _end_of(self._snapshot, document - 1) if document else 0
            offset = position - start
        tokens = documents = 0
        for entry in self.manifest.get("sources") or ():
            if entry["n_tokens"] is None or position < tokens + entry["n_tokens"]:
                source = str(entry["path"])
                within = None if document is None else document - documents
                break
            tokens += entry["n_tokens"]
            documents += entry["n_documents"]
        return Origin(position, document, offset, source, within)

    def _with_documents(self) -> Snapshot:
        if not self.has_documents:
            raise StreamError(f"{self.path}: nothing tells where its documents end", "give eot_id=")
        return self._snapshot

    def close(self) -> None:
        """Lets the maps go; arrays that are still in use keep theirs until they are gone."""
        old = self._snapshot
        self._snapshot = Snapshot((), old.dtype, "sealed", old.source, old.fingerprint, old.identity)

    def __enter__(self) -> TokenStream:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        documents = f", {self.n_documents} documents" if self.has_documents else ""
        state = "" if self.state == "sealed" else f", {self.state}"
        return f"TokenStream({str(self.path)!r}, {len(self)} tokens{documents}, {self.dtype}{state})"


def _reopen(path: str, options: dict[str, Any]) -> TokenStream:
    return TokenStream(path, **options)


def _span(snapshot: Snapshot, start: int, stop: int) -> Ids:
    """Tokens start..stop: a view within a file, a copy across files."""
    if stop <= start:
        return np.empty(0, snapshot.dtype)
    number = int(np.searchsorted(snapshot.firsts, start, "right")) - 1
    parts: list[Ids] = []
    while start < stop:
        segment = snapshot.segments[number]
        upto = min(stop, segment.first_token + segment.n_tokens)
        parts.append(segment.tokens[start - segment.first_token : upto - segment.first_token])
        start = upto
        number += 1
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _end_of(snapshot: Snapshot, document: int) -> int:
    number = int(np.searchsorted(snapshot.documents, document, "right")) - 1
    segment = snapshot.segments[number]
    return int(segment.ends[document - int(snapshot.documents[number])]) + segment.ends_base
