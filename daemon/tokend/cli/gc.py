"""`tokend gc`: forgets outputs that are gone, and removes what dead runs left in directories."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import re
import shutil

from tokend_client.errors import ConflictError, NotFoundError

from .. import _core, reuse
from .output import plural

_EXPORT = re.compile(r"\.(.+)\.tokend-export")
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
    print(f"{plural(reuse.known(), 'output')} known")
    return 0


def _leftovers(folder: str, *, is_dry: bool) -> list[str]:
    """What nobody is at work on: formats half made, and what an unfinished job could have gone on from."""
    if not os.path.isdir(folder):
        raise NotFoundError(f"{folder}: no such directory")
    found = []
    for name in sorted(os.listdir(folder)):
        path = os.path.join(os.path.abspath(folder), name)
        if _EXPORT.fullmatch(name) and os.path.isdir(path) and not _is_locked(path):
            found.append(path)
            if not is_dry:
                shutil.rmtree(path)
        elif (part := _CHECKPOINT.fullmatch(name)) and not _is_locked(path):
            output = os.path.join(os.path.abspath(folder), part[1])
            with contextlib.suppress(ConflictError):
                if is_dry or _core.discard_partials(output, part[2]):
                    found.append(f"partial files of {output}")
    return found


def _is_locked(path: str) -> bool:
    """Whether a running job holds it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
