"""What a run of the loader is: its streams, and the parameters on which its batches depend."""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

from .errors import BadRequestError
from .mix import Stage
from .order import Shuffle
from .packing import Pack
from .stream import TokenStream
from .stream.foreign import EotAt


@dataclass(frozen=True)
class Stream:
    """A stream of a mixture.

    `path` and the options of `TokenStream`; `weight` among the others; `max_epochs`, how often it may be
    read (at least 1, fractions count; None: without end). The run ends when a stream has reached that.
    """

    path: str | PathLike[str] | TokenStream
    weight: float = 1.0
    max_epochs: float | None = 1
    fingerprint: str | None = None
    dtype: str | None = None
    eot_id: int | None = None
    eot_at: EotAt | None = None

    def open(self) -> TokenStream:
        """Opens it; a stream that is open already is taken as it is, if its tokenizer is the right one."""
        if isinstance(self.path, TokenStream):
            self.path.require(self.fingerprint)
            return self.path
        return TokenStream(
            self.path, fingerprint=self.fingerprint, dtype=self.dtype, eot_id=self.eot_id, eot_at=self.eot_at
        )


StreamLike = str | PathLike[str] | TokenStream | Stream


@dataclass(frozen=True)
class Config:
    """What a run is. Pickles, so that worker processes can be given one."""

    streams: Mapping[str, Stream]
    seq_len: int
    global_batch: int
    rank: int
    world_size: int
    seed: int
    shuffle: Shuffle
    window_tokens: int
    pack: Pack
    block_tokens: int
    stages: tuple[Stage, ...]
    follow: bool
    stall_timeout_s: float

    def reopened(self) -> Config:
        """The same with streams of its own, whose locks no other thread has held at a fork."""
        streams = {
            name: replace(spec, path=spec.path.reopen()) if isinstance(spec.path, TokenStream) else spec
            for name, spec in self.streams.items()
        }
        return replace(self, streams=streams)

    @property
    def rows(self) -> int:
        """Rows of a batch of this rank."""
        return self.global_batch // self.world_size

    @property
    def order(self) -> str:
        """How the run is ordered and packed, in short."""
        shuffle = f"{self.shuffle}:{self.window_tokens}" if self.shuffle == "window" else self.shuffle
        return f"{shuffle}/{self.pack}" if self.pack == "concat" else f"{shuffle}/{self.pack}:{self.block_tokens}"


def path_of(spec: Stream) -> str:
    """Where a stream lies."""
    return os.fspath(spec.path.path if isinstance(spec.path, TokenStream) else spec.path)


def stream_of(stream: StreamLike, fingerprint: str | None) -> Stream:
    """A stream of a run that must have `fingerprint`, if that is given. Raises `BadRequestError`."""
    spec = stream if isinstance(stream, Stream) else Stream(stream)
    if fingerprint is not None:
        if spec.fingerprint not in (None, fingerprint):
            own = str(spec.fingerprint)[:12]
            raise BadRequestError(f"the loader has fingerprint {fingerprint[:12]}, its stream {path_of(spec)} {own}")
        spec = replace(spec, fingerprint=fingerprint)
    if isinstance(spec.path, TokenStream):
        spec.path.require(spec.fingerprint)
        if (spec.dtype, spec.eot_id, spec.eot_at) != (None, None, None):
            raise BadRequestError(
                f"{spec.path.path} is open already: dtype, eot_id and eot_at change nothing", "give them to TokenStream"
            )
    return spec


def integer(name: str, value: Any) -> int:
    """A Python int of any integer, numpy's too: what the state and the order are made of."""
    try:
        return operator.index(value)
    except TypeError:
        raise BadRequestError(f"{name}={value!r} is no integer") from None
