"""A plain Python encoder for `simple-bpe v1` models, written from the format's description.

It does what the description says and nothing clever: split with `regex`, then merge the lowest pair
until none is left. The tests take it as the truth, the benchmark as the starting point.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import regex


class NaiveBpe:
    """The slow twin of `tokend.compat.BpeTokenizer`."""

    def load(self, path: Path) -> None:
        lines = path.read_text("utf-8").split("\n")
        assert lines[0] == "simple-bpe v1"
        self.pattern = regex.compile(lines[1])
        n_specials = int(lines[2])
        self.specials: dict[str, int] = {}
        for line in lines[3 : 3 + n_specials]:
            token, _, id = line.rpartition(" ")
            self.specials[token] = int(id)
        self.merges: dict[tuple[int, int], int] = {}
        self.tokens = {byte: bytes([byte]) for byte in range(256)}
        for line in filter(None, lines[3 + n_specials :]):
            left, right = map(int, line.split())
            id = 256 + len(self.merges)
            self.merges[left, right] = id
            self.tokens[id] = self.tokens[left] + self.tokens[right]

    def merge(self, ids: list[int]) -> list[int]:
        while len(ids) > 1:
            pairs = itertools.pairwise(ids)
            lowest = min(pairs, key=lambda pair: self.merges.get(pair, 1 << 40))
            if lowest not in self.merges:
                break
            merged, at = [], 0
            while at < len(ids):
                if ids[at : at + 2] == list(lowest):
                    merged.append(self.merges[lowest])
                    at += 2
                else:
                    merged.append(ids[at])
                    at += 1
            ids = merged
        return ids

    def encode_ordinary(self, text: str) -> list[int]:
        ids: list[int] = []
        for piece in self.pattern.findall(text):
            ids += self.merge(list(piece.encode()))
        return ids

    def encode(self, text: str, allowed_special_tokens: str = "none_raise") -> list[int]:
        if allowed_special_tokens == "none" or not self.specials:
            return self.encode_ordinary(text)
        alternatives = "(" + "|".join(regex.escape(token) for token in self.specials) + ")"
        parts = regex.split(alternatives, text)
        if allowed_special_tokens == "none_raise":
            if len(parts) > 1:
                raise ValueError(f"special token {parts[1]!r} in the text")
            return self.encode_ordinary(text)
        ids: list[int] = []
        for part in parts:
            ids += [self.specials[part]] if part in self.specials else self.encode_ordinary(part)
        return ids
