"""What each call sends and how its reply is read; shared by the sync and the async client.

A `Call` is an operation with its header, its body and the function that turns the reply into the
result, so that both clients have the same methods without saying anything twice.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from . import protocol
from .errors import BadRequestError
from .inputs import expand
from .protocol import Message, Op

T = TypeVar("T")
Ids = NDArray[Any]

_FOREVER_S = 1e9


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request: what to send, and how to read what comes back."""

    op: Op
    header: msgspec.Struct
    read: Callable[[Message], T]
    body: list[Any] = field(default_factory=list)


def _array(message: Message, index: int, dtype: str) -> NDArray[Any]:
    if index >= len(message.body):
        raise BadRequestError(f"the reply has {len(message.body)} body frames, {index + 1} are needed")
    frame = message.body[index]
    array = np.frombuffer(frame, dtype=np.dtype(dtype).newbyteorder("<"))
    # Small frames are read-only `bytes`, and arrays that a caller cannot write to surprise.
    return array.astype(dtype, copy=isinstance(frame, bytes))


def _read_ids(message: Message) -> Ids:
    return _array(message, 0, protocol.decode_header(message.header, protocol.EncodeReply).dtype)


class BatchIds(NamedTuple):
    """Ids of many texts, the cumulative end of each, and the tokenizer's fingerprint if the daemon says it."""

    ids: Ids
    ends: NDArray[np.uint64]
    fingerprint: bytes | None


def _read_batch(message: Message) -> BatchIds:
    fingerprint = bytes(message.body[2]) if len(message.body) > 2 else None
    return BatchIds(_read_ids(message), _array(message, 1, "uint64"), fingerprint)


def _nothing(message: Message) -> None:
    return None


def encode(text: str, tokenizer: str, special: str, timeout_s: float) -> Call[Ids]:
    header = protocol.Encode(tokenizer=named(tokenizer), special=special, deadline_ms=_ms(timeout_s))
    return Call(Op.ENCODE, header, _read_ids, [text.encode()])


def encode_batch(texts: list[bytes], tokenizer: str, special: str, timeout_s: float) -> Call[BatchIds]:
    ends = np.cumsum([len(text) for text in texts], dtype="<u8")
    header = protocol.EncodeBatch(
        tokenizer=named(tokenizer), n_texts=len(texts), special=special, deadline_ms=_ms(timeout_s)
    )
    return Call(Op.ENCODE_BATCH, header, _read_batch, [b"".join(texts), ends.tobytes()])


def decode(ids: Any, tokenizer: str) -> Call[bytes]:
    array = np.asarray(ids)
    if array.size and array.dtype.kind not in "iu":
        raise BadRequestError(f"ids are of dtype {array.dtype}, not integers")
    if array.size and (int(array.min()) < 0 or int(array.max()) > 0xFFFF_FFFF):
        raise BadRequestError("an id is below 0 or needs more than 32 bits")
    header = protocol.Decode(tokenizer=named(tokenizer), dtype="uint32")
    return Call(Op.DECODE, header, lambda message: bytes(message.body[0]), [array.astype("<u4").tobytes()])


def count(text: str, tokenizer: str, special: str, timeout_s: float) -> Call[int]:
    header = protocol.Encode(tokenizer=named(tokenizer), special=special, deadline_ms=_ms(timeout_s))

    def read(message: Message) -> int:
        return protocol.decode_header(message.header, protocol.CountReply).n_tokens

    return Call(Op.COUNT, header, read, [text.encode()])


def submit(
    inputs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    key: str | None = None,
    deadline: float | None = None,
    **options: Any,
) -> Call[protocol.JobInfo]:
    options["tokenizer"] = named(options.get("tokenizer", "gpt2"))
    more = {field: os.path.abspath(place) for field, place in (options.pop("more", None) or {}).items()}
    files = expand(inputs, output, more.values())
    if options.get("known_texts") is not None:
        options["known_texts"] = [os.path.abspath(path) for path in options["known_texts"]]
    if options.get("stdin") is not None:
        options["stdin"] = os.path.abspath(options["stdin"])
    exports = _exports(options.pop("exports", None) or {}, options.pop("layout", None) or {})
    spec = protocol.JobSpec(inputs=files, output=os.path.abspath(output), more=more, exports=exports, **options)
    return _submit(spec, key, deadline)


def _exports(places: Mapping[str, str | os.PathLike[str]], layout: Mapping[str, Any]) -> list[protocol.Export]:
    """Each format with what of the layout is its own: rows are of mds, and some formats have one file."""
    unknown = set(layout) - set(protocol.Layout.__struct_fields__) | {"sibling", "beside"} & set(layout)
    if unknown:
        raise BadRequestError(f"a layout has no {', '.join(sorted(unknown))}")
    if layout and not places:
        raise BadRequestError("a layout is of formats that trainers read", "name one in exports")
    made = []
    for name, place in places.items():
        own = dict(layout)
        if name != "mds" and "mds" in places:
            own.pop("row_tokens", None)
        if name in ("nanogpt", "megatron") and set(places) - {"nanogpt", "megatron"}:
            own = {option: value for option, value in own.items() if not option.startswith("shard_")}
        made.append(protocol.Export(format=name, output=os.path.abspath(place), layout=protocol.Layout(**own)))
    return made


