"""Where a token came from: its document, its source, and the bytes of the source that it stands for.

The document is found by the set (`provenance`), its source by the manifest, its place in that by `OUT.docs`
(`job/records.rs`) or, in plain text that has no places there, by counting separators; compressed content and columns
are read by the core. From there the tokens before this one, decoded, say how many bytes to go. That the source has the
token's bytes at that place is checked, not assumed.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokend_client.errors import BadRequestError, StreamError, TokendError
from tokend_client.inputs import STDIN

from . import _core
from .foreign import TOKEN_FORMATS
from .provenance import Explainable, open_explainable
from .sources import copy_of_stdin, has_places, is_of_records
from .tokenizer import Tokenizer

_BLOCK_TOKENS = 1 << 20
_BLOCK_BYTES = 1 << 22
_NO_PLACES = "encode it again: they are kept now, but not with --errors replace"


@dataclass
class Explained:
    """A token and its surroundings."""

    token: int
    id: int
    bytes: str
    """What the token decodes to, with U+FFFD where that is no UTF-8."""
    document: int
    n_documents: int
    token_in_document: int
    n_tokens_of_document: int
    source: str
    document_in_source: int
    document_offset_bytes: int | None
    """Where the document's record or text begins in the source's content; None: the source has rows, or is gone."""
    row: int | None
    """Of the source, where that has rows."""
    offset_bytes: int | None
    """Where the token's bytes begin: in the source's content, or for records in the document's text."""
    is_exact: bool
    """Whether the source was read and has the token's bytes there."""
    before: str
    text: str
    after: str
    remark: str | None


def explain(
    path: str | os.PathLike[str],
    token: int,
    *,
    context_bytes: int = 200,
    tokenizer: Tokenizer | None = None,
    made_of: str | os.PathLike[str] | None = None,
) -> Explained:
    """Explains the token at position `token` of a set or stream of tokend's own, or of what was made of one for a
    trainer (a folder, a Megatron prefix, one side of a split, or one file; the position counts in what is named).

    `tokenizer` is the one that made it, loaded by its name if it is not given. `made_of` is the set of ours that a
    trainer's was made of, where it is not found by its name. Reads the document up to the token.
    Raises `BadRequestError` for a position that is not there, `StreamError` for a set that does not say what it was
    made of, and what loading the tokenizer raises.
    """
    opened = open_explainable(Path(os.path.abspath(path)), None if made_of is None else Path(os.path.abspath(made_of)))
    with opened as found:
        kinds = " and ".join(sorted({str(source.get("format")) for source in found.sources} & set(TOKEN_FORMATS)))
        if kinds:
            raise StreamError(
                f"{path} was converted from {kinds} files, which do not say of what text they are",
                "`tokend decode` shows the text of its tokens",
            )
        if not 0 <= token < found.n_tokens:
            raise BadRequestError(f"token {token} is not within the {found.n_tokens} of {path}")
        tokenizer = tokenizer or Tokenizer.load(found.tokenizer)
        if tokenizer.fingerprint != found.fingerprint:
            raise StreamError(f"{path}: made by another tokenizer than {tokenizer.name} is now")
        return _Search(found, tokenizer, context_bytes).explain(token)


@dataclass
class _Text:
    """A document's text, or what of it is near the token."""

    data: bytes
    begin: int
    """Where the document begins, in what its offsets count from."""
    skipped: int
    """Bytes between there and `data`."""


