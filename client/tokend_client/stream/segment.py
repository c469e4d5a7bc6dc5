"""A piece of a stream that lies in one file, and the state of a whole stream at one commit."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, overload

import msgspec
import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from ..errors import NotFoundError, RetiredError, StreamError

Ids = NDArray[Any]
"""Token ids: uint16 or uint32 (int32 in Megatron sets of large vocabularies)."""

EMPTY_ENDS = np.empty(0, np.uint64)


def map_array(path: str | Path, dtype: np.dtype[Any], n_items: int, *, offset_bytes: int = 0) -> NDArray[Any]:
    """`n_items` of a file as a read-only array over a memory map of its own.

    The array keeps the map alive; the file is closed at once. The map survives a fork, and the file's
    being deleted. Raises `NotFoundError`, and `StreamError` for a file that is too short.
    """
    if n_items == 0:
        return np.empty(0, dtype)
    n_bytes = offset_bytes + n_items * dtype.itemsize
    try:
        with open(path, "rb") as file:
            have = os.fstat(file.fileno()).st_size
            if have < n_bytes:
                raise StreamError(
                    f"{path}: {have} bytes, but {n_bytes} bytes are in the manifest", "make the set again"
                )
            mapped = mmap.mmap(file.fileno(), n_bytes, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise NotFoundError(f"{path}: missing, though the manifest names it") from None
    return np.frombuffer(mapped, dtype, count=n_items, offset=offset_bytes)


class Segment:
    """Tokens `first_token..first_token + n_tokens` of a stream, in one file, mapped when first used.

    `ends_base + ends[i]` is the position in the stream just after the i-th of this segment's documents.
    `load_ends` is called when documents are first asked for (twice, if two threads ask at once). Tokens and
    ends are what is committed and no more.
    """

    def __init__(
        self,
        path: str,  # Thousands are made when a large stream opens; a Path costs more than all else.
        dtype: np.dtype[Any],
        *,
        first_token: int,
        n_tokens: int,
        n_documents: int | None = 0,
        ends_base: int = 0,
        offset_bytes: int = 0,
        load_ends: Callable[[Segment], NDArray[np.uint64]] | None = None,
        retired: bool = False,
    ) -> None:
        self.path = path
        self.dtype = dtype
        self.first_token = first_token
        self.n_tokens = n_tokens
        self._n_documents = n_documents
        self.ends_base = ends_base
        self.offset_bytes = offset_bytes
        self._load_ends = load_ends
        self.retired = retired
        self._rows: Ids | None = None

    @cached_property
    def tokens(self) -> Ids:
        """The ids, a view of the file. Raises `RetiredError` where it is gone on purpose."""
        self._check()
        return map_array(self.path, self.dtype, self.n_tokens, offset_bytes=self.offset_bytes)

    def rows(self, length: int) -> Ids:
        """Overlapping rows: row i is the `length` tokens from i on. A view, never more than the segment."""
        cached = self._rows
        if cached is None or cached.shape[1] != length:
            tokens = self.tokens
            size = tokens.itemsize
            cached = as_strided(tokens, (len(tokens) - length + 1, length), (size, size), writeable=False)
            self._rows = cached
        return cached

    @cached_property
    def ends(self) -> NDArray[np.uint64]:
        """Ends of the documents that end here, less `ends_base`."""
        self._check()
        return EMPTY_ENDS if self._load_ends is None else self._load_ends(self)

    def _check(self) -> None:
        if self.retired:
            end = self.first_token + self.n_tokens
            raise RetiredError(
                f"{self.path}: tokens {self.first_token:,} to {end:,} were retired: every run had passed them",
                "go on from a later checkpoint, or encode the inputs again",
            )

    def release(self) -> None:
        """Lets go of the maps; they are made anew when they are needed."""
        self._rows = None
        self.__dict__.pop("tokens", None)
        self.__dict__.pop("ends", None)

    @property
    def n_documents(self) -> int:
        """Documents that end in this segment; may read the file to find out."""
        return len(self.ends) if self._n_documents is None else self._n_documents

    @property
    def has_documents(self) -> bool:
        """Whether document boundaries are known at all."""
        return self._load_ends is not None


class Segments(Sequence[Segment]):
    """The segments of a stream, each made when it is first asked for: a large stream has thousands of them.

    `make` makes one by its number; `made` has those that are there already.
    """

    def __init__(self, n_segments: int, make: Callable[[int], Segment], made: dict[int, Segment] | None = None) -> None:
        self._n_segments = n_segments
        self._make = make
        self.made = {} if made is None else made

    def __len__(self) -> int:
        return self._n_segments

    @overload
    def __getitem__(self, number: int) -> Segment: ...
    @overload
    def __getitem__(self, number: slice) -> list[Segment]: ...
    def __getitem__(self, number: int | slice) -> Segment | list[Segment]:
        if isinstance(number, slice):
            return [self[n] for n in range(*number.indices(self._n_segments))]
        if not -self._n_segments <= number < self._n_segments:
            raise IndexError(f"segment {number} of {self._n_segments}")
        number %= self._n_segments
        segment = self.made.get(number)
        if segment is None:
            # Two threads may both make it; one is kept.
            segment = self.made.setdefault(number, self._make(number))
        return segment


@dataclass(frozen=True)
class Snapshot:
    """A stream at one commit. Immutable; a newer commit is another snapshot."""

    segments: Sequence[Segment]
    dtype: np.dtype[Any]
    state: Literal["growing", "sealed", "failed"]
    source: bytes | dict[str, Any]
    """The manifest, as it was read or as it is."""
    fingerprint: str | None
    """Of the tokenizer; None where the format has none."""
    identity: tuple[str | int, ...]
    """What must be the same for the stream to be the same one, however far it has grown."""
    stream_id: str | None = None
    commit: int = 0
    error: dict[str, Any] | None = None
    stamp: tuple[int, ...] = ()
    """Of the manifest's file: as long as it is the same, so is the manifest."""
    known_firsts: NDArray[np.int64] | None = None
    known_documents: NDArray[np.int64] | None = None
    vocabulary: str | None = None
    """Format and vocabulary, where a format names the latter but has no fingerprint."""

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The manifest."""
        if isinstance(self.source, dict):
            return self.source
        manifest: dict[str, Any] = msgspec.json.decode(self.source)
        return manifest

    @cached_property
    def firsts(self) -> NDArray[np.int64]:
        """First token of each segment, then the number of tokens."""
        if self.known_firsts is not None:
            return self.known_firsts
        firsts = [segment.first_token for segment in self.segments]
        firsts.append(firsts[-1] + self.segments[-1].n_tokens if firsts else 0)
        return np.array(firsts, np.int64)

    @cached_property
    def documents(self) -> NDArray[np.int64]:
        """First document of each segment, then the number of documents; may read files to find out."""
        if self.known_documents is not None:
            return self.known_documents
        return np.cumsum([0, *(segment.n_documents for segment in self.segments)])

    @cached_property
    def has_documents(self) -> bool:
        """Whether document boundaries are known."""
        return self.known_documents is not None or all(segment.has_documents for segment in self.segments)

    @property
    def n_tokens(self) -> int:
        """Committed tokens."""
        return int(self.firsts[-1])
