"""Batches against a plain computation of them; state, ranks, mixtures, and what can be told of a batch."""

from __future__ import annotations

import json
import os
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokend_client import Batch, Stream, TokenLoader, TokenStream
from tokend_client.errors import BadRequestError, StateMismatchError, StreamError
from tokend_client.feed import Polling
from tokend_client.testing import FAKE_TOKENIZER, StreamWriter

from . import naive

DOCUMENTS = naive.documents(seed=2, n=300, longest=80)
FLAT = np.concatenate(DOCUMENTS)
ENDS = np.cumsum([len(document) for document in DOCUMENTS])
SEQ_LEN = 16
N_SAMPLES = (len(FLAT) - 1) // SEQ_LEN


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Path:
    writer = StreamWriter(tmp_path_factory.mktemp("web"), segment_tokens=1500)
    for number, document in enumerate(DOCUMENTS):
        writer.append(document)
        if number % 20 == 19:
            writer.commit()
    writer.seal()
    return writer.folder


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    writer = StreamWriter(tmp_path_factory.mktemp("code"), dtype="uint32")
    for document in naive.documents(seed=3, n=100, longest=80):
        writer.append(document + 1)
    writer.seal()
    return writer.folder


def row(sample: int) -> np.ndarray:
    return FLAT[sample * SEQ_LEN : sample * SEQ_LEN + SEQ_LEN + 1]


@pytest.mark.parametrize(("shuffle", "window"), [("none", None), ("window", 20), ("global", 0)])
@pytest.mark.parametrize("prefetch", [0, 3])
def test_every_batch_as_the_naive_twin(web: Path, shuffle: Any, window: int | None, prefetch: int) -> None:
    with TokenLoader(
        {"web": web}, seq_len=SEQ_LEN, global_batch=8, seed=5, shuffle=shuffle, window_tokens=20 * SEQ_LEN + 3,
        prefetch=prefetch,
    ) as loader:  # fmt: skip
        assert len(loader) == N_SAMPLES // 8
        k = 0
        for batch in loader:
            expected = np.stack([row(naive.sample_at(k + n, N_SAMPLES, window, 5, "web")) for n in range(8)])
            assert np.array_equal(batch.tokens, expected) and batch.tokens.dtype == np.uint16
            assert np.array_equal(batch.inputs, expected[:, :-1]) and batch.inputs.dtype == np.int32
            assert np.array_equal(batch.targets, expected[:, 1:]) and batch.targets.dtype == np.int64
            k += 8
            assert batch.end == loader.position == k
        assert k == N_SAMPLES // 8 * 8 and len(loader) == 0 and list(loader) == []
        assert loader.stats.n_tokens == k * SEQ_LEN


