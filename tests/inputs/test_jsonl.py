"""JSON lines: what is a document, what is not, and that each is accounted for, whoever cuts the file where."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import tiktoken
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokend import Tokenizer
from tokend_client.errors import BadDocumentError, BadRequestError

from . import naive
from .malformed import LINES


def mixture(seed: int, n_lines: int) -> bytes:
    chance = random.Random(seed)
    small = [case.content for case in LINES.values() if len(case.content) < 1000 and not case.begins]
    texts = [json.dumps({"id": n, "text": "some words 日本 \n" * chance.randrange(0, 9)}).encode() for n in range(50)]
    blank = [b"", b"  ", b"\r"]
    lines = [chance.choice(chance.choice([small, texts, texts, blank])) for _ in range(n_lines)]
    lines.insert(n_lines // 2, LINES["huge line"].content)
    return chance.choice([b"", b"\xef\xbb\xbf"]) + b"\n".join(lines) + chance.choice([b"", b"\n"])


@pytest.mark.parametrize("deduplicate", [False, True])
def test_parallel_is_serial_is_naive(
    deduplicate: bool,
    tmp_path: Path,
    gpt2: Tokenizer,
    tiktoken_gpt2: tiktoken.Encoding,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for seed in range(3):
        data = mixture(seed, 400)
        source = tmp_path / f"in{seed}.jsonl"
        source.write_bytes(data)
        expected = naive.jsonl(tiktoken_gpt2, data, seen=set() if deduplicate else None)
        for chunk_bytes, threads in ((1 << 20, 1), (50, 1), (700, 2), (3000, 3)):
            monkeypatch.setenv("TOKEND_CHUNK_BYTES", str(chunk_bytes))
            output = tmp_path / f"{seed}-{chunk_bytes}.bin"
            manifest = gpt2.encode_files(
                [source], output, bad_documents="skip", deduplicate=deduplicate, threads=threads
            )
            naive.check(manifest, output, expected)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(st.text(max_size=20).map(lambda text: json.dumps({"text": text}).encode()), st.binary(max_size=20)),
        max_size=12,
    )
)
def test_any_bytes_are_accounted_for(
    tmp_path: Path, gpt2: Tokenizer, tiktoken_gpt2: tiktoken.Encoding, lines: list[bytes]
) -> None:
    source, output = tmp_path / "any.jsonl", tmp_path / "any.bin"
    data = b"\n".join(lines)
    if data[:4].startswith((b"PAR1", b"\xff\xff\xff\xff", b"BZh", b"\x1f\x8b", b"\x28\xb5\x2f\xfd")) or b"\\ud" in data:
        return
    source.write_bytes(data)
    manifest = gpt2.encode_files([source], output, bad_documents="skip", force=True, input_format="jsonl")
    naive.check(manifest, output, naive.jsonl(tiktoken_gpt2, data))


def test_dotted_fields_ids_and_several_inputs(tmp_path: Path, gpt2: Tokenizer) -> None:
    first, second = tmp_path / "a.jsonl", tmp_path / "b.ndjson"
    first.write_text('{"meta":{"id":7},"doc":{"body":"one"}}\n{"doc":{"body":"two"},"meta":{"id":"x\\n"}}\n')
    second.write_text('{"doc":{"body":"three"}}\n{"doc":"four"}\n')
    text = tmp_path / "plain.txt"
    text.write_text("a plain text")
    output = tmp_path / "out.bin"
    options = {"field": "doc.body", "id_field": "meta.id", "bad_documents": "skip", "eot": "both"}
    manifest = gpt2.encode_files([first, text, second], output, **options)  # type: ignore[arg-type]
    end = "<|endoftext|>"
    assert gpt2.decode(np.fromfile(output, np.uint16)) == end + end.join(["one", "two", "a plain text", "three", ""])
    assert Path(f"{output}.ids").read_text() == '7\n"x\\n"\nnull\nnull\n'
    assert [source.get("format") for source in manifest["sources"]] == ["jsonl", None, "jsonl"]
    # A text is looked at as a whole where bad ones are to be left out.
    assert [source["records"]["n_in"] for source in manifest["sources"]] == [2, 1, 2]
    assert np.fromfile(f"{output}.docs", "<u8").tolist() == [0, 38, 39, 42, 0, 12, 0, 24]
    (entry,) = naive.skipped_of(output)
    assert entry["path"] == str(second) and entry["reason"] == 'field "doc.body" is missing'


def test_limits_cuts_and_what_they_refuse(tmp_path: Path, gpt2: Tokenizer) -> None:
    texts = ["a b c d e", "short", "a b c d e", "x " * 30, "short", "y z y"]
    source, output = tmp_path / "in.jsonl", tmp_path / "out.bin"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    manifest = gpt2.encode_files([source], output, deduplicate=True, min_tokens=2, max_tokens=20, threads=2)
    assert gpt2.decode(np.fromfile(output, np.uint16)) == "a b c d e<|endoftext|>y z y<|endoftext|>"
    counts = manifest["sources"][0]["records"]
    assert (counts["n_in"], counts["n_filtered"], counts["n_duplicates"], counts["n_bad"]) == (6, 3, 1, 0)
    assert [(entry["kind"], entry["line"], entry["reason"]) for entry in naive.skipped_of(output)] == [
        ("filtered", 2, "1 tokens, fewer than 2"),
        ("duplicate", 3, "the same text as an earlier document"),
        ("filtered", 4, f"{len(gpt2.encode(texts[3]))} tokens, more than 20"),
        ("filtered", 5, "1 tokens, fewer than 2"),
    ]
    for eot in ("append", "prepend", "both", "none"):
        cut = tmp_path / f"{eot}.bin"
        manifest = gpt2.encode_files([source], cut, truncate_tokens=3, eot=eot)
        ids, ends = np.fromfile(cut, np.uint16), np.fromfile(f"{cut}.ends", "<u8")
        found = [part[part != gpt2.eot_id].tolist() for part in np.split(ids, ends.astype(int))]
        assert found == [*(gpt2.encode(text)[:3].tolist() for text in texts), []]
        assert manifest["sources"][0]["records"]["n_truncated"] == 3
        assert (ids == gpt2.eot_id).sum() == {"append": 6, "prepend": 6, "both": 7, "none": 0}[eot]
    with pytest.raises(BadRequestError, match="max_tokens: 2 is below min_tokens, 3"):
        gpt2.encode_files([source], output, min_tokens=3, max_tokens=2, force=True)
    (tmp_path / "x.txt").write_text("text")
    with pytest.raises(BadRequestError, match="no input has fields"):
        gpt2.encode_files([tmp_path / "x.txt"], tmp_path / "x.bin", field="body")
    with pytest.raises(BadRequestError, match=r"'a\.\.b'|\"a\.\.b\" has an empty key"):
        gpt2.encode_files([source], output, field="a..b", force=True)


def test_whole_texts_have_the_options_too(tmp_path: Path, gpt2: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    source, output = tmp_path / "in.txt", tmp_path / "out.bin"
    parts = [b"one", b"", b"two \xff", b"one", b"three <|endoftext|>", b"four"]
    for end in (b"", b"#"):
        data = b"#".join(parts) + end
        source.write_bytes(data)
        for chunk_bytes in (1, 9, 1 << 20):
            monkeypatch.setenv("TOKEND_CHUNK_BYTES", str(chunk_bytes))
            manifest = gpt2.encode_files(
                [source], output, separator="#", bad_documents="skip", deduplicate=True, force=True, threads=2
            )
            assert gpt2.decode(np.fromfile(output, np.uint16)) == "".join(
                f"{text}<|endoftext|>" for text in ("one", "", "four")
            )
            assert [(entry["kind"], entry["line"], entry["offset_bytes"]) for entry in naive.skipped_of(output)] == [
                ("bad", 3, 5),
                ("duplicate", 4, 11),
                ("bad", 5, 15),
            ]
            assert manifest["sources"][0]["records"]["n_in"] == 6
    # Without them a text goes through as it always did; its documents have places, and no account.
    source.write_text("one##two")
    whole = gpt2.encode_files([source], output, separator="#", force=True)
    assert "records" not in whole["sources"][0] and whole["sources"][0]["places"]
    assert not Path(f"{output}.skipped.jsonl").exists(), "a replaced set leaves nothing of itself"


def test_kinds_are_told_by_content(tmp_path: Path, gpt2: Tokenizer) -> None:
    line = '{"text":"a"}\n'
    for name, data, expected in [
        ("no-name", line, "jsonl"),
        ("other.data", "\n \n" + line, "jsonl"),
        ("text.txt", line, None),
        ("prose", "{ no JSON }\n", None),
        ("one object among texts", '{"other":"a"}\na\nb\n', None),
        ("empty", "", None),
    ]:
        (tmp_path / name).write_text(data)
        manifest = gpt2.encode_files([tmp_path / name], tmp_path / f"{name}.bin")
        assert manifest["sources"][0].get("format") == expected, name
    # A misspelt field is a fault of every line, and no text.
    (tmp_path / "object").write_text('{"other":"a"}\n')
    with pytest.raises(BadDocumentError, match='field "text" is missing'):
        gpt2.encode_files([tmp_path / "object"], tmp_path / "object.bin")
    forced = gpt2.encode_files([tmp_path / "text.txt"], tmp_path / "forced.bin", input_format="jsonl")
    assert forced["sources"][0]["format"] == "jsonl"
    (tmp_path / "x.jsonl").write_text(line)
    forced = gpt2.encode_files([tmp_path / "x.jsonl"], tmp_path / "text.bin", input_format="text")
    assert "format" not in forced["sources"][0] and forced["n_tokens"] > 3
