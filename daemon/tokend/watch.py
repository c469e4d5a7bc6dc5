"""`tokend encode --watch DIR`: a stream that takes up what comes into directories, and can be read meanwhile.

Each round looks at the files, in the order of their paths. Of JSON lines and of text with a separator, documents that
are complete are taken; what follows the last newline or separator waits. Files of one document, compressed files and
columns are taken whole, once they have not changed for a while. What a round finds is encoded as one job and becomes
one more segment of the stream (layout: `rust_core/core/src/stream/native.rs`), committed by the next manifest.

Records that are left out are listed by segment, in `skipped-00000.jsonl` and so on, and once the stream is sealed all
of them in `OUT.skipped.jsonl`; their lines and offsets are those in the files that are watched. With `deduplicate`
each segment has the hashes of its texts beside it, which the next round's job is given.

The manifest is all that is remembered: its `sources` have an entry for each piece of a file that was taken, with the
`size_bytes` of the file up to there, the hash of those bytes, and the `offset_bytes` that the piece begins at. Before
more of a file is taken, that hash is compared; a file that was changed or cut ends the watch, for published documents
stay. A killed watch goes on where its last manifest says.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokend_client.errors import (
    BadDocumentError,
    BadRequestError,
    InputChangedError,
    NotFoundError,
    StreamError,
    TokendError,
)
from tokend_client.inputs import expand

from . import _core
from .publish import claimed, sync_folder
from .sources import has_places
from .splice import Taken, moved, write_array
from .update import cut_out, in_their_names, last_line, last_separator

log = logging.getLogger("tokend.watch")

Encode = Callable[[list[str], str, list[str] | None], dict[str, Any]]
"""Encodes files into a set with the options of the watch, leaving out known texts; returns its manifest."""

_HIDDEN = ".watch.partial"
_FIRST = re.compile(r"(tokens|ends|docs|ids|skipped|texts)-00000\.\w+")
_CHECK_EVERY = 20.0
_CLOSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ\0", b"PAR1", b"ARROW1")


@dataclass
class Round:
    """What a look at the directories brought."""

    n_files: int = 0
    n_documents: int = 0
    n_tokens: int = 0
    n_skipped: int = 0
    """Records that were left out."""
    skipped: str | None = None
    """Where they are listed."""


@dataclass
class _Known:
    """How far a file is published."""

    size_bytes: int
    xxh3: str
    n_lines: int
    """Records and blank lines."""


@dataclass
class _Hashed:
    """The running hash of a file's start."""

    hash: _core.PrefixHash
    file: tuple[int, int]
    """Device and inode."""
    checked_s: float = 0.0
    cost_s: float = 0.0
    """How long it took to read all of it."""


