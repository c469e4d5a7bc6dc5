"""Sets whose tokens have a source: ours, and what was made of them for trainers.

A set in a trainer's format has a note with the sources of the set that it was made of, and `OUT.docs` with the places
of its documents, both in the order of the inputs. Which of these documents stands at a place of its own:

    as it is      the same
    shuffled      that of the permutation, which follows from the seed (`export/arrange.rs`)
    split         the next one of the permutation that went to this side, as `OUT.sides` says (`beside.py`). Where that
                  is missing: the side follows from a hash of the ids, and equal documents are on the same side; so the
                  two sides are laid beside the set they were made of (named, or found by its name), document by
                  document: the one that fits is it
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tokend_client import TokenStream
from tokend_client.errors import BadRequestError, NotFoundError, StreamError, TokendError
from tokend_client.stream.foreign import splits_of

from . import _core, beside
from .conversions import is_of, source_manifest
from .foreign import ForeignSet, Span, document_ends, read_set, recognise
from .foreign.documents import check_one_split
from .notes import find_note, is_native, output_of
from .token_source import n_places, places_of


@dataclass(frozen=True)
class Place:
    """Where a token's document is."""

    document: int
    """In the set."""
    original: int
    """In the order of the inputs."""
    start: int
    """Its first token."""
    end: int
    """The one after its last."""


class Explainable(Protocol):
    """A set and what it was made of."""

    path: Path
    n_tokens: int
    n_documents: int
    tokenizer: str
    fingerprint: str
    options: dict[str, Any]
    sources: list[dict[str, Any]]
    places: list[tuple[Path, int]]
    """Files of the places of documents, and how many each has."""

    def place(self, token: int) -> Place:
        """Where a token's document is."""

    def ids(self, start: int, end: int) -> NDArray[Any]:
        """A range of ids."""


