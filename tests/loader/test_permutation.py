"""The permutation without an index: a bijection at every size, no bit left alone, and the same for ever."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokend_client.permutation import derive, mix64, permute

from . import naive

GOLDEN = json.loads((Path(__file__).parent / "golden" / "order.json").read_text())

EDGES = [1, 2, 3, 10, 255, 256, 257, 1000, *(2**k + d for k in range(8, 21) for d in (-1, 0, 1))]


@pytest.mark.parametrize("n", EDGES)
def test_bijection(n: int) -> None:
    out = permute(np.arange(n), n, key=n)
    assert np.array_equal(np.sort(out), np.arange(n))
    if n > 10:
        assert not np.array_equal(out, np.arange(n))


@given(n=st.integers(1, 5000), key=st.integers(0, 2**64 - 1))
@settings(max_examples=60, deadline=None)
def test_bijection_at_any_size_and_key(n: int, key: int) -> None:
    assert np.array_equal(np.sort(permute(np.arange(n), n, key)), np.arange(n))


@given(n=st.integers(1, 2**62), key=st.integers(0, 2**64 - 1), data=st.data())
@settings(max_examples=100, deadline=None)
def test_as_the_naive_twin(n: int, key: int, data: st.DataObject) -> None:
    items = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=5))
    if n < 256 or n > 2**9:
        assert permute(np.array(items), n, key).tolist() == [naive.permute(i, n, key) for i in items]


@given(parts=st.lists(st.integers(-(2**63), 2**64 - 1) | st.text(max_size=40), max_size=6))
def test_keys_as_the_naive_twin(parts: list[int | str]) -> None:
    assert derive(*parts) == naive.derive(*parts)


def test_keys_do_not_add_up() -> None:
    keys = {
        derive("order", seed, name, epoch, w)
        for seed in range(8)
        for name in "ab"
        for epoch in range(8)
        for w in range(8)
    }
    assert len(keys) == 8 * 2 * 8 * 8
    assert derive("a", "b") != derive("ab") and derive(1) != derive("\x01")


@pytest.mark.parametrize("bits", [10, 15, 18])
def test_each_bit_depends_on_each(bits: int) -> None:
    """No output bit follows an input bit: their correlation is that of chance."""
    n = 1 << bits
    source = np.arange(n)
    out = permute(source, n, key=99)
    for i in range(bits):
        for o in range(bits):
            agree = np.mean((source >> i & 1) == (out >> o & 1))
            assert abs(2 * agree - 1) < 6 / np.sqrt(n), (i, o)


def test_neighbours_are_not_of_one_kind() -> None:
    """Every run of 4,096 places has odd and even items in about equal numbers."""
    n = 1 << 20
    odd = (permute(np.arange(n), n, key=5) & 1).reshape(-1, 4096).mean(axis=1)
    assert odd.min() > 0.4 and odd.max() < 0.6


def test_out_of_range() -> None:
    for items, n in ((np.array([5]), 5), (np.array([-1]), 5), (np.array([0]), 0), (np.array([0]), 2**62 + 1)):
        with pytest.raises(ValueError, match="permutation"):
            permute(items, n, 0)


def test_golden() -> None:
    """Vectors for other implementations; a change here changes every training run."""
    for case in GOLDEN["mix64"]:
        assert mix64(case["x"]) == case["out"]
    for case in GOLDEN["derive"]:
        assert derive(*case["parts"]) == case["key"]
    for case in GOLDEN["permute"]:
        out = permute(np.array(case["items"]), case["n"], case["key"])
        assert out.tolist() == case["out"]
        assert [naive.permute(i, case["n"], case["key"]) for i in case["items"]] == case["out"]
