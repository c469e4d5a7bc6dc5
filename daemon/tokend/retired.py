"""What stood beside a trainer's set that is replaced, and does not stand beside the new one.

A set's note lists the files that go with it and lie beside it (`OUT.docs`, `OUT.ids` ...: `sidecars.OF_FORMAT`), as
`beside`. Of Megatron, whose sets are no directories, all files lie there (`OUT_train.bin` of one that is not split
now). The new set is published first: until its note takes the old one's place, the old set is whole. Then what only
the old note lists is removed. A kill in between would leave files of which no note tells, so their names are written
down before:

    .OUT.tokend-retired   {"format": of the set, "files": names of files in the same directory}

Whoever makes, finishes, discards or tidies up (`tokend gc`) OUT next reads that and does what is left: a file goes if a
note stands there and does not list it. Several formats made by one command share files (`OUT.ids` of `OUT.olmo` and
`OUT.mds`): one that another of these sets lists stays. What no note ever listed is not touched.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tokend_client.sidecars import OF_FORMAT

from . import _core, publish
from .made import read_note

PURPOSE = "tokend-retired"
SPLITS = ("", "_train", "_val")
"""Behind the prefix of a Megatron set."""


@contextmanager
def replacing(output: str, format: str, beside: list[str]) -> Iterator[None]:
    """A set is made at `output`, beside which these files will stand."""
    finish(output)
    old = _listed(read_note(output, format))
    if was := [name for name in old if name not in beside and _is_of(name, output, format)]:
        _write(output, {"format": format, "files": was})
    try:
        yield
    finally:
        finish(output)


def finish(output: str) -> None:
    """Removes what a set that was replaced has left; nothing where that is not there yet or was not replaced."""
    place = publish.hidden_folder(output, PURPOSE)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{place}.partial")
    try:
        with open(place, encoding="utf-8") as file:
            record = json.load(file)
        format, files = str(record["format"]), [str(name) for name in record["files"]]
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError):
        # It is synced before it has its name: somebody else's.
        return
    note = read_note(output, format)
    if note is None:
        return
    kept = {*_listed(note), *_listed_by_others(output, format)}
    folder = os.path.dirname(output)
    for name in files:
        if name not in kept and _is_of(name, output, format):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(folder, name))
    with contextlib.suppress(FileNotFoundError):
        os.unlink(place)


def _listed(note: dict[str, Any] | None) -> list[str]:
    """What a note names that lies where the set does."""
    if note is None:
        return []
    try:
        own = [file["file"] for file in note["files"]] if note["kind"] == "megatron" else []
        return [str(name) for name in (*own, *note.get("beside", ()))]
    except (KeyError, TypeError):
        return []


def _listed_by_others(output: str, format: str) -> set[str]:
    """What the notes of the other formats list that one command may have made beside this one."""
    whole = output.removesuffix(f".{format}")
    names = [name for name in _core.export_formats() if name != format]
    return {file for name in names for file in _listed(read_note(f"{whole}.{name}", name))}


def _is_of(name: str, output: str, format: str) -> bool:
    """Whether it is called as a file beside this set is; a note may say anything."""
    base = os.path.basename(output)
    if format == "megatron" and name in (f"{base}{split}{end}" for split in SPLITS for end in (".bin", ".idx")):
        return True
    return any(name == f"{stem}{suffix}" for stem in (base, base.removesuffix(f".{format}")) for suffix in OF_FORMAT)


def _write(output: str, record: dict[str, Any]) -> None:
    place = publish.hidden_folder(output, PURPOSE)
    partial = f"{place}.partial"
    with open(partial, "w", encoding="utf-8") as file:
        json.dump(record, file)
        file.flush()
        os.fsync(file.fileno())
    os.rename(partial, place)
    publish.sync_folder(os.path.dirname(output))
