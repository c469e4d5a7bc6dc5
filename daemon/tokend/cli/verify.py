"""`tokend verify`."""

from __future__ import annotations

import argparse
import json
import os

from .. import _core
from .output import plural, size


def verify(arguments: argparse.Namespace) -> int:
    """Reads an output again; the first fault is an error that names its file."""
    report = _core.verify(os.path.abspath(arguments.path))
    if arguments.json:
        print(report)
        return 0
    found = json.loads(report)
    what = f"{plural(found['n_tokens'], 'token')}, {plural(found['n_documents'], 'document')}"
    print(f"{arguments.path}: {found['state']}, {what}, {size(found['n_bytes'])} verified")
    return 0
