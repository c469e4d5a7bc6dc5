"""A shuffled order without a list of it: item `i` of a permutation of `n` items, for any n and key.

All numbers are 64-bit and wrap around. `mix64` is the finaliser of splitmix64:

    x ^= x >> 30; x *= 0xBF58476D1CE4E5B9; x ^= x >> 27; x *= 0x94D049BB133111EB; x ^= x >> 31

`derive(parts)` makes a key by hashing, never by adding, so (seed 1, epoch 2) and (seed 2, epoch 1)
have nothing in common. h = 0; each part is one or more words w, and for each h = mix64(h ^ w) + G with
G = 0x9E3779B97F4A7C15. An integer is the word 0, then its value modulo 2^64. Text is the word
1 + its length in bytes, then its UTF-8 bytes as little-endian words, the last one padded with zeros.

`permute(i, n, key)`:

* n < 256: sort the items 0..n-1 by (mix64(mix64(key) ^ (item + 1) * G), item); the result is the i-th.
* else a Feistel network over b = ceil(log2 n) bits. The low half has b - b // 2 bits, the high half
  b // 2. Six rounds r = 0..5, with round keys mix64(key + (r + 1) * G): an even round changes the low
  half, low ^= top bits of mix64(high ^ round key), an odd one changes the high half in the same way,
  high ^= top bits of mix64(low ^ round key). "Top bits" are as many as the half that is changed has.
  A result of n or more goes through the network again (cycle walking) until it is below n; since the
  network is a bijection of 2^b numbers, the walk is one of n numbers. Under two turns on average.

Every half is changed three times by all of the other one, so each bit of the output depends on each
bit of the input (tests/loader/test_permutation.py measures it). About 30 ns per item in bulk.

The numbers are part of the order of training, so they never change; `tests/loader/golden/` has vectors
for other implementations. Not for cryptography.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_G = 0x9E3779B97F4A7C15
_M1 = 0xBF58476D1CE4E5B9
_M2 = 0x94D049BB133111EB
_MASK = (1 << 64) - 1
_SMALL = 256
_ROUNDS = 6


def mix64(x: int) -> int:
    """splitmix64's finaliser: a bijection of 64-bit numbers."""
    x &= _MASK
    x = ((x ^ x >> 30) * _M1) & _MASK
    x = ((x ^ x >> 27) * _M2) & _MASK
    return x ^ x >> 31


def derive(*parts: int | str) -> int:
    """A 64-bit key from numbers and names; order and kind matter.

    >>> derive("window", 1, 2) != derive("window", 2, 1)
    True
    """
    h = 0
    for part in parts:
        if isinstance(part, int):
            words = [0, part & _MASK]
        else:
            text = part.encode()
            words = [1 + len(text)]
            words += [int.from_bytes(text[n : n + 8], "little") for n in range(0, len(text), 8)]
        for word in words:
            h = (mix64(h ^ word) + _G) & _MASK
    return h


def permute(items: NDArray[np.int64] | int, n: int, key: int) -> NDArray[np.int64]:
    """Where a permutation of `range(n)` sends `items`; a bijection for every n ≥ 1 and 64-bit key.

    `items`: an int or an int64 array, each in `range(n)`; the result is an int64 array of the same
    shape. n up to 2^62. Raises `ValueError` for an n or item out of range. Thread-safe.

    >>> sorted(permute(np.arange(1000), 1000, key=7).tolist()) == list(range(1000))
    True
    """
    index = np.asarray(items, np.int64)
    if not 1 <= n <= 1 << 62:
        raise ValueError(f"a permutation of {n} items: 1 to 2^62 are possible")
    if index.size and (int(index.min()) < 0 or int(index.max()) >= n):
        raise ValueError(f"items {int(index.min())} to {int(index.max())} of a permutation of {n}")
    if n < _SMALL:
        return _small(n, key & _MASK)[index]
    shape = index.shape
    out = _network(index.reshape(-1).astype(np.uint64), n, key & _MASK)
    beyond = np.flatnonzero(out >= n)
    while beyond.size:
        walked = _network(out[beyond], n, key & _MASK)
        out[beyond] = walked
        beyond = beyond[walked >= n]
    return out.astype(np.int64).reshape(shape)


@lru_cache(maxsize=64)
def _small(n: int, key: int) -> NDArray[np.int64]:
    base = mix64(key)
    order = sorted(range(n), key=lambda item: (mix64(base ^ ((item + 1) * _G & _MASK)), item))
    table = np.array(order, np.int64)
    table.flags.writeable = False
    return table


def _network(x: NDArray[np.uint64], n: int, key: int) -> NDArray[np.uint64]:
    """One turn of the Feistel network over the bits of n - 1."""
    bits = (n - 1).bit_length()
    high_bits = bits // 2
    low_bits = bits - high_bits
    low = x & np.uint64((1 << low_bits) - 1)
    high = x >> np.uint64(low_bits)
    for r in range(_ROUNDS):
        round_key = np.uint64(mix64(key + (r + 1) * _G))
        if r % 2 == 0:
            low ^= _top_bits(high ^ round_key, low_bits)
        else:
            high ^= _top_bits(low ^ round_key, high_bits)
    high <<= np.uint64(low_bits)
    high |= low
    return high


def _top_bits(x: NDArray[np.uint64], n_bits: int) -> NDArray[np.uint64]:
    """The top bits of mix64, computed in place: `x` is used up."""
    x ^= x >> np.uint64(30)
    x *= np.uint64(_M1)
    x ^= x >> np.uint64(27)
    x *= np.uint64(_M2)
    x ^= x >> np.uint64(31)
    x >>= np.uint64(64 - n_bits)
    return x
