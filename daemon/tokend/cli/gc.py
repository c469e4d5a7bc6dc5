"""`tokend gc`: forgets outputs that are gone, and removes what dead runs left in directories."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil

from tokend_client.errors import ConflictError, NotFoundError

from .. import _core, publish, retired, reuse, rewrite
from .. import update as updates
from ..conversions import is_made, remove_set, unlocked
from .output import plural, size

_EXPORT = re.compile(r"\.(.+)\.tokend-export")
_HIDDEN = re.compile(rf"\.(.+)\.({updates.PURPOSE}|{reuse.PURPOSE}|{rewrite.PURPOSE})")
_RETIRED = re.compile(rf"\.(.+)\.{retired.PURPOSE}")
_SET = re.compile(r"\.(.+)\.tokend-set\.bin\.json")
_CHECKPOINT = re.compile(r"\.(.+)\.checkpoint\.([A-Za-z0-9_-]{1,64})\.partial")


def gc(arguments: argparse.Namespace) -> int:
    """Tidies up; says what it removed, or with --dry-run would."""
    gone = reuse.collect(is_dry=arguments.dry_run)
    removed = [name for folder in arguments.folders for name in _leftovers(folder, is_dry=arguments.dry_run)]
    if arguments.json:
        print(json.dumps({"forgotten": gone, "removed": removed, "known": reuse.known()}))
        return 0
    verb = "would be " if arguments.dry_run else ""
    for path in gone:
        print(f"{verb}forgotten: {path}")
    for path in removed:
        print(f"{verb}removed: {path}")
    print(f"{plural(reuse.known(), 'output')} known, of those made from {size(reuse.MIN_BYTES)} of input or more")
    return 0


def _leftovers(folder: str, *, is_dry: bool) -> list[str]:
    """What nobody is at work on: formats half made, and what an unfinished job could have gone on from."""
    if not os.path.isdir(folder):
        raise NotFoundError(f"{folder}: no such directory")
    found = []
    for name in sorted(os.listdir(folder)):
        path = os.path.join(os.path.abspath(folder), name)
        with contextlib.suppress(ConflictError, FileNotFoundError):
            found += _leftover(path, name, is_dry=is_dry)
    return found


def _leftover(path: str, name: str, *, is_dry: bool) -> list[str]:
    """What was removed, or would be; raises `ConflictError` where somebody is at work."""
    folder = os.path.dirname(path)
    if part := _CHECKPOINT.fullmatch(name):
        output = os.path.join(folder, part[1])
        with unlocked(path) as is_free:
            if not is_free:
                return []
        return [f"partial files of {output}"] if is_dry or _core.discard_partials(output, part[2]) else []
    if _EXPORT.fullmatch(name) and os.path.isdir(path):
        with unlocked(path) as is_free:
            if is_free and not is_dry:
                shutil.rmtree(path)
            return [path] if is_free else []
    if (part := _HIDDEN.fullmatch(name)) and os.path.isdir(path):
        output = os.path.join(folder, part[1])
        with publish.claimed(output):
            if not is_dry and not publish.finish(output, path):
                shutil.rmtree(path)
        return [path]
    if part := _RETIRED.fullmatch(name):
        output = os.path.join(folder, part[1])
        if is_made(output):
            return []
        if not is_dry:
            retired.finish(output)
        return [f"what stood beside a set that {output} replaced"] if is_dry or not os.path.exists(path) else []
    if part := _SET.fullmatch(name):
        made = path.removesuffix(".json")
        with publish.claimed(made):
            if not is_dry:
                remove_set(made)
        return [made]
    return []
