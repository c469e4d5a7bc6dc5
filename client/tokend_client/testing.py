"""For tests of code that reads growing streams: a writer and a stand-in for the daemon, in plain Python.

    with FakeDaemon(folder) as daemon:
        path = daemon.stream("web", documents, tokens_per_commit=1000, pause_s=0.01)
        for batch in TokenLoader(path, seq_len=64, global_batch=4, follow=True): ...

The streams have the layout that `stream/native.py` describes, without checksums (null in the manifest).
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import TokendError
from .feed import Cursor, Polling, WriterStatus

FAKE_TOKENIZER: dict[str, Any] = {"name": "fake", "fingerprint": "f" * 64, "vocab_size": 50257, "eot_id": 50256}


class StreamWriter:
    """Writes a stream directory. One thread.

    Parameters: `folder`, made if need be; `dtype`; `segment_tokens`, after which the next commit closes
    a segment; `tokenizer` for the manifest; `stream_id` (default: random). A folder that has a growing
    stream is gone on with: what was not committed is cut off.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        dtype: str = "uint16",
        segment_tokens: int = 1 << 27,
        tokenizer: dict[str, Any] | None = None,
        stream_id: str | None = None,
        sources: Sequence[dict[str, Any]] = (),
    ) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.segment_tokens = segment_tokens
        self._dtype = np.dtype(dtype).newbyteorder("<")
        path = self.folder / "manifest.json"
        if path.exists():
            self.manifest: dict[str, Any] = json.loads(path.read_bytes())
            if self.manifest["state"] != "growing":
                raise ValueError(f"{path}: {self.manifest['state']}")
            for entry in self.manifest["segments"]:
                if entry.get("retired"):
                    continue
                os.truncate(self.folder / entry["tokens"], entry["n_tokens"] * self._dtype.itemsize)
                os.truncate(self.folder / entry["ends"], entry["n_documents"] * 8)
        else:
            self.manifest = {
                "format": "tokend-stream",
                "version": 1,
                "state": "growing",
                "dtype": np.dtype(dtype).name,
                "stream_id": stream_id or os.urandom(8).hex(),
                "commit": 0,
                "n_tokens": 0,
                "n_documents": 0,
                "tokenizer": tokenizer or FAKE_TOKENIZER,
                "options": {"eot": "append"},
                "sources": list(sources),
                "segments": [],
                "error": None,
                "resume": {},
                "tokend_version": "0.1.0",
            }
        self._n_tokens: int = self.manifest["n_tokens"]
        self._n_documents: int = self.manifest["n_documents"]

    def append(self, ids: ArrayLike, *, end_document: bool = True) -> None:
        """Adds tokens, by default those that end a document. Not there for readers before `commit`."""
        array: NDArray[Any] = np.asarray(ids).astype(self._dtype)
        entry = self._segment()
        self._n_tokens += len(array)
        with (self.folder / entry["tokens"]).open("ab") as file:
            file.write(array.tobytes())
        if end_document:
            self._n_documents += 1
            with (self.folder / entry["ends"]).open("ab") as file:
                file.write(self._n_tokens.to_bytes(8, "little"))

    def _segment(self) -> dict[str, Any]:
        """The segment that is written: a new one after the first commit past `segment_tokens`."""
        segments: list[dict[str, Any]] = self.manifest["segments"]
        if not segments or segments[-1]["n_tokens"] >= self.segment_tokens:
            number = len(segments)
            segments.append(
                {
                    "tokens": f"tokens-{number:05d}.bin",
                    "ends": f"ends-{number:05d}.u64",
                    "first_token": self.manifest["n_tokens"],
                    "n_tokens": 0,
                    "n_documents": 0,
                    "tokens_xxh3": None,
                    "ends_xxh3": None,
                }
            )
            for name in ("tokens", "ends"):
                (self.folder / segments[-1][name]).write_bytes(b"")
        return segments[-1]

    def commit(self, state: str = "growing", error: dict[str, Any] | None = None) -> None:
        """Publishes what was added, by replacing the manifest."""
        manifest = self.manifest
        if manifest["segments"]:
            entry = manifest["segments"][-1]
            entry["n_tokens"] += self._n_tokens - manifest["n_tokens"]
            entry["n_documents"] += self._n_documents - manifest["n_documents"]
        manifest.update(
            state=state, error=error, commit=manifest["commit"] + 1, n_tokens=self._n_tokens,
            n_documents=self._n_documents, resume=None if state == "sealed" else {},
        )  # fmt: skip
        temporary = self.folder / ".manifest.json.tmp"
        temporary.write_text(json.dumps(manifest, indent=2) + "\n")
        temporary.replace(self.folder / "manifest.json")

    def retire(self, before: int) -> None:
        """Deletes the files of segments that end at or before the token `before`, and commits; never the last one."""
        gone = [s for s in self.manifest["segments"][:-1] if s["first_token"] + s["n_tokens"] <= before]
        for entry in gone:
            entry["retired"] = True
        self.commit(self.manifest["state"])
        for entry in gone:
            for name in ("tokens", "ends"):
                (self.folder / entry[name]).unlink(missing_ok=True)

    def seal(self) -> None:
        """Publishes the rest; the stream is whole."""
        self.commit("sealed")

    def fail(self, code: str = "INPUT_INVALID", message: str = "not UTF-8", hint: str | None = None) -> None:
        """Publishes what was added, and that no more comes."""
        self.commit("failed", {"code": code, "message": message, "hint": hint})


