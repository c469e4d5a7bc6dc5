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

New parts are encoded into a hidden directory, `.OUT.update`, the new files are put together there from ranges (which
share their bytes where the file system can do that), and take the old ones' places (`publish`). A killed update leaves
the old set, or what the next one brings to its end. What it had encoded is gone on from if the plan, `plan.json` in the
hidden directory, is still the same.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from tokend_client.errors import (
    CancelledError,
    ConflictError,
    InputChangedError,
    NoSpaceError,
    StreamError,
    TokendError,
)

from . import _core, publish
from .publish import SUFFIXES, claimed
from .reuse import read_manifest

log = logging.getLogger("tokend.update")

_BLOCK_BYTES = 1 << 22

PURPOSE = "update"
"""Of the hidden directory."""

Encode = Callable[[list[str], str, bool], object]
"""Encodes files into a set with the options of the job; with True it goes on from what an interrupted one left."""


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
    fingerprint: str,
    eot_id: int | None,
    files: Sequence[str],
    output: str,
    options: dict[str, Any],
    encode: Encode,
    control: _core.JobControl | None = None,
) -> tuple[dict[str, Any], int]:
    """Brings the set `output` up to date with `files`; returns its manifest and how many bytes were encoded.

    `fingerprint` is that of the tokenizer, `eot_id` its end-of-text id for these options. Raises `NotPossible` with the
    reason where a full run is needed; nothing has been changed then. Interrupted (by `control`, Ctrl-C, a full disk) it
    leaves what the next one goes on from.
    """
    with claimed(output):
        folder = publish.hidden_folder(output, PURPOSE)
        if publish.finish(output, folder):
            log.info("%s: an update that was killed is brought to its end", output)
        old = read_manifest(output)
        if old is None:
            raise NotPossible("there is no set yet")
        _check_possible(fingerprint, eot_id, old, options)
        try:
            # What is taken over gets a new checksum: damage must not.
            _core.verify(output)
        except StreamError as error:
            raise NotPossible(f"the set is damaged: {error.message}") from None
        plan = [_take(path, old, control) for path in files]
        unchanged = [source["path"] for source in old["sources"]] == list(files)
        if unchanged and all(taken.border is None for taken in plan):
            shutil.rmtree(folder, ignore_errors=True)
            return {**old, "up_to_date": True}, 0
        is_kept = False
        try:
            resumes = _begin(folder, plan, old)
            new = _encode_rest(plan, folder, encode, resumes=resumes)
            _check_same(old, new)
            made = _splice(plan, old, new, output, folder)
            publish.seal(folder, made)
            publish.replace(folder, output)
            return {**made, "up_to_date": False}, _n_new(plan)
        except (CancelledError, NoSpaceError, KeyboardInterrupt):
            is_kept = True
            raise
        finally:
            # Where the old set could not be put back, the next update finds here what to do.
            if not is_kept and os.path.exists(f"{output}.json"):
                shutil.rmtree(folder, ignore_errors=True)


def _check_possible(fingerprint: str, eot_id: int | None, old: dict[str, Any], options: dict[str, Any]) -> None:
    if old["tokenizer"]["fingerprint"] != fingerprint:
        raise NotPossible("another tokenizer made it")
    if options["eot"] == "both" or options["deduplicate"] or options["id_field"] or options["truncate_tokens"]:
        raise NotPossible("--eot both, --deduplicate, --id-field and --truncate-tokens look at the whole")
    if "skipped" in old or "ids" in old:
        raise NotPossible("records were left out of it, or ids kept")
    was = old["options"]
    # As `stream/manifest.rs` writes them.
    now = {name: options[name] for name in ("separator", "eot", "errors")} | {"eot_id": eot_id}
    now["special"] = options["special"] or "raise"
    records = {name: options[name] for name in _OF_RECORDS}
    if "records" in was:
        records |= {"field": options["field"] or "text", "special": options["special"] or "text"}
        is_same = all(was["records"][name] == value for name, value in records.items())
    else:
        # Text that is not looked at as a whole: as long as it is left at that.
        is_same = records == {**dict.fromkeys(_OF_RECORDS), **_PLAIN, "input_format": records["input_format"]}
        is_same &= records["input_format"] in ("auto", "text")
    if not is_same or any(was[name] != value for name, value in now.items()):
        raise NotPossible("it was made with other options")


_OF_RECORDS = (
    "input_format",
    "bad_documents",
    "min_tokens",
    "max_tokens",
    "truncate_tokens",
    "deduplicate",
    "id_field",
)
_PLAIN = {"bad_documents": "fail", "min_tokens": 0, "deduplicate": False}


