"""What a line of JSON, or a text between separators, may hold that is odd, and what becomes of it."""

from __future__ import annotations

from codecs import BOM_UTF8
from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """A line or text, and its outcome."""

    content: bytes
    outcome: str = "document"
    """`document`, `blank`, or the kind of its entry in the list of what was left out."""
    reason: str = ""
    """A part of the reason there."""
    begins: bytes = b""
    """Stands at the beginning of the file."""
    special: str | None = None


def _bad(content: bytes, reason: str, special: str | None = None) -> Case:
    return Case(content, "bad", reason, special=special)


LINES = {
    "CRLF": Case(b'{"text":"a"}\r'),
    "escaped NUL": Case(b'{"text":"a\\u0000b"}'),
    "huge line": Case(b'{"text":"' + b"long line " * 50_000 + b'"}'),
    "byte order mark": Case(b'{"text":"a"}', begins=BOM_UTF8),
    "duplicate key": Case(b'{"text":"first","x":1,"text":"last"}'),
    "duplicate key, the first null": Case(b'{"text":null,"text":"last"}'),
    "space around": Case(b' \t{ "text" : "b" } '),
    "surrogate pair": Case(b'{"text":"\\ud83d\\ude00"}'),
    "lone surrogate elsewhere": Case(b'{"other":"\\ud800x","text":"a"}'),
    "special token": Case(b'{"text":"a<|endoftext|>b"}'),
    "special token as one": Case(b'{"text":"a<|endoftext|>b"}', special="token"),
    "empty text": Case(b'{"text":""}', "filtered", "0 tokens, fewer than 1"),
    "empty line": Case(b"", "blank"),
    "spaces": Case(b" \t ", "blank"),
    "CR": Case(b"\r", "blank"),
    "lone surrogate": _bad(b'{"text":"a\\ud800b"}', "lone surrogate escape at byte 10 of the line"),
    "surrogates the wrong way round": _bad(b'{"text":"\\ude00\\ud83d"}', "lone surrogate escape at byte 9 of the line"),
    "invalid UTF-8": _bad(b'{"text":"a\xffb"}', "not valid UTF-8 at byte 10 of the line"),
    "invalid UTF-8 elsewhere": _bad(b'{"text":"a","b":"\xc3("}', "not valid UTF-8 at byte 17 of the line"),
    "surrogate in UTF-8": _bad(b'{"text":"\xed\xa0\x80"}', "not valid UTF-8 at byte 9 of the line"),
    "character cut off": _bad(b'{"text":"a\xe6\x97"}', "not valid UTF-8 at byte 10 of the line"),
    "trailing comma": _bad(b'{"text":"a",}', "a key in quotes is expected at byte 12"),
    "missing field": _bad(b'{"texts":"a"}', 'field "text" is missing'),
    "null": _bad(b'{"text":null}', 'field "text" is null, not a string'),
    "duplicate key, the last null": _bad(b'{"text":"a","text":null}', 'field "text" is null, not a string'),
    "number": _bad(b'{"text":3}', 'field "text" is a number, not a string'),
    "object": _bad(b'{"text":{"text":"a"}}', 'field "text" is an object, not a string'),
    "list": _bad(b'{"text":["a"]}', 'field "text" is an array, not a string'),
    "special token under raise": _bad(
        b'{"text":"a<|endoftext|>b"}', 'contains the special token "<|endoftext|>" at byte 1', special="raise"
    ),
    "no object": _bad(b'["text"]', "not a JSON object"),
    "end in the middle": _bad(b'{"text":"a', "the line ends too early at byte 10"),
    "two values": _bad(b'{"text":"a"}{"text":"b"}', "something after the value at byte 12"),
    "comment": _bad(b'{"text":"a"} // b', "something after the value at byte 13"),
    "single quotes": _bad(b"{'text':'a'}", "a key in quotes is expected at byte 1"),
    "raw NUL": _bad(b'{"text":"a\0b"}', "unescaped control character in a string at byte 10"),
    "unknown escape": _bad(b'{"text":"a\\x"}', "unknown escape at byte 11"),
    "NaN": _bad(b'{"text":"a","x":NaN}', "a value is expected at byte 16"),
    "byte order mark later": _bad(BOM_UTF8 + b'{"text":"a"}', "a value is expected at byte 0"),
    "nested too deep": _bad(b'{"text":"a","x":' + b"[" * 5000 + b"]" * 5000 + b"}", "nested too deep at byte 271"),
}

TEXTS = {
    "CRLF": Case(b"a\r\nb\r\n"),
    "NUL": Case(b"a\0b"),
    "huge text": Case(b"long text " * 50_000),
    "byte order mark": Case(b"a", begins=BOM_UTF8),
    "empty text": Case(b"", "filtered", "0 tokens, fewer than 1"),
    "special token as text": Case(b"a<|endoftext|>b", special="text"),
    "invalid UTF-8": _bad(b"a\xffb", "not valid UTF-8 at byte 1 of the document"),
    "character cut off": _bad(b"a\xe6\x97", "not valid UTF-8 at byte 1 of the document"),
    "special token under raise": _bad(b"a<|endoftext|>b", 'contains the special token "<|endoftext|>" at byte 1'),
}
"""A byte order mark is a part of a text."""
