"""The wire protocol, version 1.

A ROUTER socket (the daemon) and DEALER sockets (clients). After libzmq's routing id:

    frame 0   4 bytes   "TKD1"
    frame 1   10 bytes  op u8 | flags u8 | request id u64 little-endian
    frame 2   header    a msgpack map, at most 64 KiB; its fields are the structs below
    frame 3.. body      0 to 16 raw frames: text, ids, ends

Requests have flags 0. Every request gets exactly one reply with the same op and request id; its
flags are 1 for a result and 2 for an error, whose header is an `ErrorReply`. The fixed frame 1 lets
a daemon answer a request whose header cannot be read. The first request of a connection is `hello`;
a reply `HELLO_REQUIRED` asks for it again (the daemon restarted). Never pickle.

Text is UTF-8; ids are little-endian uint16 or uint32 as `dtype` says; ends are little-endian uint64.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Any, NamedTuple, TypeVar

import msgspec

from .errors import BadRequestError, TokendError, TooLargeError, from_code
from .inputs import names_of

VERSION = 1
MAGIC = b"TKD1"
HEADER_MAX_BYTES = 64 * 1024
BODY_MAX_FRAMES = 16
FRAME_MAX_BYTES = 64 * 1024 * 1024
FLAG_OK = 1
FLAG_ERROR = 2

_FIXED = struct.Struct("<BBQ")


class Op(IntEnum):
    """What a request asks for."""

    HELLO = 1
    PING = 2
    ENCODE = 3
    ENCODE_BATCH = 4
    DECODE = 5
    COUNT = 6
    SUBMIT = 7
    JOB_STATUS = 8
    JOB_WAIT = 9
    JOB_CANCEL = 10
    JOB_LIST = 11
    CACHE_STATS = 12
    STATUS = 13
    SHUTDOWN = 14
    CACHE_CLEAR = 15
    CURSORS = 16


class _Struct(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    pass


class Empty(_Struct):
    """A header without fields."""


class Hello(_Struct):
    """First request of a connection."""

    versions: list[int]
    client_id: str
    client: str
    pid: int


class Limits(_Struct):
    """What the daemon accepts."""

    max_frame_bytes: int
    max_inflight: int


class HelloReply(_Struct):
    """Who the daemon is; `server_epoch` is new at each of its starts."""

    version: int
    server_version: str
    server_epoch: str
    pid: int
    uid: int
    limits: Limits
    roots: list[str]


class Encode(_Struct):
    """Body: the text. `deadline_ms` counts from the receipt."""

    tokenizer: str
    special: str = "raise"
    deadline_ms: int | None = None


class EncodeReply(_Struct):
    """Body: the ids; for a batch also the cumulative ends, and the tokenizer's fingerprint as text.

    The fingerprint was not always there: daemons may leave it out, and clients do without it.
    """

    dtype: str
    n_tokens: int


class EncodeBatch(_Struct):
    """Body: the texts concatenated, and the cumulative byte end of each."""

    tokenizer: str
    n_texts: int
    special: str = "raise"
    deadline_ms: int | None = None


class Decode(_Struct):
    """Body: the ids. The reply's body: the bytes."""

    tokenizer: str
    dtype: str


class CountReply(_Struct):
    """How many ids a text has."""

    n_tokens: int


class Layout(_Struct):
    """How a finished set is laid out for a trainer; what is None is as the format's readers expect it.

    `sibling`: place and format of a set that was just made of the same input, whose files may be shared. `beside`:
    names of files that whoever asks for the set puts beside it, for its note.
    """

    eot: str | None = None
    eot_id: int | None = None
    shard_tokens: int | None = None
    shard_bytes: int | None = None
    shard_documents: int | None = None
    row_tokens: int | None = None
    val_fraction: float = 0.0
    seed: int = 0
    shuffle: bool = False
    sibling: tuple[str, str] | None = None
    beside: list[str] = []


class Export(_Struct):
    """A set in a trainer's format, made of the set that a job makes, once that is there."""

    format: str
    output: str
    layout: Layout


class Told(_Struct):
    """What token files of another tool do not tell of themselves; None for what they do, or what is not known.

    `eot_at` is where their end-of-text ids stand: `end`, `start`, `both` or `none`.
    """

    tokenizer: str | None = None
    vocab_size: int | None = None
    dtype: str | None = None
    eot_id: int | None = None
    eot_at: str | None = None


