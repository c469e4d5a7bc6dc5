"""`tokend encode --update`: a set is brought up to date with its inputs, and only what is new is encoded.

    source as it was        its documents are taken over
    source that has grown   the hash of what was there is compared; its documents up to the last safe border are taken
                            over, and it is encoded from there. Safe is the end of a line of JSON, and the end of a
                            separator in text: nothing before it depends on what follows. Text without a separator is
                            one document, which is encoded again.
    anything else           encoded whole

The result is what a full run over the inputs would make, byte for byte, lists of what was left out and kept ids too.
Where that cannot be had in this way (documents compared with each other, one end-of-text id at the very start), the
answer is the reason, and a full run is the caller's business.

New parts are encoded into a hidden directory, `.OUT.update`, the new files are put together there from ranges
(`splice`; they share their bytes where the file system can do that), and take the old ones' places (`publish`). A
killed update leaves the old set, or what the next one brings to its end. What it had encoded is gone on from if the
plan, `plan.json` in the hidden directory, is still the same.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import IO, Any

from tokend_client.errors import (
    CancelledError,
    ConflictError,
    InputChangedError,
    NoSpaceError,
    StreamError,
    TokendError,
)

from . import _core, publish
from .publish import claimed
from .reuse import read_manifest
from .splice import Set, Taken, n_skipped, splice

log = logging.getLogger("tokend.update")

_BLOCK_BYTES = 1 << 22

PURPOSE = "update"
"""Of the hidden directory."""

Encode = Callable[[list[str], str, bool], object]
"""Encodes files into a set with the options of the job; with True it goes on from what an interrupted one left."""


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
    *,
    names: Sequence[str] | None = None,
) -> tuple[dict[str, Any], int]:
    """Brings the set `output` up to date with `files`; returns its manifest and how many bytes were encoded.

    `names` is what the manifest calls the files, if not by their paths.
    `fingerprint` is that of the tokenizer, `eot_id` its end-of-text id for these options. Raises `NotPossible` with the
    reason where a full run is needed; nothing has been changed then. Interrupted (by `control`, Ctrl-C, a full disk) it
    leaves what the next one goes on from.
    """
    names = files if names is None else names
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
        old_set = Set(old, os.path.dirname(output))
        plan = [_take(path, name, old_set, control) for path, name in zip(files, names, strict=True)]
        unchanged = [source["path"] for source in old["sources"]] == list(names)
        if unchanged and all(taken.border is None for taken in plan):
            _drop(folder)
            return {**old, "up_to_date": True}, 0
        is_kept = False
        try:
            resumes = _begin(folder, plan, old)
            new = _encode_rest(plan, folder, encode, resumes=resumes)
            _check_same(old, new)
            made = splice(plan, old_set, Set(new, folder) if new is not None else None, output, folder)
            publish.seal(folder, made)
            publish.replace(folder, output)
            return {**made, "up_to_date": False}, _n_new(plan)
        except (CancelledError, NoSpaceError, KeyboardInterrupt):
            is_kept = True
            raise
        finally:
            # Where the old set could not be put back, the next update finds here what to do.
            if not is_kept and os.path.exists(f"{output}.json"):
                _drop(folder)


def _check_possible(fingerprint: str, eot_id: int | None, old: dict[str, Any], options: dict[str, Any]) -> None:
    if old["tokenizer"]["fingerprint"] != fingerprint:
        raise NotPossible("another tokenizer made it")
    if options["eot"] == "both" or options["deduplicate"]:
        raise NotPossible("--eot both and --deduplicate look at the whole")
    if not are_same_options(old["options"], options, eot_id):
        raise NotPossible("it was made with other options")


def are_same_options(was: dict[str, Any], options: dict[str, Any], eot_id: int | None) -> bool:
    """Whether a manifest's options are those of a job."""
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
    return is_same and all(was[name] == value for name, value in now.items())


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
    _drop(folder)
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
                _drop(folder)