def test_a_mixture_as_the_naive_twin(web: Path, code: Path) -> None:
    loader = TokenLoader(
        {"web": Stream(web, weight=0.75, max_epochs=2), "code": Stream(code, weight=0.25, max_epochs=None)},
        seq_len=SEQ_LEN, global_batch=6, seed=1, shuffle="window", window_tokens=10 * SEQ_LEN,
    )  # fmt: skip
    streams = [TokenStream(web)[:], TokenStream(code)[:]]
    n = [(len(tokens) - 1) // SEQ_LEN for tokens in streams]
    assert loader.shares == {"web": 0.75, "code": 0.25}
    dealt = naive.deal(len(loader) * 6 + 6, [7500, 2500], 1)
    # It ends before the first sample of a third time round `web`.
    assert max(j for s, j in dealt[: len(loader) * 6] if s == 0) < 2 * n[0] <= max(j for s, j in dealt if s == 0)
    for batch in loader:
        assert batch.tokens.dtype == np.uint32
        for k, tokens, s, epoch in zip(batch.samples, batch.tokens, batch.streams, batch.epochs, strict=True):
            stream, j = dealt[k]
            assert (s, epoch) == (stream, j // n[stream])
            i = naive.sample_at(j, n[stream], 10, 1, loader._config.order and ["web", "code"][stream])
            assert np.array_equal(tokens, streams[stream][i * SEQ_LEN : i * SEQ_LEN + SEQ_LEN + 1])


def test_stages(web: Path, code: Path) -> None:
    streams = {"web": Stream(web, max_epochs=None), "code": Stream(code, max_epochs=None)}
    stages = [(0, {"web": 1}), (40, {"code": 1}), (80, {"web": 1, "code": 1})]
    loader = TokenLoader(streams, seq_len=SEQ_LEN, global_batch=20, stages=stages)
    with pytest.raises(TypeError, match="no end"):
        len(loader)
    seen = [batch.streams.tolist() for batch, _ in zip(loader, range(6), strict=False)]
    assert seen[0] == seen[1] == [0] * 20 and seen[2] == seen[3] == [1] * 20 and set(seen[4] + seen[5]) == {0, 1}


@pytest.mark.parametrize("pack", ["concat", "bos", "bestfit"])
def test_documents_of_a_batch(web: Path, pack: Any) -> None:
    """cu_seqlens, positions and document ids against a walk over every token."""
    loader = TokenLoader(web, seq_len=SEQ_LEN, global_batch=8, pack=pack, block_tokens=600, window_tokens=1500)
    for batch in loader:
        bounds, positions, ids = [], [], []
        for r in range(8):
            mine = batch.pieces.row == r
            cells: list[tuple[int, bool]] = []
            for start, length in zip(
                batch.pieces.start[mine].tolist(), batch.pieces.length[mine].tolist(), strict=True
            ):
                for at in range(start, start + length):
                    document = int(np.searchsorted(ENDS, at, "right"))
                    cells.append((document, at == start or at in ENDS))
            cells += [(-1, n == 0) for n in range(SEQ_LEN + 1 - len(cells))]
            for column, (document, first) in enumerate(cells[:SEQ_LEN]):
                if first:
                    bounds.append(r * SEQ_LEN + column)
                positions.append(r * SEQ_LEN + column - bounds[-1])
                ids.append(document)
        total = 8 * SEQ_LEN
        n = len(bounds)
        assert batch.cu_seqlens[:n].tolist() == bounds and batch.cu_seqlens.dtype == np.int32
        assert len(batch.cu_seqlens) == 128 and set(batch.cu_seqlens[n:].tolist()) == {total}
        assert batch.positions.reshape(-1).tolist() == positions
        assert batch.document_ids.reshape(-1).tolist() == ids


def test_bytes_of_a_batch(web: Path) -> None:
    table = np.arange(50_257) % 11
    loader = TokenLoader(web, seq_len=SEQ_LEN, global_batch=8, pack="bestfit", block_tokens=500, token_bytes=table)
    for batch in loader:
        want = [sum(int(table[t]) for t in targets if t >= 0) for targets in batch.targets.tolist()]
        assert batch.n_bytes.tolist() == want
    with pytest.raises(ValueError, match="token_bytes"):
        next(iter(TokenLoader(web, seq_len=SEQ_LEN, global_batch=8))).n_bytes  # noqa: B018


def test_explain(web: Path) -> None:
    loader = TokenLoader({"web": web}, seq_len=SEQ_LEN, global_batch=4)
    batch = next(iter(loader))
    name, origin = loader.explain(batch, 2, 5)
    assert name == "web" and FLAT[origin.position] == batch.tokens[2, 5]
    assert origin.document is not None and origin.offset_in_document is not None
    assert DOCUMENTS[origin.document][origin.offset_in_document] == batch.tokens[2, 5]
    with pytest.raises(IndexError, match="row 4"):
        loader.explain(batch, 4, 0)
    loader.close()


def test_kept_batches_stay_as_they_are(web: Path) -> None:
    kept: list[tuple[Batch, np.ndarray, np.ndarray]] = []
    views = []
    for batch in TokenLoader(web, seq_len=SEQ_LEN, global_batch=2, prefetch=1):
        if len(kept) < 40:
            kept.append((batch, batch.tokens.copy(), batch.targets.copy()))
        else:
            view = batch.targets[1:, 3:]
            views.append((view, view.copy()))
            del batch
    assert all(np.array_equal(b.tokens, t) and np.array_equal(b.targets, u) for b, t, u in kept)
    assert all(np.array_equal(view, copy) for view, copy in views)


settings_of_runs = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 5),
        "shuffle": st.sampled_from(["none", "window", "global"]),
        "pack": st.sampled_from(["concat", "bos", "bestfit"]),
        "window_tokens": st.integers(1, 4000),
        "block_tokens": st.integers(20, 900),
    }
)


