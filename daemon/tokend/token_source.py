"""A finished set, ours or another tool's, as what it is rewritten and converted from: ids, documents, provenance.

Ours brings its manifest and the lists beside it. Another tool's brings ids, and documents as far as it has an index;
which tokenizer made it has to be said (`Told`), unless tokend made it and its note says so. That note also names the
text that it was made of, which is taken over where its documents are whole and in their order.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokend_client.errors import BadRequestError, StreamError
from tokend_client.protocol import Told

from . import _core
from .foreign import ForeignSet, Span, document_ends, drop_rows, read_set, scan, tell_eot
from .foreign.documents import EOT_NAMES, check_one_split
from .notes import find_note, is_native, output_of
from .sources import has_places
from .tokenizer import Tokenizer

UNKNOWN = "unknown"
"""The name of a tokenizer of which only the size of the vocabulary is known."""


@dataclass
class TokenSource:
    """A set to be written again; `check` before that."""

    path: Path
    found: ForeignSet
    tokenizer: dict[str, Any]
    options: dict[str, Any]
    """As a manifest has them."""
    sources: list[dict[str, Any]] | None
    """What it was made of; None: nothing is known of that, and its own files stand there."""
    is_own: bool
    sidecars: dict[str, list[Path]] = field(default_factory=dict)
    """Files of places, ids and what was left out, in the order of the documents, by their names in a manifest."""
    note: dict[str, Any] | None = None
    note_path: Path | None = None

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the ids once they are rewritten: that of the vocabulary."""
        return np.dtype("<u2" if self.tokenizer["vocab_size"] <= 1 << 16 else "<u4")

    @property
    def n_bytes(self) -> int:
        """Of ids."""
        return self.found.n_tokens * self.dtype.itemsize

    @property
    def paths(self) -> list[Path]:
        """Its files of ids."""
        return list(dict.fromkeys(span.path for span in self.found.spans))

    def check(self) -> None:
        """As `tokend verify`: raises `StreamError` with the first fault. Reads everything."""
        if self.is_own:
            _core.verify(str(self.path))
            return
        if self.note_path is not None:
            _core.verify(str(self.note_path))
        scan(
            self.found,
            vocab_size=self.tokenizer["vocab_size"],
            eot_id=self.options["eot_id"],
            eot=self.options["eot"],
        )

    def document_ends(self) -> Iterator[NDArray[np.uint64]]:
        """For each span the ends of documents in it, in ids from the start of the set."""
        return document_ends(self.found, None if self.is_own else self.options["eot_id"], self.options["eot"])

    def own_sources(self) -> list[dict[str, Any]]:
        """Its own files, as a manifest's sources without counts."""
        sizes = [path.stat().st_size for path in self.paths]
        return [
            {"path": str(path), "size_bytes": size, "xxh3": _core.hash_prefixes(str(path), [size])[0]}
            for path, size in zip(self.paths, sizes, strict=True)
        ]


def open_source(path: str | os.PathLike[str], told: Told) -> TokenSource:
    """Opens a set; reads headers, indices, and of what has none the end-of-text ids.

    Raises what `tokend inspect` does, and `BadRequestError` for what the files do not tell and nobody said.
    """
    place = Path(os.path.abspath(path))
    return _open_own(place, told) if is_native(place) else _open_foreign(place, told)


def _open_own(path: Path, told: Told) -> TokenSource:
    from .conversions import source_manifest

    for name, value in (("tokenizer", told.tokenizer), ("dtype", told.dtype), ("eot-at", told.eot_at)):
        if value is not None:
            raise BadRequestError(
                f"--{name} is of other tools' files; the manifest of {path} tells that", "leave it out"
            )
    if path.name == "manifest.json":
        path = path.parent
    path = Path(str(path).removesuffix(".json"))
    manifest = source_manifest(str(path))
    try:
        spans, sidecars = _own_files(path, manifest)
        width = np.dtype("<u2" if manifest["dtype"] == "uint16" else "<u4")
        found = ForeignSet("tokend", [Span(file, width, n_ids, ends=ends) for file, n_ids, ends in spans])
        return TokenSource(path, found, manifest["tokenizer"], manifest["options"], manifest["sources"], True, sidecars)
    except (KeyError, TypeError, ValueError) as error:
        raise StreamError(f"{path}: its manifest is damaged: {error}", "encode the inputs again") from None


