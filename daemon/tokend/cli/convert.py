"""`tokend convert`, and what `tokend encode` does for the formats of trainers.

A set in a trainer's format is made from a finished set of ours (`rust_core/core/src/export`), never from text; another
tool's set becomes one of ours first (`conversions`).
With one format `OUT` is its directory (Megatron: the prefix of its files); with several each has a place of
its own beside it, `OUT.FORMAT`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from msgspec.structs import asdict
from tokend_client.errors import BadRequestError
from tokend_client.protocol import Layout, Told

from .. import _core, conversions, retired
from ..made import NATIVE, read_made
from ..rewrite import Meter, rewrite
from ..token_source import TokenSource, open_source
from .follow import connected, follow_own
from .output import duration, plural, short, size, watched
from .report import skipped
from .verify import told

if TYPE_CHECKING:
    from tokend_client import Client

SHARD_LIMITS = ("shard_tokens", "shard_bytes", "shard_documents")
_SINGLE = ("nanogpt", "megatron")


def convert(arguments: argparse.Namespace) -> int:
    """Makes sets in other formats from a finished one, verified first; in this process, or by the daemon."""
    native, formats = split(arguments.format)
    source = open_source(arguments.path, told(arguments))
    made_at = check(
        arguments,
        formats,
        native=native,
        is_same=lambda made, name: conversions.is_same(made, source, name, _layout(arguments, formats, name)),
    )
    if not made_at:
        keep_places(arguments, source, formats)
        return 0
    for name in made_at:
        conversions.check_width(source.dtype.itemsize == 4, name)
    if arguments.no_wait or arguments.endpoint is not None:
        if len(made_at) > 1 and arguments.no_wait:
            raise BadRequestError("--no-wait goes with one format", "name one, or several commands")
        with connected(arguments) as client:
            make(arguments, str(source.path), made_at, formats, client)
        return 0
    control = _core.JobControl()
    watched(source.check, control, f"{source.path.name}: verifying", control.cancel)
    own = str(source.path)
    if native is not None and native in made_at:
        place = made_at.pop(native)
        made, seconds = _write(arguments, source, place, native)
        _remark(source)
        _report(arguments, made, place, seconds)
        # The others are made of what was just written.
        own = own if source.is_own else place
    if not made_at:
        keep_places(arguments, source, formats)
        return 0
    is_hidden = not source.is_own and own == str(source.path)
    if is_hidden:
        meter = Meter()
        own = watched(
            lambda: conversions.copy_as_own(source, os.path.abspath(arguments.output), meter),
            meter,
            f"{source.path.name}: reading",
            meter.control.cancel,
        )
        _remark(source)
    try:
        make(arguments, own, made_at, formats)
    finally:
        if is_hidden:
            conversions.remove_set(own)
    keep_places(arguments, source, formats)
    return 0


def _write(arguments: argparse.Namespace, source: TokenSource, place: str, native: str) -> tuple[dict[str, Any], float]:
    """Makes a set of ours; returns its manifest, and how long it took."""
    start, meter = time.monotonic(), Meter()
    made = watched(
        lambda: rewrite(source, place, native, force=arguments.force, meter=meter),
        meter,
        f"{os.path.basename(place)}: writes {native}",
        meter.control.cancel,
    )
    return made, time.monotonic() - start


def _remark(source: TokenSource) -> None:
    """Says what was told from the ids, or added to them."""
    for remark in source.found.remarks:
        print(f"tokend: {remark}", file=sys.stderr)


def _report(arguments: argparse.Namespace, made: dict[str, Any], place: str, seconds: float) -> None:
    if arguments.json:
        print(json.dumps({"path": place, **made}))
    else:
        say(made, place, seconds)


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
    is_same: Callable[[dict[str, Any], str], bool],
    native: str | None = None,
    has_native: bool = False,
) -> dict[str, str]:
    """Where each format's set is to be made; refuses what could not be made there, before any work is done.

    A set that stands there is up to date, is said to be and left out, if `is_same` says of its note that it was made of
    what this one would be, and it verifies. `native` is to be made as well; with `has_native` somebody else sees to it.
    """
    made_at = places(arguments.output, formats, has_native=has_native or native is not None)
    if native is not None:
        made_at = {native: os.path.abspath(arguments.output), **made_at}
        if not formats:
            conversions.check_has_no_layout(_layout(arguments, formats, native))
    done = {}
    for name, place in made_at.items():
        layout = _layout(arguments, formats, name)
        made = None if arguments.force else read_made(place, name)
        is_laid_out = name in NATIVE or (made and conversions.is_laid_out(made, name, layout))
        if made is not None and is_laid_out and is_same(made, name) and conversions.verifies(place, name):
            done[name] = made
            continue
        if name in NATIVE:
            # What is asked for is of the others.
            layout = asdict(Layout())
        conversions.check_place(place, name, layout, force=arguments.force)
    for name, made in done.items():
        place = made_at.pop(name)
        _report(arguments, {**made, "up_to_date": True}, place, 0.0)
    return made_at


def places(given: str, formats: list[str], *, has_native: bool) -> dict[str, str]:
    """Where the sets of several formats are made, or of one that is alone."""
    if not given:
        raise BadRequestError("the output path is empty", "is a shell variable unset?")
    output = os.path.abspath(given)
    stem = output.removesuffix(".bin") if has_native else output
    single = len(formats) == 1 and not has_native
    return {name: output if single else f"{stem}.{name}" for name in formats}


def given_layout(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was asked for of the formats' layout, of whichever."""
    names = [name for name in Layout.__struct_fields__ if name not in ("sibling", "beside")]
    usual = asdict(Layout())
    return {name: getattr(arguments, name) for name in names if getattr(arguments, name) != usual[name]}


