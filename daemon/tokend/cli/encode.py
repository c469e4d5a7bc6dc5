"""`tokend encode`."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from tokend_client.errors import BadDocumentError, BadRequestError, NoSpaceError, NotConnectedError, TokendError

from . import early
from .known import look, made_of
from .output import check_utf8, duration, plural, progress_bar, size, watched

if TYPE_CHECKING:
    from tokend_client import Client

    from ..tokenizer import Tokenizer


_RECORD_OPTIONS = (
    "input_format",
    "field",
    "id_field",
    "bad_documents",
    "min_tokens",
    "max_tokens",
    "truncate_tokens",
    "deduplicate",
)


def encode(arguments: argparse.Namespace) -> int:
    """Encodes files, through the daemon or in this process."""
    _name_outputs(arguments)
    if arguments.watch:
        from .watch import watch

        return watch(arguments, _options(arguments))
    inputs = _inputs(arguments)
    if "-" not in inputs:
        return _encode(arguments, inputs)
    if inputs.count("-") > 1 or arguments.files_from == "-":
        raise BadRequestError("stdin is named twice")
    if arguments.no_wait:
        raise BadRequestError("--no-wait does not go with stdin", "write it to a file first")
    from . import stdin

    # What interrupts a job so that it can go on.
    resumable = (KeyboardInterrupt, NoSpaceError, BadDocumentError)
    with stdin.as_file(arguments.output, resume=arguments.resume, is_kept_on=resumable) as path:
        return _encode(arguments, [path if name == "-" else name for name in inputs])


def _name_outputs(arguments: argparse.Namespace) -> None:
    """Makes one field and one output of what was given, and `more` of further ones."""
    given: list[str] = arguments.field or []
    arguments.more = {}
    if arguments.output is not None:
        if len(given) > 1:
            raise BadRequestError(
                "several fields go to several outputs, and -o names one", "--field NAME=OUT for each, without -o"
            )
        arguments.field = given[0] if given else None
        return
    if not given or not all("=" in name for name in given):
        raise BadRequestError("no output is named", "-o OUT, or --field NAME=OUT for each field")
    named = [(name, output) for name, _, output in (text.partition("=") for text in given)]
    if len(dict(named)) < len(named):
        raise BadRequestError("a field is named twice")
    (arguments.field, arguments.output), *more = named
    arguments.more = dict(more)
    if not all(arguments.more.values()):
        raise BadRequestError("the output path of a field is empty", "--field NAME=OUT")
    if arguments.more and (arguments.watch or arguments.dry_run or arguments.update):
        raise BadRequestError("--watch, --update and --dry-run are of one field", "name one with --field, and -o OUT")


def _encode(arguments: argparse.Namespace, inputs: list[str]) -> int:
    native, foreign = _formats(arguments)
    if arguments.more and (foreign or native != "bin"):
        raise BadRequestError("several fields go to sets of format bin", "`tokend convert` makes others of them")
    if arguments.dry_run:
        from .dry_run import dry_run

        return dry_run(arguments, inputs, _options(arguments), max(1, len(foreign)))
    if arguments.update:
        if foreign or native != "bin":
            raise BadRequestError("--update goes with --format bin")
        return _update(arguments, inputs)
    if not foreign:
        return _native(arguments, inputs, arguments.output, native or "bin")
    from .. import conversions
    from . import convert

    if native is not None and not arguments.local and not _is_confined(arguments):
        # One job makes the set and all of them.
        places = convert.places(arguments.output, foreign, has_native=True)
        return _native(arguments, inputs, arguments.output, native, exports=places)
    if arguments.no_wait or arguments.key is not None:
        raise BadRequestError("a daemon with --root makes no formats of trainers", "leave out --no-wait and --key")
    is_same = made_of(arguments, inputs, _options(arguments))
    places = convert.check(arguments, foreign, has_native=native is not None, is_same=lambda note, _: is_same(note))
    if native is not None:
        _native(arguments, inputs, arguments.output, native)
        _convert(arguments, os.path.abspath(arguments.output), places, foreign)
        return 0
    made = conversions.hidden_set(arguments.output)
    if not places:
        _end_interrupted(arguments, made, foreign)
        return 0
    known = look(arguments, inputs, _options(arguments))
    if known and known.output and known.manifest and not {"skipped", "ids"} & set(known.manifest):
        print(f"tokend: the same inputs are in {known.output}, which verified: made from it", file=sys.stderr)
        _convert(arguments, known.output, places, foreign)
        convert.keep_account(arguments, known.output, is_hidden=False)
        return 0
    _native(arguments, inputs, made, "bin", is_hidden=True)
    try:
        _convert(arguments, made, places, foreign)
    except BaseException:
        print(f"tokend: the tokens are kept in {made}, for `tokend convert`", file=sys.stderr)
        raise
    convert.keep_account(arguments, made)
    conversions.remove_set(made)
    return 0


def _is_confined(arguments: argparse.Namespace) -> bool:
    """Whether the daemon serves some directories only, and so makes no conversions."""
    with connected(arguments) as client:
        return bool(client.roots())


def _convert(arguments: argparse.Namespace, source: str, places: dict[str, str], formats: list[str]) -> None:
    """Makes the formats of trainers where the set was made: by the daemon, or in this process."""
    from tokend_client.protocol import Told

    from ..token_source import open_source
    from . import convert

    if places and not arguments.local:
        with connected(arguments) as client:
            # One that is confined to directories makes no conversions.
            if not client.roots():
                convert.make(arguments, source, places, formats, client)
                return
    convert.make(arguments, source, places, formats)
    convert.keep_places(arguments, open_source(source, Told()), formats)


def _end_interrupted(arguments: argparse.Namespace, made: str, formats: list[str]) -> None:
    """Does what is left of a run that was killed when the last format was there: what stands beside the formats, and
    the end of the hidden set.
    """
    from tokend_client.errors import ConflictError
    from tokend_client.protocol import Told

    from .. import conversions, publish
    from ..token_source import open_source
    from . import convert

    if not conversions.is_any_left(made):
        return
    place = convert.places(arguments.output, formats, has_native=False)[formats[0]]
    # Whoever holds it makes other formats just now, and ends the set itself.
    with contextlib.suppress(ConflictError), publish.claimed(made):
        note, manifest = conversions.read_note(place, formats[0]), conversions.read_made(made, "bin")
        if manifest is not None and note is not None and conversions.is_of(note, manifest):
            convert.keep_places(arguments, open_source(made, Told()), formats)
            convert.keep_account(arguments, made)
        elif manifest is not None:
            # Of other inputs or options, kept for `tokend convert`.
            return
        conversions.remove_set(made)


def _formats(arguments: argparse.Namespace) -> tuple[str | None, list[str]]:
    """The format of ours, if one was asked for, and those of trainers; refuses options that do not go with them."""
    formats: list[str] = arguments.format or ["bin"]
    if not set(formats) - {"bin", "stream"} and len(set(formats)) == 1:
        layout = ("shard_tokens", "shard_bytes", "shard_documents", "row_tokens", "val_fraction", "shuffle")
        for name in layout:
            if getattr(arguments, name):
                raise BadRequestError(
                    f"--{name.replace('_', '-')} is of the formats that trainers read",
                    "name one with --format; what is followed while it grows has the order of its inputs",
                )
        return formats[0], []
    from .convert import split

    for name, is_given in (("--no-wait", arguments.no_wait), ("--key", arguments.key is not None)):
        if is_given and (arguments.local or not {"bin", "stream"} & set(formats)):
            raise BadRequestError(
                f"{name} goes with a daemon, and with --format bin or stream",
                "add one of them: the formats of trainers are then made of it, in the same job",
            )
    return split(formats)


def _native(
    arguments: argparse.Namespace,
    inputs: list[str],
    output: str,
    format: str,
    *,
    is_hidden: bool = False,
    is_update: bool = False,
    exports: dict[str, str] | None = None,
) -> int:
    """Encodes into a set of ours. A hidden one is replaced without asking, and is not reported.

    `exports` are the formats of trainers that the daemon is to make of it, and their places.
    """
    options = _options(arguments) | {"force": arguments.force or is_hidden, "format": format}
    if arguments.more:
        options["more"] = arguments.more
    start = time.monotonic()
    if arguments.local:
        _check_local(arguments)
        is_looked_up = format == "bin" and not is_hidden and not arguments.more
        known = look(arguments, inputs, _options(arguments)) if is_looked_up else None
        manifest = known.link(output) if known else None
        if manifest is None:
            files = known.files if known else inputs
            manifest = _local(arguments, files, output, options | {"resume": arguments.resume})
            if known:
                known.remember(output, manifest)
    else:
        if arguments.resume:
            raise BadRequestError("--resume goes with --local", "a daemon resumes its jobs by itself")
        with connected(arguments) as client:
            options |= {"retire": arguments.retire, "update": is_update}
            if exports:
                from .convert import given_layout

                options |= {"exports": exports, "layout": given_layout(arguments)}
            options["reuse"] = format == "bin" and not is_hidden and not arguments.no_reuse
            job = client.submit(inputs, output, tokenizer=arguments.tokenizer, key=arguments.key, **options)
            if arguments.no_wait:
                print(json.dumps({"job_id": job.job_id}) if arguments.json else job.job_id)
                return 0
            # A hidden set is the first half of what was asked for.
            manifest = follow_own(client, job.job_id, arguments.output)
    if is_hidden:
        return 0
    seconds = time.monotonic() - start
    report(manifest, output, seconds, arguments.json)
    if not arguments.json:
        for made in manifest.get("exports", ()):
            from .convert import say

            say(made, made["path"], seconds)
        for place, other in zip(arguments.more.values(), manifest.get("more", ()), strict=True):
            report({"up_to_date": manifest["up_to_date"], **other}, place, seconds, as_json=False)
    return 0


def _check_local(arguments: argparse.Namespace) -> None:
    if arguments.no_wait:
        raise BadRequestError("--no-wait needs a daemon; it does not go with --local")
    if arguments.key is not None:
        raise BadRequestError("--key needs a daemon; it does not go with --local")
    if arguments.retire:
        raise BadRequestError("--retire needs a daemon, which knows who reads; it does not go with --local")


def connected(arguments: argparse.Namespace) -> Client:
    """A client of this user's daemon, which is started if none runs."""
    # Sockets are not needed with --local, and take longer to import than a small file to encode.
    from tokend_client import paths

    from .. import spawn

    return spawn.ensure(arguments.endpoint or paths.default_endpoint())


