"""What stands beside a trainer's set whose set of ours is not kept: the ids of its documents, and how it was split.

```text
OUT.ids                      a line for each document, in the order of OUT: that of the inputs, or a shuffle's
OUT.train.ids, OUT.val.ids   after a split: the same for each side
OUT.sides                    after a split: uint64 seed, float64 fraction of validation (both little-endian), and a
                             byte for each document in the order of the inputs, 1: validation
```

Documents of sources without ids have the line `null`, but in the order of the inputs none, as beside a set of ours.

Memory does not grow with the documents. Sides are computed and written block by block, and looked up in the file. Lines
are read once, in the order of the inputs; for a shuffle each goes, with its place in the order of OUT, to the bucket of
its place, and the buckets are sorted one by one:

    inputs' order ─► bucket 0: places 0 .. n-1, bucket 1: places n .. 2n-1, ...  ─► sorted in memory ─► OUT's order

A bucket is a file without a name, so that a kill leaves nothing. Where there are more of them than a process may have
open, the lines are read again for the next ones.
"""

from __future__ import annotations

import contextlib
import os
import struct
import tempfile
from collections.abc import Iterator, Sequence
from itertools import compress, islice, repeat
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from . import _core, publish, reuse
from .sources import is_of_records

_HEAD_BYTES = 16
_BUCKET_BYTES = 64 << 20
"""Of a bucket that is being sorted, in memory, about."""
_LINE_BYTES = 150
"""What a line takes in memory beside its own bytes: the objects that hold it and its place."""
_OPEN_MAX = 200
"""Buckets that are open at a time."""
_BLOCK = 1 << 16
"""Documents that are looked at at a time."""


def suffixes(manifest: dict[str, Any], *, val_fraction: float) -> list[str]:
    """Behind OUT, the names of what `keep` makes of a set with this manifest."""
    sides = [".train.ids", ".val.ids"] if val_fraction else [".ids"]
    return ([".sides"] if val_fraction else []) + (sides if "ids" in manifest else [])


def keep(
    made: str, manifest: dict[str, Any], output: str, *, val_fraction: float, seed: int, is_shuffled: bool
) -> None:
    """Puts beside `output` what the set `made`, of which it was made, knows of its documents. Blocks; reads the set
    once where it was split.
    """
    n_documents: int = manifest["n_documents"]
    sides: NDArray[np.bool_] | None = None
    if val_fraction:
        with _file(output, ".sides") as file:
            file.write(_head(seed, val_fraction))
            for start in range(0, n_documents, _BLOCK):
                file.write(_core.sides(made, val_fraction, seed, start, start + _BLOCK).tobytes())
        if n_documents:
            sides = np.memmap(f"{output}.sides", np.bool_, "r", offset=_HEAD_BYTES)
    if "ids" not in manifest:
        return
    if not val_fraction and not is_shuffled:
        share_beside(f"{made}.ids", output, ".ids")
        return
    lines = _Lines(Path(f"{made}.ids"), manifest["sources"], n_documents)
    ordered = _shuffled(lines, seed, os.path.dirname(output) or ".") if is_shuffled else lines.blocks()
    names = [suffix for suffix in suffixes(manifest, val_fraction=val_fraction) if suffix != ".sides"]
    with contextlib.ExitStack() as files:
        targets = [files.enter_context(_file(output, suffix)) for suffix in names]
        for documents, block in ordered:
            if sides is None:
                targets[0].write(b"".join(block))
                continue
            is_val = sides[documents]
            for target, chosen in zip(targets, (~is_val, is_val), strict=True):
                target.write(b"".join(compress(block, chosen.tolist())))


_Block = tuple[NDArray[np.int64], list[bytes]]
"""Documents, and the line of each."""


class _Lines:
    """A line of each document, in the order of the inputs; the file is read anew each time."""

    def __init__(self, ids: Path, sources: Sequence[dict[str, Any]], n_documents: int) -> None:
        self._ids, self._sources, self.n_documents = ids, sources, n_documents
        self.n_bytes = ids.stat().st_size + n_documents * _LINE_BYTES

    def blocks(self) -> Iterator[_Block]:
        left, start = self._each(), 0
        while block := list(islice(left, _BLOCK)):
            yield np.arange(start, start + len(block)), block
            start += len(block)

    def _each(self) -> Iterator[bytes]:
        with self._ids.open("rb") as lines:
            for source in self._sources:
                n_documents = source["n_documents"]
                yield from islice(lines, n_documents) if is_of_records(source) else repeat(b"null\n", n_documents)


