"""A set that is put together of ranges of two others: what was there, and what is new.

Ids are copied in the kernel, ends and places moved by what stands before them; lists of what was left out get their
lines and offsets from the start of the whole input. The result's manifest is that of a full run.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cached_property
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from tokend_client.sidecars import OF_SET

from . import _core
from .sources import has_places


@dataclass
class Taken:
    """What one input of the new set is made of."""

    path: str
    name: str
    """What the manifest calls it."""
    size_bytes: int
    xxh3: str
    old: int | None = None
    """Its place among the old sources, if anything of it is taken over."""
    n_documents: int = 0
    """Taken over, from its first on."""
    n_skips: int = 0
    """Records that were left out, taken over."""
    n_lines: int = 0
    """Records and blank lines taken over."""
    border: int | None = 0
    """Byte from which on it is encoded; None: not at all."""


class Set:
    """A set that ranges are taken from; `folder` is where it lies."""

    def __init__(self, manifest: dict[str, Any], folder: str) -> None:
        self.manifest, self.folder = manifest, folder
        self.sources: list[dict[str, Any]] = manifest["sources"]
        self.data = self.path("data")
        self.ends: NDArray[np.uint64] = np.fromfile(self.path("ends"), "<u8")
        self.docs: NDArray[np.uint64] = np.empty((0, 2), "<u8")
        if "docs" in manifest:
            self.docs = np.fromfile(self.path("docs"), "<u8").reshape(-1, 2)
        self.width = 2 if manifest["dtype"] == "uint16" else 4
        self.first = _starts([source["n_documents"] for source in self.sources])
        self.first_record = _starts([source["n_documents"] * ("records" in source) for source in self.sources])
        self.first_place = _starts([source["n_documents"] * has_places(source) for source in self.sources])
        self._first_skip = _starts([n_skipped(source) for source in self.sources])

    def path(self, part: str) -> str:
        """Where one of its files is."""
        return os.path.join(self.folder, self.manifest[part]["file"])

    def n_tokens_of(self, document: int) -> int:
        """End-of-text ids included."""
        return int(self.ends[document]) - (int(self.ends[document - 1]) if document else 0)

    def skips(self, at: int) -> list[bytes]:
        """The list of what was left out of a source, line by line."""
        return self._skips[self._first_skip[at] : self._first_skip[at + 1]]

    @cached_property
    def _skips(self) -> list[bytes]:
        if "skipped" not in self.manifest:
            return []
        with open(self.path("skipped"), "rb") as file:
            return file.readlines()

    @cached_property
    def id_ends(self) -> NDArray[np.int64]:
        """Where each line of the documents' ids ends, with a zero before the first."""
        path = self.path("ids")
        if os.path.getsize(path) == 0:
            return np.zeros(1, np.int64)
        return np.concatenate([[0], np.flatnonzero(np.memmap(path, np.uint8, "r") == ord("\n")) + 1])


def n_skipped(source: dict[str, Any]) -> int:
    """Records of a source that were left out."""
    account = source.get("records") or {}
    return sum(account.get(name, 0) for name in ("n_bad", "n_filtered", "n_duplicates"))


