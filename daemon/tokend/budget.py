"""How many bytes requests may fill: those that wait, those that are worked on, and what is made of them."""

from __future__ import annotations

import threading

from tokend_client.errors import BusyError


class Budget:
    """A number of bytes that many share. Thread-safe.

    What is alone may be larger than all of it: it would never have its turn.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._used = 0

    def take(self, n_bytes: int, own_bytes: int = 0) -> None:
        """Takes `n_bytes` for somebody who has `own_bytes` already. Raises `BusyError` where they are not there."""
        with self._lock:
            others = self._used - own_bytes
            if others and self._used + n_bytes > self._max_bytes:
                raise BusyError(
                    f"requests of {others} bytes, with their replies, are worked on; {own_bytes + n_bytes} more are "
                    f"over the limit of {self._max_bytes}",
                    "send less at a time, or submit files",
                    retry_after_s=0.05,
                )
            self._used += n_bytes

    def give(self, n_bytes: int) -> None:
        """Gives back what was taken."""
        with self._lock:
            self._used -= n_bytes
