"""A batch of texts on its way to the daemon and back, in parts.

As one message, some megabytes keep everybody waiting for everybody: the daemon begins when all of it has arrived,
and the client reads when all of it is encoded. In parts, each a request of its own and a few of them under way at a
time, texts travel while others are encoded, on as many cores as there are, and what is copied is still in the
processor's caches. Between two parts the daemon serves others.

    texts ─► parts ─► requests, WINDOW of them under way ─► replies ─► ids and ends of the batch, in order

A batch is of one tokenizer: each reply says of which its ids are. If the tokenizer's files changed on the way, or a
daemon does not say, the batch is sent again as one request.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from . import requests
from .errors import BadRequestError
from .requests import BatchIds, Call, Ids

PART_BYTES = 2 << 20
"""A part is full with the text that reaches this size: one long text is a part, however long it is."""
WINDOW = 4
"""Parts under way: one is sent, two are encoded, one is received."""
_END_BYTES = 8
"""Of the end that goes with each text."""


class Batch:
    """A batch whose calls are made one by one, and whose results are added in the same order.

    Raises `BadRequestError` for a text instead of a list of them.
    """

    def __init__(self, texts: Sequence[str], tokenizer: str, special: str, timeout_s: float) -> None:
        if isinstance(texts, str):
            raise BadRequestError("texts is one text, not a list of them; use encode")
        self._texts = list(texts)
        self._options = tokenizer, special
        self.deadline_s = time.monotonic() + timeout_s
        self._ids = bytearray()
        self._n_ids = 0
        self._dtype = np.dtype(np.uint16)
        self._ends: list[NDArray[np.uint64]] = []
        self._fingerprints: set[bytes | None] = set()

    @property
    def is_small(self) -> bool:
        """Whether it is no more than about a part."""
        return sum(map(len, self._texts)) + _END_BYTES * len(self._texts) <= PART_BYTES

    def left_s(self) -> float:
        """Time that is left."""
        return self.deadline_s - time.monotonic()

    def whole(self) -> Call[BatchIds]:
        """All of it as one request."""
        return self._call([text.encode() for text in self._texts])

    def calls(self) -> Iterator[Call[BatchIds]]:
        """Its parts. Each is made when it is asked for."""
        part: list[bytes] = []
        n_bytes = 0
        for text in self._texts:
            if n_bytes >= PART_BYTES:
                yield self._call(part)
                part, n_bytes = [], 0
            data = text.encode()
            part.append(data)
            n_bytes += len(data) + _END_BYTES
        if part:
            yield self._call(part)

    def _call(self, texts: list[bytes]) -> Call[BatchIds]:
        return requests.encode_batch(texts, *self._options, self.left_s())

    def add(self, part: BatchIds) -> None:
        """Adds what came back for the next part, while others are still encoded."""
        self._fingerprints.add(part.fingerprint)
        self._ends.append(part.ends + np.uint64(self._n_ids))
        # Of one tokenizer, ids are of one dtype.
        self._dtype = part.ids.dtype
        self._n_ids += len(part.ids)
        # Other than an array, it grows without being filled with zeros first.
        self._ids += part.ids.data

    @property
    def is_of_one_tokenizer(self) -> bool:
        """Whether all parts are known to be."""
        return len(self._fingerprints) == 1 and None not in self._fingerprints

    def result(self) -> tuple[Ids, NDArray[np.uint64]]:
        """Flat ids, and the cumulative end of each text."""
        return np.frombuffer(self._ids, self._dtype), np.concatenate(self._ends)
