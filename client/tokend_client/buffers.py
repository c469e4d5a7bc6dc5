"""Arrays that are used again once nobody holds them.

A new array of some megabytes costs more than filling it: the kernel zeroes its pages first. The pool
keeps a few arrays and hands one out again only when the pool's own reference is the last one. A view, a
memoryview and `torch.from_numpy` all hold the array they look into, so a batch that is kept stays as it
is. Only a bare address (`array.ctypes.data`) holds nothing, as everywhere in numpy.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


class Pool:
    """A pool of arrays. Thread-safe.

    `keep`: how many arrays of a shape and dtype are kept at most; more are made as needed and let go.
    """

    def __init__(self, keep: int = 8) -> None:
        self._keep = keep
        self._arrays: dict[tuple[tuple[int, ...], np.dtype[Any]], list[NDArray[Any]]] = {}
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An array with anything in it, that nobody else holds."""
        key = (shape, np.dtype(dtype))
        with self._lock:
            arrays = self._arrays.setdefault(key, [])
            for number in range(len(arrays)):
                if _COUNTED and _references(arrays, number) == _IDLE:
                    # To the back: the next search begins with those that have been out longest.
                    arrays.append(arrays.pop(number))
                    return arrays[-1]
            made = np.empty(shape, dtype)
            if len(arrays) < self._keep:
                arrays.append(made)
            return made


def _references(arrays: list[NDArray[Any]], number: int) -> int:
    return sys.getrefcount(arrays[number])


# What an array counts that only a list holds; found out, since it differs between Pythons.
_IDLE = _references([np.empty(1)], 0)
# Without the interpreter lock another thread's references may not be counted yet.
_COUNTED = getattr(sys, "_is_gil_enabled", lambda: True)()
