"""`tokend inspect`."""

from __future__ import annotations

import argparse
import json

from tokend_client import TokenStream
from tokend_client.errors import TokendError

from ..tokenizer import Tokenizer
from .output import plural, size

_HEAD_TOKENS = 40


def inspect(arguments: argparse.Namespace) -> int:
    """Shows what a token set holds."""
    with TokenStream(arguments.path) as stream:
        if arguments.json:
            print(json.dumps(stream.manifest))
            return 0
        options = stream.manifest["options"]
        sources = stream.manifest["sources"]
        n_bytes = sum(source["size_bytes"] for source in sources)
        rows = [
            ("file", str(stream.path)),
            ("format", f"raw {stream.dtype}, {size(stream.manifest['data']['size_bytes'])}"),
            ("tokens", f"{stream.n_tokens:,}"),
            ("documents", f"{stream.n_documents:,}"),
            ("tokenizer", f"{stream.tokenizer} ({stream.fingerprint[:12]})"),
            ("end of text", f"{options['eot']} {options['eot_id']}" if options["eot_id"] is not None else "none"),
            ("options", f"special={options['special']} errors={options['errors']} separator={options['separator']!r}"),
            ("sources", f"{plural(len(sources), 'file')}, {size(n_bytes)}"),
        ]
        if stream.n_tokens:
            rows.append(("bytes/token", f"{n_bytes / stream.n_tokens:.2f}"))
        rows += _tokenizer(stream)
        for name, value in rows:
            print(f"{name:12} {value}")
    return 0


def _tokenizer(stream: TokenStream) -> list[tuple[str, str]]:
    try:
        tokenizer = Tokenizer.load(stream.tokenizer)
        head = repr(tokenizer.decode(stream[:_HEAD_TOKENS]))
    except TokendError as error:
        return [("head", f"(the tokenizer cannot be loaded: {error.message})")]
    reference = tokenizer.reference
    if reference == "tokenizers":
        reference += ", of the file without its post-processor"
    return [("ids like", reference), ("head", head)]
