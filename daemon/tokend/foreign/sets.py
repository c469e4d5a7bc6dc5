"""Headers and indices of a foreign set, compared with the lengths of its files."""

from __future__ import annotations

import csv
import gzip
import json
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tokend_client.errors import NotFoundError, StreamError

from .recognise import LLMC_MAGICS, MEGATRON_MAGIC, recognise

_MEGATRON_DTYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 6: "<f8", 7: "<f4", 8: "<u2"}
# Codes of litData's no_header_numpy and no_header_tensor.
_LITDATA_DTYPES = {
    "numpy": {1: "<i2", 2: "<i4", 3: "<i8", 4: "u1", 5: "<u2", 6: "<u4", 7: "<u8"},
    "tensor": {15: "<i4", 16: "<i4", 17: "<i8", 18: "<i8", 20: "<u2"},
}
_SAMPLE_BYTES = 1 << 20
_AGAIN = "copy it again, or make it again from its source"

Ends = NDArray[np.uint64]


@dataclass
class Span:
    """Ids that lie back to back in a file."""

    path: Path
    dtype: np.dtype[Any]
    n_ids: int
    offset_bytes: int = 0
    ends: Ends | None = None
    """Where each document ends, in ids from the span's start; None: the format does not say."""


@dataclass
class ForeignSet:
    """A set whose headers, indices and lengths agree."""

    kind: str
    spans: list[Span]
    eot_at: Literal["end", "start"] = "end"
    n_files: int = 0
    n_bytes: int = 0
    remarks: list[str] = field(default_factory=list)

    @property
    def n_tokens(self) -> int:
        return sum(span.n_ids for span in self.spans)

    @property
    def n_documents(self) -> int | None:
        """None where the format does not say."""
        counts = [len(span.ends) for span in self.spans if span.ends is not None]
        return sum(counts) if len(counts) == len(self.spans) else None

    @property
    def dtype(self) -> str:
        return ", ".join(sorted({span.dtype.name for span in self.spans})) or "unknown"


def fault(path: Path, offset_bytes: int | None, what: str, hint: str = _AGAIN) -> StreamError:
    """A fault of a file, at a place in it."""
    place = "" if offset_bytes is None else f"at byte {offset_bytes}: "
    return StreamError(f"{path}: {place}{what}", hint)


def read_set(path: Path, dtype: str | None = None) -> ForeignSet:
    """Reads what a set says of itself; `dtype` is that of ids in files that do not tell.

    Raises `NotFoundError`, or `StreamError` for what is no set that is known here and for the first fault.
    """
    if not path.exists() and recognise(path) is None:
        raise NotFoundError(f"{path}: no such file or set", "check the path")
    found = recognise(path)
    if found is None:
        raise StreamError(
            f"{path}: no token set that is known here",
            "known are tokend's own, Megatron, llm.c, datatrove, OLMo-core, litData, MDS, .npy and raw .bin files",
        )
    kind, files = found
    readers: dict[str, Callable[[Path], list[Span]]] = {
        "megatron": _megatron,
        "llmc": _llmc,
        "datatrove": _datatrove,
        "litdata": _litdata,
        "mds": _mds,
        "npy": _npy,
        "olmo": lambda file: _olmo(file, dtype),
        "raw": lambda file: [_raw(file, dtype)],
    }
    _check_company(kind, files)
    made = ForeignSet(kind, [span for file in files for span in readers[kind](file)])
    made.eot_at = "start" if kind == "llmc" else "end"
    paths = {span.path for span in made.spans}
    made.n_files, made.n_bytes = len(paths), sum(file.stat().st_size for file in paths)
    if kind in ("raw", "olmo") and dtype is None:
        made.remarks.append("the dtype was told from the ids; pass --dtype if it is another")
    return made


def _check_company(kind: str, files: list[Path]) -> None:
    """An index that only some files of a folder have is missing for the others; so is a number between others."""
    listing = {"datatrove": lambda file: Path(f"{file}.index"), "olmo": _listing, "llmc": _starts}.get(kind)
    for folder in sorted({file.parent for file in files}):
        beside = [file for file in files if file.parent == folder]
        if listing is not None:
            missing = [listing(file) for file in beside if not listing(file).exists()]
            if missing and len(missing) < len(beside):
                raise fault(missing[0], None, "is missing", "other files of its folder have one; " + _AGAIN)
        if kind != "llmc":
            continue
        numbers: dict[str, list[int]] = {}
        for file in beside:
            if found := re.fullmatch(r"(.*_)(\d{6})", file.stem):
                numbers.setdefault(found[1], []).append(int(found[2]))
        for stem, some in numbers.items():
            gaps = set(range(min(some), max(some))) - set(some)
            if gaps:
                raise fault(folder / f"{stem}{min(gaps):06}.bin", None, "is missing")


