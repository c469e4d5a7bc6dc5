"""Token files of other tools, read as they are. All numbers are little-endian.

Megatron (`NAME.bin` + `NAME.idx`): the data file is raw ids. The index is

    0   9 bytes  "MMIDIDX" 00 00
    9   u64      1
    17  u8       dtype: 4 int32, 8 uint16 (others are not token ids)
    18  u64      S, sequences
    26  u64      D, documents + 1
    34  S i32    tokens of each sequence, then S i64 byte offsets, then D i64 first sequences of documents

llm.c and modded-nanogpt (`*.bin`, a folder or a glob of shards): 256 int32, then ids. Word 0 is
20240520 (uint16 ids, version 1) or 20240801 (uint32 ids, version 7), word 1 the version, word 2 the
number of ids. Documents begin with the end-of-text id, and may go on from one shard into the next.

datatrove (`*.ds`, one or a folder): raw ids; `*.ds.index` has a u64 end, in tokens, for each document;
`*.ds.metadata` begins with "tokenizer name|bytes per id".

Raw (`*.bin` without anything beside it, as nanoGPT has it): ids of a dtype that the caller must name.

Where a format has no document index, `eot_id` finds the boundaries by reading the tokens, once for each
file, when documents are first asked for.
"""

from __future__ import annotations

import glob
import os
import re
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import BadRequestError, NotFoundError, StreamError
from .segment import Segment, Snapshot, map_array

_MEGATRON_MAGIC = b"MMIDIDX\0\0"
_MEGATRON_DTYPES = {4: "<i4", 8: "<u2"}
_LLMC = {20240520: (1, "<u2"), 20240801: (7, "<u4")}
_LLMC_HEADER_BYTES = 1024
_SCAN_TOKENS = 1 << 22
_SPLITS = {"train", "val", "valid", "validation", "test"}
_ONE_TOKENIZER = "one stream has one tokenizer: name the files that belong together"

EotAt = Literal["end", "start"]
Boundaries = Callable[[Segment], NDArray[np.uint64]]


def scan_for(eot_id: int | None, eot_at: EotAt, ends_here: Callable[[], bool] = lambda: True) -> Boundaries | None:
    """Finds document ends by the end-of-text id. What follows the last one is a document as well, or goes on in
    the next file where `ends_here` says so."""
    if eot_id is None:
        return None

    def scan(segment: Segment) -> NDArray[np.uint64]:
        found = [
            np.flatnonzero(segment.tokens[start : start + _SCAN_TOKENS] == eot_id) + start
            for start in range(0, segment.n_tokens, _SCAN_TOKENS)
        ]
        ends = np.concatenate([np.empty(0, np.int64), *found])
        ends = ends[ends > 0] if eot_at == "start" else ends + 1
        if segment.n_tokens and (not len(ends) or ends[-1] != segment.n_tokens) and ends_here():
            ends = np.append(ends, segment.n_tokens)
        typed: NDArray[np.uint64] = ends.astype(np.uint64)
        return typed

    return scan


def is_megatron(path: Path) -> bool:
    """Whether `path` is one of the two files, or their common prefix."""
    return _megatron_prefix(path) is not None


def _megatron_prefix(path: Path) -> Path | None:
    prefix = Path(str(path).removesuffix(".idx").removesuffix(".bin"))
    try:
        with Path(f"{prefix}.idx").open("rb") as file:
            return prefix if file.read(9) == _MEGATRON_MAGIC else None
    except OSError:
        return None


