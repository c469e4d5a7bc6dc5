"""The daemon's tokenizers: loaded once, shared by every request and job, so that what one learns
into the merge cache serves all that follow.

A tokenizer given by path is looked at again whenever it is asked for; if its files changed it is
loaded anew, and jobs under way keep the one they began with.

What a disk does to a load is felt by those who want that tokenizer, and by nobody else: nothing is locked
while files are looked at and read, and who comes for a tokenizer that is being loaded waits for that load.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple

from tokend_client.errors import PathDeniedError

from . import words
from ._core import Tokenizer
from .vocabularies import resolve

_Stamp = tuple[tuple[int, int, int], ...]


class _Entry(NamedTuple):
    tokenizer: Tokenizer
    stamp: _Stamp


class Registry:
    """Tokenizers by name or absolute path. Thread-safe."""

    def __init__(self, roots: tuple[Path, ...] = (), state_dir: Path | None = None) -> None:
        self._roots = roots
        self._state_dir = state_dir
        self._lock = threading.Lock()
        """Held for a moment only: the I/O thread takes it, too."""
        self._entries: dict[str, _Entry] = {}
        self._loads: dict[tuple[str, _Stamp], Future[Tokenizer]] = {}
        """Loads under way."""

    def get(self, name: str) -> Tokenizer:
        """The tokenizer; loads it if need be (tens of milliseconds, blocking: as long as its disk takes).

        Raises `TokenizerInvalidError` for an unknown name, `NotFoundError`, `PathDeniedError`.
        """
        if self.is_loaded(name):
            return self._entries[name].tokenizer
        name = resolve(name)
        path = _path_of(name)
        if path.is_absolute() and self._roots:
            real = path.resolve()
            if not any(real.is_relative_to(root.resolve()) for root in self._roots):
                raise PathDeniedError(f"{name}: outside the allowed roots", "start the daemon with --root for it")
        stamp = _stamp(path)
        with self._lock:
            entry = self._entries.get(name)
            if entry is not None and entry.stamp == stamp:
                return entry.tokenizer
            load = self._loads.get((name, stamp))
            is_mine = load is None
            if load is None:
                load = self._loads[name, stamp] = Future()
        if is_mine:
            self._load(name, stamp, load)
        return load.result()

    def _load(self, name: str, stamp: _Stamp, load: Future[Tokenizer]) -> None:
        try:
            tokenizer = Tokenizer.load(name)
            if self._state_dir is not None:
                words.recall(tokenizer, self._state_dir)
        except BaseException as error:
            with self._lock:
                del self._loads[name, stamp]
            load.set_exception(error)
            return
        with self._lock:
            self._entries[name] = _Entry(tokenizer, stamp)
            del self._loads[name, stamp]
        load.set_result(tokenizer)

    def keep_words(self) -> None:
        """Writes what the tokenizers have learned into the state directory (some milliseconds, blocking)."""
        for tokenizer in self.loaded().values():
            words.keep(tokenizer, self._state_dir)

    def is_loaded(self, name: str) -> bool:
        """Whether `get` would return at once: a path has to be looked at again each time."""
        return name in self._entries and not _path_of(name).is_absolute()

    def loaded(self) -> dict[str, Tokenizer]:
        """The tokenizers that were asked for so far, by name."""
        with self._lock:
            return {name: entry.tokenizer for name, entry in self._entries.items()}


def _path_of(name: str) -> Path:
    """The path in a tokenizer's name: itself, or the part behind `cl100k_base=`."""
    encoding, equals, path = name.partition("=")
    return Path(path) if equals and "/" not in encoding else Path(name)


def _stamp(path: Path) -> _Stamp:
    """What tells that a tokenizer's files changed."""
    if not path.is_absolute() or not path.exists():
        return ()
    names = ("tokenizer.json", "vocab.json", "merges.txt", "encoder.json", "vocab.bpe")
    folder = path if path.is_dir() else path.parent
    is_pair = path.is_dir() or path.name in names[1:]
    files = [folder / name for name in names] if is_pair else [path]
    stats = [os.stat(file) for file in files if file.exists()]
    return tuple((stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats)