def _update(arguments: argparse.Namespace, inputs: list[str]) -> int:
    """Encodes what is new in the inputs; all of it where that does not do."""
    if not arguments.local:
        return _native(arguments, inputs, arguments.output, "bin", is_update=True)
    from tokend_client.inputs import expand

    from .. import words
    from ..reuse import read_manifest
    from ..tokenizer import Tokenizer
    from ..update import NotPossible, update

    _check_local(arguments)
    output = os.path.abspath(arguments.output)
    options = _options(arguments)
    tokenizer = Tokenizer.load(arguments.tokenizer)
    words.recall(tokenizer)
    start = time.monotonic()

    def encode_rest(parts: list[str], place: str, resume: bool) -> None:
        _in_thread(tokenizer, parts, place, output, options | {"resume": resume})

    try:
        manifest, n_bytes = update(
            tokenizer.fingerprint,
            tokenizer.eot_for(options["eot"], options["eot_token"]),
            expand(inputs, output),
            output,
            options,
            encode_rest,
        )
    except NotPossible as reason:
        if read_manifest(output) is not None:
            print(f"tokend: all of it is encoded: {reason}", file=sys.stderr)
            arguments.force = True
        return _native(arguments, inputs, output, "bin")
    except KeyboardInterrupt:
        print("tokend: the same command goes on with the update", file=sys.stderr)
        raise
    words.keep(tokenizer)
    report({**manifest, "encoded_bytes": n_bytes}, output, time.monotonic() - start, arguments.json)
    return 0


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What decides the ids of given inputs, and the threads."""
    return {
        "separator": arguments.separator,
        "eot": arguments.eot or "append",
        "eot_token": arguments.eot_token,
        "special": arguments.special,
        "errors": arguments.errors,
        "threads": arguments.threads,
        **{name: getattr(arguments, name) for name in _RECORD_OPTIONS},
    }


def _inputs(arguments: argparse.Namespace) -> list[str]:
    inputs: list[str] = list(arguments.inputs)
    if arguments.files_from is not None:
        if arguments.files_from == "-":
            listed = sys.stdin.buffer.read()
        else:
            with open(arguments.files_from, "rb") as file:
                listed = file.read()
        names = listed.split(b"\0" if b"\0" in listed else b"\n")
        if b"\0" not in listed:
            # A list that was written on Windows.
            names = [name.removesuffix(b"\r") for name in names]
        listing = [os.fsdecode(name) for name in names if name]
        for name in listing:
            check_utf8(name)
        inputs += listing
    if not inputs:
        raise BadRequestError("no input files", "give their paths, or --files-from with a list of them")
    if not all(inputs):
        raise BadRequestError("an input path is empty", "is a shell variable unset?")
    if not arguments.output:
        raise BadRequestError("the output path is empty", "is a shell variable unset?")
    return inputs


def _local(arguments: argparse.Namespace, inputs: list[str], output: str, options: dict[str, Any]) -> dict[str, Any]:
    from .. import words
    from ..tokenizer import Tokenizer

    begun = early.take(arguments.tokenizer)
    tokenizer = Tokenizer(begun) if begun else Tokenizer.load(arguments.tokenizer)
    # Beside the job: a small one has ended before all the words are there.
    recall = threading.Thread(target=words.recall, args=(tokenizer,), daemon=True)
    recall.start()
    try:
        outcome = _in_thread(tokenizer, inputs, output, arguments.output, options)
    except KeyboardInterrupt:
        print(f"tokend: the same command with --resume goes on with {arguments.output}", file=sys.stderr)
        raise
    if not recall.is_alive():
        words.keep(tokenizer)
    return outcome


def _in_thread(
    tokenizer: Tokenizer, inputs: list[str], output: str, label: str, options: dict[str, Any]
) -> dict[str, Any]:
    """Encodes with a progress bar. Ctrl-C suspends the job, unless that was done before it could be."""
    from .._core import JobControl

    control = JobControl()
    return watched(
        lambda: tokenizer.encode_files(inputs, output, control=control, **options),
        control,
        os.path.basename(label),
        control.suspend,
    )


def follow(client: Client, job_id: str, output: str) -> dict[str, Any]:
    """Shows a job's progress until it has ended; returns its manifest, or raises its error."""
    job = client.job(job_id)
    try:
        with progress_bar(os.path.basename(output)) as update:
            for moment in job.progress():
                update(moment.bytes_done, moment.bytes_total, moment.tokens, moment.note)
        result = job.wait()
    except NotConnectedError as error:
        # The daemon may have gone before it could say so itself.
        what = f"{error.message}; job {job_id} is kept, and goes on with the next one"
        raise NotConnectedError(what, error.hint) from None
    manifest = {**result.manifest, "up_to_date": result.up_to_date}
    manifest |= {"reused": result.reused} if result.reused is not None else {}
    manifest |= {"encoded_bytes": result.encoded_bytes} if result.encoded_bytes is not None else {}
    if result.note is not None:
        print(f"tokend: {result.note}", file=sys.stderr)
    return manifest


