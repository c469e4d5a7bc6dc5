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
        width = self.window_samples
        if self.shuffle == "global":
            assert n_samples is not None
            width = n_samples
        # A batch mostly falls into one chunk: what holds for the least and the greatest j holds for all.
        least, greatest = int(inside.min()), int(inside.max())
        first = least // width * width
        chunk = (least - first) // _CHUNK
        if int(epochs.min()) == int(epochs.max()) and greatest < min(first + (chunk + 1) * _CHUNK, first + width):
            return epochs, self._table(int(epochs[0]), first // width, chunk, width, n_samples)[
                inside - (first + chunk * _CHUNK)
            ]
        windows, places = np.divmod(inside, width)
        chunks = places // _CHUNK
        change = np.flatnonzero((np.diff(chunks) != 0) | (np.diff(windows) != 0) | (np.diff(epochs) != 0)) + 1
        samples = np.empty(j.shape, np.int64)
        for begin, end in zip([0, *change.tolist()], [*change.tolist(), len(j)], strict=True):
            chunk = int(chunks[begin])
            table = self._table(int(epochs[begin]), int(windows[begin]), chunk, width, n_samples)
            samples[begin:end] = table[places[begin:end] - chunk * _CHUNK]
        return epochs, samples

    def _table(self, epoch: int, window: int, chunk: int, width: int, n_samples: int | None) -> NDArray[np.int64]:
        """The samples of a chunk of places of a window."""
        first = window * width
        size = width if n_samples is None else min(width, n_samples - first)
        return _chunk(self.seed, self.name, epoch, window, size, first, chunk)


@lru_cache(maxsize=64)
def _chunk(seed: int, name: str, epoch: int, window: int, size: int, first: int, chunk: int) -> NDArray[np.int64]:
    """A part of a permutation: at most 64 x 32 KiB are kept."""
    places = np.arange(chunk * _CHUNK, min((chunk + 1) * _CHUNK, size))
    return first + permute(places, size, derive("order", seed, name, epoch, window))
