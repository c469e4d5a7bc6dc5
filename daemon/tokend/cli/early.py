"""The tokenizer of `tokend encode --local`, whose loading begins before the command line is understood.

Its tables are made by native code, which needs neither the interpreter nor what Python has still to import: with a
second core both are done at once. What is begun in vain is thrown away, and so is an error: whoever needs the
tokenizer then loads it and meets the error himself.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._core import Tokenizer


class _Load:
    def __init__(self, name: str) -> None:
        self.name = name
        self.made: Tokenizer | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        with contextlib.suppress(Exception):
            from .._core import Tokenizer

            self.made = Tokenizer.load(self.name)


_begun: _Load | None = None


def begin(given: Sequence[str]) -> None:
    """Begins to load the bundled tokenizer if a command with these arguments will most likely want it."""
    global _begun
    if given[:1] == ["encode"] and "--local" in given and not any(word.startswith("--to") for word in given):
        _begun = _Load("gpt2")


def take(name: str) -> Tokenizer | None:
    """The tokenizer, if it was begun; waits for it. Once."""
    global _begun
    load, _begun = _begun, None
    if load is None or load.name != name:
        return None
    load.thread.join()
    return load.made
