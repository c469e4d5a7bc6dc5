"""Which token ends a text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokend_client.errors import TokenizerInvalidError

if TYPE_CHECKING:
    from ._core import Tokenizer


def eot_id(tokenizer: Tokenizer, eot: str, eot_token: str | None) -> int | None:
    """The end-of-text id that a job uses; None with `eot="none"`.

    Raises `TokenizerInvalidError` that lists the candidates where it is not obvious.
    """
    if eot == "none":
        return None
    specials = tokenizer.special_tokens
    if eot_token is not None:
        if eot_token in specials:
            return specials[eot_token]
        problem = f"{tokenizer.name}: no special token {eot_token!r}"
    elif tokenizer.eot_id is not None:
        return tokenizer.eot_id
    else:
        problem = f"{tokenizer.name}: no obvious end-of-text token"
    candidates = ", ".join(sorted(specials)) or "none at all"
    raise TokenizerInvalidError(problem, f"pass --eot-token, or --eot none; special tokens: {candidates}")
