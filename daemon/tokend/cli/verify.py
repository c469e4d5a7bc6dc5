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

from tokend_client.protocol import Told

from .. import _core
from ..notes import is_native, note_path, read_note
from .output import plural, size


def verify(arguments: argparse.Namespace) -> int:
    """Reads an output again; the first fault is an error that names its file and place."""
    path = Path(os.path.abspath(arguments.path))
    note = read_note(path)
    if is_native(path):
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


def told(arguments: argparse.Namespace) -> Told:
    """What the command line says of other tools' files."""
    return Told(**{name: getattr(arguments, name) for name in Told.__struct_fields__})


def _scan(arguments: argparse.Namespace, path: Path, note: dict[str, Any] | None) -> tuple[dict[str, Any], list[str]]:
    from ..foreign import drop_rows, read_set, scan
    from ..token_source import check_width, vocabulary

    dtype = arguments.dtype or (note["dtype"] if note is not None else None)
    found = read_set(path, dtype)
    vocab_size, eot_id, eot = vocabulary(told(arguments), note)
    if found.kind in ("raw", "olmo") and note is None:
        check_width(told(arguments), path, vocab_size, found.dtype)
    drop_rows(found, eot_id)
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
