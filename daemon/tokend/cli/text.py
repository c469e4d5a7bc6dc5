"""`tokend text`."""

from __future__ import annotations

import argparse
import json
import sys

from tokend_client.errors import InputInvalidError

from ..tokenizer import Tokenizer


def text(arguments: argparse.Namespace) -> int:
    """Prints the ids of a text on one line."""
    given = arguments.text
    if given == "-":
        data = sys.stdin.buffer.read()
        try:
            given = data.decode()
        except UnicodeDecodeError as error:
            raise InputInvalidError(
                f"stdin: not valid UTF-8 at byte {error.start} (0x{data[error.start]:02x})"
            ) from None
    ids = Tokenizer.load(arguments.tokenizer).encode(given, arguments.special).tolist()
    print(json.dumps(ids) if arguments.json else " ".join(map(str, ids)))
    return 0