@given(
    run=settings_of_runs, world=st.sampled_from([1, 2, 3, 4, 6, 12]), other=st.sampled_from([1, 3, 12]), data=st.data()
)
@settings(max_examples=40, deadline=None)
def test_ranks_and_resume(
    web: Path, code: Path, run: dict[str, Any], world: int, other: int, data: st.DataObject
) -> None:
    """Saved anywhere, gone on with by another number of ranks: the same global batches, none twice or missing."""

    def loader(rank: int, world_size: int, batch: int = 12) -> TokenLoader:
        streams = {"web": Stream(web, weight=3), "code": Stream(code, max_epochs=None)}
        return TokenLoader(
            streams, seq_len=SEQ_LEN, global_batch=batch, rank=rank, world_size=world_size, prefetch=rank % 2, **run
        )

    whole = [(b.samples, b.tokens.copy(), b.targets.copy()) for b in loader(0, 1)]
    stop = data.draw(st.integers(0, len(whole)))
    parts = [loader(rank, world) for rank in range(world)]
    iterators = [iter(part) for part in parts]
    for number in range(stop):
        batches = [next(iterator) for iterator in iterators]
        for rank, batch in enumerate(batches):
            assert np.array_equal(batch.tokens, whole[number][1][rank::world])
            assert np.array_equal(batch.targets, whole[number][2][rank::world])
            assert np.array_equal(batch.samples, whole[number][0][rank::world])
    states = [part.state_dict() for part in parts]
    assert all(state == states[0] for state in states)
    for part in parts:
        part.close()
    text = json.dumps(states[0])
    assert len(text) < 500
    for rank in range(other):
        part = loader(rank, other, batch=12)
        part.load_state_dict(json.loads(text))
        rest = [batch.tokens.copy() for batch in part]
        assert len(rest) == len(whole) - stop
        for tokens, (_, expected, _) in zip(rest, whole[stop:], strict=True):
            assert np.array_equal(tokens, expected[rank::other])


def test_no_sample_twice_or_missing(web: Path) -> None:
    seen = np.concatenate([b.pieces.start for b in TokenLoader(web, seq_len=SEQ_LEN, global_batch=1)])
    assert np.array_equal(np.sort(seen), np.arange(N_SAMPLES) * SEQ_LEN)


def test_the_batch_size_may_change(web: Path) -> None:
    first = TokenLoader(web, seq_len=SEQ_LEN, global_batch=4)
    batches = iter(first)
    rows = [next(batches).tokens for _ in range(4)]
    state = first.state_dict()
    first.close()
    second = TokenLoader(web, seq_len=SEQ_LEN, global_batch=8)
    second.load_state_dict(state)
    rows += [batch.tokens for batch in second]
    straight = np.concatenate([b.tokens for b in TokenLoader(web, seq_len=SEQ_LEN, global_batch=1)])
    assert np.array_equal(np.concatenate(rows), straight[: len(rows[0]) * 4 + 8 * (len(rows) - 4)])
    third = TokenLoader(web, seq_len=SEQ_LEN, global_batch=3)
    with pytest.raises(StateMismatchError, match="sample 16, which global_batch=3 does not divide"):
        third.load_state_dict(state)