def _begin(folder: str, plan: list[Taken], old: dict[str, Any]) -> bool:
    """Makes the hidden directory with the ends of grown inputs in it; whether an interrupted run left the same."""
    place = os.path.join(folder, "plan.json")
    text = json.dumps({"plan": [asdict(taken) for taken in plan], "old": old}, sort_keys=True)
    try:
        with open(place, encoding="utf-8") as file:
            if file.read() == text:
                # Its parts are put together anew.
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(folder, "json"))
                publish.sync_folder(folder)
                return True
    except (OSError, UnicodeDecodeError):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    os.mkdir(folder)
    for number, taken in enumerate(plan):
        if taken.border:
            cut_out(taken, os.path.join(folder, str(number)))
    with open(f"{place}.partial", "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.rename(f"{place}.partial", place)
    return False


def discard(output: str) -> None:
    """Removes what an update left that will not go on; one that runs, or that was about to publish, is not touched."""
    folder = publish.hidden_folder(output, PURPOSE)
    if os.path.isdir(folder):
        with claimed(output):
            if os.path.exists(f"{output}.json") or not os.path.exists(os.path.join(folder, "json")):
                shutil.rmtree(folder, ignore_errors=True)


def _n_new(plan: list[Taken]) -> int:
    return sum(taken.size_bytes - taken.border for taken in plan if taken.border is not None)


def _take(path: str, old: dict[str, Any], control: _core.JobControl | None) -> Taken:
    """Compares an input with what was encoded of it."""
    size = os.stat(path).st_size
    places = [number for number, source in enumerate(old["sources"]) if source["path"] == path]
    source = old["sources"][places[0]] if len(places) == 1 else None
    if source is None or source["size_bytes"] > size:
        return Taken(path, size, _core.hash_prefixes(path, [size], control)[0])
    was, now = _core.hash_prefixes(path, [source["size_bytes"], size], control)
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


def _encode_rest(plan: list[Taken], folder: str, encode: Encode, *, resumes: bool) -> dict[str, Any] | None:
    """Encodes what is not taken over, as one job; the ends of grown inputs are files of their own for that."""
    # A whole file is encoded where it is, and found changed by the job itself.
    pieces = [(number, taken) for number, taken in enumerate(plan) if taken.border is not None]
    parts = [_part(taken, os.path.join(folder, str(n))) if taken.border else taken.path for n, taken in pieces]
    if not parts:
        return None
    place = os.path.join(folder, "new.bin")
    try:
        encode(parts, place, resumes)
    except (ConflictError, InputChangedError):
        if not resumes:
            raise
        # What is there cannot be gone on with, for instance after an upgrade.
        _core.discard_partials(place)
        encode(parts, place, False)
    except TokendError as error:
        raise in_their_names(error, parts, [taken for _, taken in pieces]) from None
    # As it stands in the file: its fields in their order.
    return read_manifest(place)


def in_their_names(error: TokendError, parts: Sequence[str], taken: Sequence[Taken]) -> TokendError:
    """An error about a copied part of an input, as one about the input."""
    message = error.message
    for part, piece in zip(parts, taken, strict=True):
        behind = f" from byte {piece.border} on" if piece.border else ""
        message = message.replace(part, f"{piece.path}{behind}")
    named = type(error)(message, error.hint, retry_after_s=error.retry_after_s)
    return named


def _part(taken: Taken, folder: str) -> str:
    return os.path.join(folder, os.path.basename(taken.path))


def cut_out(taken: Taken, folder: str) -> str:
    """Copies what is to be encoded of an input into a file of its name; durable, for a resumed job reads on in it."""
    os.mkdir(folder)
    path = _part(taken, folder)
    with open(taken.path, "rb") as source, open(path, "wb") as target:
        source.seek(taken.border or 0)
        left = taken.size_bytes - (taken.border or 0)
        while left and (block := source.read(min(left, _BLOCK_BYTES))):
            target.write(block)
            left -= len(block)
        target.flush()
        os.fsync(target.fileno())
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
    """Puts the new set together in the hidden directory; returns its manifest."""
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
    files = ["data", "ends"]
    if docs:
        write_array(os.path.join(folder, "docs"), np.concatenate(docs))
        files.append("docs")
    for part in files:
        path = os.path.join(folder, part)
        size = os.path.getsize(path)
        name = os.path.basename(output) + SUFFIXES[part]
        made[part] = {"file": name, "size_bytes": size, "xxh3": _core.hash_prefixes(path, [size])[0]}
    order = [*old_manifest, "docs", "tokend_version"]
    made = {name: made[name] for name in dict.fromkeys(order) if name in made and name != "tokend_version"}
    made["tokend_version"] = old_manifest["tokend_version"]
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
