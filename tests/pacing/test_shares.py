"""Threads for running jobs: what is promised of any number of them."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from tokend.shares import Load, share

LOADS = st.builds(
    Load,
    lead=st.none() | st.integers(-(10**6), 10**6),
    limit=st.integers(1, 10**5),
    tokens_per_s=st.floats(0, 1e6),
    is_paused=st.booleans(),
)


@settings(deadline=None)
@given(loads=st.lists(LOADS, max_size=6), n_threads=st.integers(1, 16))
def test_what_is_promised(loads: list[Load], n_threads: int) -> None:
    shares = share(loads, n_threads)
    behind = [n for n, load in enumerate(loads) if load.is_behind]
    free = [n for n, load in enumerate(loads) if load.lead is None]
    for n, (load, threads) in enumerate(zip(loads, shares, strict=True)):
        assert 0 <= threads <= n_threads
        if load.lead is None:
            assert threads == (1 if behind else n_threads), "a job without readers never stands still"
        elif not load.is_behind:
            assert threads == 0, "what is far enough ahead stands still"
        if load.lead is not None and load.lead < 0:
            assert n in behind, "a stream that starves is behind"
    if behind:
        neediest = min(behind, key=lambda n: loads[n].lasts_s)
        assert shares[neediest] == max(shares[n] for n in behind) >= 1
        busy = sum(shares)
        assert busy <= max(n_threads, 1 + len(free)), "no more threads than there are, but one for each that must go on"
        assert busy >= n_threads, "none is idle while a stream is behind"


def test_the_nearest_to_starving_gets_them() -> None:
    web, code = Load(1_000, 10_000, tokens_per_s=100.0), Load(2_000, 10_000, tokens_per_s=1_000.0)
    assert share([web, code], 8) == [1, 7], "2 s are less than 10 s"
    assert share([web, code], 1) == [0, 1]
    assert share([web, Load(10_000, 10_000)], 8) == [8, 0]
    assert share([Load(9_000, 10_000, is_paused=True)], 4) == [0], "it does not start again with every batch"
    assert share([Load(7_000, 10_000, is_paused=True)], 4) == [4]
