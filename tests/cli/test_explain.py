"""`tokend explain`: the bytes of the source that a token stands for, for every token of small sets."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from pathlib import Path

import pytest
import zstandard
from tokend import Tokenizer
from tokend.cli import main
from tokend.explain import explain
from tokend_client import TokenStream
from tokend_client.errors import BadRequestError

TEXTS = ["Hello, world!", "", "naïve 日本語 text", "x " * 40, "the end"]


@pytest.mark.parametrize("format", ["bin", "stream"])
@pytest.mark.parametrize("eot", ["append", "prepend", "both", "none"])
def test_every_token_is_found_in_its_source(format: str, eot: str, tmp_path: Path, gpt2: Tokenizer) -> None:
    (tmp_path / "a.txt").write_text("".join(f"{text}||" for text in TEXTS))
    (tmp_path / "b.txt").write_text("another file||its second|not split")
    paths = [tmp_path / "a.txt", tmp_path / "b.txt"]
    gpt2.encode_files(paths, tmp_path / "o", separator="||", eot=eot, format=format)
    with TokenStream(tmp_path / "o") as stream:
        ids = stream[:].tolist()
        bounds = [stream.document_bounds(n) for n in range(stream.n_documents)]
    documents = [*TEXTS, "another file", "its second|not split"]
    for token, id in enumerate(ids):
        found = explain(tmp_path / "o", token, tokenizer=gpt2)
        data = Path(found.source).read_bytes()
        assert found.is_exact and found.remark is None and found.id == id
        assert found.offset_bytes is not None and found.document_offset_bytes is not None
        own = b"" if id == 50256 else gpt2.decode_bytes([id])
        assert data[found.offset_bytes :].startswith(own)
        text = documents[found.document].encode()
        assert data[found.document_offset_bytes :].startswith(text)
        assert found.document_offset_bytes <= found.offset_bytes <= found.document_offset_bytes + len(text)
        assert bounds[found.document][0] + found.token_in_document == token
        if len(own.decode(errors="ignore").encode()) == len(own):
            whole = found.before.encode() + own + found.after.encode()
            assert whole in text or len(text) > 200 or "\ufffd" in found.text or not text.isascii()
    with pytest.raises(BadRequestError, match="not within"):
        explain(tmp_path / "o", len(ids))


def test_far_into_one_document_and_replaced_bytes(tmp_path: Path, gpt2: Tokenizer) -> None:
    data = b"".join(b"%d words " % number for number in range(20_000))
    (tmp_path / "a.txt").write_bytes(data)
    made = gpt2.encode_files([tmp_path / "a.txt"], tmp_path / "o.bin")
    found = explain(tmp_path / "o.bin", made["n_tokens"] - 2)
    assert found.offset_bytes is not None and found.is_exact
    assert data[found.offset_bytes :] == gpt2.decode_bytes([found.id])
    broken = b"ab \xff cd \xe2\x82 ef gh"
    (tmp_path / "b.txt").write_bytes(broken)
    made = gpt2.encode_files([tmp_path / "b.txt"], tmp_path / "b.bin", errors="replace")
    found = explain(tmp_path / "b.bin", made["n_tokens"] - 2)
    assert found.is_exact and found.text == " gh" and found.offset_bytes == broken.index(b" gh")


def test_a_source_that_changed_is_said(tmp_path: Path, gpt2: Tokenizer, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("Hello, world!")
    gpt2.encode_files([tmp_path / "a.txt"], tmp_path / "o.bin")
    arguments = ["explain", str(tmp_path / "o.bin"), "--token", "2"]
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert "token at     byte 6" in told and "'Hello,' [' world'] '!'" in told
    (tmp_path / "a.txt").write_text("Hello, wor1d!")
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert not found["is_exact"] and "other bytes" in found["remark"]
    (tmp_path / "a.txt").unlink()
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["text"] == " world" and found["before"] == "Hello," and "cannot be looked at" in found["remark"]
    assert main([*arguments[:3], "99"]) == 2


def check_all(output: Path, texts: list[str], gpt2: Tokenizer, *, is_text: bool) -> None:
    """Each token of a set of records stands in its document's text where `explain` says."""
    with TokenStream(output) as stream:
        ids, n_documents = stream[:].tolist(), stream.n_documents
    assert n_documents == len(texts)
    for token, id in enumerate(ids):
        found = explain(output, token, tokenizer=gpt2, context_bytes=10_000)
        assert found.is_exact and found.offset_bytes is not None, found
        text, own = texts[found.document].encode(), b"" if id == 50256 else gpt2.decode_bytes([id])
        # Of text it counts in the source's content.
        assert text[found.offset_bytes - (found.document_offset_bytes or 0) * is_text :].startswith(own)
        if own.decode(errors="ignore").encode() == own:
            assert found.before + own.decode() + found.after == texts[found.document]