def open_megatron(path: Path) -> Snapshot:
    """A Megatron set; one document may have several sequences."""
    prefix = _megatron_prefix(path)
    assert prefix is not None
    index, data = Path(f"{prefix}.idx"), Path(f"{prefix}.bin")
    with index.open("rb") as file:
        header = file.read(34)
    if len(header) < 34:
        raise StreamError(f"{index}: {len(header)} bytes are no index")
    version, code, n_sequences, n_bounds = struct.unpack("<QBQQ", header[9:])
    if version != 1 or code not in _MEGATRON_DTYPES:
        raise StreamError(f"{index}: version {version} with dtype code {code}; expected 1 with 4 or 8")
    expected = 34 + 12 * n_sequences + 8 * n_bounds
    if index.stat().st_size < expected:
        raise StreamError(f"{index}: {index.stat().st_size} bytes, but {n_sequences} sequences need {expected}")
    dtype = np.dtype(_MEGATRON_DTYPES[code])
    raw = map_array(index, np.dtype(np.uint8), expected)
    lengths = np.frombuffer(raw, "<i4", n_sequences, 34)
    pointers = np.frombuffer(raw, "<i8", n_sequences, 34 + 4 * n_sequences)
    bounds = np.frombuffer(raw, "<i8", n_bounds, 34 + 12 * n_sequences)
    if n_bounds == 0 or int(bounds[-1]) != n_sequences:
        raise StreamError(f"{index}: the documents end at sequence {bounds[-1:].tolist()} of {n_sequences}")
    n_bytes = int(pointers[-1]) + int(lengths[-1]) * dtype.itemsize if n_sequences else 0
    _check_length(data, n_bytes)

    def ends(_: Segment) -> NDArray[np.uint64]:
        total = np.zeros(n_sequences + 1, np.uint64)
        np.cumsum(lengths, dtype=np.uint64, out=total[1:])
        found: NDArray[np.uint64] = total[bounds[1:]]
        return found

    segment = Segment(
        str(data), dtype, first_token=0, n_tokens=n_bytes // dtype.itemsize, n_documents=n_bounds - 1, load_ends=ends
    )
    return _snapshot([segment], dtype, "megatron")


def llmc_magic(path: Path) -> bool:
    """Whether a file begins as llm.c's do."""
    try:
        with path.open("rb") as file:
            return int.from_bytes(file.read(4), "little") in _LLMC
    except OSError:
        return False


def open_llmc(paths: list[Path], eot_id: int | None, eot_at: EotAt | None) -> Snapshot:
    """llm.c shards, in the order given; every header and length is checked before the first token is read."""
    at: EotAt = eot_at or "start"
    segments: list[Segment] = []

    def ends_with(number: int) -> bool:
        """Whether the document at the end of a shard ends there: nothing follows, or what begins another one."""
        following = next((segment for segment in segments[number + 1 :] if segment.n_tokens), None)
        return following is None or (at == "start" and int(following.tokens[0]) == eot_id)

    dtype: np.dtype[Any] | None = None
    first = 0
    for number, path in enumerate(paths):
        scan = scan_for(eot_id, at, partial(ends_with, number))
        with path.open("rb") as file:
            words = np.frombuffer(file.read(_LLMC_HEADER_BYTES), "<i4")
        known = _LLMC.get(int(words[0])) if len(words) == 256 else None
        if known is None or words[1] != known[0]:
            raise StreamError(f"{path}: not an llm.c shard: its header begins with {words[:3].tolist()}")
        if dtype is not None and np.dtype(known[1]) != dtype:
            raise StreamError(f"{path}: {known[1]} ids among shards of {dtype}")
        dtype = np.dtype(known[1])
        n_tokens = int(words[2])
        _check_length(path, _LLMC_HEADER_BYTES + n_tokens * dtype.itemsize)
        segments.append(
            Segment(
                str(path),
                dtype,
                first_token=first,
                n_tokens=n_tokens,
                n_documents=None if scan else 0,
                ends_base=first,
                offset_bytes=_LLMC_HEADER_BYTES,
                load_ends=scan,
            )
        )
        first += n_tokens
    assert dtype is not None
    # The word in the header stands for a tokenizer: GPT-2's, or Llama 3's.
    return _snapshot(segments, dtype, "llmc", f"ids of {8 * dtype.itemsize} bits")


def open_datatrove(paths: list[Path]) -> Snapshot:
    """datatrove files, in the order given."""
    segments: list[Segment] = []
    dtype: np.dtype[Any] | None = None
    first = 0
    tokenizer = ""
    for path in paths:
        metadata, index = Path(f"{path}.metadata"), Path(f"{path}.index")
        name, own = _datatrove_tokenizer(metadata)
        if dtype is not None and own != dtype:
            raise StreamError(f"{metadata}: {own.itemsize} bytes per id among files of {dtype.itemsize}")
        if dtype is not None and name != tokenizer:
            raise StreamError(f"{metadata}: tokenizer {name!r} among files of {tokenizer!r}", _ONE_TOKENIZER)
        tokenizer, dtype = name, own
        n_tokens, rest = divmod(path.stat().st_size, dtype.itemsize)
        if rest:
            raise StreamError(f"{path}: {path.stat().st_size} bytes are no whole number of {dtype.itemsize}-byte ids")
        n_documents = index.stat().st_size // 8 if index.exists() else 0
        load = _datatrove_ends(index, n_documents, n_tokens) if index.exists() else None
        segments.append(
            Segment(
                str(path),
                dtype,
                first_token=first,
                n_tokens=n_tokens,
                n_documents=n_documents,
                ends_base=first,
                load_ends=load,
            )
        )
        first += n_tokens
    assert dtype is not None
    # The same tokenizer may be named with its owner or without.
    return _snapshot(segments, dtype, "datatrove", f"{tokenizer.rpartition('/')[2]}, ids of {8 * dtype.itemsize} bits")


