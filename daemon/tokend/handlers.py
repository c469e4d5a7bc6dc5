"""What each operation does: a request's header and body in, a reply's header and body out.

Handlers that touch token work or files are run on a worker thread; `is_quick` says which may run
on the I/O thread, which nothing on a disk may hold up. Errors are raised, the server turns them into replies.
"""

from __future__ import annotations

import os
import resource
import time
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from tokend_client import protocol
from tokend_client.errors import BadRequestError, NotFoundError, TooLargeError
from tokend_client.protocol import Message, Op

from . import __version__
from ._core import Tokenizer, default_threads
from .config import ServerConfig
from .job import Job
from .jobs import JobTable
from .made import read_manifest
from .pacing import Pacer
from .registry import Registry

Reply = tuple[msgspec.Struct, list[Any]]

TEXT_OPS = frozenset({Op.ENCODE, Op.ENCODE_BATCH, Op.DECODE, Op.COUNT})
_NUMBER_MAX = (1 << 53) - 1
"""Every language's numbers go so far."""
_CACHE_OPS = frozenset({Op.CACHE_STATS, Op.CACHE_CLEAR})
_QUICK_OPS = frozenset({Op.PING, Op.JOB_STATUS, Op.STATUS})


@dataclass
class Handlers:
    """The daemon's operations over its tokenizers and jobs."""

    config: ServerConfig
    registry: Registry
    jobs: JobTable
    pacer: Pacer
    epoch: str
    started_s: float
    n_clients: int = 0
    n_requests: int = 0

    def is_quick(self, message: Message) -> bool:
        """Whether the request is answered well within a millisecond or two."""
        if message.op in TEXT_OPS:
            n_bytes = sum([len(frame) for frame in message.body])
            return n_bytes <= self.config.inline_bytes and self.registry.is_loaded(_tokenizer_of(message))
        return message.op in _QUICK_OPS

    def unsettled(self, message: Message) -> str | None:
        """The tokenizer that a request needs and that has to be looked for on the disk first."""
        if message.op in TEXT_OPS:
            name: str | None = _tokenizer_of(message)
        elif message.op in _CACHE_OPS:
            name = protocol.decode_header(message.header, protocol.CacheRequest).tokenizer
        else:
            return None
        return name if name is not None and not self.registry.is_loaded(name) else None

    def reply_bytes(self, message: Message, found: Tokenizer | None) -> int:
        """How many bytes a reply of ids or text fills at most; it may look at every id."""
        match message.op:
            case Op.ENCODE | Op.ENCODE_BATCH:
                tokenizer = found or self.registry.get(_tokenizer_of(message))
                # No byte is more than an id.
                return sum([len(frame) for frame in message.body]) * (4 if tokenizer.is_wide else 2)
            case Op.DECODE:
                return self._ids(message, found)[2]
            case _:
                return 0

    def handle(self, message: Message, found: Tokenizer | None = None) -> Reply:
        """Runs one request, with the tokenizer that it names if that was looked for. Raises `TokendError`."""
        match message.op:
            case Op.PING:
                return protocol.Empty(), []
            case Op.ENCODE:
                return self._encode(message, found)
            case Op.ENCODE_BATCH:
                return self._encode_batch(message, found)
            case Op.DECODE:
                return self._decode(message, found)
            case Op.COUNT:
                header = protocol.decode_header(message.header, protocol.Encode)
                tokenizer = found or self.registry.get(header.tokenizer)
                n_tokens = tokenizer.count_utf8(_text(_body(message, 1)[0]), header.special)
                return protocol.CountReply(n_tokens=n_tokens), []
            case Op.SUBMIT:
                return self._submit(message)
            case Op.JOB_STATUS:
                return job_reply(self.jobs.get(_job_id(message)))
            case Op.JOB_WAIT:
                return self.result_reply(self.jobs.get(protocol.decode_header(message.header, protocol.JobWait).job_id))
            case Op.JOB_LIST:
                infos = [job.info() for job in self.jobs.all()]
                return protocol.JobListReply(n_jobs=len(infos)), [msgspec.msgpack.encode(infos)]
            case Op.CURSORS:
                return self._cursors(message)
            case Op.CACHE_STATS:
                return self._cache_stats(message, found)
            case Op.CACHE_CLEAR:
                for _, tokenizer in self._caches(message, found):
                    tokenizer.cache_clear()
                return protocol.Empty(), []
            case Op.STATUS:
                return self._status(), []
            case _:
                raise BadRequestError(f"operation {message.op} cannot be handled here")

    def result_reply(self, job: Job) -> Reply:
        """A job, with its manifest once it is done; that may have to be read from the disk (blocking)."""
        info = job.info()
        if info.state != "done":
            return protocol.JobReply(job=info), []
        manifest = job.manifest or read_manifest(job.record)
        if manifest is None:
            raise NotFoundError(
                f"{info.output}: job {info.job_id} made it, but it was removed or replaced since then",
                "submit the job again",
            )
        return protocol.JobReply(job=info), [manifest]

    def cancel(self, message: Message) -> tuple[Job, Future[None] | None]:
        """Cancels a job; the future ends when that is in the journal."""
        return self.jobs.cancel(_job_id(message))

    def _encode(self, message: Message, found: Tokenizer | None) -> Reply:
        header = protocol.decode_header(message.header, protocol.Encode)
        tokenizer = found or self.registry.get(header.tokenizer)
        ids = tokenizer.encode_utf8(_text(_body(message, 1)[0]), header.special)
        return protocol.EncodeReply(dtype=_dtype(ids), n_tokens=len(ids)), [ids.data]

    def _encode_batch(self, message: Message, found: Tokenizer | None) -> Reply:
        header = protocol.decode_header(message.header, protocol.EncodeBatch)
        data, ends = _body(message, 2)
        if len(ends) != 8 * header.n_texts:
            raise BadRequestError(f"{header.n_texts} texts need {8 * header.n_texts} bytes of ends, not {len(ends)}")
        tokenizer = found or self.registry.get(header.tokenizer)
        ids, token_ends = tokenizer.encode_batch_utf8(_text(data), np.frombuffer(ends, "<u8"), header.special)
        body = [ids.data, token_ends.data, tokenizer.fingerprint.encode()]
        return protocol.EncodeReply(dtype=_dtype(ids), n_tokens=len(ids)), body

    def _decode(self, message: Message, found: Tokenizer | None) -> Reply:
        tokenizer, ids, _ = self._ids(message, found)
        return protocol.Empty(), [tokenizer.decode_array(ids).data]

    def _ids(self, message: Message, found: Tokenizer | None) -> tuple[Tokenizer, NDArray[Any], int]:
        """The ids of a request, which are not decoded yet, and how many bytes they are."""
        header = protocol.decode_header(message.header, protocol.Decode)
        (data,) = _body(message, 1)
        if header.dtype not in ("uint16", "uint32"):
            raise BadRequestError(f"dtype {header.dtype!r} is neither uint16 nor uint32")
        dtype = np.dtype(header.dtype)
        if len(data) % dtype.itemsize:
            raise BadRequestError(f"{len(data)} bytes are no whole number of {header.dtype}")
        ids: NDArray[Any] = np.frombuffer(data, dtype.newbyteorder("<"))
        tokenizer = found or self.registry.get(header.tokenizer)
        n_bytes = tokenizer.decoded_bytes(ids)
        if n_bytes > protocol.FRAME_MAX_BYTES:
            raise TooLargeError(
                f"{len(ids)} ids decode to {n_bytes} bytes, over the limit of {protocol.FRAME_MAX_BYTES} for a message",
                "decode them in parts",
            )
        return tokenizer, ids, n_bytes

    def _submit(self, message: Message) -> Reply:
        header = protocol.decode_header(message.header, protocol.Submit)
        spec = protocol.decode_header(_body(message, 1)[0], protocol.JobSpec)
        for path in (
            *spec.inputs,
            spec.output,
            *spec.more.values(),
            *(spec.known_texts or ()),
            *(() if spec.stdin is None else (spec.stdin,)),
            *(one.output for one in spec.exports),
        ):
            if not os.path.isabs(path) or "\0" in path:
                raise BadRequestError(f"{path!r} is not an absolute path")
        if spec.stdin is not None and spec.stdin not in spec.inputs:
            raise BadRequestError(f"{spec.stdin!r} holds what came through stdin, but is no input")
        for name in ("threads", "min_tokens", "max_tokens", "truncate_tokens"):
            number = getattr(spec, name)
            if number is not None and not 0 <= number <= _NUMBER_MAX:
                raise BadRequestError(f"{name} is {number}, not within 0 to {_NUMBER_MAX}")
        if header.deadline_ms is not None and not 0 < header.deadline_ms <= _NUMBER_MAX:
            raise BadRequestError(f"the deadline is {header.deadline_ms} ms, not within 1 to {_NUMBER_MAX}")
        deadline_s = None if header.deadline_ms is None else time.time() + header.deadline_ms / 1000
        return job_reply(self.jobs.submit(spec, header.key, deadline_s))

    def _cursors(self, message: Message) -> Reply:
        header = protocol.decode_header(message.header, protocol.Cursors)
        reports = protocol.decode_header(_body(message, 1)[0], list[protocol.CursorReport])
        found = self.pacer.report(header.run, header.loader, reports, header.is_over)
        return protocol.CursorsReply(n_streams=len(found)), [msgspec.msgpack.encode(found)]

    def _caches(self, message: Message, found: Tokenizer | None) -> list[tuple[str, Tokenizer]]:
        name = protocol.decode_header(message.header, protocol.CacheRequest).tokenizer
        if name is not None:
            return [(name, found or self.registry.get(name))]
        return list(self.registry.loaded().items())

    def _cache_stats(self, message: Message, found: Tokenizer | None) -> Reply:
        stats = {name: tokenizer.cache_stats() for name, tokenizer in self._caches(message, found)}
        return protocol.CacheStatsReply(tokenizers=stats), []

    def _status(self) -> protocol.StatusReply:
        resident = int(Path("/proc/self/statm").read_text().split()[1])
        return protocol.StatusReply(
            pid=os.getpid(),
            uptime_s=time.monotonic() - self.started_s,
            version=__version__,
            epoch=self.epoch,
            endpoint=self.config.endpoint,
            jobs=self.jobs.counts(),
            tokenizers={name: tokenizer.fingerprint for name, tokenizer in self.registry.loaded().items()},
            threads=self.config.threads or default_threads(),
            rss_bytes=resident * resource.getpagesize(),
            open_fds=len(os.listdir("/proc/self/fd")),
            max_fds=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            n_clients=self.n_clients,
            n_requests=self.n_requests,
            problems=self.jobs.problems() + self.pacer.problems(),
        )