def _starts(path: Path) -> Path:
    return path.with_suffix(".bos.idx")


def _listing(path: Path) -> Path:
    return path.with_suffix("").with_suffix(".csv.gz") if path.suffix == ".gz" else path.with_suffix(".csv.gz")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        raise fault(path, None, "is missing") from None


def _whole(path: Path, n_bytes: int, dtype: np.dtype[Any]) -> int:
    """The number of ids in so many bytes."""
    n_ids, rest = divmod(n_bytes, dtype.itemsize)
    if rest:
        what = f"{n_bytes} bytes are no whole number of {dtype.name} ids"
        raise fault(path, n_bytes - rest, what)
    return n_ids


def _expect_size(path: Path, expected: int, says: str, width: int, header_bytes: int = 0) -> None:
    size = _size(path)
    if size == expected:
        return
    ids, other = size - header_bytes, 6 - width
    if width in (2, 4) and ids * width == (expected - header_bytes) * other:
        what = f"{size} bytes hold as many ids as {says} says, but of {other} bytes each instead of {width}"
        raise fault(path, None, what, "the file and what describes it were made with different dtypes")
    verb = "it is cut off" if size < expected else "there is more"
    raise fault(path, min(size, expected), f"{size} bytes, but {says} says {expected}: {verb}")


def _increasing(path: Path, ends: Ends, n_ids: int, offset_bytes: int = 0) -> Ends:
    """Ends that do not go back, and end with the ids."""
    back = np.flatnonzero(ends[1:] < ends[:-1])
    if len(back):
        at = int(back[0]) + 1
        what = f"document {at} ends at id {ends[at]}, before the one before it ({ends[at - 1]})"
        raise fault(path, offset_bytes + 8 * at, what)
    last = int(ends[-1]) if len(ends) else 0
    if last != n_ids:
        at = max(0, len(ends) - 1)
        raise fault(path, offset_bytes + 8 * at, f"the last document ends at id {last}, but there are {n_ids} ids")
    return ends


def _megatron(prefix: Path) -> list[Span]:
    index, data = Path(f"{prefix}.idx"), Path(f"{prefix}.bin")
    raw = index.read_bytes()
    if len(raw) < 34 or raw[:9] != MEGATRON_MAGIC:
        raise fault(index, len(raw), f"{len(raw)} bytes are no header; it has 34")
    version, code, n_sequences, n_bounds = struct.unpack("<QBQQ", raw[9:34])
    if version != 1:
        raise fault(index, 9, f"version {version}, not 1")
    if code not in (4, 8):
        name = _MEGATRON_DTYPES.get(code, "unknown")
        raise fault(index, 17, f"dtype code {code} ({name}) is not of token ids", "4 is int32, 8 is uint16")
    expected = 34 + 12 * n_sequences + 8 * n_bounds
    # A set with images has a byte for each sequence more.
    if len(raw) not in (expected, expected + n_sequences):
        what = f"{len(raw)} bytes, but {n_sequences} sequences and {n_bounds} bounds need {expected}"
        raise fault(index, min(len(raw), expected), what)
    dtype = np.dtype(_MEGATRON_DTYPES[code])
    lengths = np.frombuffer(raw, "<i4", n_sequences, 34)
    pointers = np.frombuffer(raw, "<i8", n_sequences, 34 + 4 * n_sequences)
    bounds = np.frombuffer(raw, "<i8", n_bounds, 34 + 12 * n_sequences)
    bounds_at = 34 + 12 * n_sequences
    if n_sequences and int(lengths.min()) < 0:
        at = int(lengths.argmin())
        raise fault(index, 34 + 4 * at, f"sequence {at} has length {lengths[at]}")
    total = np.zeros(n_sequences + 1, np.int64)
    np.cumsum(lengths, dtype=np.int64, out=total[1:])
    wrong = np.flatnonzero(pointers != total[:-1] * dtype.itemsize)
    if len(wrong):
        at = int(wrong[0])
        what = f"sequence {at} begins at byte {pointers[at]} of the data, but those before it end at "
        raise fault(index, 34 + 4 * n_sequences + 8 * at, f"{what}{total[at] * dtype.itemsize}")
    if n_bounds == 0 or bounds[0] != 0 or bounds[-1] != n_sequences or (np.diff(bounds) < 0).any():
        what = f"the document bounds run from {bounds[:1].tolist()} to {bounds[-1:].tolist()}, "
        raise fault(index, bounds_at, f"{what}not from 0 up to the {n_sequences} sequences")
    n_ids = int(total[-1])
    _expect_size(data, n_ids * dtype.itemsize, index.name, dtype.itemsize)
    return [Span(data, dtype, n_ids, ends=total[bounds[1:]].astype(np.uint64))]


