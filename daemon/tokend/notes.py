"""What lies at a path: a set of tokend's own, one that tokend converted, whose note is `tokend.json`, or neither."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


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


def read_note(path: Path) -> dict[str, Any] | None:
    """What `tokend convert` noted beside a set, if it made it."""
    found = find_note(path)
    return found[1] if found is not None else None


def note_path(path: Path) -> Path | None:
    """Where that stands."""
    found = find_note(path)
    return found[0] if found is not None else None


def find_note(path: Path) -> tuple[Path, dict[str, Any]] | None:
    """Place and content of the note of a set, of one of its splits, or of one of its files."""
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


def output_of(place: Path) -> Path:
    """The path that a set was made under, by its note's."""
    if place.name == "tokend.json":
        return place.parent
    return Path(str(place).removesuffix(".tokend.json"))
