"""What a reference gave is remembered, as digests: references are slow and do not change, we do.

A batch of texts is known by a digest of who encodes (the vocabulary's bytes, the library and its version, the
policy for special tokens) and of the texts; what is remembered is a digest of the lists of ids. So a second
campaign over the same texts costs our own time only. Equal digests (128 bits of BLAKE2) are equal ids; where
they differ, or nothing is remembered, the reference encodes and lists are compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

Encode = Callable[[str], list[int]]


class Remembered:
    """Digests of one reference's answers, in a file of lines `batch answer`; `folder` None remembers nothing."""

    def __init__(self, folder: Path | None, who: str) -> None:
        self._who = who
        self._answers: dict[str, str] = {}
        self._path = folder and folder / f"{_digest(who.encode())}.digests"
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._path.exists():
                lines = self._path.read_text().splitlines()
                self._answers = {batch: answer for batch, _, answer in (line.partition(" ") for line in lines)}

    def differing(self, texts: list[str], ours: Encode, reference: Encode) -> list[str]:
        """The texts of a batch for which `ours` and `reference` give different ids."""
        batch = _digest(self._who.encode(), *(text.encode() for text in texts))
        got = [ours(text) for text in texts]
        if self._answers.get(batch) == answers(got):
            return []
        wanted = [reference(text) for text in texts]
        self._answers[batch] = answers(wanted)
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(f"{batch} {self._answers[batch]}\n")
        return [text for text, a, b in zip(texts, got, wanted, strict=True) if list(a) != list(b)]


def answers(lists: list[list[int]]) -> str:
    """The digest of a batch's lists of ids, each with its length."""
    return _digest(*(np.asarray(ids, dtype=np.uint32).tobytes() for ids in lists))


def _digest(*parts: bytes) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()
