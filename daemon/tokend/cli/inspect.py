"""`tokend inspect`: what a set holds, ours or another tool's; reads headers and indices, not every id."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from tokend_client import TokenStream
from tokend_client.errors import TokendError

from ..foreign import TOKEN_FORMATS
from ..notes import is_native, read_note
from ..token_source import UNKNOWN
from ..tokenizer import Tokenizer
from .output import plural, short, size
from .report import account
from .verify import told

_HEAD_TOKENS = 40
_MOST_INPUTS = 20
"""Inputs with a line of their own."""


def inspect(arguments: argparse.Namespace) -> int:
    """Shows what a token set holds."""
    path = Path(os.path.abspath(arguments.path))
    if not is_native(path):
        return _foreign(arguments, path)
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
    rows = [("file", short(str(stream.path))), ("format", f"raw {stream.dtype}, {size(n_bytes)}")]
    if manifest["format"] != "tokend-bin":
        rows.append(("layout", f"{manifest['format']}, {stream.state}"))
    rows.append(("tokens", f"{stream.n_tokens:,}"))
    if stream.has_documents:
        rows.append(("documents", f"{stream.n_documents:,}"))
    if stream.tokenizer is None or stream.fingerprint is None:
        return [*rows, ("tokenizer", "unknown: the format does not tell")]
    options, sources = manifest["options"], manifest["sources"]
    # A stream of a watched directory has an entry for each piece of a file.
    source_bytes = sum(source["size_bytes"] - source.get("offset_bytes", 0) for source in sources)
    n_sources = len({source["path"] for source in sources}) if "offset_bytes" in (sources or [{}])[0] else len(sources)
    eot = f"{options['eot']} {options['eot_id']}" if options["eot_id"] is not None else "none"
    is_known = stream.tokenizer != UNKNOWN
    name = f"{stream.tokenizer} ({stream.fingerprint[:12]})"
    rows += [
        ("tokenizer", name if is_known else f"unknown, of {manifest['tokenizer']['vocab_size']:,} ids"),
        ("end of text", eot),
    ]
    kinds = sorted({source["format"] for source in sources if source.get("format") in TOKEN_FORMATS})
    if kinds:
        rows.append(("converted", f"from {' and '.join(kinds)}: {plural(n_sources, 'file')}, {size(source_bytes)}"))
        return rows + (_tokenizer(stream, stream.tokenizer) if is_known else [])
    separator = "" if options["separator"] is None else f" separator={options['separator']!r}"
    rows += [
        ("options", f"special={options['special']} errors={options['errors']}{separator}"),
        ("sources", f"{plural(n_sources, 'file')}, {size(source_bytes)}"),
    ]
    rows += _records(manifest)
    if left_out := _listed(manifest):
        rows.append(("left out", f"listed in {left_out}"))
    # Packed bytes would say nothing of the text.
    is_packed = any("+" in source.get("format", "") for source in sources)
    if stream.n_tokens and source_bytes and stream.state == "sealed" and not is_packed:
        rows.append(("bytes/token", f"{source_bytes / stream.n_tokens:.2f}"))
    return rows + _tokenizer(stream, stream.tokenizer)


def _listed(manifest: dict[str, Any]) -> str:
    """The names of the lists of what was left out; empty if nothing was."""
    if "skipped" in manifest:
        return str(manifest["skipped"]["file"])
    return ", ".join(segment["skipped"]["file"] for segment in manifest.get("segments", ()) if "skipped" in segment)


def _records(manifest: dict[str, Any]) -> list[tuple[str, str]]:
    """The account: what came in, and what of it is not in the output."""
    total = account(manifest)
    if not total:
        return []
    options = manifest["options"]["records"]
    field = f"field={options['field']} special={options['special']} bad_documents={options['bad_documents']}"
    names = ("min_tokens", "max_tokens", "truncate_tokens", "deduplicate", "id_field")
    field += "".join(f" {name}={options[name]}" for name in names if options[name])
    rows = [("records", field), ("in", _equation(total))]
    rows += _by_input(manifest["sources"])
    said = [f"{total['n_truncated']:,} cut"] if total["n_truncated"] else []
    notes = (("n_blank_lines", "blank line"), ("n_byte_order_marks", "byte order mark"))
    said += [plural(total[name], word) for name, word in notes if total[name]]
    return rows + ([("noted", ", ".join(said))] if said else [])


def _equation(counts: dict[str, int]) -> str:
    out = counts["n_in"] - counts["n_bad"] - counts["n_filtered"] - counts["n_duplicates"]
    left_out = f"{counts['n_bad']:,} bad + {counts['n_filtered']:,} filtered + {counts['n_duplicates']:,} duplicates"
    return f"{counts['n_in']:,} = {out:,} out + {left_out}"


def _by_input(sources: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """The account of each input, where there are several."""
    # A stream of a watched directory has an entry for each piece of a file.
    pieces: dict[str, list[dict[str, Any]]] = {}
    for source in sources:
        if "records" in source:
            pieces.setdefault(source["path"], []).append(source)
    if len(pieces) < 2:
        return []
    shown = list(pieces.items())[:_MOST_INPUTS]
    rows = [("  of", f"{_equation(account({'sources': of_path}))}: {path}") for path, of_path in shown]
    if len(pieces) > len(shown):
        rows.append(("  of", f"and {len(pieces) - len(shown):,} more, which --json has"))
    return rows


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


def _foreign(arguments: argparse.Namespace, path: Path) -> int:
    """Another tool's set, or one that was made for another tool."""
    from ..foreign import read_set
    from ..token_source import check_width, vocabulary

    note = read_note(path)
    found = read_set(path, arguments.dtype or (note["dtype"] if note is not None else None))
    vocab_size, eot_id, _ = vocabulary(told(arguments), note)
    if found.kind in ("raw", "olmo") and note is None:
        check_width(told(arguments), path, vocab_size, found.dtype)
    kind, n_documents = found.kind, found.n_documents
    if note is not None:
        kind = note["kind"]
        if n_documents is None and found.n_tokens == note["n_tokens"]:
            n_documents = note["n_documents"]
    if arguments.json:
        counts = {"dtype": found.dtype, "n_tokens": found.n_tokens, "n_documents": n_documents}
        print(json.dumps({"format": kind, "path": str(path), **counts, "n_files": found.n_files, "made_by": note}))
        return 0
    name = arguments.tokenizer or (note["tokenizer"]["name"] if note is not None else None)
    rows = [
        ("file", short(str(path))),
        ("format", f"{kind}, {plural(found.n_files, 'file')}, {size(found.n_bytes)}"),
        ("dtype", found.dtype),
        ("tokens", f"{found.n_tokens:,}"),
        ("documents", "not told" if n_documents is None else f"{n_documents:,}"),
        ("made by", f"tokend {note['tokend_version']}" if note is not None else "another tool"),
        ("tokenizer", name or "unknown: the format does not tell; pass --tokenizer to see text"),
    ]
    rows += [("end of text", str(eot_id))] if eot_id is not None else []
    if found.spans and name is not None:
        span = found.spans[0]
        n_ids = min(_HEAD_TOKENS, span.n_ids)
        head = np.fromfile(span.path, span.dtype, n_ids, offset=span.offset_bytes)
        try:
            rows.append(("head", repr(Tokenizer.load(name).decode(head))))
        except TokendError as error:
            rows.append(("head", f"({error.message})"))
    rows += [("remark", remark) for remark in found.remarks]
    for name, value in rows:
        print(f"{name:12} {value}")
    return 0
