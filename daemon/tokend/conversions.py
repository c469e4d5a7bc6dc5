"""Conversions: a finished set in, ours or another tool's; a trainer's format, or one of ours, out.

    a set of ours ──────────────────────────────────────────► a trainer's format   (`_core.export`)
    another tool's set ─► a set of ours (`rewrite`), hidden ─► a trainer's format
    either ─────────────► bin or stream                                            (`rewrite`)

They are not resumed in the middle: what a killed one left in its hidden directory is removed by the next run. A set
that stands there is up to date, if its note or manifest tells of the same input and arrangement, and it verifies.

A trainer's files do not say where in their source a document begins: `OUT.docs`, the places of the set that it was made
of, stands beside them for `tokend explain`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec.structs import asdict
from tokend_client.errors import BadRequestError, NotFoundError, OutputExistsError, StreamError, TokendError
from tokend_client.protocol import JobSpec, Layout, Told
from tokend_client.sidecars import MANIFEST, OF_SET

from . import _core, beside, publish, retired, rewrite
from .config import ServerConfig
from .made import NATIVE, note_path, read_made, read_note
from .rewrite import Meter
from .token_source import TokenSource, open_source

Say = Callable[..., None]
"""Told what a job is at, in words (in none where that is plain), and what measures that, if not the job's control."""

_EXPORT = "tokend-export"
"""Purpose of the hidden directory of `export/staging.rs`."""
RAW = ("nanogpt", "megatron", "datatrove", "olmo")
"""Formats whose ids lie as in a set of ours: what one has, the next one need not write again."""


@dataclass
class Made:
    """What a conversion made."""

    note: dict[str, Any]
    """`tokend.json`, or the manifest of a set of ours."""
    up_to_date: bool
    remarks: list[str]
    """What was told from the ids, or added to them."""


def check(spec: JobSpec, config: ServerConfig) -> tuple[dict[str, Any], int]:
    """Refuses what could not be made; returns what the input's manifest says of the tokenizer, and the bytes of ids."""
    assert spec.layout is not None
    if config.roots:
        raise BadRequestError(
            "a daemon with --root makes no conversions", "use `tokend convert`, which works by itself"
        )
    if len(spec.inputs) != 1:
        raise BadRequestError(f"a conversion is of one set, not of {len(spec.inputs)}")
    source = open_source(spec.inputs[0], spec.told or Told())
    there = read_made(spec.output, spec.format)
    layout = asdict(spec.layout)
    if spec.force or there is None or not is_same(there, source, spec.format, layout):
        check_place(spec.output, spec.format, layout, force=spec.force)
        check_width(source.dtype.itemsize == 4, spec.format)
    return source.tokenizer, source.n_bytes


def check_exports(spec: JobSpec, config: ServerConfig, *, is_wide: bool) -> None:
    """Refuses trainers' formats that could not be made of what a job makes."""
    if not spec.exports:
        return
    if config.roots:
        raise BadRequestError(
            "a daemon with --root makes no conversions", "use `tokend encode`, which makes the formats by itself"
        )
    if spec.more or spec.retire:
        raise BadRequestError("exports are of one output, whose tokens stay", "leave out more and retire")
    places = [spec.output, *(export.output for export in spec.exports)]
    if len(set(places)) < len(places):
        twice = next(place for place in places if places.count(place) > 1)
        raise BadRequestError(f"two outputs have the same place: {twice}", "give each export a place of its own")
    for export in spec.exports:
        if export.format in NATIVE:
            raise BadRequestError(f"{export.format} is no format of trainers", "name it as the job's own format")
        check_width(is_wide, export.format)
        layout = asdict(export.layout)
        note = read_note(export.output, export.format)
        # Whether one that stands there was made of the same bytes is seen once they are encoded.
        may_stand = note is not None and is_laid_out(note, export.format, layout)
        if spec.force or not may_stand or not (spec.update or has_inputs(note, spec.inputs, spec.names())):
            check_place(export.output, export.format, layout, force=spec.force)


