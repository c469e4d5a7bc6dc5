"""One step's rows, and everything that can be told of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .buffers import Pool
from .packing import Pieces
from .stream import Ids, TokenStream

IGNORED = -100
"""The target that losses skip, as torch's cross_entropy has it by default."""


class Batch:
    """Rows of one global batch for one rank.

    `tokens` is there at once; everything else is computed when it is first asked for, and kept. The
    arrays belong to the caller: they stay as they are for as long as he holds the batch or a view.
    """

    def __init__(
        self,
        tokens: Ids,
        pieces: Pieces,
        *,
        samples: NDArray[np.int64],
        streams: NDArray[np.intp],
        epochs: NDArray[np.int64],
        opened: Sequence[TokenStream],
        names: Sequence[str],
        full: bool,
        end: int,
        pool: Pool,
        make_state: Callable[[int], dict[str, Any]],
        token_bytes: NDArray[np.integer[Any]] | None,
    ) -> None:
        self.tokens = tokens
        """Ids in the stream's dtype, (rows, seq_len + 1)."""
        self.pieces = pieces
        """The stretches of streams that the rows are made of."""
        self.samples = samples
        """The number of each row's sample in the run, (rows,) int64."""
        self.streams = streams
        """Which of `names` each row is from, (rows,)."""
        self.epochs = epochs
        """Which time round its stream each row is from, (rows,) int64."""
        self.names = tuple(names)
        """The streams' names."""
        self.end = end
        """Global samples that are consumed once this batch is."""
        self._opened = opened
        self._full = full
        self._pool = pool
        self._make_state = make_state
        self._token_bytes = token_bytes

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def seq_len(self) -> int:
        """Inputs, and targets, in a row."""
        return int(self.tokens.shape[1]) - 1

    @cached_property
    def inputs(self) -> NDArray[np.int32]:
        """`tokens` but the last column, (rows, seq_len) int32."""
        out = self._pool.take((len(self), self.seq_len), np.int32)
        np.copyto(out, self.tokens[:, :-1], casting="unsafe")
        return out

    @cached_property
    def targets(self) -> NDArray[np.int64]:
        """`tokens` but the first column, (rows, seq_len) int64; -100 in padding and after a cut."""
        out = self._pool.take((len(self), self.seq_len), np.int64)
        np.copyto(out, self.tokens[:, 1:], casting="unsafe")
        if not self._full:
            out.reshape(-1)[self.masked] = IGNORED
        return out

    @cached_property
    def masked(self) -> NDArray[np.int64]:
        """Which of the flat targets are -100: padding, and what follows a piece whose document goes on elsewhere."""
        if self._full:
            return np.empty(0, np.int64)
        width, pieces = self.seq_len, self.pieces
        first = np.maximum(self.lengths - 1, 0)
        n = np.maximum(width - first, 0)
        padding = np.repeat(np.arange(len(self)) * width + first - np.cumsum(n) + n, n) + np.arange(int(n.sum()))
        last = pieces.column + pieces.length - 1
        cut = pieces.cut & (last < width)
        return np.union1d(padding, pieces.row[cut] * width + last[cut])

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row that are no padding, (rows,) int64."""
        out = np.zeros(len(self), np.int64)
        np.add.at(out, self.pieces.row, self.pieces.length)
        return out

    @property
    def n_padding(self) -> int:
        """Tokens of padding in the batch."""
        return int(self.tokens.size - self.lengths.sum())

    @cached_property
    def state(self) -> dict[str, Any]:
        """What `TokenLoader.load_state_dict` needs to go on after this batch; small, plain, for JSON."""
        return self._make_state(self.end)

    @cached_property
    def n_bytes(self) -> NDArray[np.int64]:
        """Bytes of text that each row's targets stand for, (rows,) int64: for exact bits per byte.

        Raises `ValueError` if the loader was not given `token_bytes`.
        """
        if self._token_bytes is None:
            raise ValueError("bytes per row need TokenLoader(token_bytes=...), the length of each id's bytes")
        targets = self.targets
        known = targets >= 0
        lengths = np.where(known, self._token_bytes[np.where(known, targets, 0)], 0)
        return np.asarray(lengths.sum(axis=1, dtype=np.int64))

    @cached_property
    def _boundaries(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where documents and pieces begin among the flat inputs, in order, and the documents' indices."""
        width, pieces = self.seq_len, self.pieces
        of = self.streams[pieces.row] if len(self.names) > 1 else np.zeros(len(pieces.row), np.intp)
        flat = [pieces.row * width + pieces.column]
        documents = [np.empty(len(pieces.row), np.int64)]
        inside = [pieces.column < width]
        for number in np.unique(of).tolist():
            here = np.flatnonzero(of == number)
            stream = self._opened[number]
            documents[0][here] = stream.documents_at(pieces.start[here])
            span, position, document = stream.boundaries(pieces.start[here], pieces.length[here])
            span = here[span]
            column = pieces.column[span] + position - pieces.start[span]
            flat.append(pieces.row[span] * width + column)
            documents.append(document)
            inside.append(column < width)
        if not self._full:
            short = np.flatnonzero(self.lengths < width)
            flat.append(short * width + self.lengths[short])
            documents.append(np.full(len(short), -1))
            inside.append(np.ones(len(short), np.bool_))
        begins, index, keep = np.concatenate(flat), np.concatenate(documents), np.concatenate(inside)
        begins, index = begins[keep], index[keep]
        order = np.argsort(begins, kind="stable")
        return begins[order], index[order]

    @cached_property
    def cu_seqlens(self) -> NDArray[np.int32]:
        """Where documents begin among the flat inputs (rows * seq_len), then the total; int32.

        A row and a stretch of padding begin one as well. The total is repeated up to the next power of
        two (16 per row at least), so that compiled models see few shapes.
        """
        begins, _ = self._boundaries
        total = len(self) * self.seq_len
        size = 1 << max(16 * len(self), len(begins) + 1).bit_length()
        if size // 2 >= max(16 * len(self), len(begins) + 1):
            size //= 2
        out = np.full(size, total, np.int32)
        out[: len(begins)] = begins
        return out

    @cached_property
    def positions(self) -> NDArray[np.int32]:
        """Each input's place since the last boundary of `cu_seqlens`, (rows, seq_len) int32."""
        begins, _ = self._boundaries
        total = len(self) * self.seq_len
        lengths = np.diff(begins, append=total)
        flat = np.arange(total) - np.repeat(begins, lengths)
        return flat.astype(np.int32).reshape(len(self), self.seq_len)

    @cached_property
    def document_ids(self) -> NDArray[np.int64]:
        """Each input's document, by its index in its stream; -1 in padding; (rows, seq_len) int64."""
        begins, documents = self._boundaries
        lengths = np.diff(begins, append=len(self) * self.seq_len)
        return np.repeat(documents, lengths).reshape(len(self), self.seq_len)

    def __repr__(self) -> str:
        rows, columns = self.tokens.shape
        return f"Batch({rows} x {columns} {self.tokens.dtype}, samples up to {self.end})"
