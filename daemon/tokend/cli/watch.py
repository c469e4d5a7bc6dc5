"""`tokend encode --watch`: this process looks at the directories, and the daemon encodes what it finds.

With `--local` this process does that too, and it always does where a round found little: a job every other second would
soon have pushed all others out of the daemon's memory.

What is remembered is in the stream's manifest alone, so that neither of the two need outlive the other: a killed watch
goes on with the same command, and a daemon that goes away is started again and takes up the job that it had.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import uuid
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from typing import Any

from tokend_client.errors import BadRequestError, NotConnectedError
from tokend_client.protocol import TERMINAL_STATES

from ..tokenizer import Tokenizer
from ..watch import Encode, Round, Watch
from ..watch import watch as look_again
from .follow import connected, follow_own
from .output import plural

DAEMON_MIN_BYTES = 8_000_000
"""What a round found of this size or more the daemon encodes."""
_TRIES = 5
"""Daemons that may go away while one round is encoded."""


def watch(arguments: argparse.Namespace, options: dict[str, Any]) -> int:
    """Keeps a stream up to date with directories until it is interrupted."""
    if arguments.inputs or arguments.files_from or arguments.format not in (None, ["stream"]):
        raise BadRequestError("--watch takes directories and no other inputs, and makes a stream")
    for name in ("update", "resume", "retire", "no_wait", "dry_run", "force", "key"):
        if getattr(arguments, name):
            raise BadRequestError(f"--watch does not go with --{name.replace('_', '-')}")
    for name in ("shuffle", "seed", "val_fraction", "shard_tokens", "shard_bytes", "shard_documents", "row_tokens"):
        if getattr(arguments, name):
            raise BadRequestError(
                f"--watch does not go with --{name.replace('_', '-')}: what is published of a stream stays where it is",
                "lay it out once it is sealed, with `tokend convert`",
            )
    if not arguments.output:
        raise BadRequestError("the output path is empty", "is a shell variable unset?")
    tokenizer = Tokenizer.load(arguments.tokenizer)
    encode = _locally(tokenizer, options)
    if not arguments.local:
        encode = _by_daemon(arguments, options, encode)
    folders = [os.path.abspath(folder) for folder in arguments.watch]
    output = os.path.abspath(arguments.output)
    settle = (lambda place: None) if arguments.local else _settle(arguments)
    watched = Watch(tokenizer.fingerprint, folders, output, options, encode, settle)
    if not (arguments.once or arguments.seal or arguments.json):
        where = ", ".join(arguments.watch)
        print(f"tokend: watching {where} every {arguments.interval:g} s; Ctrl-C stops", file=sys.stderr)
    look_again(watched, _say(arguments), interval_s=arguments.interval, is_once=arguments.once, seal=arguments.seal)
    if arguments.seal and not arguments.json:
        found = watched.manifest
        what = f"{plural(found.get('n_documents', 0), 'document')}, {plural(found.get('n_tokens', 0), 'token')}"
        print(
            f"{arguments.output} is sealed: {what}" if found else f"{arguments.output}: nothing was found",
            file=sys.stderr,
        )
    return 0


def _say(arguments: argparse.Namespace) -> Callable[[Round], None]:
    def say(found: Round) -> None:
        if not found.n_files:
            return
        if arguments.json:
            print(json.dumps(asdict(found)), flush=True)
            return
        what = f"{plural(found.n_documents, 'document')}, {plural(found.n_tokens, 'token')}"
        print(f"{arguments.output}: {what} from {plural(found.n_files, 'file')}", file=sys.stderr)
        if found.n_skipped:
            print(f"left out: {plural(found.n_skipped, 'record')}; listed in {found.skipped}", file=sys.stderr)

    return say


def _locally(tokenizer: Tokenizer, options: dict[str, Any]) -> Encode:
    from .. import words

    recall = cache(lambda: words.recall(tokenizer))

    def encode(parts: list[str], place: str, known_texts: list[str] | None) -> dict[str, Any]:
        recall()
        made = tokenizer.encode_files(parts, place, known_texts=known_texts, **options)
        words.keep(tokenizer)
        return made

    return encode


def _by_daemon(arguments: argparse.Namespace, options: dict[str, Any], by_itself: Encode) -> Encode:
    def encode(parts: list[str], place: str, known_texts: list[str] | None) -> dict[str, Any]:
        if sum(os.path.getsize(path) for path in parts) < DAEMON_MIN_BYTES:
            return by_itself(parts, place, known_texts)
        key = str(uuid.uuid4())
        for left in reversed(range(_TRIES)):
            try:
                with connected(arguments) as client:
                    job = client.submit(
                        parts, place, tokenizer=arguments.tokenizer, key=key, known_texts=known_texts, **options
                    )
                    return follow_own(client, job.job_id, place)
            except NotConnectedError:
                # The job is in the daemon's journal; the same key finds it there.
                if not left:
                    raise
        raise AssertionError

    return encode


def _settle(arguments: argparse.Namespace) -> Callable[[str], None]:
    def settle(place: str) -> None:
        """Cancels what a killed watch had asked for."""
        with connected(arguments) as client:
            for info in client.jobs():
                if info.output == place and info.state not in TERMINAL_STATES:
                    job = client.job(info.job_id)
                    job.cancel()
                    for _ in job.progress():
                        pass

    return settle
