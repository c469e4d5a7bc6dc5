"""The drop-in for the Python class that tokend grew out of.

It reads the same `simple-bpe v1` files and gives the same ids; only faster.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from .tokenizer import Tokenizer

_POLICIES = {"all": "token", "none": "text", "none_raise": "raise"}


class BpeTokenizer:
    """Byte-pair tokenizer with the interface of the original class: lists of ints in and out.

    `allowed_special_tokens` is `"none_raise"` (a special token in the text is a ValueError), `"all"`
    (its id) or `"none"` (ordinary text).
    """

    def __init__(self) -> None:
        self._tokenizer: Tokenizer | None = None

    def load(self, model_file: str | os.PathLike[str]) -> None:
        """Loads a `.model` file; raises a ValueError that names the line of what is broken."""
        self._tokenizer = Tokenizer.load(model_file)

    def _loaded(self) -> Tokenizer:
        if self._tokenizer is None:
            raise RuntimeError("no model is loaded; call load(model_file) first")
        return self._tokenizer

    def encode(self, text: str, allowed_special_tokens: str = "none_raise") -> list[int]:
        """The ids of a text."""
        if allowed_special_tokens not in _POLICIES:
            names = ", ".join(_POLICIES)
            raise ValueError(f"allowed_special_tokens is {allowed_special_tokens!r}, not one of {names}")
        ids: list[int] = self._loaded().encode(text, _POLICIES[allowed_special_tokens]).tolist()
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, with U+FFFD where their bytes are not UTF-8."""
        return self._loaded().decode(list(ids))