_OwnFile = tuple[Path, int, NDArray[np.uint64]]


def _own_files(path: Path, manifest: dict[str, Any]) -> tuple[list[_OwnFile], dict[str, list[Path]]]:
    sidecars: dict[str, list[Path]] = {}
    if manifest["format"] == "tokend-bin":
        folder = path.parent
        for name in ("docs", "ids", "skipped"):
            if name in manifest:
                sidecars[name] = [folder / manifest[name]["file"]]
        ends = np.fromfile(folder / manifest["ends"]["file"], "<u8")
        return [(folder / manifest["data"]["file"], manifest["n_tokens"], ends)], sidecars
    if manifest["state"] != "sealed":
        raise StreamError(f"{path} is {manifest['state']}; only a sealed stream is complete", "wait for it, or seal it")
    files: list[_OwnFile] = []
    for segment in manifest["segments"]:
        if segment.get("retired"):
            raise StreamError(f"{path}: some of its segments were retired: their tokens are gone")
        ends = np.fromfile(path / segment["ends"], "<u8", segment["n_documents"])
        files.append((path / segment["tokens"], segment["n_tokens"], ends - np.uint64(segment["first_token"])))
        for name in ("docs", "ids"):
            if name in segment:
                sidecars.setdefault(name, []).append(path / segment[name]["file"])
    if "skipped" in manifest:
        sidecars["skipped"] = [path.parent / manifest["skipped"]["file"]]
    return files, sidecars


def _open_foreign(path: Path, told: Told) -> TokenSource:
    noted = find_note(path)
    note_place, note = noted if noted is not None else (None, None)
    found = read_set(path, told.dtype or (note["dtype"] if note is not None else None))
    check_one_split(found, path)
    loaded = Tokenizer.load(told.tokenizer) if told.tokenizer is not None else None
    tokenizer = _tokenizer(found, path, told, note, loaded)
    _, eot_id, eot = vocabulary(told, note, loaded)
    if note is None and found.kind in ("raw", "olmo"):
        check_width(told, path, tokenizer["vocab_size"], found.dtype)
    drop_rows(found, eot_id)
    if note is None:
        eot = tell_eot(found, eot_id, told.eot_at)
    elif any(span.ends is None for span in found.spans):
        tell_eot(found, eot_id, next(at for at, name in EOT_NAMES.items() if name == eot))
    options = {
        "separator": None,
        "eot": eot,
        "eot_id": eot_id if eot != "none" else None,
        "special": "text",
        "errors": "strict",
    }
    made = TokenSource(path, found, tokenizer, options, None, False, {}, note, note_place)
    if note is not None and note_place is not None and _is_whole(note, found):
        made.sources = note["sources"]
        made.options = {**note["options"], "eot": eot, "eot_id": options["eot_id"]}
        made.sidecars = _kept_places(output_of(note_place), note)
    return made


def _is_whole(note: dict[str, Any], found: ForeignSet) -> bool:
    """Whether a set has all the documents of its sources, in their order."""
    arrangement = note["arrangement"]
    n_tokens = sum(source["n_tokens"] for source in note["sources"])
    return (
        arrangement["shuffle_seed"] is None
        and not arrangement["val_fraction"]
        and n_tokens == note["n_tokens"] == found.n_tokens
    )


def places_of(output: Path, kind: str) -> list[Path]:
    """Where the places of the documents of a set in a trainer's format may be kept: `OUT.docs`."""
    return [Path(f"{output}.docs"), Path(f"{str(output).removesuffix(f'.{kind}')}.docs")]