def job_reply(job: Job) -> Reply:
    """A job as it is now."""
    return protocol.JobReply(job=job.info()), []


def deadline_s(message: Message) -> float:
    """The deadline in a request's header, seconds from now; an hour where it names none."""
    deadline_ms = None
    if message.op in (Op.ENCODE, Op.COUNT):
        deadline_ms = protocol.decode_header(message.header, protocol.Encode).deadline_ms
    elif message.op == Op.ENCODE_BATCH:
        deadline_ms = protocol.decode_header(message.header, protocol.EncodeBatch).deadline_ms
    return 3600.0 if deadline_ms is None else max(0.0, deadline_ms / 1000)


def _dtype(ids: Any) -> str:
    return "uint16" if ids.itemsize == 2 else "uint32"


def _tokenizer_of(message: Message) -> str:
    match message.op:
        case Op.DECODE:
            return protocol.decode_header(message.header, protocol.Decode).tokenizer
        case Op.ENCODE_BATCH:
            return protocol.decode_header(message.header, protocol.EncodeBatch).tokenizer
        case _:
            return protocol.decode_header(message.header, protocol.Encode).tokenizer


def _job_id(message: Message) -> str:
    return protocol.decode_header(message.header, protocol.JobRequest).job_id


def _text(frame: bytes | memoryview) -> bytes | NDArray[np.uint8]:
    """A frame as the encoder takes it, without a copy."""
    return frame if isinstance(frame, bytes) else np.frombuffer(frame, np.uint8)


def _body(message: Message, n_frames: int) -> list[Any]:
    if len(message.body) != n_frames:
        raise BadRequestError(f"the body has {len(message.body)} frames instead of {n_frames}")
    return message.body
