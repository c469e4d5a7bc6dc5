"""How samples are cut from a stream: what a row of seq_len + 1 tokens holds.

A row has seq_len inputs and, one further, seq_len targets. Sample numbers map to tokens by arithmetic in
all policies, so that any sample is found at once, whatever comes before it, and however far the stream has
grown.

concat    Sample i is the tokens [i * seq_len, i * seq_len + seq_len]: neighbours share one token, so each
          token but the first is a target once. What is left at the end of the stream (fewer than seq_len
          tokens) is not used.

bestfit   The stream is cut into blocks of `block_tokens` (a multiple of seq_len), and each gives
          block_tokens / seq_len rows. Its documents are packed whole: the longest first, each into the
          fullest row that has room. One longer than a row becomes rows of its own, which overlap by a token
          as in concat, and a rest. What does not fit into the block's rows is cut to fill the holes that are
          left. Nothing is dropped.

bos       The same blocks, but rows begin at the start of a document, goes on through the ones that
          follow, and crops the last one. A block gives as many rows as the stream's first one did (but
          at least half of what its tokens would fill); in a block with fewer documents the rows that are
          left continue what was cropped, and what is not used is counted.

The last block is what is left of the stream, with rows in proportion. A piece of a row whose document goes
on elsewhere predicts nothing: its last target is masked (-100), as those in the padding at the end of a
row are. The target before a piece that begins inside a document is masked as well: another document's end says
nothing of it, and where pieces overlap it is a target already. Pieces are [start, start + length) of the
stream, one after the other in their row.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, insort
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import BadRequestError
from .stream import TokenStream

Pack = Literal["concat", "bos", "bestfit"]

_PLANS_KEPT = 64
"""Plans of blocks in memory; one of 2^20 tokens with documents of 700 has about 50 KB."""


class Pieces(NamedTuple):
    """What rows are made of, in the order of rows and columns; all arrays have one item per piece."""

    row: NDArray[np.int64]
    column: NDArray[np.int64]
    start: NDArray[np.int64]
    length: NDArray[np.int64]
    cut: NDArray[np.bool_]
    """What comes after the piece in its row is nothing to predict: its document goes on elsewhere, or the next
    piece begins inside one."""


def join_pieces(parts: list[Pieces]) -> Pieces:
    """Pieces of different rows, in the order of rows and columns."""
    row, column, start, length = (np.concatenate(values) for values in zip(*(part[:4] for part in parts), strict=True))
    cut = np.concatenate([part.cut for part in parts])
    order = np.lexsort((column, row))
    return Pieces(row[order], column[order], start[order], length[order], cut[order])


@dataclass(frozen=True)
class BlockCounts:
    """What packing did to a block, in tokens and documents."""

    n_tokens: int
    n_padding: int
    n_cropped: int
    """Tokens that are in no row."""
    n_cut: int
    """Pieces that end before their document does."""


class Packing:
    """Maps the samples of one stream to pieces of it. Thread-safe once `prepare` has been called.

    Parameters: `seq_len` in tokens; `pack`; `block_tokens` for bos and bestfit, rounded to a multiple
    of seq_len.
    """

    def __init__(self, seq_len: int, pack: Pack, block_tokens: int = 1 << 20) -> None:
        self.seq_len = seq_len
        self.pack = pack
        self.block_tokens = max(block_tokens // seq_len, 1) * seq_len
        self.rows_per_block = self.block_tokens // seq_len
        self._plans: OrderedDict[tuple[int, int], _Plan] = OrderedDict()
        self._lock = threading.Lock()

    def window_samples(self, window_tokens: int) -> int:
        """Samples in a shuffle window of at least one sample or block."""
        if self.pack == "concat":
            return max(window_tokens // self.seq_len, 1)
        return max(window_tokens // self.block_tokens, 1) * self.rows_per_block

    @property
    def tokens_to_prepare(self) -> int:
        """Tokens that must be there (or all of a sealed stream) before anything is known."""
        return self.block_tokens if self.pack == "bos" else 0

    def prepare(self, stream: TokenStream) -> None:
        """Counts the rows of the first block, for bos; call it once, before all others."""
        if self.pack == "bos" and stream.n_tokens:
            tokens = min(stream.n_tokens, self.block_tokens)
            spans, _ = _bos_spans(_bounds(stream, 0, tokens), tokens, self.seq_len + 1)
            measured = -(-len(spans) * self.block_tokens // tokens)
            # Not under half: a first block with one long document says little of the others.
            self.rows_per_block = max(measured, self.rows_per_block // 2, 1)

    def n_samples(self, n_tokens: int) -> int:
        """Samples in a whole stream."""
        if self.pack == "concat":
            return max(n_tokens - 1, 0) // self.seq_len
        blocks, rest = divmod(n_tokens, self.block_tokens)
        return blocks * self.rows_per_block + self._rows_of(rest)

    def _rows_of(self, n_tokens: int) -> int:
        """Rows of a block of n tokens: in proportion, rounded up."""
        return -(-n_tokens * self.rows_per_block // self.block_tokens)

    def tokens_before(self, n_samples: int) -> int:
        """Tokens of a growing stream that must be there for its first `n_samples` samples."""
        if self.pack == "concat":
            return n_samples * self.seq_len + 1
        return -(-n_samples // self.rows_per_block) * self.block_tokens

    def first_token(self, sample: int) -> int:
        """No sample from this one on needs a token before that position."""
        if self.pack == "concat":
            return sample * self.seq_len
        return sample // self.rows_per_block * self.block_tokens

    def pieces(self, stream: TokenStream, samples: NDArray[np.int64]) -> Pieces:
        """What the rows of these samples are made of; row i is `samples[i]`."""
        if self.pack == "concat":
            n = len(samples)
            length = np.full(n, self.seq_len + 1, np.int64)
            zeros = np.zeros(n, np.int64)
            return Pieces(np.arange(n), zeros, samples * self.seq_len, length, np.zeros(n, np.bool_))
        blocks, rows = np.divmod(samples, self.rows_per_block)
        parts = []
        for block in np.unique(blocks).tolist():
            here = np.flatnonzero(blocks == block)
            parts.append(self._plan(stream, block).rows(rows[here], here))
        return join_pieces(parts)

    def counts(self, stream: TokenStream, block: int) -> BlockCounts:
        """What packing did to a block that is all there."""
        if self.pack == "concat":
            raise BadRequestError("concat has no blocks")
        if block * self.block_tokens >= stream.n_tokens:
            raise BadRequestError(f"block {block} begins behind the stream's {stream.n_tokens} tokens")
        return self._plan(stream, block).counts

    def _plan(self, stream: TokenStream, block: int) -> _Plan:
        start = block * self.block_tokens
        stop = min(start + self.block_tokens, stream.n_tokens)
        with self._lock:
            plan = self._plans.get((block, stop))
            if plan is None:
                bounds = _bounds(stream, start, stop)
                make = _plan_bos if self.pack == "bos" else _plan_bestfit
                plan = make(bounds, stop, self._rows_of(stop - start), self.seq_len)
                self._plans[block, stop] = plan
                if len(self._plans) > _PLANS_KEPT:
                    self._plans.popitem(last=False)
            else:
                self._plans.move_to_end((block, stop))
            return plan


Span = tuple[int, int]
"""Start and length."""


class _Bounds(NamedTuple):
    """Documents of a block: `starts[i]` to `starts[i + 1]` or the block's end."""

    starts: list[int]
    begins: bool
    """Whether the first one begins here, not before the block."""
    ends: bool
    """Whether the last one ends here, not after the block."""


