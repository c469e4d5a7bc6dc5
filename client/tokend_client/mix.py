"""Which stream a sample comes from: a pure function of the sample's number.

Samples are dealt in blocks of 10,000. Within a block each stream has a fixed number of places, its weight
rounded to the nearest 1/10,000 (by largest remainder, so that they add up), and the places are shuffled
by `permute` under a key of seed, stage and block. So shares are exact over every block, any sample can be
computed alone, and the k-th sample of a run never depends on who asks.

    stage s from sample K_s on, weights → places c (sum 10,000)
    block b, place r = divmod(k - K_s, 10,000)
    slot  = permute(r, 10,000, derive("mix", seed, stage, b))
    stream = the one in whose range of slots it falls: [0, c_0), [c_0, c_0 + c_1), ...
    j      = samples of that stream before k: in earlier stages, in earlier blocks, before r in this one

A stage begins with a new block. With one stream there is nothing to deal: j = k.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .errors import BadRequestError
from .permutation import derive, permute

BLOCK = 10_000

Stage = tuple[int, Mapping[str, float]]
"""From which sample on, and the weights from there on."""


class Mix:
    """Deals samples to streams. Immutable and thread-safe.

    Parameters: the streams' `names`; `stages` in order, the first one from sample 0, weights of any
    scale, a stream left out has weight 0; `seed`. Raises `BadRequestError` for weights that make no
    sense, or are too small for a place in a block.

    >>> mix = Mix(["web", "code"], [(0, {"web": 3, "code": 1})], seed=0)
    >>> streams, j = mix.assign(np.arange(40_000))
    >>> int((streams == 1).sum()), j[streams == 1].tolist() == list(range(10_000))
    (10000, True)
    """

    def __init__(self, names: Sequence[str], stages: Sequence[Stage], seed: int) -> None:
        self.names = tuple(names)
        self.seed = seed
        self._starts: list[int] = []
        self.places: list[NDArray[np.int64]] = []
        """For each stage the places in a block, by stream."""
        self._bases: list[NDArray[np.int64]] = []
        base = np.zeros(len(names), np.int64)
        for number, (start, weights) in enumerate(stages):
            if (start != 0) if number == 0 else (start <= self._starts[-1]):
                raise BadRequestError(f"stage {number} begins at sample {start}", "stages begin at 0 and go up")
            if number:
                base = base + self._within(number - 1, start - self._starts[-1])
            self._starts.append(start)
            self.places.append(_places(self.names, weights))
            self._bases.append(base)

    def _stage_at(self, k: int) -> int:
        return int(np.searchsorted(self._starts, k, "right")) - 1

    def _within(self, stage: int, n: int) -> NDArray[np.int64]:
        """Samples of each stream among the first n of a stage."""
        blocks, rest = divmod(n, BLOCK)
        total = blocks * self.places[stage]
        if rest:
            streams, _ = self._block(stage, blocks)
            total = total + np.bincount(streams[:rest], minlength=len(self.names))
        return total

    def counts(self, k: int) -> NDArray[np.int64]:
        """Samples of each stream among the first `k` of the run."""
        if len(self.names) == 1:
            return np.array([k], np.int64)
        stage = self._stage_at(k)
        total: NDArray[np.int64] = self._bases[stage] + self._within(stage, k - self._starts[stage])
        return total

    def assign(self, samples: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
        """For each sample its stream, and which of that stream's samples it is."""
        if len(self.names) == 1:
            return np.zeros(samples.shape, np.intp), samples
        streams = np.empty(samples.shape, np.intp)
        j = np.empty(samples.shape, np.int64)
        stages = np.searchsorted(self._starts, samples, "right") - 1
        for stage in np.unique(stages).tolist():
            in_stage = np.flatnonzero(stages == stage)
            blocks, places = np.divmod(samples[in_stage] - self._starts[stage], BLOCK)
            for block in np.unique(blocks).tolist():
                here = blocks == block
                of, rank = self._block(stage, block)
                chosen = of[places[here]]
                streams[in_stage[here]] = chosen
                earlier = self._bases[stage] + block * self.places[stage]
                j[in_stage[here]] = earlier[chosen] + rank[places[here]]
        return streams, j

    def sample_of(self, stream: int, j: int) -> int | None:
        """The number in the run of a stream's j-th sample; None if it never comes."""
        if len(self.names) == 1:
            return j
        for stage, start in enumerate(self._starts):
            last = stage + 1 == len(self._starts)
            if not last and j >= self._bases[stage + 1][stream]:
                continue
            here = int(self.places[stage][stream])
            if here == 0:
                return None
            block, rank = divmod(j - int(self._bases[stage][stream]), here)
            place = int(np.flatnonzero(self._block(stage, block)[0] == stream)[rank])
            return start + block * BLOCK + place
        return None

    def _block(self, stage: int, block: int) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
        return _block(derive("mix", self.seed, stage, block), tuple(self.places[stage].tolist()))

    @property
    def identity(self) -> tuple[int, ...]:
        """Two mixes of one seed and the same streams with equal identities deal alike."""
        parts: list[int] = []
        for start, places in zip(self._starts, self.places, strict=True):
            parts += [start, *places.tolist()]
        return tuple(parts)


def _places(names: tuple[str, ...], weights: Mapping[str, float]) -> NDArray[np.int64]:
    unknown = sorted(set(weights) - set(names))
    if unknown:
        raise BadRequestError(f"weights for {unknown[0]!r}, which is none of the streams {', '.join(names)}")
    given = np.array([weights.get(name, 0.0) for name in names], np.float64)
    if not np.isfinite(given).all() or (given < 0).any() or given.sum() <= 0:
        raise BadRequestError(f"weights {dict(weights)}: they must not be negative, and one must be positive")
    exact = given / given.sum() * BLOCK
    places: NDArray[np.int64] = np.floor(exact).astype(np.int64)
    # By largest remainder; of equal ones the first stream's.
    order = np.argsort(-(exact - places), kind="stable")
    places[order[: BLOCK - int(places.sum())]] += 1
    for name, weight, n in zip(names, given.tolist(), places.tolist(), strict=True):
        if weight > 0 and n == 0:
            raise BadRequestError(
                f"the weight {weight:g} of stream {name!r} is under 1/{2 * BLOCK} of the whole",
                "leave the stream out, or give it more",
            )
    return places


@lru_cache(maxsize=16)
def _block(key: int, places: tuple[int, ...]) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """For each place of a block its stream, and how many of that stream's places are before it."""
    slots = permute(np.arange(BLOCK), BLOCK, key)
    streams = np.searchsorted(np.cumsum(places), slots, "right")
    rank = np.empty(BLOCK, np.int64)
    for stream, n in enumerate(places):
        rank[streams == stream] = np.arange(n)
    return streams, rank
