"""Ctrl-C where any function of the client is entered: the interpreter looks for signals there, one place at a time."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from tokend_client import Client, parts

TEXTS = [f"text {n}" for n in range(6)]


def interrupted(call: Callable[[], Any], n_before: int) -> bool:
    """Calls, with an interrupt where function number `n_before` of the client is entered; false if none was."""
    left = n_before

    def enter(frame: FrameType, event: str, argument: object) -> None:
        nonlocal left
        if event == "call" and "tokend_client" in frame.f_code.co_filename:
            left -= 1
            if left < 0:
                raise KeyboardInterrupt

    sys.settrace(enter)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
    return False


@pytest.mark.parametrize("is_batch", [False, True])
def test_an_interrupt_where_a_function_is_entered_costs_nobody_else_a_reply(
    is_batch: bool, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PART_BYTES", 16)
    expected = client.encode_batch(TEXTS)[0].tolist()

    def call() -> None:
        if is_batch:
            assert client.encode_batch(TEXTS)[0].tolist() == expected
        else:
            client.encode("Hello")

    for n_before in itertools.count():
        if not interrupted(call, n_before):
            break
        # Whoever calls next has to drive.
        assert client.encode("Hello", timeout=10).tolist() == [15496]
        assert not client._connection._slots
    assert n_before > 10
