"""Makes the batch at a given place of the run: mix → window → permutation → rank → packing → rows.

Everything here is a function of the configuration and the streams' final content. Time enters only
through waiting: a batch is made once all that it depends on is committed, for the whole global batch and
not just this rank's rows, so every rank hands out the same number of batches.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import state
from .batch import Batch
from .buffers import Pool
from .errors import BadRequestError, StreamError
from .feed import Cursor, Feed, failure, has_not_begun, reason, wait_for_stream, wait_for_tokens
from .mix import Mix
from .order import StreamOrder
from .packing import BlockCounts, Packing, Pieces, join_pieces
from .permutation import derive
from .run import Config, Stream, path_of
from .stream import Ids, TokenStream

REPORT_S = 1.0
"""Between two reports to the feed."""
REPORT_WAITING_S = 0.05
"""The same where a wait begins."""


@dataclass
class _Open:
    """A stream of the run, opened."""

    name: str
    spec: Stream
    stream: TokenStream
    order: StreamOrder
    packing: Packing
    prepared: bool = False
    samples: int | None = None
    """In one time round; None while it grows."""
    known: tuple[tuple[str | int, ...], int] | None = None
    """The stream's identity, and a number for it and the name."""


class Assembler:
    """Makes batches: one thread at a time, but `state` and `report` may be called from others.

    `feed` is asked to wait, `stopped` whether to give up waiting (`Stopped` is raised).
    """

    def __init__(
        self,
        config: Config,
        feed: Feed,
        *,
        stopped: Callable[[], bool] = lambda: False,
        token_bytes: NDArray[np.integer[Any]] | None = None,
        keep: int = 8,
    ) -> None:
        self.config = config
        self.feed = feed
        self.stopped = stopped
        self.pool = Pool(keep)
        self._token_bytes = token_bytes
        self._streams: list[_Open] = []
        self._limit: int | None = None
        self._reported = 0.0
        self.position = 0
        """Global samples that training has been given."""
        self.retained = 0
        """No state before this sample will be loaded again."""
        self.mix = Mix(list(config.streams), config.stages, config.seed)

    def is_open(self) -> bool:
        """Whether all streams have begun; opens them if so. Never waits."""
        if not self._streams and self.config.follow:
            for spec in self.config.streams.values():
                try:
                    spec.open()
                except StreamError as error:
                    if not has_not_begun(error):
                        raise
                    return False
        self.open()
        return True

    def open(self) -> list[TokenStream]:
        """Opens the streams, once; with `follow`, waits for those that have not begun."""
        if self._streams:
            return [each.stream for each in self._streams]
        config = self.config
        opened: list[_Open] = []
        for name, spec in config.streams.items():
            if config.follow:
                stream = wait_for_stream(
                    spec.open, name, self.feed, self.stopped, config.stall_timeout_s, lambda: self.report(0)
                )
            else:
                stream = spec.open()
                if stream.state == "growing":
                    raise StreamError(f"stream {name!r} ({stream.path}) is still being written", "give follow=True")
                if stream.state == "failed":
                    raise failure(stream, name)
            packing = Packing(config.seq_len, config.pack, config.block_tokens)
            if config.pack != "concat" and not stream.has_documents:
                raise StreamError(
                    f"stream {name!r} ({stream.path}): pack={config.pack!r} needs documents", "give eot_id="
                )
            window = packing.window_samples(config.window_tokens)
            opened.append(_Open(name, spec, stream, StreamOrder(name, config.seed, config.shuffle, window), packing))
        _check_tokenizers(opened)
        self.dtype = np.result_type(*(each.stream.dtype.newbyteorder("=") for each in opened))
        self._streams = opened
        self._reported = 0.0  # What was said of streams that had not begun holds no more.
        return [each.stream for each in opened]

    def ready(self, k: int) -> bool:
        """Blocks until the global batch from sample `k` on is known; False if the run ends before it does."""
        self.open()
        end = k + self.config.global_batch
        while True:
            limit = self.run_end()
            if limit is not None and end > limit:
                return False
            self.report(k)
            lacking = self._lacking(k)
            if lacking is None:
                return True
            each, need = lacking
            self.report(k, REPORT_WAITING_S)
            wait_for_tokens(
                each.stream,
                each.name,
                need,
                self.feed,
                self.stopped,
                self.config.stall_timeout_s,
                lambda: self.report(k),
            )

    def _lacking(self, k: int) -> tuple[_Open, int] | None:
        """The first stream that does not yet have what the global batch from `k` on needs, and how much that is."""
        before, after = self.mix.counts(k).tolist(), self.mix.counts(k + self.config.global_batch).tolist()
        for each, have, want in zip(self._streams, before, after, strict=True):
            if want > have and (need := self._wanted(each, want)) is not None:
                return each, need
        return None

    def waits_for(self, k: int, waited_s: float) -> str | None:
        """What the global batch from `k` on waits for, in words; None if all of it is there."""
        for each in self._streams:
            each.stream.refresh()
        lacking = self._lacking(k)
        if lacking is None:
            return None
        each, need = lacking
        return reason(each.stream, each.name, need, each.stream.n_tokens, waited_s, self.feed)

    def _wanted(self, each: _Open, n_samples: int) -> int | None:
        """Tokens that must be committed for a stream's first `n_samples`; None if they are, or all is."""
        if self._n_samples(each) is not None:
            return None
        if not each.prepared:
            return each.packing.tokens_to_prepare
        need = each.packing.tokens_before(each.order.window_end(n_samples - 1))
        return None if each.stream.n_tokens >= need else need

    def _n_samples(self, each: _Open) -> int | None:
        """Samples of a sealed stream; on the way prepares the packing as soon as that can be."""
        if each.samples is not None:
            return each.samples
        sealed = each.stream.state == "sealed"
        if not each.prepared and (sealed or each.stream.n_tokens >= each.packing.tokens_to_prepare):
            each.packing.prepare(each.stream)
            each.prepared = True
        if sealed:
            n_samples = each.packing.n_samples(each.stream.n_tokens)
            if n_samples == 0:
                raise StreamError(
                    f"stream {each.name!r} ({each.stream.path}) has {each.stream.n_tokens} tokens, "
                    f"not one row of {self.config.seq_len + 1}"
                )
            each.samples = n_samples
        return each.samples

    def run_end(self) -> int | None:
        """The sample before which the run must end, as far as it is known; None: not yet, or never."""
        if self._limit is not None:
            return self._limit
        limits: list[int] = []
        complete = True
        for number, each in enumerate(self._streams):
            n_samples = self._n_samples(each)
            if n_samples is None:
                complete = False
            elif each.spec.max_epochs is not None:
                limit = self.mix.sample_of(number, int(n_samples * each.spec.max_epochs))
                if limit is not None:
                    limits.append(limit)
        found = min(limits, default=None)
        if complete:
            self._limit = found
        return found

    @property
    def complete(self) -> bool:
        """Whether every stream is there and sealed. Never waits."""
        if not self.is_open():
            return False
        for each in self._streams:
            each.stream.refresh()
        return all(self._n_samples(each) is not None for each in self._streams)

    def place(self, samples: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.int64], NDArray[np.int64]]:
        """For each sample of the run: its stream, epoch, and number in the stream. Must be known already."""
        of, j = self.mix.assign(samples)
        if len(self._streams) == 1:
            epochs, numbers = self._streams[0].order.place(j, self._streams[0].samples)
            return of, epochs, numbers
        epochs, numbers = np.empty(j.shape, np.int64), np.empty(j.shape, np.int64)
        for stream, each in enumerate(self._streams):
            here = of == stream
            epochs[here], numbers[here] = each.order.place(j[here], each.samples)
        return of, epochs, numbers

    def fill(self, of: NDArray[np.intp], numbers: NDArray[np.int64], out: Ids) -> Pieces:
        """Writes the rows of samples of streams into `out`, (rows, seq_len + 1)."""
        if len(self._streams) == 1:
            return _fill(self._streams[0], numbers, out)
        parts: list[Pieces] = []
        for stream, each in enumerate(self._streams):
            here = np.flatnonzero(of == stream)
            if len(here):
                rows = np.empty((len(here), out.shape[1]), out.dtype)
                pieces = _fill(each, numbers[here], rows)
                out[here] = rows
                parts.append(pieces._replace(row=here[pieces.row]))
        return join_pieces(parts)

    def pieces(self, of: NDArray[np.intp], numbers: NDArray[np.int64]) -> Pieces:
        """What rows are made of, without filling them."""
        parts: list[Pieces] = []
        for stream, each in enumerate(self._streams):
            here = np.flatnonzero(of == stream)
            if len(here):
                pieces = each.packing.pieces(each.stream, numbers[here])
                parts.append(pieces._replace(row=here[pieces.row]))
        return join_pieces(parts)

    def rank_samples(self, k: int) -> NDArray[np.int64]:
        """The run's samples that this rank takes of the global batch from `k` on."""
        return np.arange(k + self.config.rank, k + self.config.global_batch, self.config.world_size)

    def build(self, k: int) -> Batch | None:
        """This rank's rows of the global batch from sample `k` on; None at the end of the run. May wait."""
        if not self.ready(k):
            return None
        return self.rows(self.rank_samples(k), k + self.config.global_batch)

    def rows(self, samples: NDArray[np.int64], end: int = 0) -> Batch:
        """The rows of samples of the run that are known already."""
        of, epochs, numbers = self.place(samples)
        tokens = self.pool.take((len(samples), self.config.seq_len + 1), self.dtype)
        pieces = self.fill(of, numbers, tokens)
        return self.batch(end, tokens, pieces, samples, of, epochs)

    def batch(
        self,
        end: int,
        tokens: Ids,
        pieces: Pieces,
        samples: NDArray[np.int64],
        of: NDArray[np.intp],
        epochs: NDArray[np.int64],
    ) -> Batch:
        """Wraps rows, wherever they were filled."""
        return Batch(
            tokens,
            pieces,
            samples=samples,
            streams=of,
            epochs=epochs,
            opened=[each.stream for each in self._streams],
            names=list(self.config.streams),
            full=self.config.pack == "concat",
            end=end,
            pool=self.pool,
            make_state=self.state,
            token_bytes=self._token_bytes,
        )

    def counts(self, name: str, block: int) -> BlockCounts:
        """What packing does to a block of a stream."""
        self.open()
        each = next((each for each in self._streams if each.name == name), None)
        if each is None:
            raise BadRequestError(f"no stream {name!r}; there are {', '.join(self.config.streams)}")
        self._n_samples(each)
        stop = (block + 1) * each.packing.block_tokens
        if block < 0 or (stop > each.stream.n_tokens and each.samples is None) or not each.prepared:
            raise BadRequestError(f"block {block} of stream {name!r} is not there yet")
        return each.packing.counts(each.stream, block)

    def state(self, k: int) -> dict[str, Any]:
        """The state after `k` samples (see `state`). Waits for the last of them if it is not there yet."""
        self.open()
        if k and self._lacking(k - self.config.global_batch) is not None:
            self.ready(k - self.config.global_batch)
        return state.of(self, k)

    def check(self, then: Mapping[str, Any]) -> int:
        """The number of samples that a state stands for, if it is one of this run's (see `state`). Waits as `state`."""
        return state.check(self, then)

    def identities(self) -> list[int]:
        """A number for each stream's name and identity, which thousands of inputs make long."""
        for each in self._streams:
            identity = each.stream.identity
            if each.known is None or each.known[0] != identity:
                each.known = identity, derive(each.name, *identity)
        return [each.known[1] for each in self._streams if each.known is not None]

    def checksum(self, sample: int) -> int:
        """Of the ids of a sample that is known already, whatever their dtype."""
        of, _, numbers = self.place(np.array([sample]))
        row = np.zeros((1, self.config.seq_len + 1), self.dtype)
        self.fill(of, numbers, row)
        return zlib.crc32(row.astype("<u4").tobytes())

    def report(self, k: int, interval_s: float = REPORT_S) -> None:
        """Tells the feed, once in `interval_s` at most, how far it is, and that it works on the batch from `k` on."""
        now = time.monotonic()
        if now - self._reported >= interval_s:
            self._reported = now
            self._release(k)
            if self.config.follow:
                self.feed.report(self.cursors(k))

    def _release(self, k: int) -> None:
        """Lets go of files behind the batch from `k` on: a retired one takes space as long as it is mapped."""
        for each, j in zip(self._streams, self.mix.counts(k).tolist(), strict=False):
            samples = each.samples or (j + 1)
            each.stream.release(each.packing.first_token(each.order.window_start(j % samples)))

    @cached_property
    def run(self) -> str:
        """Equal for loaders that read the same streams in the same order."""
        config = self.config
        paths = [os.path.abspath(path_of(spec)) for spec in config.streams.values()]
        return f"{derive('run', config.seed, config.seq_len, config.order, *paths, *self.mix.identity):016x}"

    def cursors(self, k: int) -> list[Cursor]:
        """How far the run is in each stream, while it works on the batch from `k` on."""
        config = self.config
        oldest = max(min(self.retained, self.position) - 1, 0)
        ends = (self.position, oldest, k + config.global_batch)
        now, low, want = (self.mix.counts(n).tolist() for n in ends)
        found: list[Cursor] = []
        if not self._streams:
            # None has begun, or not all.
            return [
                Cursor(name, path_of(spec), None, low_water=0, position=0, wanted=1, run=self.run)
                for name, spec in config.streams.items()
            ]
        for number, each in enumerate(self._streams):
            again = each.spec.max_epochs != 1 or config.pack == "bos" or config.shuffle == "global"
            order, packing = each.order, each.packing
            low_water = packing.first_token(order.window_start(low[number]))
            found.append(
                Cursor(
                    stream=each.name,
                    path=str(each.stream.path),
                    stream_id=each.stream.stream_id,
                    # A block looks at what ends where it begins.
                    low_water=0 if again else low_water if config.pack == "concat" else max(low_water - 1, 0),
                    position=packing.first_token(order.window_start(now[number])),
                    wanted=packing.tokens_before(order.window_end(max(want[number] - 1, 0))),
                    run=self.run,
                )
            )
        return found


