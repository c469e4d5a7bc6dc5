"""The synchronous client."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from . import protocol, requests
from .connection import Connection
from .errors import DeadlineExceededError
from .jobs import JobProgress, JobResult
from .parts import WINDOW, Batch
from .paths import default_endpoint
from .requests import Call, Ids

T = TypeVar("T")

_WAIT_SLICE_S = 20.0
"""A long wait is asked for in slices, so that a daemon that went away is noticed."""


class Client:
    """Talks to this machine's daemon.

    Thread-safe: threads share one connection. Fork-safe: a child makes its own. Survives a daemon
    restart: requests under way are sent again. Every call blocks for `timeout` seconds at most and
    then raises `DeadlineExceededError`; where no daemon answers it raises `NotConnectedError` after
    `connect_timeout` seconds, or `reconnect_timeout` seconds after one has gone.

    Parameters: `endpoint` (default: `TOKEND_ENDPOINT`, else this user's ipc socket), `timeout`,
    `connect_timeout` and `reconnect_timeout` in seconds (infinity: for ever; NaN is a `BadRequestError`).

        with Client() as client:
            ids = client.encode("Hello")
            job = client.submit(["corpus.txt"], "corpus.bin")
            print(job.wait(timeout=600).n_tokens)
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        timeout: float = 30.0,
        connect_timeout: float = 2.0,
        reconnect_timeout: float = 10.0,
    ) -> None:
        self.endpoint = endpoint or default_endpoint()
        self.timeout = requests.seconds(timeout)
        self._connection = Connection(
            self.endpoint,
            connect_timeout_s=requests.seconds(connect_timeout, "connect_timeout"),
            reconnect_timeout_s=requests.seconds(reconnect_timeout, "reconnect_timeout"),
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; jobs go on. The client may be used again and then reconnects."""
        self._connection.close()

    def _call(self, call: Call[T], timeout: float | None = None) -> T:
        limit = requests.seconds(self.timeout if timeout is None else timeout)
        return call.read(self._connection.call(call.op, call.header, call.body, limit))

    def encode(
        self, text: str, *, tokenizer: str = "gpt2", special: str = "raise", timeout: float | None = None
    ) -> Ids:
        """The ids of a text: a numpy array of uint16, or uint32 for large vocabularies."""
        return self._call(requests.encode(text, tokenizer, special, timeout or self.timeout), timeout)

    def encode_batch(
        self,
        texts: Sequence[str],
        *,
        tokenizer: str = "gpt2",
        special: str = "raise",
        timeout: float | None = None,
    ) -> tuple[Ids, NDArray[np.uint64]]:
        """Flat ids of many texts, and the uint64 cumulative end of each.

        A large batch goes to the daemon in parts (see `parts`), and may be of any size; one text is at most 64 MiB.
        """
        limit = requests.seconds(self.timeout if timeout is None else timeout)
        batch = Batch(texts, tokenizer, special, limit)
        if not batch.is_small:
            self._connection.call_each(batch.calls(), WINDOW, batch.deadline_s, batch.add)
            if batch.is_of_one_tokenizer:
                return batch.result()
        part = self._call(batch.whole(), batch.left_s())
        return part.ids, part.ends

    def decode_bytes(self, ids: Any, *, tokenizer: str = "gpt2", timeout: float | None = None) -> bytes:
        """The exact bytes of ids; an unknown id raises `UnknownIdError`."""
        return self._call(requests.decode(ids, tokenizer), timeout)

    def decode(self, ids: Any, *, tokenizer: str = "gpt2", timeout: float | None = None) -> str:
        """The text of ids, with U+FFFD for bytes that are not UTF-8."""
        return self.decode_bytes(ids, tokenizer=tokenizer, timeout=timeout).decode(errors="replace")

    def count(self, text: str, *, tokenizer: str = "gpt2", special: str = "raise", timeout: float | None = None) -> int:
        """How many ids a text has."""
        return self._call(requests.count(text, tokenizer, special, timeout or self.timeout), timeout)

    def submit(
        self,
        inputs: Sequence[str | os.PathLike[str]],
        output: str | os.PathLike[str],
        *,
        tokenizer: str = "gpt2",
        separator: str | None = None,
        eot: str = "append",
        eot_token: str | None = None,
        special: str | None = None,
        errors: str = "strict",
        threads: int = 0,
        force: bool = False,
        format: str = "bin",
        input_format: str = "auto",
        field: str | None = None,
        id_field: str | None = None,
        bad_documents: str = "fail",
        min_tokens: int = 0,
        max_tokens: int | None = None,
        truncate_tokens: int | None = None,
        deduplicate: bool = False,
        retire: bool = False,
        more: Mapping[str, str | os.PathLike[str]] | None = None,
        update: bool = False,
        reuse: bool = False,
        known_texts: list[str] | None = None,
        exports: Mapping[str, str | os.PathLike[str]] | None = None,
        layout: Mapping[str, Any] | None = None,
        stdin: str | os.PathLike[str] | None = None,
        key: str | None = None,
        deadline: float | None = None,
        timeout: float | None = None,
    ) -> Job:
        """Submits a file job and returns as soon as it is accepted: from then on it survives the daemon.

        `inputs` are files, directories (all files in them) and patterns; what they stand for is found out
        here. See docs/guides/inputs.md for what files may hold and for the options; relative paths are made
        absolute here. With a `key`,
        submitting the same job again gives the same job, also from another process and after a restart,
        and another job under that key raises `ConflictError`; without one each call is a job of its own.
        A job that has not ended `deadline` seconds after its acceptance fails with `DeadlineExceededError` and
        publishes nothing; one of 0 or less is a `BadRequestError`. With `retire`, segments of a
        stream that no loader will read again are deleted: see `docs/concepts/pacing.md`.

        `more` names further fields and an output for each, `{"meta.title": "titles.bin"}`: made in the same pass,
        each what a job of its own would make. `wait()` then has their manifests in `manifest["more"]`, in this
        order; progress and counts are those of `output`.

        `update` brings the set `output` up to date with inputs that have grown or are new: what is new is encoded
        (`encoded_bytes` of the result), and the set is that of a full run, byte for byte; where only a full run
        will do, the result's `note` says why. `reuse` looks for a set that a job with `reuse` made of the same
        inputs in the same way, from 8 MB on: its bytes are shared, as hard links where the file system has no
        reflinks, and the result's `reused` names it. With `known_texts` (files of hashes), `deduplicate` leaves
        out those texts too, and the job writes such a file of its own, `output.texts`.

        `exports` names trainers' formats and a place for each, `{"megatron": "corpus", "mds": "corpus-mds"}`: made of
        `output` as the second half of the same job, which is done when all of them are there. `layout` is how, with the
        arguments of `convert`: `{"val_fraction": 0.01, "row_tokens": 2048}`. Progress is that of the step that its
        `note` names; `wait()` has what was noted of each in `manifest["exports"]`, in this order. Cancelled, the job
        keeps what is complete by then. Refused by a daemon with `--root`.

        `stdin` is the one of `inputs` that holds what came through a pipe and will not stay: manifests, lists and
        errors call it `-`.
        """
        call = requests.submit(
            inputs,
            output,
            key=key,
            deadline=deadline,
            tokenizer=tokenizer,
            separator=separator,
            eot=eot,
            eot_token=eot_token,
            special=special,
            errors=errors,
            threads=threads,
            force=force,
            format=format,
            input_format=input_format,
            field=field,
            id_field=id_field,
            bad_documents=bad_documents,
            min_tokens=min_tokens,
            max_tokens=max_tokens,
            truncate_tokens=truncate_tokens,
            deduplicate=deduplicate,
            retire=retire,
            more=more,
            update=update,
            reuse=reuse,
            known_texts=known_texts,
            exports=exports,
            layout=layout,
            stdin=stdin,
        )
        return Job(self, self._call(call, timeout).job_id)

    def convert(
        self,
        path: str | os.PathLike[str],
        output: str | os.PathLike[str],
        *,
        format: str,
        eot: str | None = None,
        eot_id: int | None = None,
        shard_tokens: int | None = None,
        shard_bytes: int | None = None,
        shard_documents: int | None = None,
        row_tokens: int | None = None,
        val_fraction: float = 0.0,
        seed: int = 0,
        shuffle: bool = False,
        sibling: tuple[str, str] | None = None,
        beside: Sequence[str] = (),
        tokenizer: str | os.PathLike[str] | None = None,
        vocab_size: int | None = None,
        dtype: str | None = None,
        eot_at: str | None = None,
        force: bool = False,
        key: str | None = None,
        deadline: float | None = None,
        timeout: float | None = None,
    ) -> Job:
        """Submits a conversion of a finished set (`OUT.bin`, a sealed stream, or another tool's) to another format.

        `format` is `nanogpt`, `llmc`, `megatron`, `datatrove`, `olmo`, `litdata`, `mds`, `bin` or `stream`, and the
        options are those of `tokend convert`: see docs/guides/trainers.md. `tokenizer` or `vocab_size`, `dtype`,
        `eot_id` and `eot_at` say what another tool's files do not. It is a job like others, with progress in bytes of
        ids; its result's manifest is `tokend.json`, or that of a set of ours. `beside` names files that the caller puts
        beside a trainer's set, so that they go when it is replaced. Refused by a daemon with `--root`.
        """
        call = requests.convert(
            path,
            output,
            format=format,
            force=force,
            key=key,
            deadline=deadline,
            eot=eot,
            eot_id=eot_id,
            shard_tokens=shard_tokens,
            shard_bytes=shard_bytes,
            shard_documents=shard_documents,
            row_tokens=row_tokens,
            val_fraction=val_fraction,
            seed=seed,
            shuffle=shuffle,
            sibling=sibling,
            beside=list(beside),
            tokenizer=tokenizer,
            vocab_size=vocab_size,
            dtype=dtype,
            eot_at=eot_at,
        )
        return Job(self, self._call(call, timeout).job_id)

    def job(self, job_id: str) -> Job:
        """A job by its id; nothing is asked yet."""
        return Job(self, job_id)

    def jobs(self, *, timeout: float | None = None) -> list[protocol.JobInfo]:
        """The jobs that the daemon remembers, oldest first."""
        return self._call(requests.jobs(), timeout)

    def status(self, *, timeout: float | None = None) -> protocol.StatusReply:
        """How the daemon is."""
        return self._call(requests.status(), timeout)

    def cache_stats(self, tokenizer: str | None = None, *, timeout: float | None = None) -> dict[str, dict[str, int]]:
        """Merge cache counters by tokenizer: entries, bytes, capacity_bytes, hits, misses, evictions."""
        return self._call(requests.cache_stats(tokenizer), timeout)

    def cache_clear(self, tokenizer: str | None = None, *, timeout: float | None = None) -> None:
        """Empties the merge cache of one tokenizer, or of all."""
        self._call(requests.cache_clear(tokenizer), timeout)

    def ping(self, *, timeout: float | None = None) -> float:
        """The round trip in seconds."""
        start = time.perf_counter()
        self._call(requests.ping(), timeout)
        return time.perf_counter() - start

    def roots(self, *, timeout: float | None = None) -> list[str]:
        """The directories whose paths the daemon serves; none: whatever its user may open."""
        self.ping(timeout=timeout)
        hello = self._connection.hello
        return [] if hello is None else hello.roots

    def shutdown(self, *, drain: bool = True, timeout: float = 30.0) -> None:
        """Stops the daemon, with `drain` after its running jobs."""
        self._call(requests.shutdown(drain, timeout), timeout)


class Job:
    """A job of a daemon; it goes on whether or not anybody waits."""

    def __init__(self, client: Client, job_id: str) -> None:
        self._client = client
        self.job_id = job_id

    def status(self, *, timeout: float | None = None) -> protocol.JobInfo:
        """The job as it is now."""
        return self._client._call(requests.job_status(self.job_id), timeout)

    def cancel(self, *, timeout: float | None = None) -> protocol.JobInfo:
        """Asks the job to stop; it leaves nothing behind."""
        return self._client._call(requests.job_cancel(self.job_id), timeout)

    def progress(self, *, interval: float = 0.2) -> Iterator[JobProgress]:
        """Snapshots, `interval` seconds apart, the last one when the job has ended (however it ended)."""
        while True:
            call = requests.job_wait(self.job_id, interval)
            info, _ = self._client._call(call, interval + self._client.timeout)
            yield JobProgress.of(info)
            if info.state in protocol.TERMINAL_STATES:
                return

    def wait(self, timeout: float | None = None) -> JobResult:
        """Blocks until the job is done and returns its result.

        Raises the job's own typed error if it failed, `CancelledError` if it was cancelled, and
        `DeadlineExceededError` after `timeout` seconds (`None`: as long as the daemon answers).
        """
        deadline = None if timeout is None else time.monotonic() + requests.seconds(timeout)
        while True:
            left = _WAIT_SLICE_S if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise DeadlineExceededError(f"job {self.job_id} is not done within {timeout:g} s")
            piece = min(left, _WAIT_SLICE_S)
            call = requests.job_wait(self.job_id, piece)
            info, manifest = self._client._call(call, piece + self._client.timeout)
            if info.state in protocol.TERMINAL_STATES:
                return JobResult.of(info, manifest)
