"""Outputs that are there already: the same inputs, encoded in the same way, need not be encoded again.

A table in the state directory names the sets that this user's commands made:

    key       SHA-256 of the options that decide ids and of the inputs' sizes in order
    output    the set's absolute path
    used_s    when it was made or found last

The key is known without reading the inputs, so looking for a set costs nothing where there is none. Where there is
one, the inputs' hashes and the tokenizer's fingerprint are compared with its manifest, and the set is verified. What
the table says is never taken for true: a set that is gone or damaged, or an input that has changed, is noticed and
encoded again.

A set that is found is given a second name: its files are shared (reflinks, else hard links, else copies), and the
manifest, which is published last (`publish`), names the inputs as they are called now.

Inputs of fewer than `MIN_BYTES` bytes are not looked up and not noted: they are encoded as quickly.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tokend_client import paths
from tokend_client.errors import CancelledError, OutputExistsError, TokendError
from tokend_client.sidecars import MANIFEST, OF_SET

from . import _core

if TYPE_CHECKING:
    import logging
    import sqlite3
    from pathlib import Path

# What else is needed is imported where it is: together it takes as long as to encode five megabytes, and most
# commands find nothing.

MIN_BYTES = 8_000_000
"""Inputs of fewer bytes in all are encoded as quickly as they are looked up."""
MAX_OUTPUTS = 10_000
"""The least recently used of more are forgotten; the sets themselves are not touched."""
_FICLONE = 0x40049409


def _log() -> logging.Logger:
    import logging

    return logging.getLogger("tokend.reuse")


def prepare() -> None:
    """Imports what `remember` needs, so that it can be done while a job runs."""
    import hashlib  # noqa: F401
    import sqlite3  # noqa: F401


def _place(state_dir: Path | None) -> str:
    return os.path.join(state_dir or paths.state_place(), "outputs.db")


def is_begun(state_dir: Path | None = None) -> bool:
    """Whether anything was ever noted."""
    return os.path.exists(_place(state_dir))


@contextlib.contextmanager
def _table(state_dir: Path | None = None) -> Iterator[sqlite3.Connection]:
    import sqlite3

    place = _place(state_dir)
    os.makedirs(os.path.dirname(place), exist_ok=True, mode=0o700)
    connection = sqlite3.connect(place, timeout=30)
    try:
        with connection:
            # What a power failure takes from the table is encoded again.
            connection.execute("PRAGMA synchronous=OFF")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS outputs (output TEXT PRIMARY KEY, key TEXT NOT NULL, used_s REAL NOT NULL)"
            )
            connection.execute("CREATE INDEX IF NOT EXISTS by_key ON outputs (key)")
            yield connection
    except sqlite3.DatabaseError as error:
        if not isinstance(error, sqlite3.OperationalError):
            # What is known is only a help: a new table begins with nothing.
            _log().warning("%s is damaged (%s) and removed", place, error)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(place)
        raise
    finally:
        connection.close()


def key_of(options: dict[str, Any], sizes: Sequence[int]) -> str:
    """What a job's outputs are looked up by."""
    import hashlib

    decides = sorted((name, value) for name, value in options.items() if name != "threads")
    return f"{len(sizes)}:{hashlib.sha256(json.dumps([decides, list(sizes)]).encode()).hexdigest()}"


def has_any_of(n_files: int, state_dir: Path | None = None) -> bool:
    """Whether a set of so many inputs was ever noted: if not, none of their sizes need be asked for."""
    if not is_begun(state_dir):
        return False
    import sqlite3

    try:
        with _table(state_dir) as table:
            # The next character after the colon ends them.
            keys = (f"{n_files}:", f"{n_files};")
            return table.execute("SELECT 1 FROM outputs WHERE key BETWEEN ? AND ? LIMIT 1", keys).fetchone() is not None
    except (OSError, sqlite3.Error) as error:
        _log().warning("known outputs could not be looked up: %s", error)
        return False


def remember(key: str, output: str, state_dir: Path | None = None) -> None:
    """Notes a set that was made. Never raises for what the disk does: the table is only a help."""
    import sqlite3

    try:
        with _table(state_dir) as table:
            table.execute("INSERT OR REPLACE INTO outputs VALUES (?, ?, ?)", (output, key, time.time()))
            surplus = "SELECT output FROM outputs ORDER BY used_s DESC LIMIT -1 OFFSET ?"
            table.execute(f"DELETE FROM outputs WHERE output IN ({surplus})", (MAX_OUTPUTS,))
    except (OSError, sqlite3.Error) as error:
        _log().warning("the output was not noted: %s", error)


