"""`tokend convert`, and what `tokend encode` does for the formats of trainers.

A set in a trainer's format is made from a finished set of ours (`rust_core/core/src/export`), never from text.
With one format `OUT` is its directory (Megatron: the prefix of its files); with several each has a place of
its own beside it, `OUT.FORMAT`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from tokend_client.errors import BadRequestError

from .. import _core, conversions
from .encode import connected, follow_own
from .output import duration, plural, size, watched

if TYPE_CHECKING:
    from tokend_client import Client

SHARD_LIMITS = ("shard_tokens", "shard_bytes", "shard_documents")
_SINGLE = ("nanogpt", "megatron")
_RAW = ("nanogpt", "megatron", "datatrove", "olmo")
"""Formats whose ids lie as in a set of ours: what one has, the next one need not write again."""


def convert(arguments: argparse.Namespace) -> int:
    """Makes sets in trainers' formats from a finished one, verified first; in this process, or by the daemon."""
    _, formats = split(arguments.format)
    source = os.path.abspath(arguments.path)
    manifest = conversions.source_manifest(source)
    places = check(arguments, formats, has_native=False, is_same=lambda note: conversions.is_of(note, manifest))
    if not places:
        return 0
    if arguments.no_wait or arguments.endpoint is not None:
        if len(places) > 1 and arguments.no_wait:
            raise BadRequestError("--no-wait goes with one format", "name one, or several commands")
        with connected(arguments) as client:
            make(arguments, source, places, formats, client)
        return 0
    control = _core.JobControl()
    watched(lambda: _core.verify(source), control, f"{os.path.basename(source)}: verifying", control.cancel)
    make(arguments, source, places, formats)
    return 0


def split(formats: list[str]) -> tuple[str | None, list[str]]:
    """The one format of ours among those asked for, if any, and the others, each once."""
    native = sorted({"bin", "stream"} & set(formats))
    if len(native) > 1:
        raise BadRequestError("--format bin and --format stream hold the same; ask for one of them")
    return (native[0] if native else None), [name for name in dict.fromkeys(formats) if name not in native]


def check(
    arguments: argparse.Namespace,
    formats: list[str],
    *,
    has_native: bool,
    is_same: Callable[[dict[str, Any]], bool],
) -> dict[str, str]:
    """Where each format's set is to be made; refuses what could not be made there, before any work is done.

    A set that stands there is up to date, is said to be and left out, if `is_same` says of its note that it was made of
    what this one would be, and it verifies.
    """
    if not arguments.output:
        raise BadRequestError("the output path is empty", "is a shell variable unset?")
    output = os.path.abspath(arguments.output)
    stem = output.removesuffix(".bin") if has_native else output
    single = len(formats) == 1 and not has_native
    places = {name: output if single else f"{stem}.{name}" for name in formats}
    done = {}
    for name, place in places.items():
        layout = _layout(arguments, formats, name)
        note = None if arguments.force else conversions.read_note(place, name)
        is_there = note is not None and conversions.is_laid_out(note, name, layout) and is_same(note)
        if note is not None and is_there and conversions.verifies(place, name):
            done[name] = note
            continue
        conversions.check_place(place, name, layout, force=arguments.force)
    for name, note in done.items():
        place = places.pop(name)
        if arguments.json:
            print(json.dumps({"path": place, **note, "up_to_date": True}))
        else:
            say({**note, "up_to_date": True}, place, 0.0)
    return places


def _layout(arguments: argparse.Namespace, formats: Iterable[str], name: str) -> dict[str, Any]:
    """The fields of `protocol.Layout`, but for `sibling`."""
    return {
        "eot": arguments.eot,
        "eot_id": arguments.eot_id,
        **_limits(arguments, formats, name),
        "row_tokens": _row_tokens(arguments, formats, name),
        "val_fraction": arguments.val_fraction,
        "seed": arguments.seed,
        "shuffle": arguments.shuffle,
    }