def _llmc(path: Path) -> list[Span]:
    with path.open("rb") as file:
        head = file.read(1024)
    if len(head) < 1024:
        raise fault(path, len(head), f"{len(head)} bytes are no header; it has 1024")
    words = np.frombuffer(head, "<i4")
    width = LLMC_MAGICS[int(words[0])] or int(words[3])
    expected_version = 7 if words[0] == 20240801 else 1
    if width not in (2, 4) or words[1] != expected_version:
        raise fault(path, 4, f"version {words[1]} with {width} bytes an id; expected {expected_version} with 2 or 4")
    n_ids = int(words[2])
    if n_ids < 0:
        raise fault(path, 8, f"the count {n_ids} is below 0", "a shard has less than 2^31 ids")
    _expect_size(path, 1024 + n_ids * width, "its header", width, 1024)
    starts_path = _starts(path)
    ends = None
    if starts_path.exists():
        _whole(starts_path, _size(starts_path), np.dtype("<i4"))
        starts = np.fromfile(starts_path, "<i4")
        if len(starts) and (starts[0] < 0 or starts[-1] >= n_ids or (np.diff(starts) <= 0).any()):
            raise fault(starts_path, 0, f"the starts do not go up within the {n_ids} ids of {path.name}")
        ends = np.append(starts[starts > 0], n_ids if n_ids else []).astype(np.uint64)
    return [Span(path, np.dtype(f"<u{width}"), n_ids, 1024, ends)]


def _datatrove(path: Path) -> list[Span]:
    note, index = Path(f"{path}.metadata"), Path(f"{path}.index")
    if not note.exists():
        raise fault(note, None, "is missing", "it says how many bytes an id has")
    lines = note.read_text(errors="replace").splitlines()
    width = lines[0].rpartition("|")[2] if lines else ""
    if width not in ("2", "4"):
        raise fault(note, 0, f"its first line is {lines[:1]}, not TOKENIZER|2 or TOKENIZER|4")
    dtype = np.dtype(f"<u{width}")
    if len(lines) > 1 and lines[1].isdigit():
        _expect_size(path, int(lines[1]) * dtype.itemsize, note.name, dtype.itemsize)
    n_ids = _whole(path, _size(path), dtype)
    if not index.exists():
        return [Span(path, dtype, n_ids)]
    _whole(index, _size(index), np.dtype(np.uint64))
    return [Span(path, dtype, n_ids, ends=_increasing(index, np.fromfile(index, "<u8"), n_ids))]


def _olmo(path: Path, dtype: str | None) -> list[Span]:
    listing = _listing(path)
    span = _raw(path, dtype)
    if not listing.exists():
        return [span]
    ends = []
    last = 0
    try:
        with gzip.open(listing, "rt", newline="") as file:
            for number, row in enumerate(csv.reader(file), 1):
                start, end = int(row[0]), int(row[1])
                if start != last or end < start:
                    what = f"line {number} goes from id {start} to {end}, but the one before it ends at {last}"
                    raise fault(listing, None, what)
                last = end
                ends.append(end)
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise fault(listing, None, f"after {len(ends)} lines: {error}") from None
    size = _size(path)
    if last and dtype is None:
        # The list tells the width better than the ids do.
        for width in (2, 4):
            if size == last * width:
                span = _raw(path, f"uint{8 * width}")
    _expect_size(path, last * span.dtype.itemsize, listing.name, span.dtype.itemsize)
    return [Span(path, span.dtype, last, ends=np.array(ends, np.uint64))]