def _check_tokenizers(opened: Sequence[_Open]) -> None:
    """Raises `StreamError` for streams of two tokenizers, as far as their formats tell."""
    for what in ("fingerprint", "vocabulary"):
        known: dict[str, tuple[_Open, str]] = {}
        for each in opened:
            made_by = getattr(each.stream, what)
            if made_by is None:
                continue
            # Only within a format can a name be compared.
            kind = "" if what == "fingerprint" else made_by.partition(",")[0]
            first, other = known.setdefault(kind, (each, made_by))
            if other != made_by:
                one, two = (each.stream.tokenizer or each.stream.vocabulary for each in (first, each))
                raise StreamError(
                    f"streams {first.name!r} and {each.name!r} were made by different tokenizers: {one} and {two}"
                )


def _fill(each: _Open, numbers: NDArray[np.int64], out: Ids) -> Pieces:
    pieces = each.packing.pieces(each.stream, numbers)
    width = out.shape[1]
    if each.packing.pack == "concat":
        each.stream.gather(pieces.start, width, out)
        return pieces
    if len(pieces.row) == len(out) and bool((pieces.length == width).all()):
        each.stream.gather(pieces.start, width, out)
        return pieces
    # One copy of all stretches, one after the other; where a row ends early, padding comes between.
    last = np.append(pieces.row[1:] != pieces.row[:-1], True) if len(pieces.row) else np.empty(0, np.bool_)
    ends = pieces.column + pieces.length
    filled = np.zeros(len(out), np.int64)
    filled[pieces.row[last]] = ends[last]
    padding = np.full(width, each.stream.eot_id or 0, out.dtype)
    stretches = each.stream.stretches(pieces.start, pieces.length)
    short = np.flatnonzero(filled < width)
    if len(short):
        # Behind the last piece of its row, or of an earlier row if it has none; from the back, so that
        # places that are still to come do not move.
        places = np.searchsorted(pieces.row, short, "right")
        for place, row in zip(places[::-1].tolist(), short[::-1].tolist(), strict=True):
            stretches.insert(place, padding[: width - int(filled[row])])
    np.concatenate(stretches, out=out.reshape(-1))
    return pieces
