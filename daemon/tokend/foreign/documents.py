"""Where the documents of a foreign set end: by its index, or else by its end-of-text ids.

    eot      end-of-text ids                        a document is
    append   at the end of each document            up to and with the next of them
    prepend  at the start of each document          from one of them up to the next
    both     append, and one before the first       as append
    none     nowhere                                what the index says

Without an index documents may go on from one file into the next, as in shards that were cut at a round number of ids;
with one, only where the next file does not begin with an end-of-text id (llm.c), and after an item that is as long
as one may be (litData).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokend_client.errors import BadRequestError
from tokend_client.stream.foreign import splits_of

from .scan import ITEM_MAX_BYTES, blocks
from .sets import ForeignSet, Span

EOT_NAMES = {"end": "append", "start": "prepend", "both": "both", "none": "none"}
"""Where end-of-text ids stand, and what the manifest of a set of ours calls that."""
_LOOKED_AT = 1000
"""Documents from which their place is told; `scan` looks at all of them."""


def check_one_split(found: ForeignSet, path: Path) -> None:
    """Refuses files of training and of validation as one set: nobody trains on what he validates with."""
    splits: dict[str, str] = {}
    for file in {span.path for span in found.spans}:
        is_below = file.parent not in (path, path.parent)
        for split in splits_of(file.stem) | (splits_of(file.parent.name) if is_below else set()):
            place = str(file.parent if is_below else file)
            splits[split] = min(place, splits.get(split, place))
    if len(splits) > 1:
        example = splits.get("train", min(splits.values()))
        raise BadRequestError(
            f"{path}: files of {' and of '.join(sorted(splits))} are no one set",
            f"name those of one of them, for instance {example}",
        )


def drop_rows(found: ForeignSet, eot_id: int | None) -> None:
    """Takes samples of one length for what they are: rows of ids, in which documents begin and end anywhere."""
    lengths = {span.n_ids for span in found.spans}
    if found.kind != "mds" or eot_id is None or len(lengths) != 1 or len(found.spans) < 2:
        return
    if all(_id_at(span, span.n_ids - 1) == eot_id for span in found.spans[:_LOOKED_AT]):
        return
    for span in found.spans:
        span.ends = None
    found.remarks.append(f"all samples have {lengths.pop()} ids: rows, in which documents are told by id {eot_id}")


def tell_eot(found: ForeignSet, eot_id: int | None, eot_at: str | None) -> str:
    """Where end-of-text ids stand, by a manifest's name for it; remarks on it if it was told from the ids.

    Raises `BadRequestError` where documents have no index and no end-of-text id is known.
    """
    is_indexed = all(span.ends is not None for span in found.spans)
    if not is_indexed and (eot_id is None or eot_at == "none"):
        raise BadRequestError(
            f"{found.kind} files have no index of documents here, and no end-of-text id "
            + ("is known" if eot_id is None else "tells them apart"),
            "name the id that ends them: --eot-id ID, or --tokenizer NAME whose id it is",
        )
    if eot_at is not None:
        return EOT_NAMES[eot_at]
    if eot_id is None or not found.n_tokens:
        return "none" if eot_id is None else EOT_NAMES[found.eot_at]
    told = _told_by_index(found, eot_id) if is_indexed else _told_by_borders(found, eot_id)
    usual = EOT_NAMES[found.eot_at]
    if told != usual:
        place = {"append": "at their ends", "prepend": "at their starts", "both": "at their ends and before the first"}
        found.remarks.append(
            f"documents have end-of-text ids {place[told]}, as their ids tell; --eot-at says otherwise"
        )
    return told


def _told_by_index(found: ForeignSet, eot_id: int) -> str:
    n_documents, n_first, n_last, is_first = 0, 0, 0, False
    for span in found.spans:
        assert span.ends is not None
        bounds = np.concatenate([[0], span.ends]).astype(np.int64)
        for start, end in pairwise(bounds[: _LOOKED_AT + 1].tolist()):
            if n_documents == _LOOKED_AT:
                break
            begins, ends = (end > start and _id_at(span, at) == eot_id for at in (start, end - 1))
            # One id that is both says nothing of the first document.
            is_first |= n_documents == 0 and begins and end > start + 1
            n_documents, n_first, n_last = n_documents + 1, n_first + begins, n_last + ends
    usual = EOT_NAMES[found.eot_at]
    at_start, at_end = n_first == n_documents, n_last == n_documents
    if at_start and (not at_end or usual == "prepend"):
        return "prepend"
    if at_end:
        return "both" if is_first and n_first < n_documents and usual == "append" else "append"
    # `scan` names the first document that is not as it should be.
    return usual


def _told_by_borders(found: ForeignSet, eot_id: int) -> str:
    filled = [span for span in found.spans if span.n_ids]
    begins = _id_at(filled[0], 0) == eot_id
    ends = _id_at(filled[-1], filled[-1].n_ids - 1) == eot_id
    if begins == ends:
        return EOT_NAMES[found.eot_at]
    return "prepend" if begins else "append"


def document_ends(found: ForeignSet, eot_id: int | None, eot: str) -> Iterator[NDArray[np.uint64]]:
    """For each span the ends of the documents that end within it, in ids of the whole set. The last is the set's."""
    base, n_ids = 0, found.n_tokens
    last = 0
    for number, span in enumerate(found.spans):
        if span.ends is None:
            assert eot_id is not None
            ends = base + _ends_by_id(span, eot_id, at_start=eot == "prepend")
        else:
            ends = base + span.ends[_is_end(found.spans, number, eot_id, eot)].astype(np.int64)
        ends = ends[ends > 0] if eot == "prepend" and span.ends is None else ends
        base += span.n_ids
        last = int(ends[-1]) if len(ends) else last
        if number == len(found.spans) - 1 and last != n_ids:
            ends = np.append(ends, n_ids)
        yield ends.astype(np.uint64)


def _ends_by_id(span: Span, eot_id: int, *, at_start: bool) -> NDArray[np.int64]:
    places = [np.flatnonzero(ids == eot_id) + at for at, ids in blocks(span)]
    found: NDArray[np.int64] = np.concatenate([np.empty(0, np.int64), *places])
    return found if at_start else found + 1


def _is_end(spans: list[Span], number: int, eot_id: int | None, eot: str) -> NDArray[np.bool_]:
    """Which ends of a span's index are ends of documents."""
    span = spans[number]
    assert span.ends is not None
    holds = np.ones(len(span.ends), np.bool_)
    if eot_id is None or eot == "none" or not len(holds):
        return holds
    if eot == "prepend":
        following = next((later for later in spans[number + 1 :] if later.n_ids), None)
        holds[-1] = following is None or span.ends[-1] != span.n_ids or _id_at(following, 0) == eot_id
        return holds
    lengths = np.diff(span.ends.astype(np.int64), prepend=0)
    for at in np.flatnonzero(lengths * span.dtype.itemsize == ITEM_MAX_BYTES).tolist():
        holds[at] = _id_at(span, int(span.ends[at]) - 1) == eot_id
    return holds


def _id_at(span: Span, at: int) -> int:
    with span.path.open("rb") as file:
        file.seek(span.offset_bytes + at * span.dtype.itemsize)
        found: NDArray[Any] = np.fromfile(file, span.dtype, 1)
    return int(found[0]) if len(found) else -1
