"""What a job made, in words: what `encode` says when it is done, and the account of records."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from .output import duration, plural, short, size


def report(manifest: dict[str, Any], output: str, seconds: float, as_json: bool) -> None:
    """Says what a job made: one line for a person, or the manifest as JSON on stdout."""
    if as_json:
        print(json.dumps(manifest))
        return
    if manifest["format"] == "tokend-export":
        from .convert import say

        say(manifest, output, seconds)
        return
    n_bytes, output = sum(source["size_bytes"] for source in manifest["sources"]), short(output)
    what = f"{plural(manifest['n_tokens'], 'token')}, {plural(manifest['n_documents'], 'document')}"
    if manifest["up_to_date"]:
        print(f"{output} is up to date: {what}", file=sys.stderr)
        _say_left_out(manifest, output)
        return
    if "reused" in manifest:
        print(f"{output}: {what}, shared with {manifest['reused']}: the same inputs, verified", file=sys.stderr)
        return
    # The rate of a small job is that of starting it, which tells nobody anything.
    rate = f", {size(n_bytes / seconds)}/s" if n_bytes > 10_000_000 and seconds > 0 else ""
    new = manifest.get("encoded_bytes")
    of_that = f" ({size(new)} of that new and encoded)" if new is not None else rate
    print(f"{output}: {what} from {size(n_bytes)} in {duration(seconds)}{of_that}", file=sys.stderr)
    _say_left_out(manifest, output)


def _say_left_out(manifest: dict[str, Any], output: str) -> None:
    if left_out := skipped(manifest):
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
