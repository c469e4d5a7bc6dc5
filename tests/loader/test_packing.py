"""Packing: every token where it belongs, rows fixed in number, cuts and padding counted and masked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokend_client import TokenLoader, TokenStream
from tokend_client.errors import BadRequestError, StreamError
from tokend_client.packing import Pack, Packing, best_fit
from tokend_client.testing import StreamWriter

from . import naive


def naive_best_fit(pieces: list[tuple[int, int]], width: int) -> list[list[tuple[int, int]]]:
    """Looks at every row for every piece."""
    rows: list[list[tuple[int, int]]] = []
    changed: list[int] = []
    for time, (start, length) in enumerate(sorted(pieces, key=lambda piece: (-piece[1], piece[0]))):
        rooms = [width - sum(n for _, n in row) for row in rows]
        fits = [(room, -changed[number], number) for number, room in enumerate(rooms) if room >= length]
        if fits:
            number = min(fits)[2]
            rows[number].append((start, length))
            changed[number] = time
        else:
            rows.append([(start, length)])
            changed.append(time)
    return rows


@given(lengths=st.lists(st.integers(1, 20), max_size=60))
@settings(max_examples=150, deadline=None)
def test_best_fit_as_the_naive_twin(lengths: list[int]) -> None:
    pieces = [(100 * number, length) for number, length in enumerate(lengths)]
    assert best_fit(pieces, 20) == naive_best_fit(pieces, 20)


def write(folder: Path, documents: list[np.ndarray], segment_tokens: int = 700) -> TokenStream:
    writer = StreamWriter(folder, segment_tokens=segment_tokens)
    for number, document in enumerate(documents):
        writer.append(document)
        if number % 9 == 8:
            writer.commit()
    writer.seal()
    return TokenStream(folder)


@pytest.mark.parametrize("pack", ["bos", "bestfit"])
@given(
    lengths=st.lists(st.integers(1, 70), min_size=1, max_size=80),
    seq_len=st.integers(1, 30),
    block_tokens=st.integers(1, 400),
)
@settings(max_examples=60, deadline=None)
def test_where_the_tokens_go(
    tmp_path_factory: pytest.TempPathFactory, pack: Pack, lengths: list[int], seq_len: int, block_tokens: int
) -> None:
    documents = [np.arange(length) for length in lengths]
    stream = write(tmp_path_factory.mktemp("s"), documents)
    packing = Packing(seq_len, pack, block_tokens)
    packing.prepare(stream)
    n_samples = packing.n_samples(stream.n_tokens)
    pieces = packing.pieces(stream, np.arange(n_samples))
    ends = set(np.cumsum(lengths).tolist())
    used = np.zeros(stream.n_tokens, np.int64)
    filled = np.zeros(n_samples, np.int64)
    overlaps = n_cut = 0
    starts = {0, *ends}
    following = zip([*pieces.row[1:].tolist(), -1], [*pieces.start[1:].tolist(), 0], strict=True)
    for (row, column, start, length, cut), (next_row, next_start) in zip(
        zip(*pieces, strict=True), following, strict=True
    ):
        assert column == filled[row], "pieces stand one after the other"
        filled[row] += length
        before_inside = next_row == row and next_start not in starts
        assert cut == (start + length not in ends or before_inside)
        n_cut += start + length not in ends
        overlaps += int((used[start : start + length] > 0).sum())
        used[start : start + length] += 1
    assert filled.max() <= seq_len + 1
    blocks = -(-stream.n_tokens // packing.block_tokens)
    counts = [packing.counts(stream, block) for block in range(blocks)]
    assert sum(c.n_tokens for c in counts) == stream.n_tokens
    assert sum(c.n_cropped for c in counts) == int((used == 0).sum())
    assert sum(c.n_padding for c in counts) == n_samples * (seq_len + 1) - int(filled.sum())
    assert sum(c.n_cut for c in counts) == n_cut
    if pack == "bestfit":
        assert used.min() == 1, "nothing is dropped"
        long_documents = [length for length in lengths if length > seq_len + 1]
        assert overlaps <= sum(-(-length // seq_len) for length in long_documents) + blocks
    else:
        assert overlaps == 0, "nothing comes twice"
        assert np.array_equal(pieces.column, np.zeros(len(pieces.row))), "a row is one stretch"
        begin = np.array([start in starts for start in pieces.start.tolist()])
        assert begin.any() or len(lengths) == 1


def test_rows_are_as_the_pieces_say(tmp_path: Path) -> None:
    documents = naive.documents(seed=4, n=400, longest=60)
    stream = write(tmp_path, documents)
    flat = np.concatenate(documents)
    for pack in ("concat", "bos", "bestfit"):
        loader = TokenLoader(stream, seq_len=32, global_batch=8, pack=pack, block_tokens=1000, window_tokens=3000)
        for batch in loader:
            expected = np.full(batch.tokens.shape, naive.EOT)
            for row, column, start, length, _ in zip(*batch.pieces, strict=True):
                expected[row, column : column + length] = flat[start : start + length]
            assert np.array_equal(batch.tokens, expected)
            if pack == "concat":
                assert np.array_equal(batch.targets, batch.tokens[:, 1:]) and batch.n_padding == 0
                continue
            # A target follows every token but the last of a row, of a cut piece, and padding.
            for row in range(8):
                length = int(batch.lengths[row])
                want = np.append(expected[row, 1:length], np.full(33 - max(length, 1), -100))[:32]
                mine = batch.pieces.row == row
                for column, n, cut in zip(
                    batch.pieces.column[mine], batch.pieces.length[mine], batch.pieces.cut[mine], strict=True
                ):
                    if cut and column + n - 1 < 32:
                        want[column + n - 1] = -100
                assert np.array_equal(batch.targets[row], want)


def test_no_token_is_a_target_twice(tmp_path: Path) -> None:
    """Rows of a long document overlap by a token, which what stood before the second one does not predict again."""
    stream = write(tmp_path, naive.documents(seed=4, n=300, longest=90))
    times = np.zeros(stream.n_tokens, np.int64)
    starts = {0, *stream.ends.tolist()}
    n_inside = 0
    for batch in TokenLoader(stream, seq_len=32, global_batch=1, pack="bestfit", block_tokens=1000, shuffle="none"):
        row = batch.tokens[0].astype(np.int64)
        for column, start, length in zip(batch.pieces.column, batch.pieces.start, batch.pieces.length, strict=True):
            where = np.arange(column, column + length)
            # Column c is predicted by the target at c - 1.
            predicted = where[(where > 0) & (batch.targets[0][np.maximum(where - 1, 0)] >= 0)]
            assert np.array_equal(batch.targets[0][predicted - 1], row[predicted])
            times[start + predicted - column] += 1
            if column and start not in starts:
                n_inside += 1
                assert batch.targets[0][column - 1] == -100
    assert n_inside > 10 and times.max() == 1 and times.mean() > 0.9


def test_counts_of_a_block(tmp_path: Path) -> None:
    stream = write(tmp_path, naive.documents(seed=4, n=400, longest=60))
    loader = TokenLoader({"web": stream}, seq_len=32, global_batch=8, pack="bos", block_tokens=1000)
    counts = loader.packing_counts("web", 2)
    assert counts.n_tokens == 992 and 0 < counts.n_cropped < 500
    for name, block in (("code", 0), ("web", -1), ("web", 10**6)):
        with pytest.raises(BadRequestError):
            loader.packing_counts(name, block)


def test_documents_are_needed(tmp_path: Path) -> None:
    np.arange(1000, dtype="<u2").tofile(tmp_path / "raw.bin")
    stream = TokenStream(tmp_path / "raw.bin", dtype="uint16")
    with pytest.raises(StreamError, match=r"pack='bos' needs documents\nhint: give eot_id="):
        TokenLoader(stream, seq_len=8, global_batch=1, pack="bos")
