"""The words that earlier processes learned: merge caches in the state directory, a file per vocabulary.

A new process that reads one encodes like a warm one from its first byte. The files hold nothing that could
not be made again: what is broken, foreign or of another version is ignored, and what cannot be written is
logged and forgotten.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

from tokend_client import paths
from tokend_client.errors import TokendError

if TYPE_CHECKING:
    from pathlib import Path


class Tokenizer(Protocol):
    """What is needed of a tokenizer: `tokend.Tokenizer`, or the one inside it."""

    @property
    def fingerprint(self) -> str: ...
    def load_cache(self, path: str) -> bool: ...
    def save_cache(self, path: str) -> bool: ...


def recall(tokenizer: Tokenizer, state_dir: Path | None = None) -> bool:
    """Fills a tokenizer's merge cache with what was kept; whether there was anything."""
    return tokenizer.load_cache(_path(tokenizer, state_dir))


def keep(tokenizer: Tokenizer, state_dir: Path | None = None) -> bool:
    """Writes a tokenizer's merge cache, if it has grown enough since it was read; whether it was written.

    Blocks for some milliseconds. Never raises for what the disk does: the words are only a help.
    """
    path = _path(tokenizer, state_dir)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True, mode=0o700)
        return tokenizer.save_cache(path)
    except (OSError, TokendError) as error:
        # Here, and not above: it takes as long to import as a small job takes.
        import logging

        logging.getLogger("tokend.words").warning("the learned words were not kept: %s", error)
        return False


def _path(tokenizer: Tokenizer, state_dir: Path | None) -> str:
    return os.path.join(state_dir or paths.state_place(), "words", f"{tokenizer.fingerprint[:32]}.words")
