"""Batches of tokens for training, the same ones in every run.

Which tokens a batch has is a function of the streams, the configuration and the batch's number, and of
nothing else: not of time, workers, ranks, or whether the streams were finished when the run began.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .assemble import Assembler
from .batch import Batch
from .errors import BadRequestError, TokendError
from .feed import Feed, Polling
from .mix import Stage
from .order import Shuffle
from .packing import BlockCounts, Pack
from .prefetch import InlineSource, Source, ThreadSource
from .run import Config, Stream, StreamLike, integer, stream_of
from .stream import Origin, TokenStream

__all__ = ["LoaderStats", "Stream", "TokenLoader"]

log = logging.getLogger("tokend_client.loader")


@dataclass(frozen=True)
class LoaderStats:
    """What a loader has done since it was made."""

    n_batches: int
    n_tokens: int
    """Inputs handed out on this rank."""
    wait_s: float
    """Time that the training loop has waited for batches."""
    queue_depth: int
    """Batches that are ready now."""


class TokenLoader:
    """Endless or finite batches from one or several streams, shuffled, mixed, packed, resumable.

        loader = TokenLoader("corpus.bin", seq_len=1024, global_batch=8)
        for batch in loader:
            loss = step(batch.inputs, batch.targets)  # int32 and int64, (8, 1024)
            save(batch.state)  # small and JSON; belongs to this batch, however far the loader is ahead

    Parameters:
    `streams`: a path, `TokenStream` or `Stream`, or a mapping of names to them (a mixture).
    `seq_len`: tokens of input in a row. `global_batch`: rows of a step, over all ranks.
    `rank`, `world_size`: this process takes every `world_size`-th row, beginning with `rank`.
    `seed`: of shuffling and mixing. `shuffle`: "window" (inside windows of `window_tokens` of the stream,
    so that a growing stream can be read), "none", or "global" (over the whole stream, which must be sealed).
    `pack`: "concat", "bos" or "bestfit" (see `packing.py`), the latter two in blocks of `block_tokens`.
    `stages`: `(from_sample, {name: weight})` in order, in place of the streams' own weights.
    `follow`: read streams that are still written, waiting where they end so far.
    `prefetch`: batches made ahead by a thread (0: none, all work in the caller's thread).
    `workers`: processes that read in place of the thread; `start_method` as in `multiprocessing`.
    `fingerprint`: of the tokenizer that all streams must have been made with.
    `token_bytes`: bytes of each id, for `batch.n_bytes`. `feed`: the link to a writer (`feed.py`).
    `stall_timeout_s`: how long a followed stream may stand still before `StarvedError`.

    A loader goes on where it is: a second `for` continues, `load_state_dict` and `seek` move it. The run
    ends when a stream has been read `max_epochs` times (1 unless a `Stream` says otherwise); the rows that
    do not fill a last global batch are not used. Every rank gets the same number of batches.

    Iterate in one thread. A forked child must make its own iterator. It pickles as its configuration and
    position, without its feed. Raises `BadRequestError` for parameters that make no sense, and what
    `TokenStream` raises.
    """

    def __init__(
        self,
        streams: StreamLike | Mapping[str, StreamLike],
        *,
        seq_len: int,
        global_batch: int,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        shuffle: Shuffle = "window",
        window_tokens: int = 1 << 22,
        pack: Pack = "concat",
        block_tokens: int = 1 << 20,
        stages: Sequence[Stage] = (),
        follow: bool = False,
        prefetch: int = 2,
        workers: int = 0,
        start_method: str | None = None,
        fingerprint: str | None = None,
        token_bytes: Any = None,
        feed: Feed | None = None,
        stall_timeout_s: float = 1800.0,
    ) -> None:
        given = streams if isinstance(streams, Mapping) else {"stream": streams}
        if not given:
            raise BadRequestError("no streams")
        seq_len, global_batch = integer("seq_len", seq_len), integer("global_batch", global_batch)
        rank, world_size, seed = integer("rank", rank), integer("world_size", world_size), integer("seed", seed)
        window_tokens, block_tokens = integer("window_tokens", window_tokens), integer("block_tokens", block_tokens)
        prefetch, workers = integer("prefetch", prefetch), integer("workers", workers)
        if not -(1 << 63) <= seed < 1 << 64:
            raise BadRequestError(f"seed={seed}: 64 bits at most")
        stages = tuple((integer("the first sample of a stage", start), dict(weights)) for start, weights in stages)
        specs = {name: stream_of(stream, fingerprint) for name, stream in given.items()}
        for what, value, least in (
            ("seq_len", seq_len, 1),
            ("global_batch", global_batch, 1),
            ("world_size", world_size, 1),
            ("window_tokens", window_tokens, 1),
            ("block_tokens", block_tokens, 1),
            ("prefetch", prefetch, 0),
            ("workers", workers, 0),
        ):
            if value < least:
                raise BadRequestError(f"{what}={value}: at least {least}")
        if not 0 <= rank < world_size:
            raise BadRequestError(f"rank={rank} of world_size={world_size}: ranks are 0 to {world_size - 1}")
        if global_batch % world_size:
            raise BadRequestError(
                f"global_batch={global_batch} rows cannot be shared by world_size={world_size}",
                f"give a multiple of {world_size}",
            )
        if shuffle not in ("none", "window", "global"):
            raise BadRequestError(f"shuffle={shuffle!r} is none of 'none', 'window', 'global'")
        if pack not in ("concat", "bos", "bestfit"):
            raise BadRequestError(f"pack={pack!r} is none of 'concat', 'bos', 'bestfit'")
        if shuffle == "global" and follow:
            raise BadRequestError(
                "a global shuffle needs streams that are whole, so follow=True makes no sense",
                "use shuffle='window', or wait until they are sealed",
            )
        for name, spec in specs.items():
            if spec.max_epochs is not None and spec.max_epochs < 1:
                raise BadRequestError(f"stream {name!r}: max_epochs={spec.max_epochs}: at least 1, or None")
        weights = {name: spec.weight for name, spec in specs.items()}
        self._config = Config(
            streams=specs,
            seq_len=seq_len,
            global_batch=global_batch,
            rank=rank,
            world_size=world_size,
            seed=seed,
            shuffle=shuffle,
            window_tokens=window_tokens,
            pack=pack,
            block_tokens=block_tokens,
            stages=stages or ((0, weights),),
            follow=follow,
            stall_timeout_s=stall_timeout_s,
        )
        self._prefetch = prefetch
        self._workers = workers
        self._start_method = start_method
        self._feed = feed
        self._token_bytes = None if token_bytes is None else np.asarray(token_bytes)
        self._k = 0
        self._retained = 0
        self._pending: dict[str, Any] | None = None
        self._n_batches = 0
        self._wait_s = 0.0
        self._iterator: _BatchIterator | None = None
        self._pid = os.getpid()
        self._assembler = self._new_assembler()
        if not follow:
            self._assembler.open()

    def _new_assembler(self) -> Assembler:
        return Assembler(
            self._config,
            self._feed if self._feed is not None else Polling(),
            token_bytes=self._token_bytes,
            keep=2 * (self._prefetch + 4),
        )

    def __getstate__(self) -> dict[str, Any]:
        if self._feed is not None:
            log.warning("a pickled loader has no feed: its copy reports nothing; give one where it is unpickled")
        kept = dict(self.__dict__)
        del kept["_assembler"]
        kept["_iterator"] = kept["_feed"] = None
        return kept

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._pid = os.getpid()
        self._assembler = self._new_assembler()

    @property
    def streams(self) -> dict[str, TokenStream]:
        """The open streams by name; with `follow`, waits for those that have not begun."""
        return dict(zip(self._config.streams, self._assembler.open(), strict=True))

    @property
    def position(self) -> int:
        """Global samples that have been handed out."""
        return self._k if self._pending is None else int(self._pending["k"])

    @property
    def shares(self) -> dict[str, float]:
        """The exact share of each stream in the first stage, as rounded (see `mix.py`)."""
        places = self._assembler.mix.places[0]
        return dict(zip(self._config.streams, (places / places.sum()).tolist(), strict=True))

    @property
    def n_samples(self) -> int | None:
        """Samples in the whole run, or None while that is not known or if there is no end. Never waits."""
        return self._assembler.run_end() if self._assembler.complete else None

    def rows(self, samples: NDArray[np.int64]) -> Batch:
        """The rows of any samples of a run whose streams are sealed, whatever the rank; does not move the loader.

        Raises `IndexError` for a sample that the run does not have, `BadRequestError` while a stream grows.
        """
        end = self.n_samples
        if end is None:
            raise BadRequestError("rows at will need streams that are sealed, and a run that ends", "iterate instead")
        if len(samples) and (int(samples.min()) < 0 or int(samples.max()) >= end):
            raise IndexError(f"samples {int(samples.min())} to {int(samples.max())} of a run of {end}")
        return self._assembler.rows(samples)

    def seek(self, sample: int) -> None:
        """Goes to a global sample, a multiple of `global_batch`; the next batch begins there."""
        if sample < 0 or sample % self._config.global_batch:
            raise BadRequestError(f"sample {sample} is no multiple of global_batch={self._config.global_batch}")
        self._close_iterator()
        self._pending = None
        self._k = self._retained = sample

    def __len__(self) -> int:
        """Batches that are left. Raises `TypeError` if that is not known: streams that grow, or no end."""
        # Never waits: list() asks for the length before it begins.
        end = self.n_samples
        if end is None:
            raise TypeError("the number of batches is not known: a stream still grows, or the run has no end")
        k = self.position
        return max(end // self._config.global_batch - k // self._config.global_batch, 0)

    def __iter__(self) -> Iterator[Batch]:
        self._close_iterator()
        self._resume()
        self._assembler.position, self._assembler.retained = self._k, self._retained
        self._iterator = _BatchIterator(self)
        return self._iterator

    def every(self, first: int, step: int) -> Iterator[Batch]:
        """Batches `first`, `first + step`, ... of those that are left, made in the caller's thread.

        For workers of another framework that share a loader's batches; does not move the loader.
        """
        self._close_iterator()
        self._resume()
        k = self._k + first * self._config.global_batch
        while (batch := self._assembler.build(k)) is not None:
            yield batch
            k += step * self._config.global_batch

    def _source(self) -> Source:
        if self._workers:
            from .workers import WorkerSource

            return WorkerSource(self._config, self._assembler, self._k, self._workers, self._start_method)
        if self._prefetch:
            return ThreadSource(self._assembler, self._k, self._prefetch)
        return InlineSource(self._assembler, self._k)

    def _handed_out(self, batch: Batch, waited_s: float) -> None:
        self._k = self._assembler.position = batch.end
        self._n_batches += 1
        self._wait_s += waited_s

    def _close_iterator(self) -> None:
        if self._pid != os.getpid():
            # A forked child: its parent's threads and processes are not its own, nor are locks that
            # one of those threads may have held.
            self._pid = os.getpid()
            self._config = self._config.reopened()
            self._assembler = self._new_assembler()
        elif self._iterator is not None:
            self._iterator.close()
        self._iterator = None

    def state_dict(self) -> dict[str, Any]:
        """The state after the last batch that was handed out: `batch.state` of that batch."""
        if self._pending is not None:
            return dict(self._pending)
        return self._assembler.state(self._k)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on after the batch whose state it is.

        rank, world_size, workers and prefetch may differ from the run that made it, and global_batch if
        the state's sample is a multiple of the new one. Raises `StateMismatchError` for a state of other
        data or another order. With `follow`, what cannot be checked yet is checked by the next `for`.
        """
        self._close_iterator()
        if self._config.follow:
            self._pending = dict(state)
        else:
            self._k = self._retained = self._assembler.check(state)

    def _resume(self) -> None:
        if self._pending is not None:
            self._k = self._retained = self._assembler.check(self._pending)
            self._pending = None

    def retain(self, state: Mapping[str, Any]) -> None:
        """Says that no state older than this one will be loaded again, so a writer may delete what only
        those need. Without it nothing that this loader has read is given up."""
        self._retained = self._assembler.retained = max(self._retained, int(state["k"]))

    def packing_counts(self, stream: str, block: int = 0) -> BlockCounts:
        """What packing does to a block of a stream: tokens, padding, cropped tokens, cuts.

        For pack="bos" and "bestfit", and blocks that are all there.
        """
        return self._assembler.counts(stream, block)

    def explain(self, batch: Batch, row: int, column: int) -> tuple[str, Origin]:
        """The stream's name, and where in it a token of a batch comes from: document and input file.

        Raises `IndexError` outside the batch and in padding.
        """
        pieces = batch.pieces
        here = np.flatnonzero(
            (pieces.row == row) & (pieces.column <= column) & (column < pieces.column + pieces.length)
        )
        if not len(here):
            raise IndexError(f"row {row}, column {column} of {batch!r} is outside, or padding")
        piece = int(here[0])
        name = batch.names[int(batch.streams[row])]
        position = int(pieces.start[piece]) + column - int(pieces.column[piece])
        return name, self.streams[name].explain(position)

    @property
    def stats(self) -> LoaderStats:
        """What has been done so far."""
        return LoaderStats(
            n_batches=self._n_batches,
            n_tokens=self._n_batches * self._config.rows * self._config.seq_len,
            wait_s=self._wait_s,
            queue_depth=self._iterator.depth if self._iterator is not None else 0,
        )

    def close(self) -> None:
        """Ends threads and processes; the loader may be used again."""
        self._close_iterator()

    def __enter__(self) -> TokenLoader:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        config = self._config
        names = ", ".join(config.streams)
        return (
            f"TokenLoader({names}; {config.rows} of {config.global_batch} rows x {config.seq_len}, "
            f"{config.order}, at sample {self._k})"
        )


class _BatchIterator(Iterator[Batch]):
    """Hands batches out, and keeps the loader's position."""

    def __init__(self, loader: TokenLoader) -> None:
        self._loader = loader
        self._pid = os.getpid()
        self._source: Source | None = loader._source()

    @property
    def depth(self) -> int:
        return self._source.depth if self._source is not None else 0

    def __next__(self) -> Batch:
        if self._pid != os.getpid():
            raise TokendError("this iterator belongs to the process that made it", "call iter(loader) in this one")
        if self._source is None:
            raise StopIteration
        begun = time.monotonic()
        try:
            batch = self._source.next()
        except BaseException:
            self.close()
            raise
        if batch is None:
            self.close()
            raise StopIteration
        self._loader._handed_out(batch, time.monotonic() - begun)
        return batch

    def close(self) -> None:
        source, self._source = self._source, None
        if source is not None:
            source.close()

    def __del__(self) -> None:
        if getattr(self, "_source", None) is not None and self._pid == os.getpid():
            self.close()
