"""What `tokend encode` does about inputs that it has encoded before."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import cache
from typing import Any

from tokend_client.errors import OutputExistsError, TokendError
from tokend_client.inputs import expand, names_of


class Known:
    """A job, as other jobs like it are looked up: by the sizes of `files` and the options.

    `names` is what manifests call the files.
    `output` is a verified set of the same inputs, if there is one, and `manifest` is that set's.
    """

    def __init__(
        self,
        options: dict[str, Any],
        files: list[str],
        names: list[str],
        output: str | None = None,
        manifest: dict[str, Any] | None = None,
    ) -> None:
        self.options = options
        self.files = files
        self.names = names
        self.output = output
        self.manifest = manifest

    def remember(self, output: str, manifest: dict[str, Any]) -> None:
        """Notes that it was done, if it was not too small."""
        from .. import reuse

        sizes = [source["size_bytes"] for source in manifest["sources"]]
        if sum(sizes) >= reuse.MIN_BYTES:
            reuse.remember(reuse.key_of(self.options, sizes), os.path.abspath(output))

    def link(self, output: str) -> dict[str, Any] | None:
        """Gives the set that was found another name; None if none was, or if something stands there."""
        from .. import publish, reuse

        place = os.path.abspath(output)
        is_begun = os.path.isdir(publish.hidden_folder(place, reuse.PURPOSE))
        if self.output is None or self.manifest is None or (reuse.is_taken(place) and not is_begun):
            return None
        try:
            made = reuse.link(self.output, self.manifest, place, self.names)
        except OutputExistsError:
            # Whether what stands there is this very set, the core finds out.
            return None
        self.remember(output, made)
        return {**made, "up_to_date": False, "reused": self.output}


def look(arguments: argparse.Namespace, inputs: list[str], options: dict[str, Any]) -> Known | None:
    """Looks a job up; None for one that is too small or that asks not to be."""
    if arguments.no_reuse or arguments.resume or arguments.no_wait or arguments.key is not None:
        return None
    from .. import reuse

    try:
        files = expand(inputs, arguments.output)
        names = names_of(files, arguments.stdin)
        # To ask takes as long as the sizes of a few hundred files.
        if not (reuse.is_begun() if len(files) < 1000 else reuse.has_any_of(len(files))):
            return Known(options, files, names)
        sizes = [os.stat(path).st_size for path in files]
    except (OSError, TokendError):
        # The job itself says what is wrong with them.
        return None
    if sum(sizes) < reuse.MIN_BYTES:
        return None

    @cache
    def fingerprint() -> str:
        from ..tokenizer import Tokenizer

        return Tokenizer.load(arguments.tokenizer).fingerprint

    found = reuse.find(reuse.key_of(options, sizes), files, names, fingerprint)
    return Known(options, files, names, *(found or ()))


def made_of(
    arguments: argparse.Namespace, inputs: list[str], options: dict[str, Any]
) -> Callable[[dict[str, Any]], bool]:
    """Tells of the note of a conversion whether its set was made of these inputs in this way. Reads the inputs only
    where their paths and sizes are the note's.
    """

    @cache
    def hashes() -> list[str]:
        from .. import _core

        return [_core.hash_prefixes(path, [os.stat(path).st_size])[0] for path in expand(inputs, arguments.output)]

    def is_same(note: dict[str, Any]) -> bool:
        from ..tokenizer import Tokenizer
        from ..update import are_same_options

        try:
            there = [(source["path"], source["size_bytes"]) for source in note["sources"]]
            files = expand(inputs, arguments.output)
            names = names_of(files, arguments.stdin)
            if there != [(name, os.stat(path).st_size) for path, name in zip(files, names, strict=True)]:
                return False
            tokenizer = Tokenizer.load(arguments.tokenizer)
            eot_id = tokenizer.eot_for(options["eot"], options["eot_token"])
            same = note["tokenizer"]["fingerprint"] == tokenizer.fingerprint
            same &= are_same_options(note["options"], options, eot_id)
            return same and [source["xxh3"] for source in note["sources"]] == hashes()
        except (OSError, KeyError, TypeError, TokendError):
            # The job itself says what is wrong.
            return False

    return is_same
