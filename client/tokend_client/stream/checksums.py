"""Bytes against the checksums in a manifest: XXH3-64 of each file's committed part.

A reader that maps files does not look at bytes it does not need, so it cannot know of a flipped bit by itself;
this reads everything once. The hash is that of the package `xxhash`, which is only needed here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import StreamError

_READ_BYTES = 8 << 20
_AGAIN = "encode the inputs again"


def verify(place: Path, manifest: dict[str, Any]) -> int:
    """Reads what a manifest of tokend's names, and returns how many bytes that was.

    `place` is the data file of a set or the directory of a stream. Raises `StreamError` with the first file that
    is not what was written, and where there is nothing to compare with.
    """
    try:
        from xxhash import xxh3_64
    except ImportError:
        raise StreamError(
            f"{place}: cannot be verified without the package xxhash",
            "pip install 'tokend-client[verify]', or use `tokend verify`",
        ) from None
    total = 0
    for path, n_bytes, expected in _files(place, manifest):
        state, left = xxh3_64(), n_bytes
        try:
            with open(path, "rb") as file:
                while left > 0 and (piece := file.read(min(left, _READ_BYTES))):
                    state.update(piece)
                    left -= len(piece)
        except FileNotFoundError:
            raise StreamError(f"{path}: missing, though the manifest names it", _AGAIN) from None
        if left > 0:
            raise StreamError(f"{path}: {n_bytes - left} bytes, but {n_bytes} bytes are in the manifest", _AGAIN)
        if state.hexdigest() != expected:
            raise StreamError(
                f"{path}: its first {n_bytes} bytes are not what was written "
                f"(checksum {state.hexdigest()}, in the manifest {expected})",
                "`tokend verify` may name the place; encode the inputs again",
            )
        total += n_bytes
    return total


def _files(place: Path, manifest: dict[str, Any]) -> list[tuple[str, int, str]]:
    try:
        return list(_named(place, manifest))
    except (KeyError, TypeError, AttributeError) as error:
        raise StreamError(f"{place}: broken manifest ({type(error).__name__}: {error})", _AGAIN) from None


def _named(place: Path, manifest: dict[str, Any]) -> Iterator[tuple[str, int, str]]:
    """Path, committed bytes and checksum of each file with ids or ends."""
    if manifest.get("format") == "tokend-stream":
        id_bytes = 2 if manifest["dtype"] == "uint16" else 4
        for segment in manifest["segments"]:
            if not segment.get("retired"):
                yield f"{place}/{segment['tokens']}", segment["n_tokens"] * id_bytes, segment["tokens_xxh3"]
                yield f"{place}/{segment['ends']}", segment["n_documents"] * 8, segment["ends_xxh3"]
    elif manifest.get("format") == "tokend-bin":
        for name in ("data", "ends"):
            found = manifest[name]
            yield os.path.join(place.parent, found["file"]), found["size_bytes"], found["xxh3"]
    else:
        raise StreamError(f"{place}: this format has no checksums", "`tokend verify` checks what can be checked")
