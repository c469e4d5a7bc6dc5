"""tokend: exact byte-level BPE tokens for training, from one daemon per machine.

>>> import tokend
>>> tokenizer = tokend.Tokenizer.load("gpt2")
>>> tokenizer.encode("Hello, world!").tolist()
[15496, 11, 995, 0]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["GPT2_PATTERN", "Tokenizer", "__version__"]

GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""GPT-2's split pattern."""

if TYPE_CHECKING:
    from .tokenizer import Tokenizer


def __getattr__(name: str) -> Any:
    """Imports the tokenizer when it is asked for: `tokend --help` needs none."""
    if name == "Tokenizer":
        from .tokenizer import Tokenizer

        return Tokenizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
