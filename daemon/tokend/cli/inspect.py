"""`tokend inspect`."""

from __future__ import annotations

import argparse
import json
from typing import Any

from tokend_client import TokenStream
from tokend_client.errors import TokendError

from ..tokenizer import Tokenizer
from .encode import account
from .output import plural, size

_HEAD_TOKENS = 40


def inspect(arguments: argparse.Namespace) -> int:
    """Shows what a token set holds."""
    with TokenStream(arguments.path) as stream:
        if arguments.json:
            print(json.dumps(stream.manifest))
            return 0
        for name, value in _rows(stream):
            print(f"{name:12} {value}")
    return 0


def _rows(stream: TokenStream) -> list[tuple[str, str]]:
    manifest = stream.manifest
    n_bytes = stream.n_tokens * stream.dtype.itemsize
    rows = [("file", str(stream.path)), ("format", f"raw {stream.dtype}, {size(n_bytes)}")]
    if manifest["format"] != "tokend-bin":
        rows.append(("layout", f"{manifest['format']}, {stream.state}"))
    rows.append(("tokens", f"{stream.n_tokens:,}"))
    if stream.has_documents:
        rows.append(("documents", f"{stream.n_documents:,}"))
    if stream.tokenizer is None or stream.fingerprint is None:
        return [*rows, ("tokenizer", "unknown: the format does not tell")]
    options, sources = manifest["options"], manifest["sources"]
    source_bytes = sum(source["size_bytes"] for source in sources)
    eot = f"{options['eot']} {options['eot_id']}" if options["eot_id"] is not None else "none"
    rows += [
        ("tokenizer", f"{stream.tokenizer} ({stream.fingerprint[:12]})"),
        ("end of text", eot),
        ("options", f"special={options['special']} errors={options['errors']} separator={options['separator']!r}"),
        ("sources", f"{plural(len(sources), 'file')}, {size(source_bytes)}"),
    ]
    rows += _records(manifest)
    if stream.n_tokens and stream.state == "sealed":
        rows.append(("bytes/token", f"{source_bytes / stream.n_tokens:.2f}"))
    return rows + _tokenizer(stream, stream.tokenizer)


def _records(manifest: dict[str, Any]) -> list[tuple[str, str]]:
    """The account: what came in, and what of it is not in the output."""
    total = account(manifest)
    if not total:
        return []
    options = manifest["options"]["records"]
    field = f"field={options['field']} special={options['special']} bad_documents={options['bad_documents']}"
    names = ("min_tokens", "max_tokens", "truncate_tokens", "deduplicate", "id_field")
    field += "".join(f" {name}={options[name]}" for name in names if options[name])
    out = total["n_in"] - total["n_bad"] - total["n_filtered"] - total["n_duplicates"]
    left_out = f"{total['n_bad']:,} bad + {total['n_filtered']:,} filtered + {total['n_duplicates']:,} duplicates"
    rows = [("records", field), ("in", f"{total['n_in']:,} = {out:,} out + {left_out}")]
    notes = (("n_truncated", "cut"), ("n_blank_lines", "blank lines"), ("n_byte_order_marks", "byte order marks"))
    said = [f"{total[name]:,} {word}" for name, word in notes if total[name]]
    return rows + ([("noted", ", ".join(said))] if said else [])


def _tokenizer(stream: TokenStream, name: str) -> list[tuple[str, str]]:
    try:
        tokenizer = Tokenizer.load(name)
        head = repr(tokenizer.decode(stream[:_HEAD_TOKENS]))
    except TokendError as error:
        return [("head", f"(the tokenizer cannot be loaded: {error.message})")]
    reference = tokenizer.reference
    if reference == "tokenizers":
        reference += ", of the file without its post-processor"
    return [("ids like", reference), ("head", head)]