class JobSpec(_Struct):
    """What a job does; paths are absolute. `special` None: `"raise"` for text, `"text"` for JSON lines and columns.

    `more` names further fields and the output of each, made in the same pass.
    """

    inputs: list[str]
    output: str
    tokenizer: str = "gpt2"
    separator: str | None = None
    eot: str = "append"
    eot_token: str | None = None
    special: str | None = None
    errors: str = "strict"
    threads: int = 0
    force: bool = False
    format: str = "bin"
    input_format: str = "auto"
    field: str | None = None
    id_field: str | None = None
    bad_documents: str = "fail"
    min_tokens: int = 0
    max_tokens: int | None = None
    truncate_tokens: int | None = None
    deduplicate: bool = False
    retire: bool = False
    update: bool = False
    """Bring `output` up to date with the inputs, and encode only what is new."""
    reuse: bool = False
    """Share the bytes of a known set of the same inputs, and note this one."""
    known_texts: list[str] | None = None
    """Files of hashes of texts that are duplicates too; `output.texts` is written for this job's own."""
    layout: Layout | None = None
    """Of a conversion: the one input is a finished set, and `format` what is made of it."""
    told: Told | None = None
    """Of a conversion of another tool's set."""
    more: dict[str, str] = {}
    exports: list[Export] = []
    """Made one after the other of `output`, as the second half of the job."""
    stdin: str | None = None
    """The one of `inputs` that holds what came through the client's stdin, and is called `-`."""

    def names(self) -> list[str]:
        """What manifests call the inputs."""
        return names_of(self.inputs, self.stdin)


class Submit(_Struct):
    """Body frame 0: the `JobSpec` as msgpack (it may be larger than a header). A key makes a repeat harmless.

    `deadline_ms` counts from the receipt; a job that has not ended by then fails.
    """

    key: str | None = None
    deadline_ms: int | None = None


class ErrorReply(_Struct):
    """An error on the wire."""

    code: str
    message: str
    hint: str | None = None
    retryable: bool = False
    retry_after_ms: int | None = None

    @classmethod
    def of(cls, error: TokendError) -> ErrorReply:
        """The reply that reports an exception."""
        after = None if error.retry_after_s is None else round(error.retry_after_s * 1000)
        return cls(
            code=error.code,
            message=error.message,
            hint=error.hint,
            retryable=error.retryable,
            retry_after_ms=after,
        )

    def exception(self) -> TokendError:
        """The exception that the reply reports."""
        error = from_code(self.code, self.message, self.hint)
        error.retryable = self.retryable
        if self.retry_after_ms is not None:
            error.retry_after_s = self.retry_after_ms / 1000
        return error


class JobInfo(_Struct):
    """A job as its daemon sees it; times are seconds since the epoch.

    `note` says what it waits for or is at, or how it was done; `reused` names the set whose bytes the output shares;
    `encoded_bytes` is how much of the inputs an update encoded. Bytes of a conversion are those of the set's ids.
    """

    job_id: str
    state: str
    output: str
    tokenizer: str
    bytes_done: int
    bytes_total: int
    n_tokens: int
    n_documents: int
    bytes_per_s: float
    submitted_s: float
    started_s: float | None = None
    finished_s: float | None = None
    error: ErrorReply | None = None
    up_to_date: bool = False
    note: str | None = None
    n_skipped: int = 0
    reused: str | None = None
    encoded_bytes: int | None = None
    eta_s: float | None = None
    """Seconds to go at the present rate, of a job that runs; None while that is unknown."""


TERMINAL_STATES = frozenset({"done", "failed", "cancelled"})


class JobReply(_Struct):
    """A job; body frame 0 of the answer to a `JobWait` for a job that is done: its manifest as JSON."""

    job: JobInfo


class JobRequest(_Struct):
    """A job by its id."""

    job_id: str


class JobWait(_Struct):
    """Answered when the job has ended, or after `timeout_ms` with its present state."""

    job_id: str
    timeout_ms: int


class JobListReply(_Struct):
    """Body frame 0: the jobs as a msgpack array of `JobInfo`, oldest first."""

    n_jobs: int