def find(
    key: str,
    files: Sequence[str],
    names: Sequence[str],
    fingerprint: Callable[[], str],
    state_dir: Path | None = None,
    control: _core.JobControl | None = None,
) -> tuple[str, dict[str, Any]] | None:
    """A verified set of these inputs and its manifest, if there is one. Reads inputs and set where one may be.

    `names` is what manifests call the `files`.
    `fingerprint` is that of the tokenizer; it is asked for only then. Raises `CancelledError` where `control` says so.
    """
    if not is_begun(state_dir):
        return None
    import sqlite3

    try:
        with _table(state_dir) as table:
            rows = table.execute("SELECT output FROM outputs WHERE key = ? ORDER BY used_s DESC", (key,)).fetchall()
    except (OSError, sqlite3.Error) as error:
        _log().warning("known outputs could not be looked up: %s", error)
        return None
    hashes: list[str] | None = None
    for (output,) in rows:
        manifest = read_manifest(output)
        if manifest is None or len(manifest["sources"]) != len(files):
            continue
        try:
            if manifest["tokenizer"]["fingerprint"] != fingerprint():
                continue
            if hashes is None:
                hashes = [_core.hash_prefixes(path, [os.stat(path).st_size], control)[0] for path in files]
            if hashes != [source["xxh3"] for source in manifest["sources"]] or not _names_fit(manifest, names):
                continue
            _core.verify(output)
        except CancelledError:
            raise
        except (OSError, TokendError) as error:
            _log().info("%s is not taken for the same inputs: %s", output, error)
            continue
        return output, manifest
    return None


def _names_fit(manifest: dict[str, Any], names: Sequence[str]) -> bool:
    """What was left out is listed by path: such a set is of these very files."""
    return "skipped" not in manifest or [source["path"] for source in manifest["sources"]] == list(names)


def read_manifest(output: str) -> dict[str, Any] | None:
    """The manifest of a set, if there is one."""
    try:
        with open(f"{output}.json", encoding="utf-8") as file:
            manifest = json.load(file)
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and manifest.get("format") == "tokend-bin" else None


def link(found: str, manifest: dict[str, Any], output: str, names: Sequence[str]) -> dict[str, Any]:
    """Gives a set a second name, `output`, where nothing is yet; returns its manifest, in which the inputs have these
    names.

    Raises `OutputExistsError` if something stands there, `ConflictError` if another job makes it; nothing is left then.
    What a killed process began of it is brought to its end.
    """
    import shutil

    from . import publish

    made: dict[str, Any] = json.loads(json.dumps(manifest))
    base, own = os.path.basename(output), os.path.dirname(found)
    for source, path in zip(made["sources"], names, strict=True):
        source["path"] = path
    with publish.claimed(output):
        folder = publish.hidden_folder(output, PURPOSE)
        publish.finish(output, folder)
        if is_taken(output):
            raise OutputExistsError(f"{output}: output exists")
        shutil.rmtree(folder, ignore_errors=True)
        os.mkdir(folder)
        try:
            for part in [part for part in OF_SET if part in manifest]:
                name = manifest[part]["file"]
                made[part]["file"] = base + name.removeprefix(os.path.basename(found))
                share(os.path.join(own, name), os.path.join(folder, part))
            publish.seal(folder, made)
            publish.add(folder, output)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    _log().info("%s: shared with %s", output, found)
    return made


PURPOSE = "reuse"
"""Of the hidden folder."""


def is_taken(output: str) -> bool:
    """Whether something stands where a set would be."""
    return any(os.path.lexists(f"{output}{suffix}") for suffix in (MANIFEST, *OF_SET.values()))


def share(source: str, target: str) -> None:
    """A reflink, else a hard link, else a copy; never replaces."""
    import fcntl
    import shutil

    with open(source, "rb") as old, open(target, "xb") as new:
        try:
            fcntl.ioctl(new, _FICLONE, old.fileno())
            os.fsync(new.fileno())
            return
        except OSError:
            os.unlink(target)
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:
        with open(source, "rb") as old, open(target, "xb") as new:
            shutil.copyfileobj(old, new)
            new.flush()
            os.fsync(new.fileno())


def collect(state_dir: Path | None = None, *, is_dry: bool = False) -> list[str]:
    """Forgets sets that are gone; returns their paths."""
    with _table(state_dir) as table:
        known = [row[0] for row in table.execute("SELECT output FROM outputs ORDER BY output")]
        gone = [output for output in known if read_manifest(output) is None]
        if not is_dry:
            table.executemany("DELETE FROM outputs WHERE output = ?", [(output,) for output in gone])
    return gone


def known(state_dir: Path | None = None) -> int:
    """How many sets are known."""
    with _table(state_dir) as table:
        return int(table.execute("SELECT count(*) FROM outputs").fetchone()[0])