def _drop(folder: str) -> None:
    """Removes the hidden directory, the plan first: nobody goes on from what an error may leave of the rest."""
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, "plan.json"))
    except OSError:
        return
    shutil.rmtree(folder, ignore_errors=True)


def _n_new(plan: list[Taken]) -> int:
    return sum(taken.size_bytes - taken.border for taken in plan if taken.border is not None)


def _take(path: str, name: str, old: Set, control: _core.JobControl | None) -> Taken:
    """Compares an input with what was encoded of it."""
    size = os.stat(path).st_size
    places = [number for number, source in enumerate(old.sources) if source["path"] == name]
    source = old.sources[places[0]] if len(places) == 1 else None
    if source is None or source["size_bytes"] > size:
        return Taken(path, name, size, _core.hash_prefixes(path, [size], control)[0])
    was, now = _core.hash_prefixes(path, [source["size_bytes"], size], control)
    whole = Taken(path, name, size, now)
    if was != source["xxh3"]:
        return whole
    at, account = places[0], source.get("records", {})
    taken = Taken(path, name, size, now, at, source["n_documents"], n_skipped(source), border=None)
    taken.n_lines = account.get("n_in", 0) + account.get("n_blank_lines", 0)
    if source["size_bytes"] == size:
        return taken
    border = _border(path, source, old.manifest["options"]["separator"])
    if border is None:
        return whole
    taken.border, is_whole = border
    return taken if is_whole or _drop_last(taken, old) else whole


def _drop_last(taken: Taken, old: Set) -> bool:
    """Leaves out the last record, which was not complete; False where it cannot be told what became of it."""
    assert taken.old is not None and taken.border is not None
    skips = old.skips(taken.old)
    taken.n_lines -= 1
    if skips and json.loads(skips[-1])["offset_bytes"] >= taken.border:
        taken.n_skips -= 1
        return True
    taken.n_documents -= 1
    limit = (old.manifest["options"].get("records") or {}).get("truncate_tokens")
    n_tokens = old.n_tokens_of(old.first[taken.old] + taken.n_documents)
    # A document of just so many tokens may have been cut to them, and be counted as such.
    return limit is None or n_tokens - (old.manifest["options"]["eot"] != "none") < limit


def _border(path: str, source: dict[str, Any], separator: str | None) -> tuple[int, bool] | None:
    """The last safe border of what was there, and whether a document ended there; None: there is none."""
    kind, size = source.get("format", "text"), source["size_bytes"]
    with open(path, "rb") as file:
        if kind == "jsonl":
            border = last_line(file, size)
            file.seek(border)
            # A last line without its end was a record, unless it is blank: that is not worth telling apart.
            rest = file.read(size - border)
            if rest and not rest.strip():
                return None
            is_whole = not rest
        elif kind != "text" or separator is None or not size:
            # An empty text is a document, but one that has grown does not begin with it.
            return None
        else:
            border = last_separator(file, size, separator.encode())
            is_whole = border == size
        file.seek(border)
        # A byte order mark would be passed over at the start of a part, and of a part only.
        return None if border and file.read(3) == b"\xef\xbb\xbf" else (border, is_whole)


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
        if piece.border:
            message = re.sub(rf"{re.escape(part)}: {_PLACE}", partial(_in_file, piece), message)
            message = message.replace(part, f"{piece.name} from byte {piece.border} on")
        message = message.replace(part, piece.name)
    named = type(error)(message, error.hint, retry_after_s=error.retry_after_s)
    return named


_PLACE = r"line (\d+), byte (\d+)"
"""Of a record, as the core names it."""


def _in_file(piece: Taken, place: re.Match[str]) -> str:
    """The place of a record in the input that a part was copied from."""
    return f"{piece.name}: line {int(place[1]) + piece.n_lines}, byte {int(place[2]) + (piece.border or 0)}"


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
    common = ({**part["options"], "records": None} for part in (old, new))
    records = [part["options"].get("records") for part in (old, new)]
    if next(common) != next(common) or (None not in records and records[0] != records[1]):
        raise NotPossible("it was made with other options")