class _Search:
    def __init__(self, found: Explainable, tokenizer: Tokenizer, context_bytes: int) -> None:
        self.found, self.tokenizer, self.path = found, tokenizer, found.path
        self.context_bytes = context_bytes
        self.options = found.options

    def explain(self, token: int) -> Explained:
        place = self.found.place(token)
        start, end = place.start, place.end
        id = int(self.found.ids(token, token + 1)[0])
        own_start = start + self._leading(start, place.document)
        self._source, document_in_source, self._at = self._find_source(place.original)
        is_eot = id == self.options["eot_id"] and (token < own_start or token == end - 1)
        n_before = sum(
            len(self.tokenizer.decode_bytes(self.found.ids(at, min(token, at + _BLOCK_TOKENS))))
            for at in range(own_start, token, _BLOCK_TOKENS)
        )
        own = b"" if is_eot else self.tokenizer.decode_bytes([id])
        nearest = self.found.ids(max(own_start, token - self.context_bytes), max(own_start, token))
        following = self.found.ids(token + 1, min(end, token + 1 + self.context_bytes))
        result = Explained(
            token=token,
            id=id,
            bytes=self.tokenizer.decode([id]),
            document=place.document,
            n_documents=self.found.n_documents,
            token_in_document=token - start,
            n_tokens_of_document=end - start,
            source=self._source["path"],
            document_in_source=document_in_source,
            document_offset_bytes=None,
            row=None,
            offset_bytes=None,
            is_exact=False,
            before=_last(self.tokenizer.decode_bytes(nearest), self.context_bytes),
            text=own.decode(errors="replace"),
            after=_first(self.tokenizer.decode_bytes(following), self.context_bytes),
            remark=None,
        )
        try:
            self._in_source(result, n_before, own)
        except (OSError, ValueError, TokendError) as error:
            reason = error.message if isinstance(error, TokendError) else str(error)
            result.remark = f"the source cannot be looked at, so this is what the tokens say: {reason}"
        return result

    def _leading(self, start: int, document: int) -> int:
        """End-of-text ids before a document's own."""
        eot = self.options["eot"]
        has = eot == "prepend" or (eot == "both" and document == 0)
        return 1 if has and int(self.found.ids(start, start + 1)[0]) == self.options["eot_id"] else 0

    def _in_source(self, result: Explained, n_before: int, own: bytes) -> None:
        source = self._source
        path, kind = self._opened(source), source.get("format") or "text"
        # A piece of a file that is watched: more may have been written behind it.
        size, piece = path.stat().st_size, source.get("offset_bytes")
        if size < source["size_bytes"] or (piece is None and size != source["size_bytes"]):
            raise StreamError(f"{path} has another size than when it was encoded")
        content = kind.partition("+")[0]
        is_plain = kind == "text" and not is_of_records(source)
        if not has_places(source) or (is_plain and not self.found.places):
            if kind != "text":
                raise StreamError(f"{path} is {kind}, and its documents have no places", _NO_PLACES)
            separator = self.options["separator"]
            begin = piece or 0
            if separator is not None:
                begin = _after_separator(path, begin, separator, result.document_in_source)
            skip = self._far_before(n_before)
            with path.open("rb") as file:
                file.seek(begin + skip)
                text = file.read(4 * (n_before - skip + self.context_bytes) + 65_536)
            self._place(result, _Text(text, begin, skip), n_before, own, separator)
            result.document_offset_bytes = begin
            return
        place, n_bytes = self._record(self._at)
        if not is_of_records(source):
            skip = min(self._far_before(n_before), n_bytes)
            length = min(n_bytes - skip, 4 * (n_before - skip + self.context_bytes) + 65_536)
            text = _core.read_record(str(path), place + skip, length)
            self._place(result, _Text(text, place, skip), n_before, own)
            result.document_offset_bytes = place
            return
        field = self.options["records"]["field"]
        if content not in ("text", "jsonl"):
            result.row = place
            value = _core.read_record(str(path), place, n_bytes, field)
            self._place(result, _Text(value, 0, 0), n_before, own)
            self._remark(result, "the token's place counts from the start of the row's value")
            return
        result.document_offset_bytes = place
        record = _core.read_record(str(path), place, n_bytes)
        if content == "text":
            self._place(result, _Text(record, place, 0), n_before, own)
            return
        text = _field(record, field).encode(errors="surrogatepass")
        self._place(result, _Text(text, 0, 0), n_before, own)
        line = f"the record is {n_bytes} bytes from byte {place} on"
        self._remark(result, f"{line}; the token's place counts from the start of its text")

    def _opened(self, source: dict[str, Any]) -> Path:
        if source["path"] != STDIN:
            return Path(source["path"])
        # While a stream grows, or its job waits to be resumed.
        copy = Path(copy_of_stdin(str(self.path)))
        if not copy.is_file():
            raise StreamError("the text came through stdin, and no copy of it is kept")
        return copy

    def _far_before(self, n_before: int) -> int:
        """Bytes of a text before a token that need not be read: those that were not replaced are the tokens' own."""
        return max(0, n_before - self.context_bytes - 8) if self.options["errors"] == "strict" else 0

    def _remark(self, result: Explained, remark: str) -> None:
        """Says what a place counts from, unless there is something graver to say."""
        result.remark = result.remark or remark

    def _find_source(self, document: int) -> tuple[dict[str, Any], int, int]:
        """The source of a document of the inputs, its number in that, and its number among all that have places."""
        first = placed = 0
        for source in self.found.sources:
            n_documents = source["n_documents"]
            if n_documents is None or document < first + n_documents:
                return source, document - first, placed + document - first
            first += n_documents
            placed += n_documents if has_places(source) else 0
        raise StreamError(f"the sources of {self.path} have fewer documents than it has")

    def _record(self, at: int) -> tuple[int, int]:
        """Offset and length of the record number `at`, from the files of places."""
        for path, n_records in self.found.places:
            if at < n_records:
                place = np.fromfile(path, "<u8", 2, offset=16 * at)
                if len(place) == 2:
                    return int(place[0]), int(place[1])
                break
            at -= n_records
        raise StreamError(
            f"{self.path}: the places of its documents are missing (OUT.docs)",
            "name the set that it was made of: --set OUT.bin",
        )

    def _place(self, result: Explained, text: _Text, n_before: int, own: bytes, separator: str | None = None) -> None:
        """Finds the token's bytes in its document's text, which a separator may end."""
        at = n_before - text.skipped
        if self.options["errors"] == "replace":
            at = _before_replacement(text.data, n_before)
        result.offset_bytes = text.begin + text.skipped + at
        here = text.data[at:]
        found = here[: len(own)]
        result.is_exact = found == own or found.decode(errors="replace").encode() == own
        if not result.is_exact:
            result.remark = "the source has other bytes there: it was changed, or the tokenizer changes text"
            return
        rest = here[len(own) :]
        if separator is not None:
            rest = rest.partition(separator.encode())[0]
        result.before = _last(text.data[:at], self.context_bytes)
        result.after = _first(rest, self.context_bytes)