def test_the_batch_carries_its_own_state(web: Path) -> None:
    loader = TokenLoader(web, seq_len=SEQ_LEN, global_batch=4, prefetch=4)
    batches = iter(loader)
    one, two = next(batches), next(batches)
    loader.load_state_dict(one.state)
    assert np.array_equal(next(iter(loader)).tokens, two.tokens)
    loader.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed=0, the loader 1"),
        ({"seq_len": 8}, "seq_len=16, the loader 8"),
        ({"shuffle": "none"}, "the loader 'none/concat'"),
        ({"window_tokens": 99}, "window:99"),
        ({"pack": "bos"}, "bos:1048576"),
    ],
)
def test_another_order_is_refused(web: Path, change: dict[str, Any], message: str) -> None:
    options: dict[str, Any] = {"seq_len": SEQ_LEN, "global_batch": 4}
    loader = TokenLoader(web, **options)
    next(iter(loader))
    state = loader.state_dict()
    loader.close()
    with pytest.raises(StateMismatchError, match=message):
        TokenLoader(web, **{**options, **change}).load_state_dict(state)


def test_other_data_is_refused(web: Path, code: Path, tmp_path: Path) -> None:
    loader = TokenLoader({"a": web, "b": code}, seq_len=SEQ_LEN, global_batch=4)
    next(iter(loader))
    state = loader.state_dict()
    loader.close()
    weighted = {"a": Stream(web, weight=2), "b": Stream(code)}
    with pytest.raises(StateMismatchError, match="weights"):
        TokenLoader(weighted, seq_len=SEQ_LEN, global_batch=4).load_state_dict(state)
    with pytest.raises(StateMismatchError, match="different: c"):
        TokenLoader({"a": web, "c": code}, seq_len=SEQ_LEN, global_batch=4).load_state_dict(state)
    with pytest.raises(StateMismatchError, match="their number"):
        TokenLoader({"a": web}, seq_len=SEQ_LEN, global_batch=4).load_state_dict(state)
    named = Stream(made_of(tmp_path / "then", FLAT, [("a.txt", 90)]))
    state = state_after(1, named)
    made_of(tmp_path / "s", FLAT + 1, [("a.txt", 90)])
    with pytest.raises(StateMismatchError, match=r"sample 3 has checksum \d+, but had \d+"):
        TokenLoader(tmp_path / "s", seq_len=SEQ_LEN, global_batch=4).load_state_dict(state)
    with pytest.raises(StateMismatchError, match="no state"):
        loader.load_state_dict({"step": 3})


def made_of(folder: Path, tokens: np.ndarray, sources: list[tuple[str, int]], sealed: bool = True) -> Path:
    """A stream whose manifest names these inputs with these sizes."""
    named = [
        {"path": f"/in/{name}", "size_bytes": size, "xxh3": None, "n_tokens": None, "n_documents": None}
        for name, size in sources
    ]
    writer = StreamWriter(folder, sources=named)
    writer.append(tokens)
    writer.seal() if sealed else writer.commit()
    return folder


def state_after(n: int, streams: Any, **options: Any) -> dict[str, Any]:
    with TokenLoader(streams, seq_len=SEQ_LEN, global_batch=4, **options) as loader:
        batches = iter(loader)
        for _ in range(n):
            next(batches)
        return dict(json.loads(json.dumps(loader.state_dict())))


@pytest.mark.parametrize("shuffle", ["none", "window"])
def test_the_same_names_with_other_text_are_refused(web: Path, tmp_path: Path, shuffle: Any) -> None:
    """Longer text of the same name, the same up to the state: told apart by the input's size."""
    options = {"shuffle": shuffle, "window_tokens": 10 * SEQ_LEN}
    made_of(tmp_path / "web", FLAT[:3000], [("a.txt", 9000), ("b.txt", 7)])
    state = state_after(2, {"web": tmp_path / "web", "code": web}, **options)
    other = {"web": made_of(tmp_path / "other", FLAT, [("a.txt", 9500), ("b.txt", 7)]), "code": web}
    with pytest.raises(StateMismatchError, match=r"different: web\)\nhint: .* loader.seek\(8\)"):
        TokenLoader(other, seq_len=SEQ_LEN, global_batch=4, **options).load_state_dict(state)
    moved = {"web": made_of(tmp_path / "moved", FLAT[:3000], [("a.txt", 9000), ("b.txt", 7)]), "code": web}
    TokenLoader(moved, seq_len=SEQ_LEN, global_batch=4, **options).load_state_dict(state)