class OwnSet:
    """A set or stream of ours."""

    def __init__(self, path: Path) -> None:
        self.path, self._stream = path, TokenStream(path)
        stream = self._stream
        manifest = stream.manifest
        self.n_tokens, self.n_documents = stream.n_tokens, stream.n_documents
        self.tokenizer, self.fingerprint = str(stream.tokenizer), str(stream.fingerprint)
        self.options: dict[str, Any] = manifest["options"]
        self.sources: list[dict[str, Any]] = manifest["sources"]
        is_stream = "segments" in manifest
        files = [segment.get("docs") for segment in manifest["segments"]] if is_stream else [manifest.get("docs")]
        folder = stream.path if is_stream else stream.path.parent
        self.places = [(folder / entry["file"], entry["size_bytes"] // 16) for entry in files if entry]

    def close(self) -> None:
        """Lets go of the files."""
        self._stream.close()

    def bounds(self, document: int) -> tuple[int, int]:
        """The first token of a document, and the one after its last."""
        return self._stream.document_bounds(document)

    def place(self, token: int) -> Place:
        """Where a token's document is."""
        origin = self._stream.explain(token)
        if origin.document is None or origin.source is None:
            raise StreamError(f"{self.path}: token {token} is of a document that is not complete yet")
        return Place(origin.document, origin.document, *self.bounds(origin.document))

    def ids(self, start: int, end: int) -> NDArray[Any]:
        """A range of ids."""
        return self._stream[start:end]


class ConvertedSet:
    """What was made of a set of ours for a trainer: all of it, one side of a split, or one of its files.

    `made_of` is the set of ours, if it is not where its name says.
    """

    def __init__(self, path: Path, made_of: Path | None = None) -> None:
        noted = find_note(path)
        if noted is None and not path.exists() and recognise(path) is None:
            raise NotFoundError(f"{path}: no such file or set", "check the path")
        if noted is None:
            raise StreamError(
                f"{path}: another tool's set, which does not say what text it was made of",
                "tokend explains its own sets, and what `tokend encode` and `tokend convert` made of them",
            )
        self.path = path
        note_place, self._note = noted
        self._output = output_of(note_place)
        self._arrangement: dict[str, Any] = self._note["arrangement"]
        self.tokenizer, self.fingerprint = (str(self._note["tokenizer"][name]) for name in ("name", "fingerprint"))
        self.options = {**self._note["options"], "eot": self._arrangement["eot"], "eot_id": self._arrangement["eot_id"]}
        self.sources: list[dict[str, Any]] = self._note["sources"]
        self._side: str | None = None
        self._found, self._first = self._spans()
        self._bounds = np.cumsum([0, *(span.n_ids for span in self._found.spans)])
        self._ends = self._document_ends(self._found)
        self.n_tokens = self._found.n_tokens - self._first
        self.n_documents = len(self._ends)
        self._own = self._own_set(made_of)
        self.places = self._kept_places()

    def close(self) -> None:
        """Lets go of the files."""
        if self._own is not None:
            self._own.close()

    def _spans(self) -> tuple[ForeignSet, int]:
        """The ids of one side, and where those begin that were asked for."""
        whole = read_set(self._output, self._note["dtype"])
        asked = read_set(self.path, self._note["dtype"])
        if self._arrangement["val_fraction"]:
            check_one_split(asked, self.path)
            self._side = self._side_of(asked.spans[0].path) if asked.spans else "train"
            whole = replace(whole, spans=[span for span in whole.spans if self._side_of(span.path) == self._side])
        files = {span.path for span in asked.spans}
        before = itertools.takewhile(lambda span: span.path not in files, whole.spans)
        return whole, sum(span.n_ids for span in before)

    def _side_of(self, file: Path) -> str:
        is_below = file.parent != self._output.parent and file.parent != self._output
        name = file.stem.removeprefix(self._output.name)
        found = splits_of(file.parent.name) if is_below else splits_of(name)
        return "val" if "val" in found else "train"

    def _document_ends(self, found: ForeignSet) -> NDArray[np.uint64]:
        eot_id = self._arrangement["eot_id"]
        if eot_id is None and any(span.ends is None for span in found.spans):
            raise StreamError(
                f"{self.path}: {found.kind} has no index of documents, and this set no end-of-text ids to tell them by",
                "explain the set that it was made of",
            )
        ends = np.concatenate([np.empty(0, np.uint64), *document_ends(found, eot_id, self._arrangement["eot"])])
        n_val = self._note["n_val_documents"]
        expected = n_val if self._side == "val" else self._note["n_documents"] - n_val
        # Rows leave out what does not fill the last one.
        if len(ends) != expected and self._arrangement["row_tokens"] is None:
            raise StreamError(
                f"{self.path}: {len(ends)} documents can be told apart by id {eot_id}, and {expected} were written: "
                "the text holds that id itself",
                "explain the set that it was made of",
            )
        return ends

    def _own_set(self, made_of: Path | None) -> OwnSet | None:
        """The set that it was made of, if it is there and still the same."""
        stem = str(self._output).removesuffix(f".{self._note['kind']}")
        for place in (
            [made_of] if made_of is not None else [Path(f"{stem}.bin"), Path(stem), Path(f"{self._output}.bin")]
        ):
            try:
                if is_of(self._note, source_manifest(str(place))):
                    return OwnSet(place)
            except TokendError:
                pass
        if made_of is not None:
            raise BadRequestError(f"{self.path} was not made of {made_of}", "name the set that it was made of, or none")
        return None

    def _kept_places(self) -> list[tuple[Path, int]]:
        if self._own is not None and self._own.places:
            return self._own.places
        n_records = n_places(self._note)
        for place in places_of(self._output, self._note["kind"]):
            if n_records and place.is_file() and place.stat().st_size == 16 * n_records:
                return [(place, n_records)]
        return []

    def _kept_sides(self) -> NDArray[np.bool_] | None:
        """The side of each document of the inputs."""
        how = {"val_fraction": self._arrangement["val_fraction"], "seed": self._arrangement["seed"]}
        for place in places_of(self._output, self._note["kind"]):
            sides = beside.read_sides(place.with_suffix(".sides"), self._note["n_documents"], **how)
            if sides is not None and int(sides.sum()) == self._note["n_val_documents"]:
                return sides
        return None

    def place(self, token: int) -> Place:
        """Where a token's document is."""
        at = token + self._first
        number = int(np.searchsorted(self._ends, at, "right"))
        if number == len(self._ends):
            raise StreamError(
                f"{self.path}: token {token} is of no document",
                "name one before it: the last row ends inside a document",
            )
        start = int(self._ends[number - 1]) if number else 0
        bounds = (start - self._first, int(self._ends[number]) - self._first)
        return Place(number, self._original(number), *bounds)

    def ids(self, start: int, end: int) -> NDArray[Any]:
        """A range of ids; it may begin before the file that was asked for."""
        return self._read(self._found, self._bounds, start + self._first, end + self._first)

    def _read(self, found: ForeignSet, bounds: NDArray[np.int64], start: int, end: int) -> NDArray[Any]:
        parts = []
        number = max(0, int(np.searchsorted(bounds, start, "right")) - 1)
        while start < end and number < len(found.spans):
            span: Span = found.spans[number]
            within, upto = start - int(bounds[number]), min(end, int(bounds[number + 1])) - int(bounds[number])
            offset = span.offset_bytes + within * span.dtype.itemsize
            parts.append(np.fromfile(span.path, span.dtype, upto - within, offset=offset))
            start, number = int(bounds[number + 1]), number + 1
        return np.concatenate(parts) if parts else np.empty(0, "<u2")

    def _original(self, number: int) -> int:
        """The document of the inputs that stands at a place of this set."""
        if self._side is None:
            return int(self._order(number + 1)[-1])
        sides = self._kept_sides()
        if sides is not None:
            order = self._order(self._note["n_documents"]).astype(np.int64)
            return int(order[sides[order] == (self._side == "val")][number])
        if self._own is None:
            raise StreamError(
                f"{self.path}: which documents are of training and which of validation is told by the set that it "
                "was made of, and that is not there",
                "name it with --set; `tokend encode --format bin --format ...` keeps it",
            )
        return self._beside_own(self._own, number)

    def _order(self, n_positions: int) -> NDArray[np.uint64]:
        """The documents of the inputs at the first places of both sides together."""
        seed = self._arrangement["shuffle_seed"]
        if seed is None:
            return np.arange(n_positions, dtype=np.uint64)
        return _core.shuffled(self._note["n_documents"], seed, n_positions)

    def _beside_own(self, own: OwnSet, number: int) -> int:
        """Goes through the set that it was made of until so many of its documents are on this side."""
        n_here = 0
        for original in self._order(self._note["n_documents"]).tolist():
            start, end = own.bounds(original)
            here = self._without_eot(self._ids_of(n_here), self.options)
            there = self._without_eot(own.ids(start, end), own.options)
            if np.array_equal(here, there):
                if n_here == number:
                    return int(original)
                n_here += 1
                if n_here == self.n_documents:
                    break
        raise StreamError(f"{self.path}: its documents are not those of {own.path}", "was one of the two changed?")

    def _ids_of(self, number: int) -> NDArray[Any]:
        start = int(self._ends[number - 1]) if number else 0
        return self._read(self._found, self._bounds, start, int(self._ends[number]))

    @staticmethod
    def _without_eot(ids: NDArray[Any], options: dict[str, Any]) -> NDArray[Any]:
        """A document's own ids; where `both` adds one before the first document, that goes as well."""
        eot, eot_id = options["eot"], options["eot_id"]
        if len(ids) and eot in ("append", "both") and ids[-1] == eot_id:
            ids = ids[:-1]
        return ids[1:] if len(ids) and eot in ("prepend", "both") and ids[0] == eot_id else ids


@contextmanager
def open_explainable(path: Path, made_of: Path | None = None) -> Iterator[Explainable]:
    """Opens a set to be explained. Raises `StreamError` for one that does not say what it was made of."""
    found = OwnSet(path) if made_of is None and is_native(path) else ConvertedSet(path, made_of)
    try:
        yield found
    finally:
        found.close()