def _before_replacement(text: bytes, n_before: int) -> int:
    """How many bytes of broken UTF-8 become `n_before` bytes once each fault is U+FFFD."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high) // 2
        if len(text[:middle].decode(errors="replace").encode()) < n_before:
            low = middle + 1
        else:
            high = middle
    return low


def _after_separator(path: Path, base: int, text: str, number: int) -> int:
    """The offset behind the `number`-th separator from `base` on."""
    separator = text.encode()
    if number == 0:
        return base
    with path.open("rb") as file:
        file.seek(base)
        held = b""
        while block := file.read(_BLOCK_BYTES):
            data = held + block
            at = 0
            while (found := data.find(separator, at)) >= 0:
                at = found + len(separator)
                number -= 1
                if number == 0:
                    return base + at
            keep = max(at, len(data) - len(separator) + 1)
            base, held = base + keep, data[keep:]
    raise StreamError(f"{path} has fewer documents than when it was encoded")


def _field(record: bytes, name: str) -> str:
    """The text of a record of JSON."""
    value: Any = json.loads(record.removeprefix(b"\xef\xbb\xbf"))
    for key in name.split("."):
        if not isinstance(value, dict) or key not in value:
            raise StreamError(f"the record has no field {name!r} any more")
        value = value[key]
    if not isinstance(value, str):
        raise StreamError(f"the field {name!r} is no text any more")
    return value


def _last(data: bytes, n_bytes: int) -> str:
    """The end of some text, from a character's start on."""
    return data[-n_bytes:].decode(errors="ignore") if data else ""


def _first(data: bytes, n_bytes: int) -> str:
    return data[:n_bytes].decode(errors="ignore")