def test_the_same_stream_grown_since_is_accepted(tmp_path: Path) -> None:
    folder = made_of(tmp_path / "web", FLAT[:2000], [("a.txt", 9000)], sealed=False)
    state = state_after(3, folder, follow=True, window_tokens=10 * SEQ_LEN)
    writer = StreamWriter(folder)
    writer.manifest["sources"][0] |= {"n_tokens": len(FLAT), "n_documents": 2, "xxh3": "0" * 16}
    writer.append(FLAT[2000:])
    writer.seal()
    grown = TokenLoader(folder, seq_len=SEQ_LEN, global_batch=4, window_tokens=10 * SEQ_LEN)
    grown.load_state_dict(state)
    assert grown.position == 12


def test_a_watched_stream_that_took_up_more_is_accepted(tmp_path: Path) -> None:
    folder = made_of(tmp_path / "web", FLAT[:2000], [("a.txt", 9000)], sealed=False)
    writer = StreamWriter(folder)
    writer.manifest["sources"][0]["offset_bytes"] = 0
    writer.commit()
    state = state_after(3, folder, follow=True, window_tokens=10 * SEQ_LEN)
    writer = StreamWriter(folder)
    writer.manifest["sources"].append({"path": "/in/b.txt", "size_bytes": 5, "n_tokens": 3, "offset_bytes": 0})
    writer.append(FLAT[2000:])
    writer.seal()
    grown = TokenLoader(folder, seq_len=SEQ_LEN, global_batch=4, window_tokens=10 * SEQ_LEN)
    grown.load_state_dict(state)
    assert grown.position == 12
    # Nothing but its id says what such a stream is.
    other = made_of(tmp_path / "other", FLAT, [])
    with pytest.raises(StateMismatchError, match="other streams"):
        TokenLoader(other, seq_len=SEQ_LEN, global_batch=4, window_tokens=10 * SEQ_LEN).load_state_dict(state)


@pytest.mark.parametrize("n_streams", [16, 17, 300])
def test_the_state_is_small_with_any_number_of_streams(web: Path, code: Path, n_streams: int) -> None:
    streams = {f"a stream with a long name {n}": Stream(web, max_epochs=None) for n in range(n_streams)}
    options: dict[str, Any] = {"seed": (1 << 64) - 1, "pack": "bestfit", "block_tokens": 1 << 20, "prefetch": 0}
    loader = TokenLoader(streams, seq_len=SEQ_LEN, global_batch=4, **options)
    loader.seek(4 * 10**15)
    state = json.loads(json.dumps(loader.state_dict()))
    assert len(json.dumps(state)) < 500
    loader.load_state_dict(state)
    assert loader.position == 4 * 10**15
    with pytest.raises(StateMismatchError, match="different: a stream with" if n_streams <= 16 else "at least one of"):
        changed = {**streams, "a stream with a long name 3": Stream(code, max_epochs=None)}
        TokenLoader(changed, seq_len=SEQ_LEN, global_batch=4, **options).load_state_dict(state)


def test_a_state_of_another_version_says_what_to_do(web: Path) -> None:
    state = {**state_after(2, web), "v": 1}
    with pytest.raises(StateMismatchError, match=r"version 1.*version 2\nhint: .* loader.seek\(8\)"):
        TokenLoader(web, seq_len=SEQ_LEN, global_batch=4).load_state_dict(state)