def splice(plan: list[Taken], old: Set, new: Set | None, output: str, folder: str) -> dict[str, Any]:
    """Puts the new set together in `folder`; returns its manifest."""
    made = {**old.manifest, "sources": []}
    if new is not None and old.manifest["options"].get("records") is None:
        made["options"] = new.manifest["options"]
    n_tokens, number = 0, 0
    ends: list[NDArray[np.uint64]] = []
    docs: list[NDArray[np.uint64]] = []
    parts = {part: os.path.join(folder, part) for part in ("data", "ids", "skipped")}
    with open(parts["data"], "wb") as data, open(parts["ids"], "wb") as ids, open(parts["skipped"], "wb") as skipped:
        for taken in plan:
            ranges = []
            if taken.old is not None:
                ranges.append((old, taken.old, taken.n_documents, 0))
            if taken.border is not None:
                assert new is not None
                ranges.append((new, number, new.sources[number]["n_documents"], taken.border))
                number += 1
            source: dict[str, Any] = {"path": taken.name, "size_bytes": taken.size_bytes, "xxh3": taken.xxh3}
            source |= {"n_tokens": 0, "n_documents": 0}
            # What an earlier version made of text has none.
            is_placed = all(has_places(origin.sources[at]) for origin, at, _, _ in ranges)
            for origin, at, n_documents, border in ranges:
                first = origin.first[at]
                bounds = origin.ends[first : first + n_documents]
                start = int(origin.ends[first - 1]) if first else 0
                stop = int(bounds[-1]) if n_documents else start
                copy(origin.data, data, start * origin.width, (stop - start) * origin.width)
                ends.append(bounds + np.uint64(n_tokens) - np.uint64(start))
                n_tokens += stop - start
                entry = origin.sources[at]
                source["n_tokens"] += stop - start
                source["n_documents"] += n_documents
                source |= {"format": entry["format"]} if "format" in entry else {}
                if is_placed:
                    place = origin.first_place[at]
                    places = origin.docs[place : place + n_documents].copy()
                    places[:, 0] += np.uint64(border)
                    docs.append(places)
                if "records" not in entry:
                    source |= {"places": True} if is_placed else {}
                    continue
                record = origin.first_record[at]
                if "ids" in origin.manifest:
                    begin, end = (int(origin.id_ends[line]) for line in (record, record + n_documents))
                    copy(origin.path("ids"), ids, begin, end - begin)
                if origin is old:
                    counts = _account(taken, old, at)
                    skipped.writelines(old.skips(at)[: taken.n_skips])
                else:
                    counts = entry["records"]
                    skipped.writelines(moved(line, taken.name, taken.n_lines, border) for line in origin.skips(at))
                before = source.get("records", {})
                source["records"] = {name: before.get(name, 0) + count for name, count in counts.items()}
            made["sources"].append(source)
    write_array(os.path.join(folder, "ends"), np.concatenate([np.empty(0, "<u8"), *ends]))
    made |= {"n_tokens": n_tokens, "n_documents": sum(s["n_documents"] for s in made["sources"])}
    names = ["data", "ends"]
    if docs:
        write_array(os.path.join(folder, "docs"), np.concatenate(docs))
        names.append("docs")
    names += ["ids"] if any("ids" in origin.manifest for origin in (old, new) if origin is not None) else []
    names += ["skipped"] if os.path.getsize(parts["skipped"]) else []
    for part in OF_SET:
        made.pop(part, None)
        path = os.path.join(folder, part)
        if part in names:
            size = os.path.getsize(path)
            name = os.path.basename(output) + OF_SET[part]
            made[part] = {"file": name, "size_bytes": size, "xxh3": _core.hash_prefixes(path, [size])[0]}
        elif os.path.exists(path):
            os.unlink(path)
    made["tokend_version"] = made.pop("tokend_version")
    return made


def _account(taken: Taken, old: Set, at: int) -> dict[str, int]:
    """The account of what is taken over of a source: all of it, but for a last record that was not complete."""
    counts: dict[str, int] = dict(old.sources[at]["records"])
    n_lines = counts["n_in"] + counts["n_blank_lines"]
    if taken.border is not None and taken.n_lines < n_lines:
        counts["n_in"] -= 1
        for line in old.skips(at)[taken.n_skips :]:
            counts["n_bad" if json.loads(line)["kind"] == "bad" else "n_filtered"] -= 1
    return counts


def moved(line: bytes, path: str, n_lines: int, n_bytes: int) -> bytes:
    """An entry of a list of what was left out of a part of an input, as one of the whole input `path`."""
    entry = json.loads(line)
    entry["path"] = path
    entry["line"] += n_lines
    if entry["offset_bytes"] is not None:
        entry["offset_bytes"] += n_bytes
    return (json.dumps(entry, ensure_ascii=False, separators=(",", ":")) + "\n").encode()


def write_array(path: str, numbers: NDArray[np.uint64]) -> None:
    """Writes uint64. (`tofile` says nothing of what does not fit the disk when its buffer is written last.)"""
    with open(path, "wb") as file:
        file.write(numbers.astype("<u8").tobytes())


def copy(source: str, target: IO[bytes], offset: int, length: int) -> None:
    """Appends a range of a file, in the kernel."""
    target.flush()
    with open(source, "rb") as file:
        while length:
            n = os.copy_file_range(file.fileno(), target.fileno(), min(length, 1 << 30), offset)
            if n == 0:
                raise OSError(f"{source} became shorter")
            offset, length = offset + n, length - n


def _starts(counts: list[int]) -> list[int]:
    """Where each of several ranges begins, and where the last ends."""
    starts: list[int] = np.concatenate([[0], np.cumsum(counts)]).astype(int).tolist()
    return starts
