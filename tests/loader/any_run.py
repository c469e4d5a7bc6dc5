"""One training run, cut and disturbed in every way that must not show, against the same run undisturbed.

The run reads a stream that is written meanwhile: at random commits and stalls, by a writer that is killed
and begins again. It is saved at some step by all ranks at once, thrown away, and goes on with another number
of ranks, workers and prefetched batches. Its global batches must be those of one rank without any of this over
the finished stream; no sample may come twice or be missing.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from tokend_client import Stream, TokenLoader
from tokend_client.feed import Feed
from tokend_client.testing import FakeDaemon, StreamWriter

GLOBAL_BATCH = 8
SEQ_LEN = 16
TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Phase:
    """A part of the run."""

    world_size: int
    workers: int
    prefetch: int


@dataclass(frozen=True)
class Case:
    """Everything that a run may be."""

    seed: int
    shuffle: str
    pack: str
    window_tokens: int
    block_tokens: int
    is_mixture: bool
    phases: tuple[Phase, Phase]
    save_at: int
    tokens_per_commit: int
    segment_tokens: int
    stalls: int
    kills: tuple[float, ...] = field(default=())

    @property
    def order(self) -> dict[str, Any]:
        """What decides the batches."""
        names = ("seed", "shuffle", "pack", "window_tokens", "block_tokens")
        return {"seq_len": SEQ_LEN, "global_batch": GLOBAL_BATCH, **{name: asdict(self)[name] for name in names}}


def cases(workers: Sequence[int] = (0,)) -> st.SearchStrategy[Case]:
    """All of them, with these numbers of worker processes."""
    phase = st.builds(
        Phase, world_size=st.sampled_from([1, 2, 4, 8]), workers=st.sampled_from(workers), prefetch=st.integers(0, 3)
    )
    return st.builds(
        Case,
        seed=st.integers(0, 9),
        shuffle=st.sampled_from(["none", "window"]),
        pack=st.sampled_from(["concat", "bos", "bestfit"]),
        window_tokens=st.integers(1, 5000),
        block_tokens=st.integers(20, 2000),
        is_mixture=st.booleans(),
        phases=st.tuples(phase, phase),
        save_at=st.integers(0, 40),
        tokens_per_commit=st.integers(1, 6000),
        segment_tokens=st.integers(1, 8000),
        stalls=st.integers(0, 999),
        kills=st.lists(st.floats(0, 0.03), max_size=3).map(tuple),
    )


def drawn(rng: random.Random, workers: Sequence[int]) -> Case:
    """One at random, without hypothesis."""
    first, second = (Phase(rng.choice([1, 2, 4, 8]), rng.choice(workers), rng.randrange(4)) for _ in range(2))
    return Case(
        seed=rng.randrange(1000),
        shuffle=rng.choice(["none", "window", "window"]),
        pack=rng.choice(["concat", "bos", "bestfit"]),
        window_tokens=rng.randrange(1, 5000),
        block_tokens=rng.randrange(20, 2000),
        is_mixture=rng.random() < 0.5,
        phases=(first, second),
        save_at=rng.randrange(60),
        tokens_per_commit=rng.randrange(1, 6000),
        segment_tokens=rng.randrange(1, 8000),
        stalls=rng.randrange(1 << 30),
        kills=tuple(rng.random() * 0.05 for _ in range(rng.randrange(4))),
    )


Rows = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Samples, tokens, targets and starts of pieces of a batch."""


def rows_of(batch: Any) -> Rows:
    return batch.samples.copy(), batch.tokens.copy(), batch.targets.copy(), batch.pieces.start.copy()