def n_places(note: dict[str, Any]) -> int:
    """Documents that have places."""
    return sum(source["n_documents"] for source in note["sources"] if has_places(source))


def _kept_places(output: Path, note: dict[str, Any]) -> dict[str, list[Path]]:
    n_bytes = 16 * n_places(note)
    for place in places_of(output, note["kind"]):
        if n_bytes and place.is_file() and place.stat().st_size == n_bytes:
            return {"docs": [place]}
    return {}


def _tokenizer(
    found: ForeignSet, path: Path, told: Told, note: dict[str, Any] | None, tokenizer: Tokenizer | None
) -> dict[str, Any]:
    """What a manifest says of the tokenizer."""
    if tokenizer is not None:
        if note is not None and note["tokenizer"]["fingerprint"] != tokenizer.fingerprint:
            raise BadRequestError(
                f"{path} was made with {note['tokenizer']['name']}, not with {tokenizer.name}", "leave --tokenizer out"
            )
        return {
            "name": tokenizer.name,
            "fingerprint": tokenizer.fingerprint,
            "vocab_size": tokenizer.vocab_size,
            "eot_id": tokenizer.eot_id,
        }
    if note is not None:
        own: dict[str, Any] = note["tokenizer"]
        return own
    if told.vocab_size is None:
        raise BadRequestError(
            f"{path}: {found.kind} files do not say which tokenizer made them",
            "name it: --tokenizer NAME|PATH; or, of one that tokend does not know, --vocab-size N and --eot-id ID",
        )
    if not 0 < told.vocab_size <= 1 << 32:
        raise BadRequestError(f"a vocabulary of {told.vocab_size} ids is none")
    if told.eot_id is not None and told.eot_id >= told.vocab_size:
        raise BadRequestError(f"the end-of-text id {told.eot_id} is not below {told.vocab_size}, the vocabulary's size")
    known = json.dumps([UNKNOWN, told.vocab_size, told.eot_id])
    return {
        "name": UNKNOWN,
        "fingerprint": hashlib.sha256(known.encode()).hexdigest(),
        "vocab_size": told.vocab_size,
        "eot_id": told.eot_id,
    }


def vocabulary(
    told: Told, note: dict[str, Any] | None, tokenizer: Tokenizer | None = None
) -> tuple[int | None, int | None, str | None]:
    """Size of the vocabulary, end-of-text id and where it stands; None for what is not known.

    `tokenizer` is the one that `told` names, if it is loaded already.
    """
    vocab_size, eot_id, eot = told.vocab_size, told.eot_id, None
    if note is not None:
        vocab_size, eot = note["tokenizer"]["vocab_size"], note["arrangement"]["eot"]
        eot_id = eot_id if eot_id is not None else note["arrangement"]["eot_id"]
    if told.tokenizer is not None:
        tokenizer = tokenizer or Tokenizer.load(told.tokenizer)
        vocab_size = tokenizer.vocab_size
        eot_id = eot_id if eot_id is not None else tokenizer.eot_id
    if told.eot_at is not None:
        eot = EOT_NAMES[told.eot_at]
    return vocab_size, eot_id, eot


def check_width(told: Told, path: Path, vocab_size: int | None, dtype: str) -> None:
    """Ids that are as wide as no tokenizer of that size would make them."""
    if told.dtype is not None or vocab_size is None or dtype not in ("uint16", "uint32"):
        return
    needed = "uint16" if vocab_size <= 65_536 else "uint32"
    if dtype != needed:
        raise StreamError(
            f"{path}: its ids look like {dtype}, those of {vocab_size} are {needed}",
            f"pass --dtype {needed} or --dtype {dtype}, whichever they are, or --tokenizer with the one that made them",
        )


__all__ = ["TokenSource", "check_width", "n_places", "open_source", "places_of", "vocabulary"]
