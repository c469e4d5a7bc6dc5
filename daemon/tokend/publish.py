"""How the files of a set that was put together in a hidden folder come to stand under its name.

    FOLDER/data, ends ...   complete, synced
    FOLDER/json             the new manifest; there only once all of that is
        ─► the old manifest goes ─► parts renamed to OUT, OUT.ends ... ─► OUT.json, last

A stream is one directory, so two renames do:

    FOLDER/stream           the new one, synced
        ─► OUT renamed to FOLDER/was ─► OUT.skipped.jsonl ─► FOLDER/stream renamed to OUT

A reader sees the old set, no set, or the new one. What a killed process left is brought to its end by `finish`: no
manifest under the set's name, one in the folder, so the parts that are still in the folder are the new ones.
One process at a time does this to an output: `claimed`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tokend_client.errors import ConflictError, OutputExistsError
from tokend_client.sidecars import MANIFEST, OF_SET


@contextmanager
def claimed(output: str) -> Iterator[None]:
    """The lock of `stream/folder.rs`: one job at a time makes an output. Raises `ConflictError`."""
    path = os.path.join(os.path.dirname(output), f".{os.path.basename(output)}.lock")
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    busy = ConflictError(f"{output}: another job is writing this output", "wait for it")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever held it before may have removed it.
        if not os.path.exists(path) or os.stat(path).st_ino != os.fstat(file).st_ino:
            raise busy
        try:
            yield
        finally:
            os.unlink(path)
    except BlockingIOError:
        raise busy from None
    finally:
        os.close(file)


def hidden_folder(output: str, purpose: str) -> str:
    """Where a set is put together: beside its place, so that renaming does."""
    return os.path.join(os.path.dirname(output), f".{os.path.basename(output)}.{purpose}")


def sync_folder(folder: str) -> None:
    """Makes what was created and renamed in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def seal(folder: str, manifest: dict[str, Any]) -> None:
    """Says that a hidden folder is complete: syncs its parts, then puts the manifest there."""
    partial = os.path.join(folder, "json.partial")
    with open(partial, "w", encoding="utf-8") as file:
        file.write(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    for part in _parts(folder):
        with open(os.path.join(folder, part), "rb") as made:
            os.fsync(made.fileno())
    sync_folder(folder)
    os.rename(partial, os.path.join(folder, "json"))
    sync_folder(folder)


def add(folder: str, output: str) -> None:
    """Publishes a sealed folder where nothing stands. Raises `OutputExistsError` otherwise; nothing is left then."""
    done: list[str] = []
    try:
        for part, place in [*_places(folder, output), ("json", f"{output}.json")]:
            if part == "json":
                sync_folder(os.path.dirname(output))
            os.link(os.path.join(folder, part), place)
            done.append(place)
    except BaseException as error:
        for place in reversed(done):
            os.unlink(place)
        if isinstance(error, FileExistsError):
            raise OutputExistsError(f"{error.filename2 or error.filename}: output exists") from None
        raise
    sync_folder(os.path.dirname(output))
    shutil.rmtree(folder)


def replace(folder: str, output: str) -> None:
    """Publishes a sealed folder in the place of the set that stands there, which is put back if that fails.

    What the old set had and the new one has not goes; what its manifest does not tell of is not its own, and stays.
    """
    parent = os.path.dirname(output)
    kept = [OF_SET[part] for part in _own_parts(output) if os.path.exists(f"{output}{OF_SET[part]}")] + [MANIFEST]
    for suffix in kept:
        was = os.path.join(folder, f"was{suffix}")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(was)
        os.link(f"{output}{suffix}", was)
    sync_folder(folder)
    parts = {place for _, place in _places(folder, output)}
    os.unlink(f"{output}.json")
    sync_folder(parent)
    try:
        _rename(folder, output)
        for stale in {f"{output}{suffix}" for suffix in kept} - parts - {f"{output}{MANIFEST}"}:
            os.unlink(stale)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{output}.json")
        for suffix in kept:
            os.rename(os.path.join(folder, f"was{suffix}"), f"{output}{suffix}")
        raise


def _own_parts(output: str) -> list[str]:
    """The parts that the manifest of the set that stands there tells of, under their usual names."""
    with open(f"{output}{MANIFEST}", encoding="utf-8") as file:
        manifest = json.load(file)
    name = os.path.basename(output)
    return [part for part in OF_SET if part in manifest and manifest[part]["file"] == f"{name}{OF_SET[part]}"]


def put_folder(folder: str, output: str) -> None:
    """Publishes `FOLDER/stream`, synced, in the place of the stream that stands there, if one does. The old one's list
    of what was left out goes with it.
    """
    sync_folder(folder)
    was = os.path.join(folder, "was")
    if os.path.lexists(output):
        os.rename(output, was)
    try:
        # Between the two: whoever goes on where this was killed does it again.
        if os.path.exists(skipped := os.path.join(folder, "skipped.jsonl")):
            os.replace(skipped, f"{output}.skipped.jsonl")
        elif _has_list(was, output) and not _has_list(os.path.join(folder, "stream"), output):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{output}.skipped.jsonl")
        os.rename(os.path.join(folder, "stream"), output)
    except OSError:
        if os.path.lexists(was):
            os.rename(was, output)
        raise
    sync_folder(os.path.dirname(output))


def _has_list(stream: str, output: str) -> bool:
    """Whether the manifest of a stream, which may not stand at its place, tells of the list beside that."""
    try:
        with open(os.path.join(stream, "manifest.json"), encoding="utf-8") as file:
            skipped = json.load(file).get("skipped")
    except (OSError, ValueError):
        return False
    return skipped is not None and skipped["file"] == f"{os.path.basename(output)}.skipped.jsonl"


def is_begun(output: str, folder: str) -> bool:
    """Whether a hidden folder has what a killed process began to publish, and nothing may stand under its name."""
    if os.path.exists(os.path.join(folder, "json")):
        return True
    return os.path.isdir(os.path.join(folder, "was")) and not os.path.lexists(output)


def finish(output: str, folder: str) -> bool:
    """Brings to its end what a killed process began to publish; False if there is nothing of that kind.

    Under the lock of `claimed`. Only files that are the old set's, or already the new one's, are replaced.
    """
    if not is_begun(output, folder):
        return False
    if not os.path.exists(os.path.join(folder, "json")):
        put_folder(folder, output)
        shutil.rmtree(folder, ignore_errors=True)
        return True
    if os.path.lexists(f"{output}.json"):
        return False
    for part, place in _places(folder, output):
        ours = [os.path.join(folder, name) for name in (part, f"was{OF_SET[part]}")]
        if os.path.lexists(place) and not any(os.path.exists(one) and os.path.samefile(one, place) for one in ours):
            return False
    _rename(folder, output)
    shutil.rmtree(folder, ignore_errors=True)
    return True


def _parts(folder: str) -> list[str]:
    return [part for part in OF_SET if os.path.exists(os.path.join(folder, part))]


def _places(folder: str, output: str) -> list[tuple[str, str]]:
    return [(part, f"{output}{OF_SET[part]}") for part in _parts(folder)]


def _rename(folder: str, output: str) -> None:
    for part, place in _places(folder, output):
        os.rename(os.path.join(folder, part), place)
    sync_folder(os.path.dirname(output))
    os.rename(os.path.join(folder, "json"), f"{output}.json")
    sync_folder(os.path.dirname(output))
