"""The asynchronous client: the methods of `Client` as coroutines.

A thread of the connection waits for the daemon; a cancelled or timed-out coroutine abandons its own
request and nothing else, so no other call's reply is ever lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from . import protocol, requests
from .client import _WAIT_SLICE_S
from .connection import Connection
from .errors import DeadlineExceededError
from .jobs import JobProgress, JobResult
from .parts import WINDOW, Batch
from .paths import default_endpoint
from .requests import BatchIds, Call, Ids

T = TypeVar("T")
_LARGE_BYTES = 1 << 20


class AsyncClient:
    """Talks to this machine's daemon from asyncio; see `Client` for parameters, limits and errors."""

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

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection; jobs go on."""
        await asyncio.to_thread(self._connection.close)

    async def _call(self, call: Call[T], timeout: float | None = None) -> T:
        limit = requests.seconds(self.timeout if timeout is None else timeout)
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def on_done() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
                loop.call_soon_threadsafe(done.set)

        slot = self._connection.slot(call.op, call.header, call.body, limit, on_done)
        try:
            async with asyncio.timeout(limit):
                # Sending a large text takes a while, in which the loop has other things to do.
                if sum(len(part) for part in call.body) < _LARGE_BYTES:
                    self._connection.begin(slot)
                else:
                    await asyncio.to_thread(self._connection.begin, slot)
                await done.wait()
        except TimeoutError:
            raise slot.too_late(self.endpoint) from None
        finally:
            self._connection.drop(slot)
        return call.read(slot.result())

    async def encode(
        self, text: str, *, tokenizer: str = "gpt2", special: str = "raise", timeout: float | None = None
    ) -> Ids:
        """The ids of a text."""
        return await self._call(requests.encode(text, tokenizer, special, timeout or self.timeout), timeout)

    async def encode_batch(
        self,
        texts: Sequence[str],
        *,
        tokenizer: str = "gpt2",
        special: str = "raise",
        timeout: float | None = None,
    ) -> tuple[Ids, NDArray[np.uint64]]:
        """Flat ids of many texts, and the cumulative end of each; a large batch goes in parts, as with `Client`."""
        batch = Batch(texts, tokenizer, special, requests.seconds(self.timeout if timeout is None else timeout))
        if not batch.is_small:
            await self._in_parts(batch)
            if batch.is_of_one_tokenizer:
                return batch.result()
        part = await self._call(batch.whole(), batch.left_s())
        return part.ids, part.ends

    async def _in_parts(self, batch: Batch) -> None:
        under_way: deque[asyncio.Task[BatchIds]] = deque()
        try:
            for call in batch.calls():
                under_way.append(asyncio.create_task(self._call(call, batch.left_s())))
                if len(under_way) == WINDOW:
                    batch.add(await under_way.popleft())
            while under_way:
                batch.add(await under_way.popleft())
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def decode_bytes(self, ids: Any, *, tokenizer: str = "gpt2", timeout: float | None = None) -> bytes:
        """The exact bytes of ids."""
        return await self._call(requests.decode(ids, tokenizer), timeout)

    async def decode(self, ids: Any, *, tokenizer: str = "gpt2", timeout: float | None = None) -> str:
        """The text of ids, with U+FFFD for bytes that are not UTF-8."""
        return (await self.decode_bytes(ids, tokenizer=tokenizer, timeout=timeout)).decode(errors="replace")

    async def count(
        self, text: str, *, tokenizer: str = "gpt2", special: str = "raise", timeout: float | None = None
    ) -> int:
        """How many ids a text has."""
        return await self._call(requests.count(text, tokenizer, special, timeout or self.timeout), timeout)

    async def submit(
        self,
        inputs: Sequence[str | os.PathLike[str]],
        output: str | os.PathLike[str],
        *,
        timeout: float | None = None,
        **options: Any,
    ) -> AsyncJob:
        """Submits a file job; the options, `key` and `deadline` among them, are those of `Client.submit`."""
        info = await self._call(requests.submit(inputs, output, **options), timeout)
        return AsyncJob(self, info.job_id)

    async def convert(
        self,
        path: str | os.PathLike[str],
        output: str | os.PathLike[str],
        *,
        format: str,
        timeout: float | None = None,
        **options: Any,
    ) -> AsyncJob:
        """Submits a conversion; the options are those of `Client.convert`."""
        info = await self._call(requests.convert(path, output, format=format, **options), timeout)
        return AsyncJob(self, info.job_id)

    def job(self, job_id: str) -> AsyncJob:
        """A job by its id; nothing is asked yet."""
        return AsyncJob(self, job_id)

    async def jobs(self, *, timeout: float | None = None) -> list[protocol.JobInfo]:
        """The jobs that the daemon remembers, oldest first."""
        return await self._call(requests.jobs(), timeout)

    async def status(self, *, timeout: float | None = None) -> protocol.StatusReply:
        """How the daemon is."""
        return await self._call(requests.status(), timeout)

    async def cache_stats(
        self, tokenizer: str | None = None, *, timeout: float | None = None
    ) -> dict[str, dict[str, int]]:
        """Merge cache counters by tokenizer."""
        return await self._call(requests.cache_stats(tokenizer), timeout)

    async def cache_clear(self, tokenizer: str | None = None, *, timeout: float | None = None) -> None:
        """Empties the merge cache of one tokenizer, or of all."""
        await self._call(requests.cache_clear(tokenizer), timeout)

    async def ping(self, *, timeout: float | None = None) -> float:
        """The round trip in seconds."""
        start = time.perf_counter()
        await self._call(requests.ping(), timeout)
        return time.perf_counter() - start

    async def roots(self, *, timeout: float | None = None) -> list[str]:
        """The directories whose paths the daemon serves; none: whatever its user may open."""
        await self.ping(timeout=timeout)
        hello = self._connection.hello
        return [] if hello is None else hello.roots

    async def shutdown(self, *, drain: bool = True, timeout: float = 30.0) -> None:
        """Stops the daemon, with `drain` after its running jobs."""
        await self._call(requests.shutdown(drain, timeout), timeout)


class AsyncJob:
    """A job of a daemon; see `Job`."""

    def __init__(self, client: AsyncClient, job_id: str) -> None:
        self._client = client
        self.job_id = job_id

    async def status(self, *, timeout: float | None = None) -> protocol.JobInfo:
        """The job as it is now."""
        return await self._client._call(requests.job_status(self.job_id), timeout)

    async def cancel(self, *, timeout: float | None = None) -> protocol.JobInfo:
        """Asks the job to stop."""
        return await self._client._call(requests.job_cancel(self.job_id), timeout)

    async def progress(self, *, interval: float = 0.2) -> AsyncIterator[JobProgress]:
        """Snapshots, the last one when the job has ended."""
        while True:
            call = requests.job_wait(self.job_id, interval)
            info, _ = await self._client._call(call, interval + self._client.timeout)
            yield JobProgress.of(info)
            if info.state in protocol.TERMINAL_STATES:
                return

    async def wait(self, timeout: float | None = None) -> JobResult:
        """Waits until the job is done; raises as `Job.wait` does."""
        deadline = None if timeout is None else time.monotonic() + requests.seconds(timeout)
        while True:
            left = _WAIT_SLICE_S if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise DeadlineExceededError(f"job {self.job_id} is not done within {timeout:g} s")
            piece = min(left, _WAIT_SLICE_S)
            call = requests.job_wait(self.job_id, piece)
            info, manifest = await self._client._call(call, piece + self._client.timeout)
            if info.state in protocol.TERMINAL_STATES:
                return JobResult.of(info, manifest)
