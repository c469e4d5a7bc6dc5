"""`tokend encode --update`: a set is brought up to date with its inputs, and only what is new is encoded.

    source as it was        its documents are taken over
    source that has grown   the hash of what was there is compared; its documents up to the last safe border are taken
                            over, and it is encoded from there. Safe is the end of a line of JSON, and the end of a
                            separator in text: nothing before it depends on what follows. Text without a separator is
                            one document, which is encoded again.
    anything else           encoded whole

The result is what a full run over the inputs would make, byte for byte. Where that cannot be had in this way (records
that were left out, documents compared with each other, kept ids, one end-of-text id at the very start), the answer is
the reason, and a full run is the caller's business.

New parts are encoded into a hidden directory, the new files are put together there from ranges (which share their
bytes where the file system can do that), and are published like a set that is replaced: the old manifest goes first,
the new one comes last. A killed update leaves the old set, or none, never a mixture.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from tokend_client.errors import ConflictError, StreamError

from . import _core
from .reuse import read_manifest
from .tokenizer import Tokenizer

_BLOCK_BYTES = 1 << 22

Encode = Callable[[list[str], str], dict[str, Any]]
"""Encodes files into a set with the options of the job; returns its manifest."""


@dataclass
class Taken:
    """What one input of the new set is made of."""

    path: str
    size_bytes: int
    xxh3: str
    old: int | None = None
    """Its place among the old sources, if anything of it is taken over."""
    n_documents: int = 0
    """Taken over, from its first on."""
    border: int | None = 0
    """Byte from which on it is encoded; None: not at all."""


class NotPossible(Exception):
    """Why only a full run will do."""


def update(
    tokenizer: Tokenizer, files: Sequence[str], output: str, options: dict[str, Any], encode: Encode
) -> tuple[dict[str, Any], int]:
    """Brings the set `output` up to date with `files`; returns its manifest and how many bytes were encoded.

    Raises `NotPossible` with the reason where a full run is needed; nothing has been changed then.
    """
    old = read_manifest(output)
    if old is None:
        raise NotPossible("there is no set yet")
    if old["tokenizer"]["fingerprint"] != tokenizer.fingerprint:
        raise NotPossible("another tokenizer made it")
    if options["eot"] == "both" or options["deduplicate"] or options["id_field"] or options["truncate_tokens"]:
        raise NotPossible("--eot both, --deduplicate, --id-field and --truncate-tokens look at the whole")
    if "skipped" in old or "ids" in old:
        raise NotPossible("records were left out of it, or ids kept")
    with claimed(output):
        try:
            # What is taken over gets a new checksum: damage must not.
            _core.verify(output)
        except StreamError as error:
            raise NotPossible(f"the set is damaged: {error.message}") from None
        folder = hidden_folder(output)
        shutil.rmtree(folder, ignore_errors=True)
        plan = [_take(path, old) for path in files]
        unchanged = [source["path"] for source in old["sources"]] == list(files)
        if unchanged and all(taken.border is None for taken in plan):
            return {**old, "up_to_date": True}, 0
        os.mkdir(folder)
        try:
            new = _encode_rest(plan, folder, encode)
            _check_same(old, new)
            return {**_splice(plan, old, new, output, folder), "up_to_date": False}, _n_new(plan)
        finally:
            # Where the old set could not be put back, this says that what is left of it is replaceable.
            if os.path.exists(f"{output}.json"):
                shutil.rmtree(folder, ignore_errors=True)


def hidden_folder(output: str) -> str:
    """Where an update is made; what a killed one left there says that what it left of the set is replaceable."""
    return os.path.join(os.path.dirname(output), f".{os.path.basename(output)}.update")


def _n_new(plan: list[Taken]) -> int:
    return sum(taken.size_bytes - taken.border for taken in plan if taken.border is not None)


@contextmanager
def claimed(output: str) -> Iterator[None]:
    """The lock of `stream/folder.rs`: one job at a time makes an output."""
    path = os.path.join(os.path.dirname(output), f".{os.path.basename(output)}.lock")
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    busy = ConflictError(f"{output}: another job is writing this output", "wait for it")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever held it before may have removed it.
        if not os.path.exists(path) or os.stat(path).st_ino != os.fstat(file).st_ino:
            raise busy
        try:
            yield
        finally:
            os.unlink(path)
    except BlockingIOError:
        raise busy from None
    finally:
        os.close(file)


def _take(path: str, old: dict[str, Any]) -> Taken:
    """Compares an input with what was encoded of it."""
    size = os.stat(path).st_size
    places = [number for number, source in enumerate(old["sources"]) if source["path"] == path]
    source = old["sources"][places[0]] if len(places) == 1 else None
    if source is None or source["size_bytes"] > size:
        return Taken(path, size, _core.hash_prefixes(path, [size])[0])
    was, now = _core.hash_prefixes(path, [source["size_bytes"], size])
    taken = Taken(path, size, now)
    if was != source["xxh3"]:
        return taken
    if source["size_bytes"] == size:
        taken.old, taken.n_documents, taken.border = places[0], source["n_documents"], None
        return taken
    border = _border(path, source, old["options"]["separator"])
    if border is not None:
        taken.border, is_whole = border
        taken.old, taken.n_documents = places[0], source["n_documents"] - (not is_whole)
    return taken


def _border(path: str, source: dict[str, Any], separator: str | None) -> tuple[int, bool] | None:
    """The last safe border of what was there, and whether a document ended there; None: there is none."""
    kind, size = source.get("format", "text"), source["size_bytes"]
    with open(path, "rb") as file:
        if kind == "jsonl":
            border = last_line(file, size)
            file.seek(border)
            # A last line without its end was a record, unless it is blank: that is not worth telling apart.
            rest = file.read(size - border)
            return None if rest and not rest.strip() else (border, not rest)
        if kind != "text" or separator is None:
            return None
        border = last_separator(file, size, separator.encode())
        return border, border == size


def last_line(file: IO[bytes], size: int) -> int:
    """Where the last line begins that may not be complete."""
    end = size
    while end:
        start = max(0, end - _BLOCK_BYTES)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def last_separator(file: IO[bytes], size: int, separator: bytes) -> int:
    """Where the last separator ends, found from the start on: one may overlap itself."""
    base, held, last = 0, b"", 0
    while base + len(held) < size:
        data = held + file.read(min(_BLOCK_BYTES, size - base - len(held)))
        at = 0
        while (found := data.find(separator, at)) >= 0:
            at = found + len(separator)
        if at:
            last = base + at
        keep = max(at, len(data) - len(separator) + 1)
        base, held = base + keep, data[keep:]
        if len(data) == keep and base >= size:
            break
    return last


def _encode_rest(plan: list[Taken], folder: str, encode: Encode) -> dict[str, Any] | None:
    """Encodes what is not taken over, as one job; the ends of grown inputs are files of their own for that."""
    parts = []
    for number, taken in enumerate(plan):
        if taken.border is None:
            continue
        # A whole file is encoded where it is, and found changed by the job itself.
        parts.append(cut_out(taken, os.path.join(folder, str(number))) if taken.border else taken.path)
    if not parts:
        return None
    encode(parts, os.path.join(folder, "new.bin"))
    # As it stands in the file: its fields in their order.
    return read_manifest(os.path.join(folder, "new.bin"))


def cut_out(taken: Taken, folder: str) -> str:
    """Copies what is to be encoded of an input into a file of its name."""
    os.mkdir(folder)
    path = os.path.join(folder, os.path.basename(taken.path))
    with open(taken.path, "rb") as source, open(path, "wb") as target:
        source.seek(taken.border or 0)
        left = taken.size_bytes - (taken.border or 0)
        while left and (block := source.read(min(left, _BLOCK_BYTES))):
            target.write(block)
            left -= len(block)
    return path


def _check_same(old: dict[str, Any], new: dict[str, Any] | None) -> None:
    if new is None:
        return
    if "skipped" in new:
        raise NotPossible("records of what is new are left out")
    common = ({**part["options"], "records": None} for part in (old, new))
    records = [part["options"].get("records") for part in (old, new)]
    if next(common) != next(common) or (None not in records and records[0] != records[1]):
        raise NotPossible("it was made with other options")


class _Set:
    """A set that ranges are taken from."""

    def __init__(self, manifest: dict[str, Any], folder: str) -> None:
        self.manifest = manifest
        self.data = os.path.join(folder, manifest["data"]["file"])
        self.ends: NDArray[np.uint64] = np.fromfile(os.path.join(folder, manifest["ends"]["file"]), "<u8")
        self.docs: NDArray[np.uint64] = np.empty((0, 2), "<u8")
        if "docs" in manifest:
            self.docs = np.fromfile(os.path.join(folder, manifest["docs"]["file"]), "<u8").reshape(-1, 2)
        self.width = 2 if manifest["dtype"] == "uint16" else 4
        counts = [source["n_documents"] for source in manifest["sources"]]
        of_records = [source["n_documents"] * ("records" in source) for source in manifest["sources"]]
        self.first = np.concatenate([[0], np.cumsum(counts)]).astype(int).tolist()
        self.first_record = np.concatenate([[0], np.cumsum(of_records)]).astype(int).tolist()


def _splice(
    plan: list[Taken], old_manifest: dict[str, Any], new_manifest: dict[str, Any] | None, output: str, folder: str
) -> dict[str, Any]:
    """Puts the new set together and publishes it."""
    old = _Set(old_manifest, os.path.dirname(output))
    new = _Set(new_manifest, folder) if new_manifest is not None else None
    made = {**old_manifest, "sources": []}
    if new_manifest is not None and old_manifest["options"].get("records") is None:
        made["options"] = new_manifest["options"]
    n_tokens, number = 0, 0
    ends, docs = [], []
    data_path = os.path.join(folder, "data")
    with open(data_path, "wb") as data:
        for taken in plan:
            parts = []
            if taken.old is not None:
                parts.append((old, taken.old, taken.n_documents, 0))
            if taken.border is not None:
                assert new is not None
                parts.append((new, number, new.manifest["sources"][number]["n_documents"], taken.border))
                number += 1
            source: dict[str, Any] = {"path": taken.path, "size_bytes": taken.size_bytes, "xxh3": taken.xxh3}
            source |= {"n_tokens": 0, "n_documents": 0}
            for origin, at, n_documents, border in parts:
                first = origin.first[at]
                bounds = origin.ends[first : first + n_documents]
                start = int(origin.ends[first - 1]) if first else 0
                stop = int(bounds[-1]) if n_documents else start
                _copy(origin.data, data, start * origin.width, (stop - start) * origin.width)
                ends.append(bounds + np.uint64(n_tokens) - np.uint64(start))
                n_tokens += stop - start
                entry = origin.manifest["sources"][at]
                source["n_tokens"] += stop - start
                source["n_documents"] += n_documents
                source |= {"format": entry["format"]} if "format" in entry else {}
                if "records" in entry:
                    places = origin.docs[origin.first_record[at] :][:n_documents].copy()
                    places[:, 0] += np.uint64(border)
                    docs.append(places)
                    dropped = entry["n_documents"] - n_documents
                    counts = entry["records"] | {"n_in": entry["records"]["n_in"] - dropped}
                    before = source.get("records", {})
                    source["records"] = {name: before.get(name, 0) + count for name, count in counts.items()}
            made["sources"].append(source)
    write_array(os.path.join(folder, "ends"), np.concatenate([np.empty(0, "<u8"), *ends]))
    made |= {"n_tokens": n_tokens, "n_documents": sum(s["n_documents"] for s in made["sources"])}
    files = {"data": "", "ends": ".ends"}
    if docs:
        write_array(os.path.join(folder, "docs"), np.concatenate(docs))
        files["docs"] = ".docs"
    for part, suffix in files.items():
        path = os.path.join(folder, part)
        size = os.path.getsize(path)
        name = os.path.basename(output) + suffix
        made[part] = {"file": name, "size_bytes": size, "xxh3": _core.hash_prefixes(path, [size])[0]}
    order = [*old_manifest, "docs", "tokend_version"]
    made = {name: made[name] for name in dict.fromkeys(order) if name in made and name != "tokend_version"}
    made["tokend_version"] = old_manifest["tokend_version"]
    _publish(made, files, output, folder)
    return made


def write_array(path: str, numbers: NDArray[np.uint64]) -> None:
    """Writes uint64. (`tofile` says nothing of what does not fit the disk when its buffer is written last.)"""
    with open(path, "wb") as file:
        file.write(numbers.astype("<u8").tobytes())


def _copy(source: str, target: IO[bytes], offset: int, length: int) -> None:
    """Appends a range of a file, in the kernel."""
    target.flush()
    with open(source, "rb") as file:
        while length:
            n = os.copy_file_range(file.fileno(), target.fileno(), min(length, 1 << 30), offset)
            if n == 0:
                raise OSError(f"{source} became shorter")
            offset, length = offset + n, length - n


def _publish(made: dict[str, Any], files: dict[str, str], output: str, folder: str) -> None:
    manifest = os.path.join(folder, "json")
    Path(manifest).write_text(json.dumps(made, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for part in (*files, "json"):
        with open(os.path.join(folder, part), "rb") as file:
            os.fsync(file.fileno())
    parent = os.open(os.path.dirname(output), os.O_RDONLY | os.O_DIRECTORY)
    kept = [suffix for suffix in ("", ".ends", ".docs", ".json") if os.path.exists(f"{output}{suffix}")]
    try:
        for suffix in kept:
            os.link(f"{output}{suffix}", os.path.join(folder, f"was{suffix}"))
        os.unlink(f"{output}.json")
        os.fsync(parent)
        try:
            for part, suffix in files.items():
                os.rename(os.path.join(folder, part), f"{output}{suffix}")
            os.fsync(parent)
            os.rename(manifest, f"{output}.json")
            os.fsync(parent)
        except OSError:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{output}.json")
            for suffix in kept:
                os.rename(os.path.join(folder, f"was{suffix}"), f"{output}{suffix}")
            raise
    finally:
        os.close(parent)
