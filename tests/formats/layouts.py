"""The documented layouts read with numpy alone: what a trainer's reader sees, without that reader.

Each function gives the documents of a set, end-of-text ids included, as lists of ids.
"""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Iterable, Sequence
from itertools import chain, pairwise
from pathlib import Path

import numpy as np

Documents = list[list[int]]


def flat(documents: Iterable[list[int]]) -> list[int]:
    return list(chain.from_iterable(documents))


def cut(ids: Sequence[int], ends: Sequence[int]) -> Documents:
    starts = [0, *ends[:-1]] if len(ends) else []
    assert not len(ends) or ends[-1] == len(ids)
    return [list(map(int, ids[start:end])) for start, end in zip(starts, ends, strict=True)]


def nanogpt(file: Path, eot: int) -> Documents:
    ids = np.fromfile(file, "<u2")
    return cut(ids, [*(np.flatnonzero(ids == eot) + 1)])


def llmc(folder: Path, pattern: str = "*.bin") -> Documents:
    found: Documents = []
    for file in sorted(folder.glob(pattern)):
        header = np.fromfile(file, "<i4", count=256)
        magic, version, n_ids, id_bytes = header[:4]
        assert version == 1 and not header[4:].any()
        assert (magic, id_bytes) in [(20240520, 0), (278895051, 4)]
        width = 4 if id_bytes else 2
        assert file.stat().st_size == 1024 + width * n_ids < 2**31
        ids = np.fromfile(file, f"<u{width}", offset=1024)
        starts = np.fromfile(file.with_suffix(".bos.idx"), "<i4").tolist()
        # What stands before the first start goes on with a document that was cut.
        assert len(ids) and (starts[:1] == [0] or found)
        found += cut(ids, [*(starts[1:] if starts[:1] == [0] else starts), len(ids)])
    return found


def megatron(prefix: Path) -> Documents:
    index = Path(f"{prefix}.idx").read_bytes()
    magic, version, code, n_sequences, n_indices = struct.unpack_from("<9sQBQQ", index)
    assert (magic, version, n_indices) == (b"MMIDIDX\0\0", 1, n_sequences + 1)
    assert len(index) == 42 + 20 * n_sequences
    dtype = np.dtype({8: "<u2", 4: "<i4"}[code])
    lengths = np.frombuffer(index, "<i4", n_sequences, 34)
    offsets = np.frombuffer(index, "<i8", n_sequences, 34 + 4 * n_sequences)
    documents = np.frombuffer(index, "<i8", n_indices, 34 + 12 * n_sequences)
    assert documents.tolist() == list(range(n_indices))
    data = Path(f"{prefix}.bin").read_bytes()
    assert len(data) == lengths.sum() * dtype.itemsize
    pairs = zip(lengths, offsets, strict=True)
    return [np.frombuffer(data, dtype, length, offset).tolist() for length, offset in pairs]


def datatrove(folder: Path) -> Documents:
    found: Documents = []
    for file in sorted(folder.glob("*.ds")):
        name, n_ids, _ = Path(f"{file}.metadata").read_text().split("\n")
        ids = np.fromfile(file, f"<u{name.split('|')[1]}")
        assert int(n_ids) == len(ids)
        found += cut(ids, np.fromfile(f"{file}.index", "<u8").tolist())
    return found


def olmo(folder: Path, dtype: str) -> Documents:
    found: Documents = []
    for file in sorted(folder.glob("*.npy")):
        lines = gzip.decompress(file.with_suffix(".csv.gz").read_bytes()).decode().splitlines()
        bounds = [tuple(map(int, line.split(",")[:2])) for line in lines]
        assert [end for _, end in bounds[:-1]] == [start for start, _ in bounds[1:]]
        found += cut(np.fromfile(file, dtype), [end for _, end in bounds])
    return found


def litdata(folder: Path) -> Documents:
    index = json.loads((folder / "index.json").read_text())
    dtype = {"no_header_tensor:20": "<u2", "no_header_tensor:16": "<i4"}[index["config"]["data_format"][0]]
    found: Documents = []
    for chunk in index["chunks"]:
        data = (folder / chunk["filename"]).read_bytes()
        n_items = int.from_bytes(data[:4], "little")
        assert (n_items, len(data)) == (chunk["chunk_size"], chunk["chunk_bytes"])
        bounds = np.frombuffer(data, "<u4", n_items + 1, 4).tolist()
        assert bounds[0] == 4 * (n_items + 2) and bounds[-1] == len(data)
        assert (bounds[-1] - bounds[0]) // np.dtype(dtype).itemsize == chunk["dim"]
        found += [np.frombuffer(data[start:end], dtype).tolist() for start, end in pairwise(bounds)]
    return found


def mds(folder: Path) -> Documents:
    found: Documents = []
    for shard in json.loads((folder / "index.json").read_text())["shards"]:
        data = (folder / shard["raw_data"]["basename"]).read_bytes()
        assert len(data) == shard["raw_data"]["bytes"]
        n_samples = int.from_bytes(data[:4], "little")
        assert n_samples == shard["samples"]
        bounds = np.frombuffer(data, "<u4", n_samples + 1, 4).tolist()
        json.loads(data[4 * (n_samples + 2) : bounds[0]])
        encoding = shard["column_encodings"][0].split(":")
        for start, end in pairwise(bounds):
            sample = data[start:end]
            if len(encoding) == 2:
                size, shape, n_ids = struct.unpack_from("<IBI", sample)
                assert shape == 1 << 2 | 2 and size == len(sample) - 4
                sample = sample[9:]
                assert len(sample) == n_ids * np.dtype(encoding[1]).itemsize
            found.append(np.frombuffer(sample, encoding[1]).tolist())
    return found
