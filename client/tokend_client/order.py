"""Which sample of a stream comes when: a pure function of its number, with no list of the order.

The j-th sample that a run takes from a stream is

    epoch, i  = divmod(j, samples in the stream)      (while the stream grows: epoch 0, i = j)
    none:     sample i
    window:   w, r = divmod(i, W); sample w * W + permute(r, size of w, derive("order", seed, name, epoch, w))
    global:   sample permute(i, samples in the stream, derive("order", seed, name, epoch, 0))

All windows have W samples but the last of an epoch, which has what is left; so the last one is known only
when the stream is sealed, and every other one as soon as its tokens are committed. That is why a stream
that grows gives the same batches as one that is whole.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .permutation import derive, permute

Shuffle = Literal["none", "window", "global"]

_CHUNK = 4096
"""Places that are computed at once: numpy's overhead per call is that of a few hundred of them."""


class StreamOrder:
    """The order of one stream's samples. Immutable and thread-safe.

    Parameters: the stream's `name`, the run's `seed`, `shuffle`, and the samples in a window.

    >>> order = StreamOrder("web", 0, "window", 100)
    >>> epochs, samples = order.place(np.arange(250), n_samples=250)
    >>> sorted(samples.tolist()) == list(range(250)), sorted(samples[:100].tolist()) == list(range(100))
    (True, True)
    """

    def __init__(self, name: str, seed: int, shuffle: Shuffle, window_samples: int) -> None:
        self.name = name
        self.seed = seed
        self.shuffle = shuffle
        self.window_samples = window_samples

    def window_end(self, j: int) -> int:
        """How many samples of a growing stream must be there before its j-th one is known."""
        if self.shuffle == "none":
            return j + 1
        return (j // self.window_samples + 1) * self.window_samples

    def window_start(self, j: int) -> int:
        """The first sample that may still come, once j of them have been taken."""
        return j if self.shuffle == "none" else j // self.window_samples * self.window_samples

    def place(self, j: NDArray[np.int64], n_samples: int | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Epoch and sample for each j. `n_samples` is None while the stream grows."""
        if n_samples is None:
            epochs, inside = np.zeros(j.shape, np.int64), j
        else:
            epochs, inside = np.divmod(j, n_samples)
        if self.shuffle == "none" or not len(j):
            return epochs, inside
        if self.shuffle == "global":
            assert n_samples is not None
            windows, places, width = np.zeros(j.shape, np.int64), inside, n_samples
        else:
            width = self.window_samples
            windows, places = np.divmod(inside, width)
        chunks = places // _CHUNK
        change = np.flatnonzero((np.diff(chunks) != 0) | (np.diff(windows) != 0) | (np.diff(epochs) != 0)) + 1
        samples = np.empty(j.shape, np.int64)
        for begin, end in zip([0, *change.tolist()], [*change.tolist(), len(j)], strict=True):
            epoch, window, chunk = int(epochs[begin]), int(windows[begin]), int(chunks[begin])
            first = window * width
            size = width if n_samples is None else min(width, n_samples - first)
            table = _chunk(derive("order", self.seed, self.name, epoch, window), size, chunk)
            samples[begin:end] = first + table[places[begin:end] - chunk * _CHUNK]
        return epochs, samples


@lru_cache(maxsize=64)
def _chunk(key: int, size: int, chunk: int) -> NDArray[np.int64]:
    """A part of a permutation: at most 64 x 32 KiB are kept."""
    return permute(np.arange(chunk * _CHUNK, min((chunk + 1) * _CHUNK, size)), size, key)