def convert(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    format: str,
    force: bool = False,
    key: str | None = None,
    deadline: float | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    vocab_size: int | None = None,
    dtype: str | None = None,
    eot_at: str | None = None,
    **layout: Any,
) -> Call[protocol.JobInfo]:
    told = protocol.Told(
        tokenizer=None if tokenizer is None else named(tokenizer),
        vocab_size=vocab_size,
        dtype=dtype,
        eot_id=layout.get("eot_id"),
        eot_at=eot_at,
    )
    spec = protocol.JobSpec(
        inputs=[os.path.abspath(path)],
        output=os.path.abspath(output),
        format=format,
        force=force,
        layout=protocol.Layout(**layout),
        told=None if told == protocol.Told() else told,
    )
    return _submit(spec, key, deadline)


def _submit(spec: protocol.JobSpec, key: str | None, deadline: float | None) -> Call[protocol.JobInfo]:
    if key == "":
        raise BadRequestError("the key is empty", "give one, or none at all")
    if deadline is not None and not deadline > 0:
        raise BadRequestError(f"deadline is {deadline}, not a number of seconds above 0")
    deadline_ms = None if deadline is None else _ms(deadline)
    header = protocol.Submit(key=key or str(uuid.uuid4()), deadline_ms=deadline_ms)
    return Call(Op.SUBMIT, header, read_job, [msgspec.msgpack.encode(spec)])


def read_job(message: Message) -> protocol.JobInfo:
    return protocol.decode_header(message.header, protocol.JobReply).job


def job_status(job_id: str) -> Call[protocol.JobInfo]:
    return Call(Op.JOB_STATUS, protocol.JobRequest(job_id=job_id), read_job)


def job_cancel(job_id: str) -> Call[protocol.JobInfo]:
    return Call(Op.JOB_CANCEL, protocol.JobRequest(job_id=job_id), read_job)


def job_wait(job_id: str, timeout_s: float) -> Call[tuple[protocol.JobInfo, dict[str, Any] | None]]:
    def read(message: Message) -> tuple[protocol.JobInfo, dict[str, Any] | None]:
        return read_job(message), msgspec.json.decode(message.body[0]) if message.body else None

    return Call(Op.JOB_WAIT, protocol.JobWait(job_id=job_id, timeout_ms=_ms(timeout_s)), read)


def jobs() -> Call[list[protocol.JobInfo]]:
    def read(message: Message) -> list[protocol.JobInfo]:
        return msgspec.msgpack.decode(message.body[0], type=list[protocol.JobInfo])

    return Call(Op.JOB_LIST, protocol.Empty(), read)


def cursors(
    run: str, loader: str, reports: Sequence[protocol.CursorReport], is_over: bool = False
) -> Call[list[protocol.StreamReport]]:
    def read(message: Message) -> list[protocol.StreamReport]:
        return msgspec.msgpack.decode(message.body[0], type=list[protocol.StreamReport])

    header = protocol.Cursors(run=run, loader=loader, is_over=is_over)
    return Call(Op.CURSORS, header, read, [msgspec.msgpack.encode(list(reports))])


def cache_stats(tokenizer: str | None) -> Call[dict[str, dict[str, int]]]:
    def read(message: Message) -> dict[str, dict[str, int]]:
        return protocol.decode_header(message.header, protocol.CacheStatsReply).tokenizers

    return Call(Op.CACHE_STATS, protocol.CacheRequest(tokenizer=tokenizer and named(tokenizer)), read)


def cache_clear(tokenizer: str | None) -> Call[None]:
    return Call(Op.CACHE_CLEAR, protocol.CacheRequest(tokenizer=tokenizer and named(tokenizer)), _nothing)


def status() -> Call[protocol.StatusReply]:
    def read(message: Message) -> protocol.StatusReply:
        return protocol.decode_header(message.header, protocol.StatusReply)

    return Call(Op.STATUS, protocol.Empty(), read)


def ping() -> Call[None]:
    return Call(Op.PING, protocol.Empty(), _nothing)


def shutdown(drain: bool, timeout_s: float) -> Call[None]:
    return Call(Op.SHUTDOWN, protocol.Shutdown(drain=drain, timeout_ms=_ms(timeout_s)), _nothing)


def named(tokenizer: str | os.PathLike[str]) -> str:
    """A tokenizer's name, or its absolute path if it is a path; `NAME=PATH` with the path made absolute.

    The bundled one's name wins over a file's.
    """
    if tokenizer == "gpt2":
        return tokenizer
    text = os.fspath(tokenizer)
    encoding, equals, path = text.partition("=")
    if equals and path and "/" not in encoding and not os.path.exists(text):
        return f"{encoding}={os.path.abspath(path)}"
    return os.path.abspath(text) if "/" in text or os.path.exists(text) else text


def seconds(timeout: float, name: str = "timeout") -> float:
    """A time-out as it is used: at most thirty years, which is for ever. Raises `BadRequestError` for NaN."""
    if timeout != timeout:
        raise BadRequestError(f"{name} is {timeout}, not a number of seconds")
    return min(timeout, _FOREVER_S)


def _ms(timeout_s: float) -> int:
    return max(1, round(seconds(timeout_s) * 1000))
