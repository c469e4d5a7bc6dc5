"""`tokend encode --dry-run`: what it would make, and nothing made."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from tokend_client.inputs import expand

from .output import duration, plural, size


def dry_run(arguments: argparse.Namespace, inputs: list[str], options: dict[str, Any], n_formats: int) -> int:
    """Prints an estimate from a sample; as JSON on stdout, or for a person."""
    from .. import words
    from ..estimate import estimate
    from ..tokenizer import Tokenizer

    tokenizer = Tokenizer.load(arguments.tokenizer)
    words.recall(tokenizer)
    files = expand(inputs, arguments.output)
    found = estimate(tokenizer, files, arguments.output, options, n_formats=n_formats, seed=arguments.seed)
    if arguments.json:
        print(json.dumps(asdict(found)))
        return 0
    share = found.sample_bytes / found.n_bytes
    rows = [
        ("inputs", f"{plural(found.n_files, 'file')}, {size(found.n_bytes)}"),
        ("sample", f"{size(found.sample_bytes)} ({share:.2%}): {found.how}"),
        ("tokens", _with_error(found.n_tokens, found.n_tokens_error)),
        ("documents", _with_error(found.n_documents, found.n_documents_error)),
        ("time", f"about {duration(found.seconds)}"),
        ("disk", f"{size(found.output_bytes)}, {size(found.free_bytes)} are free"),
    ]
    if found.n_bad:
        rows.append(("bad", _bad(found.n_bad, is_all=found.sample_bytes == found.n_bytes, options=options)))
    if options["deduplicate"]:
        rows.append(("remark", "duplicates are counted: a sample does not tell them"))
    if found.output_bytes > found.free_bytes:
        rows.append(("warning", "the disk is too small"))
    for name, value in rows:
        print(f"{name:12} {value}")
    return 0


def _with_error(number: int, error: int) -> str:
    if not error:
        return f"{number:,}"
    return f"{number:,} ± {error:,} ({error / max(1, number):.1%}, 95 of 100)"


def _bad(n_bad: int, *, is_all: bool, options: dict[str, Any]) -> str:
    said = f"{plural(n_bad, 'document')}{'' if is_all else ' of the sample'}, not counted"
    if options["bad_documents"] == "skip":
        return f"{said}, would be left out and listed"
    return f"{said}: the job {'would' if is_all else 'may'} fail; --bad-documents skip leaves them out and lists them"
