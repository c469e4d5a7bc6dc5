"""Arguments of the in-process tokenizer that are easily wrong are refused with a typed error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tokend import Tokenizer
from tokend_client.errors import BadRequestError, UnknownIdError

_BYTES = {id: bytes([id]) for id in range(256)}


@pytest.mark.parametrize(
    "call",
    [
        lambda tokenizer: tokenizer.encode_batch("abc"),
        lambda tokenizer: tokenizer.encode_files("a.txt", "o.bin"),
        lambda tokenizer: tokenizer.encode_files(["a.txt"], "o.bin", threads=-1),
        lambda tokenizer: tokenizer.decode([[1], [1, 2]]),
        lambda tokenizer: Tokenizer.from_merges(_BYTES, [], "<end>"),
        lambda tokenizer: Tokenizer.from_merges({-1: b"x"}, []),
        lambda tokenizer: Tokenizer.from_merges({1 << 32: b"x"}, []),
    ],
)
def test_refused(gpt2: Tokenizer, call: Callable[[Tokenizer], Any]) -> None:
    with pytest.raises(BadRequestError):
        call(gpt2)


def test_specials_given_as_a_list() -> None:
    tokenizer = Tokenizer.from_merges({**_BYTES, 300: b"<a>"}, [], ["<a>", "<b>", "<c>"])
    assert tokenizer.special_tokens == {"<a>": 300, "<b>": 301, "<c>": 302}


def test_an_unknown_id(gpt2: Tokenizer) -> None:
    with pytest.raises(UnknownIdError):
        gpt2.decode([60000])
