"""A manifest's bytes, whatever stands at its path.

A FIFO there would be waited for without end, a device read without end, and JSON of a hundred thousand brackets
exhausts the interpreter's stack.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import msgspec

from ..errors import StreamError


def read(path: Path) -> bytes:
    """The bytes of a regular file. Raises `StreamError` for anything else, `FileNotFoundError` for nothing."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise StreamError(f"{path}: not a regular file", "a manifest belongs there")
    with os.fdopen(fd, "rb") as file:
        return file.read()


def decode(path: Path, data: bytes, type: Any = Any) -> Any:
    """The JSON, as `type`. Raises `msgspec.DecodeError`, and `StreamError` for what is nested too deeply."""
    try:
        return msgspec.json.decode(data, type=type)
    except RecursionError:
        raise StreamError(f"{path}: nested too deeply to be a manifest") from None
