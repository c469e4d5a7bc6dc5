"""Conversions as jobs: a finished set in, a trainer's format out.

They are not resumed in the middle: what a killed one left in its hidden directory is removed by the next run, and a set
that was published already is found, verified and believed if it was made of the same input in the same arrangement.
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
    _core.check_export(
        spec.output,
        spec.format,
        shard_tokens=layout.shard_tokens,
        shard_bytes=layout.shard_bytes,
        shard_documents=layout.shard_documents,
        row_tokens=layout.row_tokens,
        val_fraction=layout.val_fraction,
        force=spec.force,
    )
    try:
        return manifest, manifest["n_tokens"] * (2 if manifest["dtype"] == "uint16" else 4)
    except (KeyError, TypeError):
        raise StreamError(f"{spec.inputs[0]}: its manifest is damaged") from None


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
    note = read_note(spec)
    if is_again and note is not None and _is_made(spec, note):
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


def _is_made(spec: JobSpec, note: dict[str, Any]) -> bool:
    layout = spec.layout
    assert layout is not None
    source = source_manifest(spec.inputs[0])
    arrangement = note.get("arrangement", {})
    wanted: dict[str, Any] = {"val_fraction": layout.val_fraction, "seed": layout.seed, "row_tokens": layout.row_tokens}
    wanted |= {"shuffle_seed": layout.seed if layout.shuffle else None}
    wanted |= {"eot": layout.eot} if layout.eot is not None else {}
    same = note.get("kind") == spec.format and all(note.get(name) == source[name] for name in ("tokenizer", "sources"))
    if not same or any(arrangement.get(name) != value for name, value in wanted.items()):
        return False
    try:
        _core.verify(str(note_path(spec)))
    except TokendError:
        return False
    return True


def note_path(spec: JobSpec) -> Path:
    """Where `tokend.json` of a conversion is."""
    return Path(f"{spec.output}.tokend.json") if spec.format == "megatron" else Path(spec.output, "tokend.json")


def read_note(spec: JobSpec) -> dict[str, Any] | None:
    """What a conversion made, if it is there."""
    try:
        note = json.loads(note_path(spec).read_bytes())
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