def test_numbers_of_numpy_are_numbers(web: Path) -> None:
    expected = TokenLoader(web, seq_len=SEQ_LEN, global_batch=4, seed=3, stages=[(0, {"stream": 1})])
    loader = TokenLoader(
        web, seq_len=np.int64(SEQ_LEN), global_batch=np.uint16(4), seed=np.int64(3), rank=np.int8(0),
        world_size=np.int32(1), window_tokens=np.uint32(1 << 22), block_tokens=np.int64(1 << 20), prefetch=np.int64(1),
        workers=np.int64(0), stages=[(np.int64(0), {"stream": np.float32(1)})],
    )  # fmt: skip
    assert json.dumps(loader.state_dict()) == json.dumps(expected.state_dict())
    assert naive.digest(loader) == naive.digest(expected)


@pytest.mark.parametrize("name", ["seq_len", "global_batch", "rank", "world_size", "seed", "window_tokens", "prefetch"])
@pytest.mark.parametrize("value", ["x", 32.0, None, np.float64(2), [1]])
def test_what_is_no_integer_is_refused(web: Path, name: str, value: Any) -> None:
    with pytest.raises(BadRequestError, match=f"{name}=.* is no integer"):
        TokenLoader(web, **{"seq_len": 8, "global_batch": 4, name: value})


@pytest.mark.parametrize("follow", [False, True])
def test_an_unpickled_loader_knows_its_run(web: Path, follow: bool) -> None:
    """So that map-style datasets work in spawned workers, and over a followed stream that is whole."""
    loader = TokenLoader(web, seq_len=SEQ_LEN, global_batch=4, follow=follow)
    assert loader.n_samples == N_SAMPLES and len(loader) == N_SAMPLES // 4
    copy = pickle.loads(pickle.dumps(loader))
    assert np.array_equal(copy.rows(np.array([0, 5])).tokens, loader.rows(np.array([0, 5])).tokens)
    assert len(pickle.loads(pickle.dumps(loader))) == N_SAMPLES // 4


def test_the_length_is_known_once_a_followed_stream_is_sealed(tmp_path: Path) -> None:
    loader = TokenLoader(tmp_path / "web", seq_len=SEQ_LEN, global_batch=4, follow=True)
    assert loader.n_samples is None, "the stream has not begun"
    made_of(tmp_path / "web", FLAT[:2000], [], sealed=False)
    assert loader.n_samples is None
    with pytest.raises(TypeError, match="still grows"):
        len(loader)
    with pytest.raises(BadRequestError, match="sealed"):
        loader.rows(np.array([0]))
    writer = StreamWriter(tmp_path / "web")
    writer.append(FLAT[2000:])
    writer.seal()
    assert loader.n_samples == N_SAMPLES and len(list(loader)) == N_SAMPLES // 4


def test_a_copy_without_its_feed_says_so(web: Path, caplog: pytest.LogCaptureFixture) -> None:
    pickle.dumps(TokenLoader(web, seq_len=8, global_batch=4))
    assert not caplog.records
    pickle.dumps(TokenLoader(web, seq_len=8, global_batch=4, feed=Polling()))
    assert "has no feed" in caplog.text


def test_an_iterator_may_be_collected_in_its_own_thread(web: Path) -> None:
    """The collector runs wherever something is made: its close must not join the thread it is in."""
    loader = TokenLoader(web, seq_len=SEQ_LEN, global_batch=4)
    done = threading.Event()
    failures: list[BaseException] = []
    build = loader._assembler.build

    def build_and_collect(k: int) -> Batch | None:
        if k == 8 and loader._iterator is not None:
            try:
                loader._iterator.close()
            except BaseException as error:
                failures.append(error)
            done.set()
        return build(k)

    loader._assembler.build = build_and_collect  # type: ignore[method-assign]
    batches = iter(loader)
    next(batches)
    assert done.wait(60) and not failures
    loader.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 2, "world_size": 2}, "rank=2 of world_size=2"),
        ({"world_size": 3}, "global_batch=4 rows cannot be shared by world_size=3\nhint: give a multiple of 3"),
        ({"seq_len": 0}, "seq_len=0"),
        ({"prefetch": -1}, "prefetch=-1"),
        ({"shuffle": "both"}, "shuffle='both'"),
        ({"pack": "tight"}, "pack='tight'"),
        ({"shuffle": "global", "follow": True}, "global shuffle"),
        ({"stages": [(0, {"nobody": 1})]}, "none of the streams"),
    ],
)
def test_senseless_parameters(web: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequestError, match=message):
        TokenLoader(web, **{"seq_len": 8, "global_batch": 4, **options})
    with pytest.raises(BadRequestError, match="max_epochs"):
        TokenLoader(Stream(web, max_epochs=0.5), seq_len=8, global_batch=1)
    with pytest.raises(BadRequestError, match="no streams"):
        TokenLoader({}, seq_len=8, global_batch=1)


