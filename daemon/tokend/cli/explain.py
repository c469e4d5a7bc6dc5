"""`tokend explain`: the source text around a token."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict

from tokend_client.inputs import STDIN

from ..explain import explain as search


def explain(arguments: argparse.Namespace) -> int:
    """Shows where a token of a set came from."""
    found = search(
        os.path.abspath(arguments.path), arguments.token, context_bytes=arguments.context, made_of=arguments.set
    )
    if arguments.json:
        print(json.dumps(asdict(found)))
        return 0
    source = "stdin" if found.source == STDIN else found.source
    within = f"token {found.token_in_document:,} of {found.n_tokens_of_document:,} in it"
    rows = [
        ("token", f"{found.token:,}: id {found.id}, {found.bytes!r}"),
        ("document", f"{found.document:,} of {found.n_documents:,}, {within}"),
        ("source", f"{source}, document {found.document_in_source:,} in it"),
    ]
    if found.row is not None:
        rows.append(("row", f"{found.row:,}"))
    if found.document_offset_bytes is not None:
        rows.append(("begins at", f"byte {found.document_offset_bytes:,}"))
    if found.offset_bytes is not None:
        rows.append(("token at", f"byte {found.offset_bytes:,}{'' if found.is_exact else ' (not checked)'}"))
    rows.append(("text", f"{found.before!r} [{found.text!r}] {found.after!r}"))
    if found.remark is not None:
        rows.append(("remark", found.remark))
    for name, value in rows:
        print(f"{name:12} {value}")
    return 0