def _npy(path: Path) -> list[Span]:
    with path.open("rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
        except ValueError as error:
            raise fault(path, 0, f"its NumPy header cannot be read: {error}") from None
        offset = file.tell()
    if len(shape) != 1 or dtype.kind not in "iu":
        raise fault(path, 0, f"an array of {dtype} with shape {shape} is no row of ids")
    _expect_size(path, offset + shape[0] * dtype.itemsize, "its header", dtype.itemsize, offset)
    return [Span(path, dtype, shape[0], offset)]


def _raw(path: Path, dtype: str | None) -> Span:
    kind = np.dtype(dtype).newbyteorder("<") if dtype else guess_dtype(path)
    return Span(path, kind, _whole(path, _size(path), kind))


def guess_dtype(path: Path) -> np.dtype[Any]:
    """uint32 if the upper halves of 4-byte words are small nearly everywhere, else uint16."""
    size = _size(path)
    words = []
    with path.open("rb") as file:
        for at in (0, size // 2 // 4 * 4):
            file.seek(at)
            data = file.read(_SAMPLE_BYTES)
            words.append(np.frombuffer(data[: len(data) // 4 * 4], "<u4"))
    sample = np.concatenate(words)
    # Vocabularies end below 2^20; two uint16 ids in one word hardly ever do, unless the second is below 16.
    is_wide = size % 4 == 0 and len(sample) > 0 and float(np.mean(sample < 1 << 20)) > 0.99
    return np.dtype("<u4" if is_wide and sample.any() else "<u2")


def _index(path: Path) -> dict[str, Any]:
    index: dict[str, Any] = json.loads(path.read_bytes())
    return index


def _litdata(path: Path) -> list[Span]:
    index = _index(path)
    found = (index["config"].get("data_format") or [""])[0]
    family, _, code = str(found).removeprefix("no_header_").partition(":")
    name = _LITDATA_DTYPES.get(family, {}).get(int(code) if code.isdigit() else -1)
    if name is None:
        raise fault(path, None, f"data_format {found!r} is not of rows of ids", "it was not made for TokensLoader")
    dtype = np.dtype(name)
    spans = []
    for number, chunk in enumerate(index["chunks"]):
        file = path.parent / str(chunk["filename"])
        _expect_size(file, int(chunk["chunk_bytes"]), f"chunk {number} of {path.name}", 0)
        with file.open("rb") as opened:
            n_items = int.from_bytes(opened.read(4), "little")
            offsets = np.frombuffer(opened.read(4 * (n_items + 1)), "<u4").astype(np.uint64)
        if n_items != chunk["chunk_size"] or len(offsets) != n_items + 1:
            raise fault(file, 0, f"{n_items} items, but {path.name} says {chunk['chunk_size']}")
        first = 4 * (n_items + 2)
        if offsets[0] != first or offsets[-1] != chunk["chunk_bytes"] or (offsets[1:] < offsets[:-1]).any():
            what = f"offsets from {offsets[0]} to {offsets[-1]}, not from {first} up to {chunk['chunk_bytes']}"
            raise fault(file, 4, what)
        n_ids = _whole(file, int(offsets[-1]) - first, dtype)
        if chunk.get("dim") != n_ids:
            what = f"chunk {number} ({file.name}) has dim {chunk.get('dim')}, but {n_ids} ids"
            raise fault(path, None, what, "the index and the chunks were made with different dtypes or versions")
        spans.append(Span(file, dtype, n_ids, first, (offsets[1:] - np.uint64(first)) // np.uint64(dtype.itemsize)))
    return spans


def _mds(path: Path) -> list[Span]:
    spans: list[Span] = []
    for number, shard in enumerate(_index(path)["shards"]):
        if shard.get("column_names") != ["tokens"] or shard.get("compression"):
            what = f"shard {number} has columns {shard.get('column_names')}, compression {shard.get('compression')}"
            raise fault(path, None, what, "only uncompressed shards with one column, tokens, are read here")
        words = str(shard["column_encodings"][0]).split(":")
        if words[0] != "ndarray" or len(words) < 2:
            raise fault(path, None, f"shard {number} has encoding {':'.join(words)}, not ndarray:DTYPE")
        spans += _mds_shard(path.parent / str(shard["raw_data"]["basename"]), shard, words, f"{path.name}")
    return spans


def _mds_shard(file: Path, shard: dict[str, Any], encoding: list[str], index: str) -> list[Span]:
    """A span for each document, or one for all rows, which lie back to back."""
    dtype = np.dtype(encoding[1]).newbyteorder("<")
    _expect_size(file, int(shard["raw_data"]["bytes"]), index, 0)
    with file.open("rb") as opened:
        n_samples = int.from_bytes(opened.read(4), "little")
        if n_samples != shard["samples"]:
            raise fault(file, 0, f"{n_samples} samples, but {index} says {shard['samples']}")
        offsets = np.frombuffer(opened.read(4 * (n_samples + 1)), "<u4").astype(np.int64)
        if len(offsets) != n_samples + 1 or offsets[-1] != _size(file) or (np.diff(offsets) < 0).any():
            raise fault(file, 4, f"the offsets of {n_samples} samples do not go up to the file's {_size(file)} bytes")
        if len(encoding) > 2:
            n_ids = _whole(file, int(offsets[-1] - offsets[0]), dtype)
            return [Span(file, dtype, n_ids, int(offsets[0]))]
        spans = []
        for at, start in enumerate(offsets[:-1].tolist()):
            opened.seek(start)
            # The writer takes the narrowest integer that holds the length of a sample.
            size, shape = struct.unpack("<IB", opened.read(5).ljust(5, b"\0"))
            width = 1 << (shape & 3)
            n_ids = int.from_bytes(opened.read(width), "little")
            length, head = int(offsets[at + 1]) - start, 5 + width
            if size != length - 4 or shape >> 2 != 1 or n_ids * dtype.itemsize != length - head:
                what = f"sample {at} of {length} bytes says {size} bytes, shape code {shape}, {n_ids} {dtype.name} ids"
                raise fault(file, start, what)
            spans.append(Span(file, dtype, n_ids, start + head, np.array([n_ids], np.uint64)))
        return spans