def _shuffled(lines: _Lines, seed: int, folder: str) -> Iterator[_Block]:
    """The documents in the order of a shuffle, a bucket at a time."""
    n_buckets = max(1, -(-lines.n_bytes // _BUCKET_BYTES))
    per_bucket = max(1, -(-lines.n_documents // n_buckets))
    n_buckets = -(-lines.n_documents // per_bucket)
    for first in range(0, n_buckets, _OPEN_MAX):
        with contextlib.ExitStack() as files:
            buckets = [
                files.enter_context(tempfile.TemporaryFile(dir=folder))
                for _ in range(first, min(n_buckets, first + _OPEN_MAX))
            ]
            _distribute(lines, seed, buckets, first * per_bucket, per_bucket)
            for bucket in buckets:
                yield _sorted(bucket)
                # Its bytes are not needed any more.
                bucket.close()


def _distribute(lines: _Lines, seed: int, buckets: Sequence[IO[bytes]], begin: int, per_bucket: int) -> None:
    """Puts each line whose place lies in one of the buckets there; the first one begins with place `begin`.

    A bucket holds for each block that had lines for it, all int64: how many they are (n) and their bytes, n places, n
    documents; then the lines.
    """
    for documents, block in lines.blocks():
        start = int(documents[0])
        places = _core.shuffled_to(lines.n_documents, seed, start, start + len(block)).astype(np.int64) - begin
        goes_to = places // per_bucket
        order = np.argsort(goes_to, kind="stable")
        ends = np.searchsorted(goes_to[order], np.arange(len(buckets) + 1))
        for bucket, first, end in zip(buckets, ends[:-1].tolist(), ends[1:].tolist(), strict=True):
            chosen = order[first:end]
            text = b"".join([block[number] for number in chosen.tolist()])
            if text:
                bucket.write(np.array([len(chosen), len(text)], np.int64).tobytes())
                bucket.write(places[chosen].tobytes() + documents[chosen].tobytes())
                bucket.write(text)


def _sorted(bucket: IO[bytes]) -> _Block:
    bucket.seek(0)
    found: list[NDArray[np.int64]] = []
    lines: list[bytes] = []
    while head := bucket.read(16):
        n_lines, n_bytes = np.frombuffer(head, np.int64).tolist()
        found.append(np.frombuffer(bucket.read(16 * n_lines), np.int64).reshape(2, n_lines))
        # Every one ends with its newline.
        lines += [line + b"\n" for line in bucket.read(n_bytes).split(b"\n")[:-1]]
    places, documents = np.concatenate([np.empty((2, 0), np.int64), *found], axis=1)
    order = np.argsort(places)
    return documents[order], [lines[number] for number in order.tolist()]


def share_beside(source: str, output: str, suffix: str) -> None:
    """Puts a file beside `output`, as a link or a reflink of `source` where that can be had."""
    partial = _partial(output, suffix)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(partial)
    reuse.share(source, partial)
    os.replace(partial, f"{output}{suffix}")
    with contextlib.suppress(FileNotFoundError):
        # Two links of one file: then a rename leaves both.
        os.unlink(partial)


def _head(seed: int, val_fraction: float) -> bytes:
    return struct.pack("<Qd", seed, val_fraction)


def _partial(output: str, suffix: str) -> str:
    return publish.hidden_folder(output, f"{suffix.removeprefix('.')}.partial")


@contextlib.contextmanager
def _file(output: str, suffix: str) -> Iterator[IO[bytes]]:
    """A file that gets its name once it is written and synced."""
    partial = _partial(output, suffix)
    with open(partial, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, f"{output}{suffix}")


def read_sides(path: Path, n_documents: int, *, val_fraction: float, seed: int) -> NDArray[np.bool_] | None:
    """What `keep` wrote of the same split; None if nothing did."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if len(data) != _HEAD_BYTES + n_documents or data[:_HEAD_BYTES] != _head(seed, val_fraction):
        return None
    return np.frombuffer(data, np.bool_, offset=_HEAD_BYTES)