def _datatrove_tokenizer(metadata: Path) -> tuple[str, np.dtype[Any]]:
    """Its name and the dtype of its ids."""
    try:
        name, _, size = metadata.read_text().splitlines()[0].rpartition("|")
        return name, np.dtype({"2": "<u2", "4": "<u4"}[size])
    except FileNotFoundError:
        raise NotFoundError(f"{metadata}: missing", "it says how many bytes an id has") from None
    except (KeyError, IndexError, ValueError):
        raise StreamError(f"{metadata}: expected 'tokenizer|2' or 'tokenizer|4' in its first line") from None


def _datatrove_ends(index: Path, n_documents: int, n_tokens: int) -> Boundaries:
    def ends(_: Segment) -> NDArray[np.uint64]:
        found = map_array(index, np.dtype("<u8"), n_documents)
        if n_documents and int(found[-1]) != n_tokens:
            raise StreamError(f"{index}: the last document ends at {int(found[-1])} of {n_tokens} tokens")
        return found

    return ends


def open_raw(path: Path, dtype: str, eot_id: int | None, eot_at: EotAt | None) -> Snapshot:
    """Raw ids of a dtype that the caller vouches for."""
    if np.dtype(dtype) not in (np.dtype(np.uint16), np.dtype(np.uint32), np.dtype(np.int32)):
        raise BadRequestError(f"dtype {dtype!r}: token ids are uint16, uint32 or int32")
    kind = np.dtype(dtype).newbyteorder("<")
    n_tokens, rest = divmod(path.stat().st_size, kind.itemsize)
    if rest:
        raise StreamError(f"{path}: {path.stat().st_size} bytes are no whole number of {kind.itemsize}-byte ids")
    scan = scan_for(eot_id, eot_at or "end")
    segment = Segment(
        str(path), kind, first_token=0, n_tokens=n_tokens, n_documents=None if scan else 0, load_ends=scan
    )
    return _snapshot([segment], kind, "raw")


def shards(path: Path) -> list[Path]:
    """The files that a path stands for: itself, a folder's or a glob's, by name.

    Raises `StreamError` for a folder with files of different splits: nobody trains on what he validates with.
    """
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix in (".bin", ".ds"))
        splits = sorted({split for p in found for split in splits_of(p.stem)})
        if len(splits) > 1:
            one = "train" if "train" in splits else splits[0]
            raise StreamError(
                f"{path}: files of {' and of '.join(splits)} are no one stream",
                f"name those you want: '{path}/*{one}*'",
            )
        return found
    if path.exists():
        return [path]
    return sorted(Path(name) for name in glob.glob(str(path)))


def splits_of(stem: str) -> set[str]:
    """The words for a split in a name: `train`, `val` ..."""
    return _SPLITS.intersection(re.split("[^a-z]+", stem.lower()))


def _check_length(path: Path, n_bytes: int) -> None:
    try:
        have = path.stat().st_size
    except FileNotFoundError:
        raise NotFoundError(f"{path}: missing") from None
    if have != n_bytes:
        raise StreamError(f"{path}: {have} bytes, but its header or index says {n_bytes}", "copy or make it again")


def _snapshot(segments: list[Segment], dtype: np.dtype[Any], format: str, vocabulary: str | None = None) -> Snapshot:
    """Its identity is names and lengths: these formats say little of how they were made."""
    identity: list[str | int] = [format, str(dtype)]
    for segment in segments:
        identity += [os.path.basename(segment.path), segment.n_tokens]
    manifest = {"format": format, "dtype": dtype.name, "n_tokens": sum(s.n_tokens for s in segments)}
    own = None if vocabulary is None else f"{format}, {vocabulary}"
    return Snapshot(tuple(segments), dtype, "sealed", manifest, None, tuple(identity), vocabulary=own)
