"""What a manifest says of an input: one of its `sources`."""

from __future__ import annotations

import os
from typing import Any


def is_of_records(source: dict[str, Any]) -> bool:
    """Whether its documents are records, with an account and ids."""
    return source.get("records") is not None


def has_places(source: dict[str, Any]) -> bool:
    """Whether `OUT.docs` says of its documents where they stand. Sets that earlier versions made of text do not."""
    return is_of_records(source) or bool(source.get("places"))


def copy_of_stdin(output: str) -> str:
    """Where the command keeps what came through stdin while the job of this output runs, or waits to be resumed."""
    folder, name = os.path.split(os.path.abspath(output.rstrip("/")))
    return os.path.join(folder, f".{name}.stdin")