class Run:
    """The run of a case over a stream at `path`, mixed with a finished one at `other`."""

    def __init__(self, case: Case, other: Path, make_feed: Callable[[], Feed | None] = lambda: None) -> None:
        self.case = case
        self.other = other
        self.make_feed = make_feed

    def loader(self, path: Path, rank: int, phase: Phase, *, follow: bool) -> TokenLoader:
        streams: dict[str, Stream] = {"web": Stream(path, weight=2)}
        if self.case.is_mixture:
            streams["other"] = Stream(self.other, max_epochs=None)
        return TokenLoader(
            streams,
            follow=follow,
            rank=rank,
            world_size=phase.world_size,
            workers=phase.workers,
            start_method="forkserver",
            prefetch=phase.prefetch,
            feed=self.make_feed() if follow else None,
            stall_timeout_s=TIMEOUT_S,
            **self.case.order,
        )

    def whole(self, path: Path) -> list[Rows]:
        """The undisturbed run over the finished stream."""
        with self.loader(path, 0, Phase(1, 0, 0), follow=False) as loader:
            return [rows_of(batch) for batch in loader]

    def part(self, path: Path, phase: Phase, state: Any, steps: int | None) -> tuple[list[list[Rows]], list[Any]]:
        """All ranks of a phase, each in a thread: their batches, and the state of each at its end."""
        results: list[list[Rows]] = [[] for _ in range(phase.world_size)]
        states: list[Any] = [None] * phase.world_size
        failures: list[BaseException] = []

        def train(rank: int) -> None:
            try:
                with self.loader(path, rank, phase, follow=True) as loader:
                    if state is not None:
                        loader.load_state_dict(state)
                    if steps != 0:
                        for batch in itertools.islice(loader, steps):
                            results[rank].append(rows_of(batch))
                            states[rank] = batch.state
                    states[rank] = states[rank] or loader.state_dict()
            except BaseException as failure:
                failures.append(failure)

        threads = [threading.Thread(target=train, args=(rank,)) for rank in range(phase.world_size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT_S)
            assert not thread.is_alive(), "a rank hangs"
        if failures:
            raise failures[0]
        return results, states

    def check(self, path: Path, expected: list[Rows]) -> int:
        """Runs it, cut at the case's step, while the stream is written; returns its global batches."""
        first, second = self.case.phases
        n = min(self.case.save_at, len(expected))
        parts, states = self.part(path, first, None, n)
        assert all(state == states[0] for state in states), "the state of all ranks is one"
        compare(parts, expected[:n], first.world_size)
        rest, _ = self.part(path, second, states[0], None)
        compare(rest, expected[n:], second.world_size)
        once(expected, self.case)
        return len(expected)


def compare(ranks: list[list[Rows]], expected: list[Rows], world_size: int) -> None:
    """Each rank has its rows of every global batch, and as many batches as all others."""
    assert [len(batches) for batches in ranks] == [len(expected)] * world_size
    for rank, batches in enumerate(ranks):
        for mine, whole in zip(batches, expected, strict=True):
            for got, want in zip(mine[:3], whole[:3], strict=True):
                assert np.array_equal(got, want[rank::world_size])


def once(batches: list[Rows], case: Case) -> None:
    """No sample of the run twice or missing; of a stream read once no token stretch twice."""
    samples = np.concatenate([batch[0] for batch in batches]) if batches else np.empty(0, np.int64)
    assert np.array_equal(samples, np.arange(len(samples)))
    if not case.is_mixture and batches and case.pack != "bestfit":
        starts = np.concatenate([batch[3] for batch in batches])
        assert len(np.unique(starts)) == len(starts)


def finished(folder: Path, documents: list[Any], tokenizer: dict[str, Any] | None = None) -> Path:
    """A sealed stream, written at once."""
    writer = StreamWriter(folder, tokenizer=tokenizer)
    for document in documents:
        writer.append(document)
    writer.seal()
    return folder


@contextlib.contextmanager
def disturbed(kills: Sequence[float], kill: Callable[[], None], begin: Callable[[], None]) -> Iterator[None]:
    """Kills a writer and begins it again, after each of some delays, beside what is done meanwhile."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def disturb() -> None:
        try:
            for delay in kills:
                if stop.wait(delay):
                    return
                kill()
                begin()
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        if failures:
            # What else went wrong comes of it.
            raise failures[0]


def check(folder: Path, case: Case, documents: list[Any], others: list[Any]) -> int:
    """A case with a stand-in for the daemon; returns the global batches that were compared."""
    run = Run(case, finished(folder / "other", others))
    expected = run.whole(finished(folder / "whole", documents))
    pauses = random.Random(case.stalls)

    def pause() -> float:
        return pauses.choice([0.0, 0.0, 0.001, 0.004, 0.02])

    with FakeDaemon(folder) as daemon:
        path = daemon.stream(
            "web", documents, tokens_per_commit=case.tokens_per_commit, segment_tokens=case.segment_tokens,
            pause_s=pause,
        )  # fmt: skip
        with disturbed(case.kills, daemon.kill, daemon.restart):
            return run.check(path, expected)