def _bounds(stream: TokenStream, start: int, stop: int) -> _Bounds:
    ends = np.unique(stream.ends_between(start, stop)).tolist()
    begins = start == 0 or bool(len(stream.ends_between(start - 1, start)))
    complete = bool(ends) and ends[-1] == stop
    inner = ends[:-1] if complete else ends
    return _Bounds([start, *inner], begins, complete)


class _Plan:
    """The rows of a block."""

    def __init__(self, rows: list[list[Span]], bounds: _Bounds, stop: int, width: int, counts: tuple[int, int]) -> None:
        """`counts`: tokens of the block, and those in no row."""
        lengths = [len(row) for row in rows]
        self._first = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        spans = np.array([span for row in rows for span in row], np.int64).reshape(-1, 2)
        self._start, self._length = spans[:, 0].copy(), spans[:, 1].copy()
        before = np.concatenate([[0], np.cumsum(self._length)])
        self._column = before[:-1] - np.repeat(before[self._first[:-1]], lengths)
        ends = self._start + self._length
        cut = ~np.isin(ends, [*bounds.starts[1:], *([stop] if bounds.ends else [])])
        inside = ~np.isin(self._start, bounds.starts if bounds.begins else bounds.starts[1:])
        # A piece at the start of a row comes after none.
        before_inside = np.append(inside & (self._column > 0), False)[1:]
        self._cut = cut | before_inside
        n_tokens, n_cropped = counts
        padding = len(rows) * width - int(self._length.sum())
        self.counts = BlockCounts(n_tokens, padding, n_cropped, int(cut.sum()))

    def rows(self, rows: NDArray[np.int64], numbers: NDArray[np.int64]) -> Pieces:
        """The pieces of some rows, which get other numbers."""
        first = self._first[rows]
        n = self._first[rows + 1] - first
        at = np.repeat(first - np.cumsum(n) + n, n) + np.arange(int(n.sum()))
        return Pieces(np.repeat(numbers, n), self._column[at], self._start[at], self._length[at], self._cut[at])


