"""Dealing samples to streams: exact shares, nothing twice, and the same whoever asks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokend_client.errors import BadRequestError
from tokend_client.mix import BLOCK, Mix
from tokend_client.order import StreamOrder

from . import naive

GOLDEN = json.loads((Path(__file__).parent / "golden" / "order.json").read_text())

stages_of = st.lists(
    st.tuples(st.integers(1, 25_000), st.lists(st.integers(0, 9), min_size=3, max_size=3).filter(any)),
    min_size=1,
    max_size=3,
)


@given(drawn=stages_of, seed=st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_dealt_once_in_order_and_countable(drawn: list[tuple[int, list[int]]], seed: int) -> None:
    starts = np.cumsum([0, *(length for length, _ in drawn[1:])]).tolist()
    names = ["a", "b", "c"]
    stages = [
        (start, dict(zip(names, weights, strict=True))) for start, (_, weights) in zip(starts, drawn, strict=True)
    ]
    mix = Mix(names, stages, seed)
    n = starts[-1] + 12_000
    streams, j = mix.assign(np.arange(n))
    for stream in range(3):
        mine = np.flatnonzero(streams == stream)
        assert np.array_equal(j[mine], np.arange(len(mine)))
        for k in mine[:: max(len(mine) // 5, 1)].tolist():
            assert mix.sample_of(stream, int(j[k])) == k
        if not stages[-1][1][names[stream]]:
            assert mix.sample_of(stream, len(mine)) is None
    for k in (0, 1, n // 3, n // 2, starts[-1], n):
        assert mix.counts(k).tolist() == np.bincount(streams[:k], minlength=3).tolist()
    some = np.array([5, 3, n - 1, 0])
    assert np.array_equal(mix.assign(some)[0], streams[some]) and np.array_equal(mix.assign(some)[1], j[some])


def test_shares_are_exact_in_every_block() -> None:
    mix = Mix(["a", "b", "c"], [(0, {"a": 0.7, "b": 0.2999, "c": 0.0001})], seed=1)
    streams, _ = mix.assign(np.arange(3 * BLOCK))
    for block in streams.reshape(3, BLOCK):
        assert np.bincount(block).tolist() == [7000, 2999, 1]


def test_as_the_naive_twin() -> None:
    mix = Mix(["a", "b"], [(0, {"a": 1, "b": 2})], seed=3)
    streams, j = mix.assign(np.arange(300))
    places = mix.places[0].tolist()
    assert list(zip(streams.tolist(), j.tolist(), strict=True)) == naive.deal(300, places, 3)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([(0, {"x": 1})], "none of the streams"),
        ([(0, {"a": -1, "b": 2})], "negative"),
        ([(0, {"a": 0})], "positive"),
        ([(0, {"a": float("nan")})], "negative"),
        ([(1, {"a": 1})], "begins at sample 1"),
        ([(0, {"a": 1}), (0, {"b": 1})], "begins at sample 0"),
        ([(0, {"a": 1, "b": 1e-6})], "under 1/20000"),
    ],
)
def test_senseless_weights(stages: list[tuple[int, dict[str, float]]], message: str) -> None:
    with pytest.raises(BadRequestError, match=message):
        Mix(["a", "b"], stages, 0)


@given(
    n=st.integers(1, 700),
    window=st.none() | st.integers(0, 300),
    seed=st.integers(0, 9),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_order_as_the_naive_twin(n: int, window: int | None, seed: int, data: st.DataObject) -> None:
    kind = "none" if window is None else "window" if window else "global"
    order = StreamOrder("web", seed, kind, window or 1)
    j = np.array(data.draw(st.lists(st.integers(0, 3 * n), min_size=1, max_size=6)))
    _, samples = order.place(j, n)
    assert samples.tolist() == [naive.sample_at(x, n, window, seed, "web") for x in j.tolist()]


@given(n=st.integers(1, 30_000), window=st.integers(1, 9000), seed=st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_no_sample_twice_or_missing(n: int, window: int, seed: int) -> None:
    order = StreamOrder("web", seed, "window", window)
    first = order.place(np.arange(n), n)[1]
    assert np.array_equal(np.sort(first), np.arange(n))
    epochs, second = order.place(np.arange(n, 2 * n), n)
    assert set(epochs.tolist()) == {1} and np.array_equal(np.sort(second), np.arange(n))
    # Whole windows are known before the length is.
    whole = n // window * window
    assert np.array_equal(order.place(np.arange(whole), None)[1], first[:whole])


def test_golden() -> None:
    for case in GOLDEN["deal"]:
        names = [str(n) for n in range(len(case["places"]))]
        mix = Mix(names, [(0, dict(zip(names, case["places"], strict=True)))], case["seed"])
        streams, j = mix.assign(np.array(case["samples"]))
        assert [list(pair) for pair in zip(streams.tolist(), j.tolist(), strict=True)] == case["out"]
    for case in GOLDEN["order"]:
        kind = "window" if case["window"] else "global"
        order = StreamOrder(case["name"], case["seed"], kind, case["window"] or 1)
        assert order.place(np.array(case["j"]), case["n_samples"])[1].tolist() == case["out"]