class CursorReport(_Struct):
    """How far a loader is in a stream, in tokens: see `feed.Cursor`."""

    path: str
    stream_id: str | None
    low_water: int
    position: int
    wanted: int


class Cursors(_Struct):
    """How far a loader is. Body frame 0: a msgpack array of `CursorReport`, a stream each.

    Renewed every second or so: a loader that is silent for a minute is not waited for. `run` is the same for
    all ranks and all starts of a training run. With `is_over` nothing is kept for the run any more.
    """

    run: str
    loader: str
    is_over: bool = False


class StreamReport(_Struct):
    """What the daemon knows of a stream: the job that writes it, if one does, and how far that is."""

    path: str
    job_id: str | None = None
    state: str | None = None
    n_tokens: int = 0
    tokens_per_s: float = 0.0
    note: str = ""


class CursorsReply(_Struct):
    """Body frame 0: a msgpack array of `StreamReport`, in the request's order."""

    n_streams: int


class CacheRequest(_Struct):
    """One tokenizer's cache, or all of them."""

    tokenizer: str | None = None


class CacheStatsReply(_Struct):
    """By tokenizer: entries, bytes, capacity_bytes, hits, misses, evictions."""

    tokenizers: dict[str, dict[str, int]]


class StatusReply(_Struct):
    """How the daemon is. `problems`: what somebody should look at, in words; empty if all is well."""

    pid: int
    uptime_s: float
    version: str
    epoch: str
    endpoint: str
    jobs: dict[str, int]
    tokenizers: dict[str, str]
    threads: int
    rss_bytes: int
    open_fds: int
    max_fds: int
    n_clients: int
    n_requests: int
    problems: list[str]


class Shutdown(_Struct):
    """Stop; with `drain` after the running jobs have ended, at most `timeout_ms` later."""

    drain: bool = True
    timeout_ms: int = 30_000


class Message(NamedTuple):
    """A message without its routing id."""

    op: int
    flags: int
    request_id: int
    header: bytes
    body: list[Any]


T = TypeVar("T")


def pack(op: int, flags: int, request_id: int, header: msgspec.Struct, body: list[Any] | None = None) -> list[Any]:
    """The frames of a message.

    Raises `TooLargeError` for a frame over the limit, before anything is sent.
    """
    for frame in body or ():
        n_bytes = memoryview(frame).nbytes
        if n_bytes > FRAME_MAX_BYTES:
            raise TooLargeError(
                f"a message of {n_bytes} bytes is over the limit of {FRAME_MAX_BYTES}",
                "write the text to a file and submit its path, or send it in parts",
            )
    return [MAGIC, _FIXED.pack(op, flags, request_id), msgspec.msgpack.encode(header), *(body or ())]


def unpack(frames: list[bytes]) -> Message:
    """Reads the frames of a message; trusts nothing.

    Raises `BadRequestError`; its `args` say what is wrong, and `request_of` may still find out whom
    to answer.
    """
    if len(frames) < 3 or frames[0] != MAGIC:
        raise BadRequestError("not a message of this protocol")
    if len(frames[1]) != _FIXED.size:
        raise BadRequestError(f"frame 1 has {len(frames[1])} bytes instead of {_FIXED.size}")
    if len(frames[2]) > HEADER_MAX_BYTES:
        raise BadRequestError(f"the header has {len(frames[2])} bytes; {HEADER_MAX_BYTES} are the limit")
    if len(frames) - 3 > BODY_MAX_FRAMES:
        raise BadRequestError(f"the body has {len(frames) - 3} frames; {BODY_MAX_FRAMES} are the limit")
    op, flags, request_id = _FIXED.unpack(frames[1])
    return Message(op, flags, request_id, frames[2], frames[3:])


def request_of(frames: list[bytes]) -> tuple[int, int]:
    """Op and request id of a message that `unpack` refused; zeros where they cannot be told."""
    if len(frames) > 1 and len(frames[1]) == _FIXED.size:
        op, _, request_id = _FIXED.unpack(frames[1])
        return op, request_id
    return 0, 0


def decode_header(data: bytes, kind: type[T]) -> T:
    """Reads and checks a header. Raises `BadRequestError` that names the field."""
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequestError(f"the header is not a valid {kind.__name__}: {error}") from None