def has_inputs(note: dict[str, Any] | None, inputs: list[str], names: list[str]) -> bool:
    """Whether a note tells of files of these names and lengths."""
    try:
        sizes = [(name, os.stat(path).st_size) for path, name in zip(inputs, names, strict=True)]
        return note is not None and [(one["path"], one["size_bytes"]) for one in note["sources"]] == sizes
    except (OSError, KeyError, TypeError):
        return False


def check_place(output: str, format: str, layout: dict[str, Any], *, force: bool) -> None:
    """Refuses what could not be made there."""
    folder = os.path.dirname(os.path.abspath(output))
    if not os.path.isdir(folder):
        raise NotFoundError(f"{folder}: no such directory", "make it first, or check the path of the output")
    if format in NATIVE:
        check_has_no_layout(layout)
        rewrite.check_place(output, format, force=force)
        return
    _core.check_export(
        output,
        format,
        **{name: layout[name] for name in ("shard_tokens", "shard_bytes", "shard_documents", "row_tokens")},
        val_fraction=layout["val_fraction"],
        force=force,
    )
    if not force and read_note(output, format) is None:
        check_free(f"{output}.docs")


def check_free(path: str) -> None:
    """Refuses to put something where anything stands."""
    if os.path.lexists(path):
        raise OutputExistsError(f"{path}: output exists", "choose another, or replace it with --force")


def check_has_no_layout(layout: dict[str, Any]) -> None:
    """Refuses what bin and stream do not have."""
    names = ("eot", "shard_tokens", "shard_bytes", "shard_documents", "row_tokens", "val_fraction", "shuffle")
    for name in names:
        if layout[name]:
            raise BadRequestError(
                f"--{name.replace('_', '-')} is of the formats that trainers read",
                "bin and stream have all documents of the set, in its order, with its end-of-text ids",
            )


