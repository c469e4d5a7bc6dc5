"""`tokend encode`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from tokend_client.errors import BadDocumentError, BadRequestError, NoSpaceError
from tokend_client.inputs import STDIN

from . import early
from .follow import connected, follow_own
from .known import look
from .output import check_utf8, watched
from .report import report

if TYPE_CHECKING:
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
    if arguments.once or arguments.seal:
        raise BadRequestError(f"--{'once' if arguments.once else 'seal'} needs --watch")
    inputs = _inputs(arguments)
    arguments.stdin = None
    if STDIN not in inputs:
        return _encode(arguments, inputs)
    if inputs.count(STDIN) > 1 or arguments.files_from == "-":
        raise BadRequestError("stdin is named twice")
    if arguments.no_wait:
        raise BadRequestError("--no-wait does not go with stdin", "write it to a file first")
    from . import stdin

    # What interrupts a job so that it can go on.
    resumable = (KeyboardInterrupt, NoSpaceError, BadDocumentError)
    with stdin.as_file(arguments.output, resume=arguments.resume, is_kept_on=resumable) as (path, is_copy):
        arguments.stdin = path if is_copy else None
        return _encode(arguments, [path if name == STDIN else name for name in inputs])


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
    from .formats import encode_formats

    def encode_set(output: str, format: str, **options: Any) -> int:
        return _native(arguments, inputs, output, format, **options)

    return encode_formats(arguments, inputs, _options(arguments), native, foreign, encode_set)


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
    options |= {"stdin": arguments.stdin}
    if is_hidden:
        from tokend_client.inputs import expand

        # What stands at the place that was asked for is no input, and nothing of it is told by the hidden name.
        inputs = expand(inputs, arguments.output)
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


def _update(arguments: argparse.Namespace, inputs: list[str]) -> int:
    """Encodes what is new in the inputs; all of it where that does not do."""
    if not arguments.local:
        return _native(arguments, inputs, arguments.output, "bin", is_update=True)
    from tokend_client.inputs import expand, names_of

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
        _in_thread(tokenizer, parts, place, output, options | {"resume": resume, "stdin": arguments.stdin})

    files = expand(inputs, output)
    try:
        manifest, n_bytes = update(
            tokenizer.fingerprint,
            tokenizer.eot_for(options["eot"], options["eot_token"]),
            files,
            output,
            options,
            encode_rest,
            names=names_of(files, arguments.stdin),
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
