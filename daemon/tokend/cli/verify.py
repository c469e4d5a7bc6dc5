"""`tokend verify`: a set is read again, ours or another tool's.

What tokend made is compared with its checksums. Of other tools' files headers and indices are compared with
lengths, and ids with the vocabulary and the end-of-text id, as far as those are known.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from tokend_client.errors import StreamError

from .. import _core
from .output import plural, size


def verify(arguments: argparse.Namespace) -> int:
    """Reads an output again; the first fault is an error that names its file and place."""
    path = Path(os.path.abspath(arguments.path))
    note = read_note(path)
    if is_native(path) or (note is None and not _is_foreign(path)):
        found = json.loads(_core.verify(str(path)))
        return _report(arguments, found, f"{found['state']}, ")
    if note is not None:
        found = json.loads(_core.verify(str(note_path(path))))
        scanned, _ = _scan(arguments, path, note)
        # Of one file of a set, or one of its splits, that is what is told.
        is_whole = scanned["n_tokens"] + (note["arrangement"].get("n_tokens_left_out") or 0) == found["n_tokens"]
        return _report(arguments, found if is_whole else scanned, f"{found['state']}, ")
    found, remarks = _scan(arguments, path, None)
    return _report(arguments, found, f"{found['format']}, ", remarks)


def is_native(path: Path) -> bool:
    """Whether it is a set or a stream of tokend's own."""
    if path.name == "manifest.json" or (path / "manifest.json").exists():
        return True
    # Ends without a manifest are what is left of a set: it is named as such, not taken for raw ids.
    if (path / "ends-00000.u64").exists() and (path / "tokens-00000.bin").exists():
        return True
    if any(Path(f"{path}{suffix}").exists() for suffix in (".json", ".ends")):
        return True
    return path.name.endswith(".bin.json") and not path.name.endswith("tokend.json")


def _is_foreign(path: Path) -> bool:
    from ..foreign import recognise

    return recognise(path) is not None


def read_note(path: Path) -> dict[str, Any] | None:
    """What `tokend convert` noted beside a set, if it made it."""
    found = _find_note(path)
    return found[1] if found is not None else None


def note_path(path: Path) -> Path | None:
    """Where that stands."""
    found = _find_note(path)
    return found[0] if found is not None else None


def _find_note(path: Path) -> tuple[Path, dict[str, Any]] | None:
    prefix = str(path).removesuffix(".idx").removesuffix(".bin")
    whole = prefix.removesuffix("_train").removesuffix("_val")
    names = [path, path / "tokend.json", path.parent / "tokend.json"]
    names += [path.parent.parent / "tokend.json"] if path.parent.name in ("train", "val") else []
    for place in (*names, Path(f"{prefix}.tokend.json"), Path(f"{whole}.tokend.json")):
        if not place.name.endswith("tokend.json"):
            continue
        try:
            note = json.loads(place.read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(note, dict) and note.get("format") == "tokend-export" and _lists(place, note, path):
            return place, note
    return None


def _lists(place: Path, note: dict[str, Any], path: Path) -> bool:
    """Whether a set is of the files that a note lists, or is a folder of them."""
    files = [str(place.parent / file["file"]) for file in note["files"]]
    if path == place or path.is_dir():
        return path == place or any(file.startswith(f"{path}{os.sep}") for file in files)
    prefix = str(path).removesuffix(".idx").removesuffix(".bin")
    return any(file == str(path) or file.startswith((f"{prefix}.", f"{prefix}_")) for file in files)


def vocabulary(arguments: argparse.Namespace, note: dict[str, Any] | None) -> tuple[int | None, int | None, str | None]:
    """Size of the vocabulary, end-of-text id and where it stands; None for what is not known."""
    vocab_size, eot_id, eot = None, arguments.eot_id, None
    if note is not None:
        vocab_size, eot = note["tokenizer"]["vocab_size"], note["arrangement"]["eot"]
        eot_id = eot_id if eot_id is not None else note["arrangement"]["eot_id"]
    if arguments.tokenizer is not None:
        from ..tokenizer import Tokenizer

        tokenizer = Tokenizer.load(arguments.tokenizer)
        vocab_size = tokenizer.vocab_size
        eot_id = eot_id if eot_id is not None else tokenizer.eot_id
    return vocab_size, eot_id, eot


def check_width(arguments: argparse.Namespace, path: Path, vocab_size: int | None, dtype: str) -> None:
    """Ids that are as wide as no tokenizer of that size would make them."""
    if arguments.dtype is not None or vocab_size is None or dtype not in ("uint16", "uint32"):
        return
    needed = "uint16" if vocab_size <= 65_536 else "uint32"
    if dtype != needed:
        raise StreamError(
            f"{path}: its ids look like {dtype}, those of {vocab_size} are {needed}",
            f"pass --dtype {dtype} if that is meant, or --tokenizer with the one that made it",
        )


def _scan(arguments: argparse.Namespace, path: Path, note: dict[str, Any] | None) -> tuple[dict[str, Any], list[str]]:
    from ..foreign import read_set, scan

    dtype = arguments.dtype or (note["dtype"] if note is not None else None)
    found = read_set(path, dtype)
    vocab_size, eot_id, eot = vocabulary(arguments, note)
    if found.kind in ("raw", "olmo") and note is None:
        check_width(arguments, path, vocab_size, found.dtype)
    scanned = scan(found, vocab_size=vocab_size, eot_id=eot_id, eot=eot)
    remarks = list(found.remarks)
    if vocab_size is None:
        remarks.append("ids were not compared with a vocabulary, for none is named: pass --tokenizer")
    elif eot_id is None:
        remarks.append("end-of-text ids were not looked for, for none is known: pass --eot-id")
    report = {
        "path": str(path),
        "format": found.kind,
        "state": "complete",
        "dtype": found.dtype,
        "n_tokens": scanned.n_tokens,
        "n_documents": found.n_documents,
        "n_bytes": scanned.n_bytes,
        "n_files": found.n_files,
        "largest_id": scanned.largest_id,
        "n_eot": scanned.n_eot,
    }
    return report, remarks


def _report(arguments: argparse.Namespace, found: dict[str, Any], state: str, remarks: list[str] | None = None) -> int:
    if arguments.json:
        print(json.dumps({**found, "remarks": remarks} if remarks else found))
        return 0
    what = plural(found["n_tokens"], "token")
    if found["n_documents"] is not None:
        what += f", {plural(found['n_documents'], 'document')}"
    print(f"{arguments.path}: {state}{what}, {size(found['n_bytes'])} verified")
    for remark in remarks or []:
        print(f"  {remark}")
    return 0