def check_width(is_wide: bool, format: str) -> None:
    """Refuses ids that the format cannot hold, before anything is encoded."""
    if is_wide and format == "nanogpt":
        raise BadRequestError(
            "nanogpt holds uint16 ids only, and this vocabulary has more than 65,536",
            "use another format, or a smaller vocabulary",
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


def convert(spec: JobSpec, control: _core.JobControl, say: Say, *, is_again: bool) -> Made:
    """Runs a conversion. `is_again`: an interrupted run may have made it."""
    assert spec.layout is not None
    source = open_source(spec.inputs[0], spec.told or Told())
    there = read_made(spec.output, spec.format)
    if there is not None and (is_again or not spec.force):
        is_there = is_same(there, source, spec.format, asdict(spec.layout)) and verifies(spec.output, spec.format)
        if is_there:
            if spec.format not in NATIVE:
                # A run that was killed may have left it without, and what stood beside an older one.
                retired.finish(spec.output)
                keep_places(source.sidecars.get("docs", []), spec.output)
            return Made(there, True, source.found.remarks)
    say("verifies the set")
    source.check()
    # A pair of files of which an interrupted run put one there bears its note.
    force = spec.force or (is_again and there is not None)
    made = write(source, spec.output, spec.format, spec.layout, control, say, force=force)
    return Made(made, False, source.found.remarks)


def write(
    source: TokenSource,
    output: str,
    format: str,
    layout: Layout,
    control: _core.JobControl,
    say: Say,
    *,
    force: bool,
) -> dict[str, Any]:
    """Makes a set in one format of one that was checked; returns its note or manifest."""
    if format in NATIVE:
        meter = Meter(control)
        say(f"writes {format}", meter)
        return rewrite.rewrite(source, output, format, force=force, meter=meter)
    place = str(source.path)
    if not source.is_own:
        meter = Meter(control)
        say(f"reads {source.found.kind}", meter)
        place = copy_as_own(source, output, meter)
    try:
        say(f"writes {format}")
        made = export(place, output, format, asdict(layout), control, has_places="docs" in source.sidecars, force=force)
    finally:
        if not source.is_own:
            remove_set(place)
    keep_places(source.sidecars.get("docs", []), output)
    return made


def export(
    place: str,
    output: str,
    format: str,
    layout: dict[str, Any],
    control: _core.JobControl,
    *,
    has_places: bool,
    force: bool,
) -> dict[str, Any]:
    """Makes a set in a trainer's format of one of ours; returns its note. What stands beside one that it replaces, and
    will not beside this one, goes. `layout` has the fields of `protocol.Layout`; with `has_places` the caller puts
    `OUT.docs` there.
    """
    docs = [f"{os.path.basename(output)}.docs"] if has_places else []
    layout = {**layout, "beside": [*docs, *layout.get("beside", ())]}
    with retired.replacing(output, format, layout["beside"]):
        made: dict[str, Any] = json.loads(_core.export(place, output, format, force=force, control=control, **layout))
    return made


def copy_as_own(source: TokenSource, output: str, meter: Meter) -> str:
    """Writes another tool's set as one of ours, hidden beside `output`; returns its path. It is the caller's to remove.

    Trainers' formats are made of sets of ours.
    """
    place = hidden_set(output)
    # What a killed run left of one.
    remove_set(place)
    rewrite.rewrite(source, place, meter=meter)
    return place


def hidden_set(output: str) -> str:
    """Where the set lies that only the other formats are made of."""
    folder, name = os.path.split(os.path.abspath(output))
    return os.path.join(folder, f".{name}.tokend-set.bin")


def is_any_left(path: str) -> bool:
    """Whether there is anything of a set."""
    return any(os.path.lexists(f"{path}{suffix}") for suffix in (MANIFEST, *OF_SET.values()))


def remove_set(path: str) -> None:
    """Removes a set; the manifest goes first, so that what is left of it is none."""
    for suffix in (MANIFEST, *OF_SET.values()):
        if os.path.lexists(f"{path}{suffix}"):
            os.unlink(f"{path}{suffix}")


def keep_places(docs: list[Path], output: str) -> None:
    """Puts the places of the documents beside a set that was made: as a link where there is one file of them."""
    if not docs:
        return
    if len(docs) == 1:
        beside.share_beside(str(docs[0]), output, ".docs")
        return
    partial = publish.hidden_folder(output, "docs.partial")
    rewrite.join(docs, partial)
    os.replace(partial, f"{output}.docs")


def is_same(there: dict[str, Any], source: TokenSource, format: str, layout: dict[str, Any]) -> bool:
    """Whether a note or a manifest tells of a conversion of this set into this format and layout."""
    if format not in NATIVE and not is_laid_out(there, format, layout):
        return False
    if source.sources is not None:
        return is_of(there, {"tokenizer": source.tokenizer, "options": source.options, "sources": source.sources})
    try:
        names = ("path", "size_bytes", "xxh3")
        if there["tokenizer"] != source.tokenizer or there["options"] != source.options:
            return False
        # Sizes first: they cost nothing.
        sizes = [(one["path"], one["size_bytes"]) for one in there["sources"]]
        if sizes != [(str(path), path.stat().st_size) for path in source.paths]:
            return False
        own = [[one[name] for name in names] for one in source.own_sources()]
        return [[one[name] for name in names] for one in there["sources"]] == own
    except (KeyError, TypeError, OSError):
        return False


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
    """Whether the files of a conversion are those that its note or manifest tells of (reads them)."""
    try:
        _core.verify(output if format in NATIVE else str(note_path(output, format)))
    except TokendError:
        return False
    return True


def is_made(output: str) -> bool:
    """Whether a conversion to a trainer's format runs there."""
    try:
        with unlocked(publish.hidden_folder(output, _EXPORT)) as is_free:
            return not is_free
    except (FileNotFoundError, NotADirectoryError):
        return False


def discard(output: str) -> None:
    """Removes what a conversion left half made, unless one runs."""
    if not is_made(output):
        retired.finish(output)
    place = publish.hidden_folder(output, _EXPORT)
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), unlocked(place) as is_free:
        if is_free:
            shutil.rmtree(place, ignore_errors=True)
    for made in (output, hidden_set(output)):
        hidden = publish.hidden_folder(made, rewrite.PURPOSE)
        if os.path.isdir(hidden) and not publish.is_begun(made, hidden):
            with publish.claimed(made):
                shutil.rmtree(hidden, ignore_errors=True)


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
