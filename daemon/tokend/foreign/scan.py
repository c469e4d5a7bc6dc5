"""Every id of a foreign set: in the vocabulary, ended by an end-of-text id, no tail that was never written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokend_client.errors import BadRequestError

from .sets import ForeignSet, Span, fault

_BLOCK_IDS = 1 << 21
ITEM_MAX_BYTES = 1 << 28  # of litData, as tokend writes it
ZERO_TAIL_MIN = 64
"""So many ids 0 at the end of a file are taken for space that was reserved and never written."""


@dataclass
class Scanned:
    """What the ids were."""

    n_tokens: int = 0
    n_bytes: int = 0
    largest_id: int = -1
    n_eot: int | None = None
    """How often the end-of-text id stands there; None: it is not known."""


def scan(found: ForeignSet, *, vocab_size: int | None, eot_id: int | None, eot: str | None = None) -> Scanned:
    """Reads all ids, in blocks.

    `eot` is where end-of-text ids should be (`append`, `prepend`, `both`, `none`; default: as the format's readers
    expect). Raises `StreamError` with the first fault.
    """
    if found.dtype not in ("uint16", "uint32", "int32", "uint8", "int64", "uint64", "int16", "unknown"):
        raise BadRequestError(f"ids of {found.dtype} cannot be compared with a vocabulary")
    result = Scanned(n_eot=0 if eot_id is not None else None)
    at_start = eot in ("prepend",) or (eot is None and found.eot_at == "start")
    for number, span in enumerate(found.spans):
        _scan_span(span, result, vocab_size, eot_id, is_last=number == len(found.spans) - 1)
        if eot_id is not None and eot != "none" and span.ends is not None:
            _check_eot(span, eot_id, at_start=at_start, is_first=number == 0)
    if eot_id is not None and eot != "none" and result.n_tokens and not result.n_eot:
        path = found.spans[0].path
        what = f"none of the {result.n_tokens} ids is the end-of-text id {eot_id}: documents run together"
        hint = "was it made without end-of-text ids (pass --eot-at none then), or with another tokenizer?"
        raise fault(path, None, what, hint)
    return result


def blocks(span: Span) -> Any:
    """Blocks of ids and the number of the first of each."""
    with span.path.open("rb") as file:
        file.seek(span.offset_bytes)
        at = 0
        while at < span.n_ids:
            ids: NDArray[Any] = np.fromfile(file, span.dtype, min(_BLOCK_IDS, span.n_ids - at))
            if not len(ids):
                raise fault(span.path, span.offset_bytes + at * span.dtype.itemsize, "the file became shorter")
            yield at, ids
            at += len(ids)


def _scan_span(span: Span, result: Scanned, vocab_size: int | None, eot_id: int | None, *, is_last: bool) -> None:
    width = span.dtype.itemsize
    n_zeros = 0
    for at, ids in blocks(span):
        low, high = int(ids.min()), int(ids.max())
        result.largest_id = max(result.largest_id, high)
        if low < 0 or (vocab_size is not None and high >= vocab_size):
            bad = ids < 0 if vocab_size is None else (ids < 0) | (ids >= vocab_size)
            where = int(np.flatnonzero(bad)[0])
            _out_of_vocabulary(span, at + where, int(ids[where]), vocab_size, float(np.mean(bad)))
        nonzero = np.flatnonzero(ids)
        n_zeros = len(ids) - 1 - int(nonzero[-1]) if len(nonzero) else n_zeros + len(ids)
        if eot_id is not None:
            result.n_eot = (result.n_eot or 0) + int(np.count_nonzero(ids == eot_id))
    result.n_tokens += span.n_ids
    result.n_bytes += span.n_ids * width
    if n_zeros >= ZERO_TAIL_MIN and is_last_of_file(span, is_last):
        first = span.n_ids - n_zeros
        what = f"the last {n_zeros} of {span.n_ids} ids are 0, from id {first} on: reserved and never written?"
        raise fault(span.path, span.offset_bytes + first * width, what, "the program that wrote it was stopped")


def is_last_of_file(span: Span, is_last: bool) -> bool:
    """Whether a span goes to the end of its file."""
    return is_last or span.path.stat().st_size == span.offset_bytes + span.n_ids * span.dtype.itemsize


def _out_of_vocabulary(span: Span, at: int, id: int, vocab_size: int | None, share: float) -> None:
    hint = "was it made with another tokenizer?"
    if share > 0.2:
        other = "uint32" if span.dtype.itemsize == 2 else "uint16"
        hint = f"{share:.0%} of the ids near it are like this: the file may hold {other}, or another tokenizer's ids"
    limit = "is below 0" if vocab_size is None or id < 0 else f"is not below {vocab_size}, the size of the vocabulary"
    raise fault(span.path, span.offset_bytes + at * span.dtype.itemsize, f"id {id} at token {at} {limit}", hint)


def _check_eot(span: Span, eot_id: int, *, at_start: bool, is_first: bool) -> None:
    """Each document must begin or end with the end-of-text id."""
    assert span.ends is not None
    if at_start:
        places = np.concatenate([[0], span.ends[:-1]]).astype(np.int64) if len(span.ends) else np.empty(0, np.int64)
        # A shard may begin within a document that was cut.
        places = places if is_first else places[1:]
    else:
        places = span.ends.astype(np.int64) - 1
    lengths = np.diff(np.concatenate([[0], span.ends]).astype(np.int64))
    if not at_start:
        # A document that was cut because it is longer than an item may be goes on in the next one.
        places = places[lengths * span.dtype.itemsize != ITEM_MAX_BYTES]
    for at, ids in blocks(span):
        inside = places[(places >= at) & (places < at + len(ids))]
        wrong = inside[ids[inside - at] != eot_id]
        if len(wrong):
            place = int(wrong[0])
            document = int(np.searchsorted(span.ends, place, "right"))
            side = "begins" if at_start else "ends"
            what = f"document {document} {side} with id {ids[place - at]}, not with the end-of-text id {eot_id}"
            hint = f"{len(wrong)} like it near by; documents that are not told apart run together in training. "
            hint += "If it stands elsewhere or nowhere, pass --eot-at start, --eot-at end or --eot-at none"
            raise fault(span.path, span.offset_bytes + place * span.dtype.itemsize, what, hint)
    if not at_start and len(lengths) and int(lengths.min()) == 0:
        document = int(lengths.argmin())
        what = f"document {document} has no ids at all, and so no end-of-text id"
        raise fault(span.path, None, what, "empty documents of tokend have one")
