"""`tokend tokenizers`."""

from __future__ import annotations

import argparse
import json
import sys

from tokend_client.errors import TokendError

from .. import vocabularies
from ..tokenizer import Tokenizer


def tokenizers(arguments: argparse.Namespace) -> int:
    """Lists the vocabularies that this machine has."""
    rows = [("gpt2", "gpt2", "bundled")]
    rows += [(found.encoding, found.argument, found.package) for found in vocabularies.carried()]
    listed = []
    for name, argument, source in rows:
        try:
            tokenizer = Tokenizer.load(argument)
        except TokendError as error:
            print(f"tokend: {argument}: {error.message}", file=sys.stderr)
            continue
        size, dtype, fingerprint = tokenizer.vocab_size, str(tokenizer.dtype), tokenizer.fingerprint
        listed.append(
            {
                "name": name,
                "tokenizer": argument,
                "from": source,
                "vocab_size": size,
                "dtype": dtype,
                "fingerprint": fingerprint,
                "reference": tokenizer.reference,
            }
        )
        if not arguments.json:
            print(f"{fingerprint[:12]}  {dtype:6}  {size:7,}  {source:18}  {argument}")
    if arguments.json:
        print(json.dumps(listed))
    return 0