def _documents(bounds: _Bounds, stop: int) -> list[Span]:
    ends = [*bounds.starts[1:], stop]
    return [(start, end - start) for start, end in zip(bounds.starts, ends, strict=True) if end > start]


def _plan_bestfit(bounds: _Bounds, stop: int, n_rows: int, seq_len: int) -> _Plan:
    width = seq_len + 1
    pieces: list[Span] = []
    for start, length in _documents(bounds, stop):
        while length > width:
            pieces.append((start, width))
            start, length = start + seq_len, length - seq_len
        pieces.append((start, length))
    rows = best_fit(pieces, width)
    if len(rows) > n_rows:
        # The fullest rows stay as they are; the others' documents fill the holes.
        rows.sort(key=lambda row: (-sum(length for _, length in row), row))
        kept, left = rows[:n_rows], [piece for row in rows[n_rows:] for piece in row]
        room = [width - sum(length for _, length in row) for row in kept]
        holes = sorted(range(n_rows), key=lambda row: (-room[row], row))
        for start, length in left:
            while length:
                hole = holes[0]
                n = min(length, room[hole])
                kept[hole].append((start, n))
                start, length = start + n, length - n
                room[hole] -= n
                if not room[hole]:
                    holes.pop(0)
        rows = kept
    for row in rows:
        row.sort()
    rows.sort()
    rows += [[] for _ in range(n_rows - len(rows))]
    return _Plan(rows, bounds, stop, width, (stop - bounds.starts[0], 0))


def best_fit(pieces: list[Span], width: int) -> list[list[Span]]:
    """Best-fit decreasing: each piece, the longest first, goes into the fullest row with room for it.

    Among equals the earlier piece, and the row opened last. No piece is longer than `width`.
    """
    rows: list[list[Span]] = []
    by_room: dict[int, list[int]] = {}
    rooms: list[int] = []
    for piece in sorted(pieces, key=lambda piece: (-piece[1], piece[0])):
        length = piece[1]
        at = bisect_left(rooms, length)
        if at == len(rooms):
            number = len(rows)
            rows.append([piece])
            left = width - length
        else:
            room = rooms[at]
            same = by_room[room]
            number = same.pop()
            if not same:
                del by_room[room]
                rooms.pop(at)
            rows[number].append(piece)
            left = room - length
        if left:
            if left not in by_room:
                by_room[left] = []
                insort(rooms, left)
            by_room[left].append(number)
    return rows


def _bos_spans(bounds: _Bounds, stop: int, width: int) -> tuple[list[Span], list[Span]]:
    """Rows that begin at a document, and what no such row holds."""
    rows: list[Span] = []
    rests: list[Span] = []
    starts = bounds.starts if bounds.begins else bounds.starts[1:]
    covered = bounds.starts[0]
    at = 0
    while at < len(starts):
        start = starts[at]
        if start > covered:
            rests.append((covered, start - covered))
        covered = min(start + width, stop)
        rows.append((start, covered - start))
        at = bisect_left(starts, covered, at + 1)
    if covered < stop:
        rests.append((covered, stop - covered))
    return rows, rests


def _plan_bos(bounds: _Bounds, stop: int, n_rows: int, seq_len: int) -> _Plan:
    width = seq_len + 1
    spans, rests = _bos_spans(bounds, stop, width)
    unused = sum(length for _, length in spans[n_rows:])
    rows = [[span] for span in spans[:n_rows]]
    longest_first = sorted(rests, key=lambda rest: (-rest[1], rest[0]))
    for start, length in longest_first:
        while length and len(rows) < n_rows:
            n = min(length, width)
            rows.append([(start, n)])
            start, length = start + n, length - n
        unused += length
    rows += [[] for _ in range(n_rows - len(rows))]
    return _Plan(rows, bounds, stop, width, (stop - bounds.starts[0], unused))
