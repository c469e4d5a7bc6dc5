"""The tokenizer in this process, without a daemon."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from tokend_client.errors import BadRequestError, UnknownIdError
from tokend_client.inputs import expand

from . import GPT2_PATTERN, _core
from .eot import eot_id
from .vocabularies import resolve

if TYPE_CHECKING:
    # Imported where an array is made: files become token files without it.
    import numpy as np
    from numpy.typing import NDArray

    Ids: TypeAlias = NDArray[Any]


class Tokenizer:
    """An exact byte-level BPE tokenizer.

    Thread-safe; encoding and decoding release the GIL. Everything that is encoded teaches one merge
    cache, which lives as long as the object. Made by `load`, `from_tiktoken` or `from_merges`.

    `special` says what a special token's text means: `"raise"` (a `SpecialTokenError` with its byte
    offset), `"text"` (ordinary text) or `"token"` (its id).

        >>> tokenizer = Tokenizer.load("gpt2")
        >>> tokenizer.decode(tokenizer.encode("naïve 日本"))
        'naïve 日本'
        >>> tokenizer.encode("a<|endoftext|>", special="token").tolist()
        [64, 50256]
    """

    def __init__(self, core: _core.Tokenizer) -> None:
        self._core = core

    @classmethod
    def load(cls, name_or_path: str | os.PathLike[str]) -> Tokenizer:
        """Loads a tokenizer by name or path.

        - `"gpt2"`: bundled.
        - `"cl100k_base=PATH"`: a published encoding with its rank file; without `=PATH` the file is looked
          for in installed packages (see `tokend tokenizers`).
        - a `tokenizer.json` of the byte-level BPE kind, or a folder with one; post-processors are not applied.
        - a `tekken.json`, a `.model` file, or a folder with `vocab.json` and `merges.txt`.

        Raises `NotFoundError`, or `TokenizerInvalidError` that names the broken line or what is not supported.
        """
        return cls(_core.Tokenizer.load(resolve(os.fspath(name_or_path))))

    @classmethod
    def from_tiktoken(
        cls,
        path: str | os.PathLike[str],
        *,
        pattern: str,
        special_tokens: dict[str, int],
        name: str | None = None,
    ) -> Tokenizer:
        """Loads a tiktoken rank file; `pattern` and `special_tokens` are not in it.

        Raises `TokenizerInvalidError` for a broken line, or a pattern that is not supported.
        """
        text = os.fspath(path)
        return cls(_core.Tokenizer.from_tiktoken(text, pattern, special_tokens, name or os.path.abspath(text)))

    @classmethod
    def from_merges(
        cls,
        vocab: dict[int, bytes],
        merges: list[tuple[bytes, bytes]],
        special_tokens: Sequence[str] | dict[str, int] = (),
        pattern: str = GPT2_PATTERN,
    ) -> Tokenizer:
        """Makes a tokenizer of tokens by id and merges in order of priority.

        Special tokens given as a list take the id under which `vocab` holds their bytes, else the next
        free id. Character classes are those of Python's `regex`.

            >>> vocab = {i: bytes([i]) for i in range(256)} | {256: b"ab"}
            >>> Tokenizer.from_merges(vocab, [(b"a", b"b")], ["<|end|>"]).encode("abc").tolist()
            [256, 99]
        """
        if isinstance(special_tokens, str):
            raise BadRequestError("special_tokens is one text, not a list of them")
        if vocab and not 0 <= min(vocab) <= max(vocab) < 1 << 32:
            raise BadRequestError(f"ids are {min(vocab)} to {max(vocab)}, not within 0 to 2^32 - 1")
        if isinstance(special_tokens, dict):
            specials = list(special_tokens.items())
        else:
            ids = {token: id for id, token in vocab.items()}
            following = iter(range(max(vocab, default=-1) + 1, 1 << 32))
            specials = [
                (text, ids[text.encode()] if text.encode() in ids else next(following)) for text in special_tokens
            ]
        return cls(_core.Tokenizer.from_merges(vocab, merges, specials, pattern))

    @property
    def name(self) -> str:
        """`"gpt2"`, or the absolute path that it was loaded from."""
        return self._core.name

    @property
    def vocab_size(self) -> int:
        """One more than the largest id, special tokens included."""
        return self._core.vocab_size

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint16 if every id is below 65,536, else uint32."""
        import numpy as np

        return np.dtype(np.uint32 if self._core.is_wide else np.uint16)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that decides ids."""
        return self._core.fingerprint

    @property
    def special_tokens(self) -> dict[str, int]:
        """Special tokens and their ids."""
        return self._core.special_tokens

    @property
    def eot_id(self) -> int | None:
        """The end-of-text id, if it is declared or obvious."""
        return self._core.eot_id

    @property
    def pattern(self) -> str:
        """The split pattern; the steps of a `tokenizer.json` where one pattern does not say it all."""
        return self._core.pattern

    @property
    def reference(self) -> str:
        """Whose ids are matched: `"tiktoken"`, `"regex"` (Python's, for the split) or `"tokenizers"` (Hugging
        Face's, `encode(..., add_special_tokens=False)`: a post-processor of the file is not applied)."""
        return self._core.reference

    def encode(self, text: str, special: str = "raise") -> Ids:
        """The ids of a text: shape (n,), dtype `self.dtype`."""
        return self._core.encode(text, special)

    def encode_batch(self, texts: Sequence[str], special: str = "raise") -> tuple[Ids, NDArray[np.uint64]]:
        """Flat ids of many texts, and the cumulative count after each (uint64)."""
        if isinstance(texts, str):
            raise BadRequestError("texts is one text, not a list of them; use encode")
        return self._core.encode_batch(list(texts), special)

    def encode_iter(self, texts: Iterable[str], special: str = "raise") -> Iterator[int]:
        """The ids of a text that comes in pieces: exactly `encode("".join(texts))`, lazily.

        Holds no more text than the longest pretoken and special token need (at most twice that).
        """
        stream = self._core.stream(special)
        for piece in texts:
            yield from stream.push(piece).tolist()
        yield from stream.finish().tolist()

    def count(self, text: str, special: str = "raise") -> int:
        """How many ids a text has."""
        return self._core.count_utf8(text.encode(), special)

    def decode_bytes(self, ids: Any) -> bytes:
        """The exact bytes of ids (any integer sequence or array); an unknown id raises `UnknownIdError`."""
        import numpy as np

        try:
            array = np.asarray(ids)
        except ValueError as error:
            raise BadRequestError(f"ids are not one row of integers: {error}") from None
        if array.size == 0:
            return b""
        if array.dtype.kind not in "iu" or array.ndim != 1:
            raise BadRequestError(f"ids are {array.ndim}-dimensional {array.dtype}, not one row of integers")
        outside = (array < 0) | (array > 0xFFFF_FFFF)
        if outside.any():
            at = int(outside.argmax())
            raise UnknownIdError(f"id {array[at]} at position {at} is not in this vocabulary")
        return self._core.decode_bytes(np.ascontiguousarray(array, np.uint32))

    def decode(self, ids: Any) -> str:
        """The text of ids, with U+FFFD where their bytes are not UTF-8."""
        return self.decode_bytes(ids).decode(errors="replace")

    def cache_stats(self) -> dict[str, int]:
        """The merge cache: entries, bytes, capacity_bytes, hits, misses, evictions."""
        return self._core.cache_stats()

    def cache_clear(self) -> None:
        """Forgets what the cache learned."""
        self._core.cache_clear()

    def load_cache(self, path: str | os.PathLike[str]) -> bool:
        """Adds what `save_cache` wrote for the same vocabulary; False if there is no such file.

        A file that is broken, of another vocabulary or of another user is ignored. Blocks for about ten
        milliseconds per 400,000 words; releases the GIL.
        """
        return self._core.load_cache(os.fspath(path))

    def save_cache(self, path: str | os.PathLike[str]) -> bool:
        """Writes the merge cache to a file, if it has grown by a quarter since it was read or written.

        Returns whether it did. The file (at most 12 MB, this user's alone) is replaced as a whole.
        Raises `TokendError` where it cannot be written.
        """
        return self._core.save_cache(os.fspath(path))

    def eot_for(self, eot: str, eot_token: str | None = None) -> int | None:
        """The end-of-text id that `encode_files` uses; None with `eot="none"`. Raises `TokenizerInvalidError`."""
        return eot_id(self._core, eot, eot_token)

    def encode_files(
        self,
        inputs: Sequence[str | os.PathLike[str]],
        output: str | os.PathLike[str],
        *,
        separator: str | None = None,
        eot: str = "append",
        eot_token: str | None = None,
        special: str | None = None,
        errors: str = "strict",
        threads: int = 0,
        force: bool = False,
        format: str = "bin",
        resume: bool = False,
        input_format: str = "auto",
        field: str | None = None,
        id_field: str | None = None,
        bad_documents: str = "fail",
        min_tokens: int = 0,
        max_tokens: int | None = None,
        truncate_tokens: int | None = None,
        deduplicate: bool = False,
        known_texts: Sequence[str | os.PathLike[str]] | None = None,
        more: Mapping[str, str | os.PathLike[str]] | None = None,
        stdin: str | os.PathLike[str] | None = None,
        control: _core.JobControl | None = None,
    ) -> dict[str, Any]:
        """Encodes files into one token set and returns its manifest (with `up_to_date` added).

        `format` is `"bin"` (the set `output`, published as a whole) or `"stream"` (the directory
        `output`, which can be read while it grows). Blocks until the output is complete; releases the
        GIL; Ctrl-C is seen when it returns. `threads=0` leaves one core free.

        `inputs` are files, directories (every file in them) and patterns. Files hold text or JSON lines,
        either of them in gzip, zstd, bzip2 or xz, or are parquet or arrow; `input_format` (`"text"`,
        `"jsonl"`) says so where `"auto"` would be wrong. `field` is the field or column of the text (`"text"`
        if not given), with dots, and `id_field` one whose values are kept in `<output>.ids`. `special=None` is
        `"raise"` for text and `"text"` for JSON lines and columns. A document that is bad (a line that is not
        JSON, say) raises `BadDocumentError`, or with `bad_documents="skip"` is left out, as are documents
        with fewer than `min_tokens` or more than `max_tokens` ids, and with `deduplicate` those whose text
        was there before. What is left out is listed in `<output>.skipped.jsonl` and counted in the
        manifest's sources. `truncate_tokens` cuts documents to so many ids. With `known_texts`,
        files of hashes, `deduplicate` leaves out their texts too, and `<output>.texts` is such a file of this set;
        whoever passes it on or removes it knows of it, the set does not. See docs/guides/inputs.md.

        `more` names further fields and an output for each, `{"meta.title": "titles.bin"}`: made in the same pass,
        each what a call of its own would make. Their manifests are in `more` of the one that is returned.
        `stdin` is the one of `inputs` that holds what came through a pipe and will not stay: manifest, lists and errors
        call it `-`.

        With an error no set is left behind, and a stream says in its manifest that it failed. Partial
        files stay when the process is killed, when the disk is full, after `control.suspend()` and after a
        `BadDocumentError` (which need not be one with `bad_documents="skip"`):
        `resume=True` goes on from them and ends with the bytes of an undisturbed run. It raises
        `InputChangedError` or `ConflictError` if the job is not the same any more, and starts from the
        beginning if there is nothing to go on from. See `tokend encode --help` for the other options,
        and `tokend_client.TokenStream` for reading the result.
        """
        limits = {"threads": threads, "min_tokens": min_tokens, "max_tokens": max_tokens or 0}
        for name, number in (limits | {"truncate_tokens": truncate_tokens or 0}).items():
            if number < 0:
                raise BadRequestError(f"{name} is {number}, below 0")
        report = _core.encode_files(
            self._core,
            expand(inputs, output, (more or {}).values()),
            os.path.abspath(output),
            separator=separator,
            eot=eot,
            eot_id=eot_id(self._core, eot, eot_token),
            special=special,
            errors=errors,
            threads=threads,
            force=force,
            format=format,
            resume=resume,
            roots=[],
            control=control or _core.JobControl(),
            known_texts=None if known_texts is None else [os.path.abspath(path) for path in known_texts],
            records={
                "input_format": input_format,
                "field": field,
                "id_field": id_field,
                "bad_documents": bad_documents,
                "min_tokens": min_tokens,
                "max_tokens": max_tokens,
                "truncate_tokens": truncate_tokens,
                "deduplicate": deduplicate,
            },
            more=[(field, os.path.abspath(place)) for field, place in (more or {}).items()],
            stdin=None if stdin is None else os.path.abspath(stdin),
        )
        result: dict[str, Any] = json.loads(report)
        return result

    def __repr__(self) -> str:
        return f"Tokenizer({self.name!r}, vocab_size={self.vocab_size}, {self.dtype}, like {self.reference})"
