"""The loader's order once more, in plain Python integers, from its description alone: the slow twin.

Also what tests of the loader share: documents, and a digest of a run's batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from tokend_client import Batch

G = 0x9E3779B97F4A7C15
M = (1 << 64) - 1
EOT = 50256


def mix64(x: int) -> int:
    x ^= x >> 30
    x = x * 0xBF58476D1CE4E5B9 & M
    x ^= x >> 27
    x = x * 0x94D049BB133111EB & M
    return x ^ x >> 31


def derive(*parts: int | str) -> int:
    h = 0
    for part in parts:
        if isinstance(part, int):
            words = [0, part % 2**64]
        else:
            text = part.encode()
            padded = text + bytes(-len(text) % 8)
            words = [1 + len(text)] + [int.from_bytes(padded[n : n + 8], "little") for n in range(0, len(padded), 8)]
        for word in words:
            h = (mix64(h ^ word) + G) & M
    return h


def permute(i: int, n: int, key: int) -> int:
    if n < 256:
        base = mix64(key)
        return sorted(range(n), key=lambda item: (mix64(base ^ (item + 1) * G & M), item))[i]
    bits = (n - 1).bit_length()
    high_bits, low_bits = bits // 2, bits - bits // 2
    x = i
    while True:
        high, low = divmod(x, 1 << low_bits)
        for r in range(6):
            round_key = mix64((key + (r + 1) * G) & M)
            if r % 2 == 0:
                low ^= mix64(high ^ round_key) >> 64 - low_bits
            else:
                high ^= mix64(low ^ round_key) >> 64 - high_bits
        x = high << low_bits | low
        if x < n:
            return x


def sample_at(j: int, n_samples: int, window: int | None, seed: int, name: str) -> int:
    """Which sample of a stream its j-th one is; `window` None for no shuffle, 0 for a global one."""
    epoch, i = divmod(j, n_samples)
    if window is None:
        return i
    if window == 0:
        return permute(i, n_samples, derive("order", seed, name, epoch, 0))
    w, r = divmod(i, window)
    size = min(window, n_samples - w * window)
    return w * window + permute(r, size, derive("order", seed, name, epoch, w))


def deal(n: int, places: list[int], seed: int) -> list[tuple[int, int]]:
    """Stream and number in the stream of the first n samples of a mixture with one stage."""
    out: list[tuple[int, int]] = []
    seen = [0] * len(places)
    bounds = np.cumsum(places).tolist()
    for k in range(n):
        block, r = divmod(k, 10_000)
        slot = permute(r, 10_000, derive("mix", seed, 0, block))
        stream = next(s for s, bound in enumerate(bounds) if slot < bound)
        out.append((stream, seen[stream]))
        seen[stream] += 1
    return out


def documents(seed: int, n: int, longest: int) -> list[NDArray[np.int64]]:
    """Random documents of 1 to `longest` tokens, the last of which is the end-of-text id."""
    rng = np.random.default_rng(seed)
    return [np.append(rng.integers(0, 50_000, rng.integers(0, longest)), EOT) for _ in range(n)]


def digest(batches: Iterable[Batch]) -> list[str]:
    """One short digest per batch, of all that training sees of it."""
    return [
        hashlib.blake2b(b.tokens.tobytes() + b.targets.tobytes() + b.samples.tobytes(), digest_size=8).hexdigest()
        for b in batches
    ]
