"""`tokend encode --format FORMAT` of formats that trainers read: made of a set of ours, which is kept if it was asked
for too (`--format bin`), or is hidden and removed in the end.

The daemon makes the set that is kept and all formats of it in one job. A hidden set's formats are made one by one; what
only the set knows of its documents is put beside them (`beside`), and their notes say so.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from tokend_client.errors import BadRequestError, ConflictError
from tokend_client.protocol import Told
from tokend_client.sidecars import OF_FORMAT

from .. import beside, conversions, publish
from ..made import read_made, read_note
from ..token_source import open_source
from . import convert
from .follow import connected
from .known import look, made_of

Encode = Callable[..., int]
"""Encodes the inputs into a set of ours at a place, in a format of ours."""


def encode_formats(
    arguments: argparse.Namespace,
    inputs: list[str],
    options: dict[str, Any],
    native: str | None,
    formats: list[str],
    encode: Encode,
) -> int:
    """Makes trainers' formats of inputs, and the set of ours if `native` names its format."""
    if native is not None and not arguments.local and not _is_confined(arguments):
        # One job makes the set and all of them.
        places = convert.places(arguments.output, formats, has_native=True)
        return encode(arguments.output, native, exports=places)
    if arguments.no_wait or arguments.key is not None:
        raise BadRequestError("a daemon with --root makes no formats of trainers", "leave out --no-wait and --key")
    is_same = made_of(arguments, inputs, options)
    places = convert.check(arguments, formats, has_native=native is not None, is_same=lambda note, _: is_same(note))
    if native is not None:
        encode(arguments.output, native)
        _convert(arguments, os.path.abspath(arguments.output), places, formats)
        return 0
    made = conversions.hidden_set(arguments.output)
    if not places:
        _end_interrupted(arguments, made, formats)
        return 0
    _check_free(arguments, formats)
    known = look(arguments, inputs, options)
    if known and known.output and known.manifest and not {"skipped", "ids"} & set(known.manifest):
        print(f"tokend: the same inputs are in {known.output}, which verified: made from it", file=sys.stderr)
        _convert(arguments, known.output, places, formats, beside.suffixes(known.manifest, **_split(arguments)))
        convert.keep_account(arguments, known.output, known.manifest)
        return 0
    encode(made, "bin", is_hidden=True)
    manifest = conversions.source_manifest(made)
    try:
        _convert(arguments, made, places, formats, _of_hidden(arguments, manifest))
    except BaseException:
        print(f"tokend: the tokens are kept in {made}, for `tokend convert`", file=sys.stderr)
        raise
    convert.keep_account(arguments, made, manifest)
    conversions.remove_set(made)
    return 0


def _split(arguments: argparse.Namespace) -> dict[str, Any]:
    return {"val_fraction": arguments.val_fraction}


def _of_hidden(arguments: argparse.Namespace, manifest: dict[str, Any]) -> list[str]:
    """What is left of a hidden set beside the formats that were made of it."""
    return beside.suffixes(manifest, **_split(arguments)) + ([".skipped.jsonl"] if "skipped" in manifest else [])


def _check_free(arguments: argparse.Namespace, formats: list[str]) -> None:
    """Refuses to replace what no set that stands there says is its own."""
    if arguments.force:
        return
    places = convert.places(arguments.output, formats, has_native=False)
    notes = [read_note(place, name) or {} for name, place in places.items()]
    own = {file for note in notes for file in note.get("beside", ())}
    output = os.path.abspath(arguments.output)
    for suffix in OF_FORMAT:
        if suffix != ".docs" and f"{os.path.basename(output)}{suffix}" not in own:
            conversions.check_free(f"{output}{suffix}")


def _is_confined(arguments: argparse.Namespace) -> bool:
    """Whether the daemon serves some directories only, and so makes no conversions."""
    with connected(arguments) as client:
        return bool(client.roots())


def _convert(
    arguments: argparse.Namespace, source: str, places: dict[str, str], formats: list[str], kept: Sequence[str] = ()
) -> None:
    """Makes the formats of trainers where the set was made: by the daemon, or in this process. `kept` is what will
    stand beside OUT, behind its name.
    """
    names = [f"{os.path.basename(os.path.abspath(arguments.output))}{suffix}" for suffix in kept]
    if places and not arguments.local:
        with connected(arguments) as client:
            # One that is confined to directories makes no conversions.
            if not client.roots():
                convert.make(arguments, source, places, formats, client, beside=names)
                return
    convert.make(arguments, source, places, formats, beside=names)
    convert.keep_places(arguments, open_source(source, Told()), formats)


def _end_interrupted(arguments: argparse.Namespace, made: str, formats: list[str]) -> None:
    """Does what is left of a run that was killed when the last format was there: what stands beside the formats, and
    the end of the hidden set.
    """
    if not conversions.is_any_left(made):
        return
    place = convert.places(arguments.output, formats, has_native=False)[formats[0]]
    # Whoever holds it makes other formats just now, and ends the set itself.
    with contextlib.suppress(ConflictError), publish.claimed(made):
        note, manifest = read_note(place, formats[0]), read_made(made, "bin")
        if manifest is not None and note is not None and conversions.is_of(note, manifest):
            convert.keep_places(arguments, open_source(made, Told()), formats)
            convert.keep_account(arguments, made, manifest)
        elif manifest is not None:
            # Of other inputs or options, kept for `tokend convert`.
            return
        conversions.remove_set(made)