class FakeFeed(Polling):
    """A feed whose daemon is a `FakeDaemon`: it knows how far each stream of `folder` is, and keeps what it is told.

    `cursors` is the last report, by the loader's names of the streams. Thread-safe.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self.cursors: dict[str, Cursor] = {}

    def report(self, cursors: Sequence[Cursor]) -> None:
        """Keeps them."""
        self.cursors = {cursor.stream: cursor for cursor in cursors}

    def status(self, stream: str) -> WriterStatus | None:
        """How far the stream's manifest is; None before it has begun."""
        cursor = self.cursors.get(stream)
        path = self._folder / stream if cursor is None else Path(cursor.path)
        try:
            manifest = json.loads((path / "manifest.json").read_bytes())
        except FileNotFoundError:
            return None
        return WriterStatus(manifest["n_tokens"], 0.0, f"the stand-in of a daemon has it {manifest['state']}")


class FakeDaemon:
    """Writes streams in the background, as a daemon does, at a pace that a test decides.

    `folder` holds one directory per stream. Use as a context manager, or call `close`. Thread-safe.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._go = threading.Event()
        self._go.set()
        self._stop = threading.Event()
        self._jobs: dict[str, tuple[dict[str, Any], threading.Thread]] = {}
        self.errors: dict[str, Exception] = {}
        """What the documents of a stream raised; the stream has failed then."""

    def stream(
        self,
        name: str,
        documents: Iterable[ArrayLike],
        *,
        tokens_per_commit: int = 10_000,
        pause_s: float | Callable[[], float] = 0.0,
        segment_tokens: int = 1 << 27,
        fail_after: int | None = None,
        **options: Any,
    ) -> Path:
        """Begins to write a stream and returns its directory.

        `documents`: arrays of ids, in order (a list, if the daemon is to be restarted); what they raise
        fails the stream, with code INTERNAL.
        `pause_s`: seconds between commits, or a function that gives them. `fail_after`: the stream fails
        after so many documents. `options`: `StreamWriter`'s.
        """
        job = {
            "documents": documents,
            "tokens_per_commit": tokens_per_commit,
            "pause_s": pause_s,
            "fail_after": fail_after,
            "options": {"segment_tokens": segment_tokens, **options},
        }
        self._start(name, job)
        return self.folder / name

    def _start(self, name: str, job: dict[str, Any]) -> None:
        thread = threading.Thread(target=self._write, args=(name, job), name=f"fake-{name}", daemon=True)
        self._jobs[name] = job, thread
        thread.start()

    def _write(self, name: str, job: dict[str, Any]) -> None:
        writer = StreamWriter(self.folder / name, **job["options"])
        try:
            self._write_documents(writer, job)
        except Exception as error:
            self.errors[name] = error
            writer.fail("INTERNAL", f"{type(error).__name__}: {error}")

    def _write_documents(self, writer: StreamWriter, job: dict[str, Any]) -> None:
        pause = job["pause_s"]
        pending = 0
        for number, document in enumerate(job["documents"]):
            if number < writer.manifest["n_documents"]:
                continue  # Written before a restart.
            while not self._go.wait(0.05):
                if self._stop.is_set():
                    break
            if self._stop.is_set():
                return
            if number == job["fail_after"]:
                writer.fail()
                return
            writer.append(document)
            pending += len(np.asarray(document))
            if pending >= job["tokens_per_commit"]:
                writer.commit()
                pending = 0
                self._stop.wait(pause() if callable(pause) else pause)
        writer.seal()

    def feed(self) -> FakeFeed:
        """For `TokenLoader(feed=...)`: what `DaemonFeed` is for a daemon."""
        return FakeFeed(self.folder)

    def pause(self) -> None:
        """All writing stands still."""
        self._go.clear()

    def resume(self) -> None:
        """Writing goes on."""
        self._go.set()

    def kill(self) -> None:
        """Writing ends at once, uncommitted bytes stay behind; streams remain as they are."""
        self._stop.set()
        for _, thread in self._jobs.values():
            thread.join()

    def restart(self) -> None:
        """After `kill`: goes on with every stream that is not finished."""
        self._stop.clear()
        for name, (job, _) in list(self._jobs.items()):
            manifest = self.folder / name / "manifest.json"
            if not manifest.exists() or json.loads(manifest.read_bytes())["state"] == "growing":
                self._start(name, job)

    def join(self, timeout_s: float = 30.0) -> None:
        """Waits until every stream is finished. Raises `TokendError` after `timeout_s`, and for a stream
        whose documents raised."""
        for name, (_, thread) in self._jobs.items():
            thread.join(timeout_s)
            if thread.is_alive():
                raise TokendError(f"stream {name!r} is not finished after {timeout_s} s")
        for name, error in self.errors.items():
            raise TokendError(f"the documents of stream {name!r} raised {type(error).__name__}: {error}") from error

    def close(self) -> None:
        """Stops writing."""
        self.kill()

    def __enter__(self) -> FakeDaemon:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