def _layout(arguments: argparse.Namespace, formats: Iterable[str], name: str) -> dict[str, Any]:
    """The fields of `protocol.Layout`, but for `sibling` and `beside`."""
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
    *,
    beside: Sequence[str] = (),
) -> None:
    """Makes the sets, in this process or by a daemon, and says what each holds; `formats` are all asked for, and
    `beside` names files that will be put there by whoever calls this.
    """
    raw: tuple[str, str] | None = None
    # `encode` makes them of sets of ours, which tell everything.
    given = told(arguments) if hasattr(arguments, "path") else Told()
    for name, place in places.items():
        start = time.monotonic()
        layout = _layout(arguments, formats, name) | {"sibling": raw, "beside": list(beside)}
        if client is not None:
            job = client.convert(source, place, format=name, force=arguments.force, **{**asdict(given), **layout})
            if arguments.no_wait:
                print(json.dumps({"job_id": job.job_id}) if arguments.json else job.job_id)
                return
            made = follow_own(client, job.job_id, place)
        else:
            made = _local(source, place, name, layout, force=arguments.force)
        if name in conversions.RAW:
            raw = place, name
        _report(arguments, made, place, time.monotonic() - start)


def _local(source: str, place: str, name: str, layout: dict[str, Any], *, force: bool) -> dict[str, Any]:
    control = _core.JobControl()
    has_places = "docs" in open_source(source, Told()).sidecars
    return watched(
        lambda: conversions.export(source, place, name, layout, control, has_places=has_places, force=force),
        control,
        f"{os.path.basename(place)}: writes {name}",
        control.cancel,
    )


def say(made: dict[str, Any], place: str, seconds: float) -> None:
    """One line of what a conversion made."""
    what, place = f"{plural(made['n_tokens'], 'token')}, {plural(made['n_documents'], 'document')}", short(place)
    kind = made.get("kind") or str(made["format"]).removeprefix("tokend-")
    if made.get("up_to_date"):
        print(f"{place} ({kind}) is up to date: {what}", file=sys.stderr)
        return
    if "files" not in made:
        n_bytes = made["n_tokens"] * (2 if made["dtype"] == "uint16" else 4)
        print(f"{place} ({kind}): {what} in {size(n_bytes)}, {duration(seconds)}", file=sys.stderr)
        return
    if made["n_val_documents"]:
        what += f" ({made['n_val_documents']:,} for validation)"
    if left_out := made["arrangement"]["n_tokens_left_out"]:
        what += f" ({left_out:,} at the end fill no row and are left out)"
    n_bytes = sum(file["size_bytes"] for file in made["files"])
    files = f"{plural(len(made['files']), 'file')}, {size(n_bytes)}"
    print(f"{place} ({kind}): {what} in {files}, {duration(seconds)}", file=sys.stderr)


def keep_places(arguments: argparse.Namespace, source: TokenSource, formats: list[str]) -> None:
    """Puts the places of the documents beside each format, also beside those that were there: a run that was killed may
    have made them, and left them without.
    """
    has_native = bool({"bin", "stream"} & set(arguments.format))
    for place in places(arguments.output, formats, has_native=has_native).values():
        retired.finish(place)
        conversions.keep_places(source.sidecars.get("docs", []), place)


def keep_account(arguments: argparse.Namespace, made: str, manifest: dict[str, Any]) -> None:
    """What the set that trainers' sets were made of knows and may not be there to tell: the ids of the documents, which
    side of a split they are on, and, of a hidden set, what was left out.
    """
    from .. import beside

    output = os.path.abspath(arguments.output)
    split = {"val_fraction": arguments.val_fraction, "seed": arguments.seed}
    beside.keep(made, manifest, output, is_shuffled=arguments.shuffle, **split)
    if made != conversions.hidden_set(output):
        return
    if os.path.exists(f"{made}.skipped.jsonl"):
        os.replace(f"{made}.skipped.jsonl", f"{output}.skipped.jsonl")
    if left_out := skipped(manifest):
        print(f"left out: {left_out}; listed in {arguments.output}.skipped.jsonl", file=sys.stderr)
