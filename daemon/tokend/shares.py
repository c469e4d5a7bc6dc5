"""Which of the running jobs gets how many threads: a function of how near each is to starving its readers.

A stream's *lead* is what is written of it beyond what its readers are waiting for next. A stream is
*behind* while its lead is under its limit; one that has stood still counts as behind only under three
quarters of it, so that jobs do not start and stop with every batch.

* Of the streams that are behind, the one whose lead lasts for the shortest time at its readers' rate gets the
  threads; the others get one each as long as there are enough. So streams of a mixture come level.
* Streams that are not behind stand still.
* A job without readers never stands still: it has one thread while a stream is behind, and else all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Load:
    """A running job: `lead` and `limit` in tokens, the readers' rate in tokens per second."""

    lead: int | None
    """None for a job without readers."""
    limit: int = 1
    tokens_per_s: float = 0.0
    is_paused: bool = False

    @property
    def is_behind(self) -> bool:
        """Whether its readers need it to run."""
        return self.lead is not None and self.lead < (self.limit * 3 // 4 if self.is_paused else self.limit)

    @property
    def lasts_s(self) -> float:
        """How long the lead lasts; readers of unknown rate count as slow ones."""
        return (self.lead or 0) / max(self.tokens_per_s, 1.0)


def share(loads: Sequence[Load], n_threads: int) -> list[int]:
    """Threads for each job; 0: it stands still.

    >>> behind, ahead, free = Load(100, 1000, 10.0), Load(5000, 1000, 10.0), Load(None)
    >>> share([behind, ahead], 4), share([behind, ahead, free], 4), share([ahead, free], 4), share([ahead], 4)
    ([4, 0], [3, 0, 1], [0, 4], [0])
    """
    shares = [0] * len(loads)
    free = [n for n, load in enumerate(loads) if load.lead is None]
    behind = sorted((n for n, load in enumerate(loads) if load.is_behind), key=lambda n: loads[n].lasts_s)
    for n in free:
        shares[n] = 1 if behind else n_threads
    left = n_threads - len(free)
    for n in behind[1:]:
        if left > 1:
            shares[n] = 1
            left -= 1
    if behind:
        shares[behind[0]] = max(left, 1)
    return shares