def _limits(arguments: argparse.Namespace, formats: Iterable[str], name: str) -> dict[str, int | None]:
    """Of a shard. Formats of one file have none; where no other format is asked for, the core says so."""
    has_none = name in _SINGLE and any(other not in _SINGLE for other in formats)
    return {limit: None if has_none else getattr(arguments, limit) for limit in SHARD_LIMITS}


def _row_tokens(arguments: argparse.Namespace, formats: Iterable[str], name: str) -> int | None:
    """Rows are of mds alone; where it is not asked for, the core refuses them by name."""
    rows: int | None = arguments.row_tokens
    return None if name != "mds" and "mds" in formats else rows


def make(
    arguments: argparse.Namespace,
    source: str,
    places: dict[str, str],
    formats: list[str],
    client: Client | None = None,
) -> None:
    """Makes the sets, in this process or by a daemon, and says what each holds; `formats` are all asked for."""
    raw: tuple[str, str] | None = None
    for name, place in places.items():
        start = time.monotonic()
        options = _layout(arguments, formats, name) | {"force": arguments.force, "sibling": raw}
        if client is not None:
            job = client.convert(source, place, format=name, **options)
            if arguments.no_wait:
                print(json.dumps({"job_id": job.job_id}) if arguments.json else job.job_id)
                return
            made = follow_own(client, job.job_id, place)
        else:
            made = _local(source, place, name, options)
        if name in _RAW:
            raw = place, name
        if arguments.json:
            print(json.dumps({"path": place, **made}))
        else:
            say(made, place, time.monotonic() - start)


def _local(source: str, place: str, name: str, options: dict[str, Any]) -> dict[str, Any]:
    control = _core.JobControl()
    made = watched(
        lambda: _core.export(source, place, name, control=control, **options),
        control,
        f"{os.path.basename(place)}: writes {name}",
        control.cancel,
    )
    result: dict[str, Any] = json.loads(made)
    return result


def say(made: dict[str, Any], place: str, seconds: float) -> None:
    """One line of what a conversion made."""
    what = f"{plural(made['n_tokens'], 'token')}, {plural(made['n_documents'], 'document')}"
    if made.get("up_to_date"):
        print(f"{place} ({made['kind']}) is up to date: {what}", file=sys.stderr)
        return
    if made["n_val_documents"]:
        what += f" ({made['n_val_documents']:,} for validation)"
    if left_out := made["arrangement"]["n_tokens_left_out"]:
        what += f" ({left_out:,} at the end fill no row and are left out)"
    n_bytes = sum(file["size_bytes"] for file in made["files"])
    files = f"{plural(len(made['files']), 'file')}, {size(n_bytes)}"
    print(f"{place} ({made['kind']}): {what} in {files}, {duration(seconds)}", file=sys.stderr)


def hidden_set(output: str) -> str:
    """Where the set lies that only the other formats are made of."""
    folder, name = os.path.split(os.path.abspath(output))
    return os.path.join(folder, f".{name}.tokend-set.bin")


def remove_set(path: str) -> None:
    """Removes a set; the manifest goes first, so that what is left of it is none."""
    for suffix in (".json", ".ends", ".docs", ".ids", ".skipped.jsonl", ""):
        if os.path.lexists(f"{path}{suffix}"):
            os.unlink(f"{path}{suffix}")


def keep_account(made: str, output: str) -> None:
    """What a hidden set lists beside its tokens gets the output's name: what was left out, and documents' ids."""
    from .encode import skipped

    with open(f"{made}.json", encoding="utf-8") as file:
        manifest: dict[str, Any] = json.load(file)
    for suffix in (".skipped.jsonl", ".ids"):
        if os.path.exists(f"{made}{suffix}"):
            os.replace(f"{made}{suffix}", f"{output}{suffix}")
    if left_out := skipped(manifest):
        print(f"left out: {left_out}; listed in {output}.skipped.jsonl", file=sys.stderr)