@pytest.mark.parametrize("compression", ["none", "gzip", "bzip2", "xz", "zstd"])
@pytest.mark.parametrize("kind", ["jsonl", "txt", "flow.txt"])
def test_records_whatever_they_are_packed_in(compression: str, kind: str, tmp_path: Path, gpt2: Tokenizer) -> None:
    texts = [f"{text}{number}||" if kind == "jsonl" else f"{text}{number}" for number in range(3) for text in TEXTS]
    lines = [json.dumps({"meta": {"body": text}}) + "\n" for text in texts]
    data = ("".join(lines) if kind == "jsonl" else "".join(f"{text}||" for text in texts)).encode()
    packed = {
        "none": data,
        "gzip": gzip.compress(data[:40]) + gzip.compress(data[40:]),
        "bzip2": bz2.compress(data),
        "xz": lzma.compress(data),
        "zstd": zstandard.ZstdCompressor().compress(data[:40]) + zstandard.ZstdCompressor().compress(data[40:]),
    }[compression]
    path = tmp_path / f"a.{kind}"
    path.write_bytes(packed)
    options = {"jsonl": {"field": "meta.body"}, "txt": {"deduplicate": True}, "flow.txt": {}}[kind]
    gpt2.encode_files([path], tmp_path / "o.bin", separator="||", **options)
    check_all(tmp_path / "o.bin", texts, gpt2, is_text=kind != "jsonl")
    found = explain(tmp_path / "o.bin", 0, tokenizer=gpt2)
    if kind == "jsonl":
        assert found.remark is not None and "the token's place counts from the start of its text" in found.remark
    path.write_bytes(packed[:10])
    found = explain(tmp_path / "o.bin", 0, tokenizer=gpt2)
    assert not found.is_exact and found.text == "Hello" and found.remark is not None


FILES = Path(__file__).parents[1] / "inputs"


@pytest.mark.parametrize(
    "path", sorted([*FILES.glob("*/*.parquet"), *FILES.glob("*/*.arrow")]), ids=lambda path: path.name
)
def test_columns(path: Path, tmp_path: Path, gpt2: Tokenizer, capsys: pytest.CaptureFixture[str]) -> None:
    """The text around a token of a column is read in the file, whatever its layout."""
    field = {"field": "meta.body"} if path.stem == "nested" else {}
    made = gpt2.encode_files([path], tmp_path / "o.bin", bad_documents="skip", **field)
    with TokenStream(tmp_path / "o.bin") as stream:
        bounds = [stream.document_bounds(number) for number in range(stream.n_documents)]
        tokens = {bound[0] for bound in bounds[:40] + bounds[-5:]} | {bounds[-1][1] - 1}
    assert made["n_documents"] > 3
    for token in sorted(tokens):
        found = explain(tmp_path / "o.bin", token, tokenizer=gpt2)
        assert found.is_exact and found.row is not None, found
        assert found.remark is not None and "start of the row's value" in found.remark
    assert main(["explain", str(tmp_path / "o.bin"), "--token", "0"]) == 0
    assert "row  " in capsys.readouterr().out
