"""`tokend decode`."""

from __future__ import annotations

import argparse
import mmap
import os
import sys
from typing import TYPE_CHECKING

import numpy as np
from tokend_client import TokenStream
from tokend_client.errors import BadRequestError, InputInvalidError, NotFoundError, StreamError

from ..tokenizer import Tokenizer

if TYPE_CHECKING:
    from ..tokenizer import Ids

_BLOCK_TOKENS = 1 << 20
_ID_MAX = (1 << 32) - 1


def decode(arguments: argparse.Namespace) -> int:
    """Writes the bytes of tokens to stdout."""
    ids: Ids | TokenStream
    if arguments.file is None:
        ids, tokenizer = _from_stdin(), Tokenizer.load(arguments.tokenizer or "gpt2")
    elif _has_manifest(arguments.file):
        stream = TokenStream(arguments.file)
        tokenizer = Tokenizer.load(arguments.tokenizer or stream.tokenizer or "gpt2")
        if tokenizer.fingerprint != stream.fingerprint:
            raise StreamError(
                f"{arguments.file}: made by another tokenizer than {tokenizer.name} is now",
                "pass --tokenizer with the one that made it",
            )
        ids = stream
    else:
        ids, tokenizer = _raw(arguments)
    stop = None if arguments.count is None else arguments.start + arguments.count
    start, stop, _ = slice(arguments.start, stop).indices(len(ids))
    for at in range(start, stop, _BLOCK_TOKENS):
        sys.stdout.buffer.write(tokenizer.decode_bytes(ids[at : min(at + _BLOCK_TOKENS, stop)]))
    sys.stdout.buffer.flush()
    return 0


def _has_manifest(path: str) -> bool:
    """Whether it is a set or a stream directory of ours."""
    return os.path.exists(f"{path.removesuffix('.json')}.json") or os.path.exists(os.path.join(path, "manifest.json"))


def _from_stdin() -> Ids:
    words = sys.stdin.read().replace(",", " ").split()
    for at, word in enumerate(words):
        if not word.isascii() or not word.isdigit():
            raise BadRequestError(f"{word!r} (number {at + 1} on stdin) is not an id")
        # The length first: Python refuses to read a number of thousands of digits.
        if len(word.lstrip("0")) > 10 or int(word) > _ID_MAX:
            raise BadRequestError(f"{word[:20]} (number {at + 1} on stdin) is above the largest id, {_ID_MAX}")
    return np.array([int(word) for word in words], dtype=np.uint64)


def _raw(arguments: argparse.Namespace) -> tuple[Ids, Tokenizer]:
    path = arguments.file
    if not os.path.exists(path):
        raise NotFoundError(f"{path}: no such file")
    if arguments.tokenizer is None:
        raise BadRequestError(
            f"{path} has no manifest", "pass --tokenizer, and --dtype if it is not the tokenizer's own"
        )
    tokenizer = Tokenizer.load(arguments.tokenizer)
    dtype = np.dtype(arguments.dtype or tokenizer.dtype)
    n_bytes = os.path.getsize(path)
    if n_bytes % dtype.itemsize:
        raise InputInvalidError(f"{path}: {n_bytes} bytes are no whole number of {dtype}")
    if n_bytes == 0:
        return np.empty(0, dtype), tokenizer
    with open(path, "rb") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype), tokenizer