def follow_own(client: Client, job_id: str, output: str) -> dict[str, Any]:
    """Follows the job that this command submitted: who interrupts the command means the job."""
    try:
        return follow(client, job_id, output)
    except KeyboardInterrupt:
        try:
            client.job(job_id).cancel(timeout=2.0)
        except TokendError as error:
            print(f"tokend: the job could not be cancelled: {error}", file=sys.stderr)
        raise


def report(manifest: dict[str, Any], output: str, seconds: float, as_json: bool) -> None:
    """Says what a job made: one line for a person, or the manifest as JSON on stdout."""
    if as_json:
        print(json.dumps(manifest))
        return
    if manifest["format"] == "tokend-export":
        from .convert import say

        say(manifest, output, seconds)
        return
    n_bytes = sum(source["size_bytes"] for source in manifest["sources"])
    what = f"{plural(manifest['n_tokens'], 'token')}, {plural(manifest['n_documents'], 'document')}"
    if manifest["up_to_date"]:
        print(f"{output} is up to date: {what}", file=sys.stderr)
        return
    if "reused" in manifest:
        print(f"{output}: {what}, shared with {manifest['reused']}: the same inputs, verified", file=sys.stderr)
        return
    # The rate of a small job is that of starting it, which tells nobody anything.
    rate = f", {size(n_bytes / seconds)}/s" if n_bytes > 10_000_000 and seconds > 0 else ""
    new = manifest.get("encoded_bytes")
    of_that = f" ({size(new)} of that new and encoded)" if new is not None else rate
    print(f"{output}: {what} from {size(n_bytes)} in {duration(seconds)}{of_that}", file=sys.stderr)
    left_out = skipped(manifest)
    if left_out:
        listed = os.path.join(os.path.dirname(output), manifest["skipped"]["file"])
        print(f"left out: {left_out}; listed in {listed}", file=sys.stderr)


def account(manifest: dict[str, Any]) -> dict[str, int]:
    """The accounts of all sources that are made of records, added up; empty if none is."""
    total: dict[str, int] = {}
    for source in manifest["sources"]:
        records = source.get("records")
        if records:
            for name, number in records.items():
                total[name] = total.get(name, 0) + number
    return total


def skipped(manifest: dict[str, Any]) -> str:
    """What was left out, in words; empty if nothing was."""
    total = account(manifest)
    kinds = (("n_bad", "bad"), ("n_filtered", "filtered"), ("n_duplicates", "duplicate"))
    said = [f"{total[name]:,} {word}" for name, word in kinds if total.get(name)]
    return f"{', '.join(said)} of {plural(total['n_in'], 'record')}" if said else ""
