"""Conversions as jobs: a finished set in, a trainer's format out.

They are not resumed in the middle: what a killed one left in its hidden directory is removed by the next run. A set
that stands there is up to date, if its note tells of the same input and arrangement, and it verifies.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec.structs import asdict
from tokend_client.errors import BadRequestError, NotFoundError, StreamError, TokendError
from tokend_client.protocol import JobSpec

from . import _core
from .config import ServerConfig

Say = Callable[[str], None]
"""Told what a job is at, in words; in none where that is plain."""


def check(spec: JobSpec, config: ServerConfig) -> tuple[dict[str, Any], int]:
    """Refuses what could not be made; returns the manifest of the input and the bytes of its ids."""
    assert spec.layout is not None
    if config.roots:
        raise BadRequestError(
            "a daemon with --root makes no conversions", "use `tokend convert`, which works by itself"
        )
    if len(spec.inputs) != 1:
        raise BadRequestError(f"a conversion is of one set, not of {len(spec.inputs)}")
    manifest = source_manifest(spec.inputs[0])
    layout = spec.layout
    note = read_note(spec.output, spec.format)
    if spec.force or note is None or not (is_of(note, manifest) and is_laid_out(note, spec.format, asdict(layout))):
        check_place(spec.output, spec.format, asdict(layout), force=spec.force)
    try:
        return manifest, manifest["n_tokens"] * (2 if manifest["dtype"] == "uint16" else 4)
    except (KeyError, TypeError):
        raise StreamError(f"{spec.inputs[0]}: its manifest is damaged") from None


def check_place(output: str, format: str, layout: dict[str, Any], *, force: bool) -> None:
    """Refuses what could not be made there."""
    folder = os.path.dirname(os.path.abspath(output))
    if not os.path.isdir(folder):
        raise NotFoundError(f"{folder}: no such directory", "make it first, or check the path of the output")
    _core.check_export(
        output,
        format,
        **{name: layout[name] for name in ("shard_tokens", "shard_bytes", "shard_documents", "row_tokens")},
        val_fraction=layout["val_fraction"],
        force=force,
    )


def source_manifest(path: str) -> dict[str, Any]:
    """The manifest of a set or stream. Raises `NotFoundError`, `StreamError`."""
    place = Path(path)
    if place.is_dir():
        place /= "manifest.json"
    elif place.suffix != ".json":
        place = Path(f"{path}.json")
    try:
        manifest = json.loads(place.read_bytes())
    except FileNotFoundError:
        raise NotFoundError(f"{path}: no set of tokend's is there", "name OUT.bin, or a sealed stream") from None
    except (OSError, ValueError) as error:
        raise StreamError(f"{place}: cannot be read: {error}") from None
    if not isinstance(manifest, dict) or manifest.get("format") not in ("tokend-bin", "tokend-stream"):
        raise StreamError(f"{place}: is no manifest of a token set")
    return manifest


def convert(spec: JobSpec, control: _core.JobControl, say: Say, *, is_again: bool) -> tuple[bytes, bool]:
    """Runs a conversion; returns its note and whether it was there. `is_again`: an interrupted run may have made it."""
    layout = spec.layout
    assert layout is not None
    note = read_note(spec.output, spec.format)
    if note is not None and (is_again or not spec.force):
        is_same = is_of(note, source_manifest(spec.inputs[0])) and is_laid_out(note, spec.format, asdict(layout))
        if is_same and verifies(spec.output, spec.format):
            return json.dumps(note).encode(), True
    say("verifies the set")
    _core.verify(spec.inputs[0])
    say(f"writes {spec.format}")
    report = _core.export(
        spec.inputs[0],
        spec.output,
        spec.format,
        # A pair of files of which an interrupted run put one there bears its note.
        force=spec.force or (is_again and note is not None),
        control=control,
        **asdict(layout),
    )
    return report.encode(), False


def is_of(note: dict[str, Any], manifest: dict[str, Any]) -> bool:
    """Whether a note tells of a conversion of a set with this manifest."""
    return all(note.get(name) == manifest.get(name) for name in ("tokenizer", "options", "sources"))


def is_laid_out(note: dict[str, Any], format: str, layout: dict[str, Any]) -> bool:
    """Whether a note tells of this format and layout (the fields of `protocol.Layout`)."""
    there = note.get("arrangement", {})
    is_drawn = layout["shuffle"] or layout["val_fraction"] > 0
    wanted = {
        "eot": layout["eot"] or ("prepend" if format == "llmc" else "append"),
        "shuffle_seed": layout["seed"] if layout["shuffle"] else None,
        "val_fraction": layout["val_fraction"],
        **({"seed": layout["seed"]} if is_drawn else {}),
        **({"eot_id": layout["eot_id"]} if layout["eot_id"] is not None else {}),
        **{name: layout[name] for name in ("shard_tokens", "shard_bytes", "shard_documents", "row_tokens")},
    }
    return note.get("kind") == format and all(there.get(name, "absent") == value for name, value in wanted.items())


def verifies(output: str, format: str) -> bool:
    """Whether the files of a conversion are those that its note tells of (reads them)."""
    try:
        _core.verify(str(note_path(output, format)))
    except TokendError:
        return False
    return True


def note_path(output: str, format: str) -> Path:
    """Where `tokend.json` of a conversion is."""
    return Path(f"{output}.tokend.json") if format == "megatron" else Path(output, "tokend.json")


def read_note(output: str, format: str) -> dict[str, Any] | None:
    """What a conversion made, if it is there."""
    try:
        note = json.loads(note_path(output, format).read_bytes())
    except (OSError, ValueError):
        return None
    return note if isinstance(note, dict) and note.get("format") == "tokend-export" else None


def discard(output: str) -> None:
    """Removes what a conversion left half made, unless one runs."""
    folder, name = os.path.split(output)
    place = os.path.join(folder, f".{name}.tokend-export")
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), unlocked(place) as is_free:
        if is_free:
            shutil.rmtree(place, ignore_errors=True)


@contextmanager
def unlocked(path: str) -> Iterator[bool]:
    """Whether no running job holds a file or directory; it is held meanwhile."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(descriptor)