def test_streams_that_cannot_be_read(web: Path, tmp_path: Path) -> None:
    other = StreamWriter(tmp_path / "other", tokenizer={**FAKE_TOKENIZER, "fingerprint": "0" * 64, "name": "x"})
    other.append([1, 2, 3])
    other.seal()
    with pytest.raises(StreamError, match="different tokenizers: fake and x"):
        TokenLoader({"a": web, "b": tmp_path / "other"}, seq_len=8, global_batch=1)
    with pytest.raises(StreamError, match="has 3 tokens, not one row of 9"):
        list(TokenLoader(tmp_path / "other", seq_len=8, global_batch=1, prefetch=1))
    with pytest.raises(StreamError, match="not 000000000000"):
        TokenLoader(web, seq_len=8, global_batch=1, fingerprint="0" * 64)
    with pytest.raises(StreamError, match="not 000000000000"):
        TokenLoader(TokenStream(web), seq_len=8, global_batch=1, fingerprint="0" * 64)
    with pytest.raises(StreamError, match="not 000000000000"):
        TokenLoader(Stream(TokenStream(web), fingerprint="0" * 64), seq_len=8, global_batch=1)
    with pytest.raises(BadRequestError, match=r"the loader has fingerprint 000000000000, its stream .* ffffffffffff"):
        TokenLoader(Stream(web, fingerprint="f" * 64), seq_len=8, global_batch=1, fingerprint="0" * 64)
    with pytest.raises(BadRequestError, match="is open already"):
        TokenLoader(Stream(TokenStream(web), eot_id=3), seq_len=8, global_batch=1)
    growing = StreamWriter(tmp_path / "growing")
    growing.append([1, 2, 3])
    growing.commit()
    with pytest.raises(StreamError, match="still being written\nhint: give follow=True"):
        TokenLoader(tmp_path / "growing", seq_len=8, global_batch=1)
    growing.fail("NO_SPACE", "the disk is full")
    with pytest.raises(OSError, match="failed at 3 tokens: the disk is full"):
        TokenLoader(tmp_path / "growing", seq_len=8, global_batch=1)


def test_pickle_and_seek(web: Path) -> None:
    loader = TokenLoader(TokenStream(web), seq_len=SEQ_LEN, global_batch=4)
    all_of_it = naive.digest(loader)
    loader.seek(20)
    copy = pickle.loads(pickle.dumps(loader))
    assert naive.digest(copy) == naive.digest(loader) == all_of_it[5:]
    with pytest.raises(BadRequestError, match="sample 3"):
        loader.seek(3)


def test_a_forked_child_goes_on_by_itself(web: Path) -> None:
    loader = TokenLoader(web, seq_len=SEQ_LEN, global_batch=4)
    batches = iter(loader)
    next(batches)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover
        try:
            first = naive.digest([next(iter(loader))])[0]
            try:
                next(batches)
                first += " the parent's iterator went on"
            except Exception as error:
                first += f" {type(error).__name__}"
            os.write(write, first.encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        assert answer.read() == naive.digest([next(batches)])[0] + " TokendError"
    os.waitpid(child, 0)
    loader.close()