class Watch:
    """A stream that is kept up to date. One at a time has an output; `opened` holds its lock.

    `settle` is called with the place at which a killed watch may have had a set made that nobody wants any more.
    """

    def __init__(
        self,
        fingerprint: str,
        folders: list[str],
        output: str,
        options: dict[str, Any],
        encode: Encode,
        settle: Callable[[str], None] = lambda place: None,
    ) -> None:
        if options["eot"] == "both":
            raise BadRequestError("--watch takes no --eot both", "use append or prepend")
        for folder in folders:
            if not os.path.isdir(folder):
                raise NotFoundError(f"--watch {folder}: no such directory")
        self.fingerprint, self.folders, self.output = fingerprint, folders, Path(output)
        self.options, self.encode, self.settle = options, encode, settle
        self.seen: dict[str, tuple[int, int]] = {}
        """Size and time of change at the last look, of files that are taken whole."""
        self.hashed: dict[str, _Hashed] = {}
        self.known: dict[str, _Known] = {}
        self.manifest: dict[str, Any] = {}

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Holds the output, and creates or takes up its stream."""
        with claimed(str(self.output)):
            self._open()
            yield

    def _open(self) -> None:
        place = self.output / "manifest.json"
        if not place.exists():
            names = os.listdir(self.output) if self.output.exists() else []
            # A watch that was killed in its first round has left these.
            is_ours = _HIDDEN in names and all(name == _HIDDEN or _FIRST.fullmatch(name) for name in names)
            if names and not is_ours:
                raise BadRequestError(f"{self.output} is there and holds no stream", "choose another output")
            self.output.mkdir(exist_ok=True)
            return
        found = json.loads(place.read_bytes())
        is_ours = found.get("format") == "tokend-stream" and all("offset_bytes" in s for s in found.get("sources", ()))
        if not is_ours or found["state"] != "growing":
            raise BadRequestError(f"{self.output} is no growing stream of a watch", "choose another output")
        if found["tokenizer"]["fingerprint"] != self.fingerprint:
            raise BadRequestError(f"{self.output} was made by another tokenizer", "choose another output")
        self.manifest = found
        self._note(found["sources"])
        for name, texts in ((segment["texts"]["file"], segment["texts"]) for segment in self._with("texts")):
            if _core.hash_prefixes(str(self.output / name), [texts["size_bytes"]]) != [texts["xxh3"]]:
                raise StreamError(f"{self.output / name} is damaged", "texts that it names would come twice")

    def _note(self, sources: list[dict[str, Any]]) -> None:
        """Takes note of pieces that are published."""
        for source in sources:
            account = source.get("records") or {}
            before = self.known[source["path"]].n_lines if source["path"] in self.known else 0
            n_lines = before + account.get("n_in", 0) + account.get("n_blank_lines", 0)
            self.known[source["path"]] = _Known(source["size_bytes"], source["xxh3"], n_lines)

    def _with(self, part: str) -> list[dict[str, Any]]:
        """The segments that have a file of some kind."""
        return [segment for segment in self.manifest.get("segments", ()) if part in segment]

    def look(self, *, is_last: bool = False) -> Round:
        """Takes up what is new; with `is_last` also what might still change."""
        try:
            files = [path for folder in self.folders for path in expand([folder], self.output)]
        except NotFoundError:
            files = []
        taken = [piece for path in files if (piece := self._take(path, is_last=is_last)) is not None]
        if not taken:
            return Round()
        hidden = self.output / _HIDDEN
        if hidden.exists():
            self.settle(str(hidden / "new.bin"))
            shutil.rmtree(hidden)
        hidden.mkdir()
        try:
            parts = [cut_out(piece, str(hidden / str(number))) for number, piece in enumerate(taken)]
            known = None
            if self.options["deduplicate"]:
                known = [str(self.output / segment["texts"]["file"]) for segment in self._with("texts")]
            try:
                made = self.encode(parts, str(hidden / "new.bin"), known)
            except TokendError as error:
                named = in_their_names(error, parts, taken)
                if isinstance(named, BadDocumentError):
                    named.hint = "mend it; or the same command with --bad-documents skip lists it, and goes on"
                raise named from None
            self._check_options(made)
            return self._append(taken, parts, made, hidden)
        finally:
            shutil.rmtree(hidden, ignore_errors=True)

    def seal(self) -> None:
        """Says that nothing more will come; what was left out is listed beside the stream from then on."""
        if not self.manifest:
            return
        change: dict[str, Any] = {"state": "sealed"}
        if listed := self._with("skipped"):
            place = self.output.with_name(f"{self.output.name}.skipped.jsonl")
            partial = self.output / ".skipped.watch.partial"
            with partial.open("wb") as file:
                for segment in listed:
                    file.write((self.output / segment["skipped"]["file"]).read_bytes())
                file.flush()
                os.fsync(file.fileno())
            partial.replace(place)
            sync_folder(str(place.parent))
            change["skipped"] = _entry(place, place.name)
        self._commit(change)
        log.info("%s: sealed", self.output)

    def _check_options(self, made: dict[str, Any]) -> None:
        """A stream is made in one way; but a round that failed at a bad document may be made again without it."""
        if not self.manifest:
            return
        old, new = self.manifest["options"], made["options"]
        records = [
            {**options["records"], "bad_documents": None} if options.get("records") else None for options in (old, new)
        ]
        if {**old, "records": None} != {**new, "records": None} or (None not in records and records[0] != records[1]):
            raise BadRequestError(f"{self.output} was made with other options", "give the same, or another output")

    def _take(self, path: str, *, is_last: bool) -> Taken | None:
        try:
            found = os.stat(path)
        except FileNotFoundError:
            # It was there a moment ago, when the directory was listed.
            return None
        known = self.known.get(path)
        done = known.size_bytes if known else 0
        if known and found.st_size == done:
            if path not in self.hashed:
                # When the watch starts: it may have been written over meanwhile.
                self._hashed(path, found, known)
            return None
        if found.st_size < done:
            raise InputChangedError(f"{path}: {found.st_size} bytes, but {done} were encoded: it was cut")
        border = self._border(path, done, found, is_last=is_last)
        if border is None or border == done:
            return None
        hashed = self._hashed(path, found, known)
        lines = known.n_lines if known else 0
        return Taken(path, path, border, hashed.hash.advance(path, border), border=done, n_lines=lines)

    def _hashed(self, path: str, found: os.stat_result, known: _Known | None) -> _Hashed:
        """The running hash of what was taken of a file, after checking that the file still begins so.

        Reading all of a large file for each line that comes would take all the time. What this process has hashed is
        read again after twenty times as long as that takes, and if another file stands there.
        """
        done = known.size_bytes if known else 0
        hashed, now_s = self.hashed.get(path), time.monotonic()
        file = (found.st_dev, found.st_ino)
        is_due = hashed is None or hashed.file != file or hashed.hash.n_bytes != done
        if hashed is None or is_due or now_s - hashed.checked_s > _CHECK_EVERY * hashed.cost_s:
            hashed = _Hashed(_core.PrefixHash(), file)
            was = hashed.hash.advance(path, done)
            hashed.checked_s = time.monotonic()
            hashed.cost_s = hashed.checked_s - now_s
            if known and was != known.xxh3:
                raise InputChangedError(
                    f"{path}: the {done} bytes that were encoded have changed", "published documents stay: put it back"
                )
        self.hashed[path] = hashed
        return hashed

    def _border(self, path: str, done: int, found: os.stat_result, *, is_last: bool) -> int | None:
        """How far a file's documents are complete."""
        with open(path, "rb") as file:
            head = file.read(8)
            is_closed = head.startswith(_CLOSED)
            is_lines = not is_closed and self._is_lines(path, head)
            separator = self.options["separator"]
            if is_lines and not is_last:
                return last_line(file, found.st_size)
            if not is_closed and not is_lines and separator is not None and not is_last:
                file.seek(done)
                return done + last_separator(file, found.st_size - done, separator.encode())
        if (is_lines or (separator is not None and not is_closed)) and is_last:
            return found.st_size
        if done:
            raise InputChangedError(f"{path}: it was one document, which was published, and has grown")
        now = (found.st_size, found.st_mtime_ns)
        before, self.seen[path] = self.seen.get(path), now
        return found.st_size if before == now or is_last else None

    def _is_lines(self, path: str, head: bytes) -> bool:
        if self.options["input_format"] != "auto":
            return bool(self.options["input_format"] == "jsonl")
        suffix = os.path.splitext(path)[1]
        if suffix in (".txt", ".text", ".md"):
            return False
        return suffix in (".jsonl", ".ndjson", ".json") or head.lstrip()[:1] == b"{"

    def _append(self, taken: list[Taken], parts: list[str], made: dict[str, Any], hidden: Path) -> Round:
        """Makes a segment of a set and commits it."""
        number = len(self.manifest.get("segments", ()))
        first, first_document = self.manifest.get("n_tokens", 0), self.manifest.get("n_documents", 0)
        names = {"tokens": f"tokens-{number:05}.bin", "ends": f"ends-{number:05}.u64", "docs": f"docs-{number:05}.u64"}
        names |= {"ids": f"ids-{number:05}.jsonl", "skipped": f"skipped-{number:05}.jsonl"}
        names |= {"texts": f"texts-{number:05}.u128"}
        files = {"tokens": hidden / "new.bin", "ends": hidden / "ends"}
        write_array(str(files["ends"]), np.fromfile(hidden / "new.bin.ends", "<u8") + np.uint64(first))
        if "docs" in made:
            docs = np.fromfile(hidden / "new.bin.docs", "<u8").reshape(-1, 2)
            counts = [s["n_documents"] for s in made["sources"] if has_places(s)]
            begins = [t.border for t, s in zip(taken, made["sources"], strict=True) if has_places(s)]
            docs[:, 0] += np.repeat(np.array(begins, np.uint64), counts)
            files["docs"] = hidden / "docs"
            write_array(str(files["docs"]), docs)
        if "ids" in made:
            files["ids"] = hidden / "new.bin.ids"
        if "skipped" in made:
            files["skipped"] = hidden / "skipped"
            self._list_skipped(hidden / "new.bin.skipped.jsonl", files["skipped"], taken, parts)
        if (hidden / "new.bin.texts").exists():
            files["texts"] = hidden / "new.bin.texts"
        segment: dict[str, Any] = {"tokens": names["tokens"], "ends": names["ends"], "first_token": first}
        segment |= {"n_tokens": made["n_tokens"], "n_documents": made["n_documents"]}
        for part, path in files.items():
            entry = _entry(path, names[part])
            if part in ("tokens", "ends"):
                segment[f"{part}_xxh3"] = entry["xxh3"]
            else:
                segment[part] = entry
            with path.open("rb") as file:
                os.fsync(file.fileno())
            path.replace(self.output / names[part])
        sources = [
            {
                **source,
                "path": piece.path,
                "size_bytes": piece.size_bytes,
                "xxh3": piece.xxh3,
                "offset_bytes": piece.border,
            }
            for piece, source in zip(taken, made["sources"], strict=True)
        ]
        if not self.manifest:
            new = {"format": "tokend-stream", "version": 1, "state": "growing", "dtype": made["dtype"]}
            new |= {"stream_id": secrets.token_hex(16), "commit": -1, "n_tokens": 0, "n_documents": 0}
            new |= {"tokenizer": made["tokenizer"], "options": made["options"], "sources": [], "segments": []}
            self.manifest = {**new, "error": None, "resume": None, "tokend_version": made["tokend_version"]}
        options = self.manifest["options"]
        if "records" in made["options"]:
            options = {**options, "records": made["options"]["records"]}
        self._commit(
            {
                "options": options,
                "n_tokens": first + made["n_tokens"],
                "n_documents": first_document + made["n_documents"],
                "sources": self.manifest["sources"] + sources,
                "segments": [*self.manifest["segments"], segment],
            }
        )
        self._note(sources)
        accounts = [source["records"] for source in made["sources"] if "records" in source]
        n_skipped = sum(a["n_bad"] + a["n_filtered"] + a["n_duplicates"] for a in accounts)
        log.info(
            "%s: %d documents, %d tokens, %d records left out",
            self.output, made["n_documents"], made["n_tokens"], n_skipped,
        )  # fmt: skip
        listed = str(self.output / names["skipped"]) if "skipped" in files else None
        return Round(len(taken), made["n_documents"], made["n_tokens"], n_skipped, listed)

    def _list_skipped(self, made: Path, target: Path, taken: list[Taken], parts: list[str]) -> None:
        """What a round's job left out, by the place in the files that are watched."""
        by_part = dict(zip(parts, taken, strict=True))
        with made.open("rb") as file, target.open("wb") as out:
            for line in file:
                piece = by_part[json.loads(line)["path"]]
                out.write(moved(line, piece.path, piece.n_lines, piece.border or 0))

    def _commit(self, change: dict[str, Any]) -> None:
        made = {**self.manifest, **change, "commit": self.manifest["commit"] + 1}
        partial = self.output / ".manifest.json.watch.partial"
        sync_folder(str(self.output))
        with partial.open("w", encoding="utf-8") as file:
            file.write(json.dumps(made, indent=2, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.output / "manifest.json")
        sync_folder(str(self.output))
        self.manifest = made


def _entry(path: Path, name: str) -> dict[str, Any]:
    """What a manifest says of a file."""
    size = path.stat().st_size
    return {"file": name, "size_bytes": size, "xxh3": _core.hash_prefixes(str(path), [size])[0]}


def watch(watched: Watch, say: Callable[[Round], None], *, interval_s: float, is_once: bool, seal: bool) -> None:
    """Looks again and again until interrupted; once with `is_once` or `seal`."""
    with watched.opened():
        while True:
            say(watched.look(is_last=seal))
            if seal:
                watched.seal()
            if is_once or seal:
                return
            time.sleep(interval_s)
