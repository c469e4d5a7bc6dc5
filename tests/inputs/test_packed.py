"""Compressed and columnar inputs: the same as their content, and what is said of damage."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokend import Tokenizer
from tokend_client.errors import BadDocumentError, BadRequestError, InputInvalidError

from . import naive
from .make_golden import documents, texts_and_others

GOLDEN = Path(__file__).parent / "golden"


def texts(seed: int) -> tuple[str, str]:
    """A text with separators and the same as JSON lines."""
    chance = random.Random(seed)
    words = ["word", " the", "\n", " naïve", " 日本", "123", "  ", "😀", " it's"]
    parts = ["".join(chance.choices(words, k=chance.randrange(0, 200))) for _ in range(150)]
    lines = "".join(json.dumps({"text": part}, ensure_ascii=chance.random() < 0.5) + "\n" for part in parts)
    return "".join(f"{part}|" for part in parts), lines


@pytest.mark.parametrize("kind", naive.KINDS)
@pytest.mark.parametrize("suffix", ["txt", "jsonl"])
def test_packed_is_plain(
    kind: str, suffix: str, tmp_path: Path, gpt2: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = texts(1)[suffix == "jsonl"].encode()
    plain, packed = tmp_path / f"plain.{suffix}", tmp_path / "packed"
    plain.write_bytes(content)
    packed.write_bytes(naive.compress(kind, content))
    gpt2.encode_files([plain], tmp_path / "plain.bin", separator="|")
    expected = (tmp_path / "plain.bin").read_bytes(), (tmp_path / "plain.bin.ends").read_bytes()
    for chunk_bytes, threads in ((1 << 20, 1), (3000, 2), (200, 2)):
        monkeypatch.setenv("TOKEND_CHUNK_BYTES", str(chunk_bytes))
        output = tmp_path / f"{chunk_bytes}.bin"
        # Told by content: the name says nothing.
        manifest = gpt2.encode_files([packed], output, separator="|", threads=threads)
        assert (output.read_bytes(), Path(f"{output}.ends").read_bytes()) == expected
        source = manifest["sources"][0]
        assert source["size_bytes"] == packed.stat().st_size
        name = {"gz": "gzip", "bz2": "bzip2", "xz": "xz", "zst": "zstd"}[kind]
        assert source["format"] == f"{'jsonl' if suffix == 'jsonl' else 'text'}+{name}"
        assert gpt2.encode_files([packed], output, separator="|")["up_to_date"]


@pytest.mark.parametrize("bad_documents", ["fail", "skip"])
@pytest.mark.parametrize("kind", naive.KINDS)
def test_what_does_not_begin_as_it_is_named_is_no_text(
    kind: str, bad_documents: str, tmp_path: Path, gpt2: Tokenizer
) -> None:
    packed = bytearray(naive.compress(kind, texts(2)[1].encode()))
    packed[1] ^= 2
    path = tmp_path / f"flipped.jsonl.{kind}"
    path.write_bytes(packed)
    with pytest.raises(InputInvalidError, match=f"named .{kind}, but it begins neither so nor as text at byte 0"):
        gpt2.encode_files([path], tmp_path / "flipped.bin", bad_documents=bad_documents)
    # A text is one whatever it is called.
    path.write_text('{"text": "a text"}\n')
    assert gpt2.encode_files([path], tmp_path / "text.bin")["sources"][0]["format"] == "jsonl"


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow", "x.feather"])
def test_an_empty_file_that_should_have_columns_is_no_document(name: str, tmp_path: Path, gpt2: Tokenizer) -> None:
    (tmp_path / name).write_bytes(b"")
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(InputInvalidError, match=r"named .*, but it begins neither so nor as text"):
        gpt2.encode_files([tmp_path / "a.txt", tmp_path / name], tmp_path / "x.bin")


@pytest.mark.parametrize("first", ['{"text":null}', '{"other":1}', '{"text":"a",}', '{"text":'])
def test_lines_of_json_whose_first_is_bad_are_no_text(first: str, tmp_path: Path, gpt2: Tokenizer) -> None:
    lines = tmp_path / "no-name"
    lines.write_text(f'{first}\n{{"text":"a"}}\n{{"text":"b"}}\n')
    with pytest.raises(BadDocumentError, match="line 1, byte 0"):
        gpt2.encode_files([lines], tmp_path / "x.bin")
    made = gpt2.encode_files([lines], tmp_path / "x.bin", bad_documents="skip", force=True)
    assert made["n_documents"] == 2 and made["sources"][0]["format"] == "jsonl"


@pytest.mark.parametrize("path", sorted(GOLDEN.iterdir()), ids=lambda path: path.name)
def test_columns(path: Path, tmp_path: Path, gpt2: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    nested = path.stem == "nested"
    has_ids = path.name != "stream.arrow"
    id_field = ("meta.name" if nested else "id") if has_ids else None
    rows = [(row, text) for row, text in enumerate(documents()) if text is not None]
    expected = [[*gpt2.encode(text, special="text").tolist(), 50256] for _, text in rows]
    for chunk_bytes, threads in ((1 << 20, 1), (2000, 2)):
        monkeypatch.setenv("TOKEND_CHUNK_BYTES", str(chunk_bytes))
        output = tmp_path / f"{chunk_bytes}.bin"
        options = {"field": "meta.body" if nested else None, "id_field": id_field, "threads": threads}
        # As a directory would have it: told by content.
        with pytest.raises(BadDocumentError, match="row 51: the value is null"):
            gpt2.encode_files([path], output, **options)  # type: ignore[arg-type]
        manifest = gpt2.encode_files([path], output, bad_documents="skip", resume=True, **options)  # type: ignore[arg-type]
        assert np.fromfile(output, np.uint16).tolist() == [id for ids in expected for id in ids]
        assert np.fromfile(f"{output}.ends", "<u8").tolist() == np.cumsum([len(ids) for ids in expected]).tolist()
        places = np.fromfile(f"{output}.docs", "<u8").reshape(-1, 2).tolist()
        assert places == [[row, len(text.encode())] for row, text in rows]
        assert [(entry["line"], entry["offset_bytes"]) for entry in naive.skipped_of(output)] == [
            (51, None),
            (151, None),
            (251, None),
        ]
        counts = manifest["sources"][0]["records"]
        assert (counts["n_in"], counts["n_bad"]) == (300, 3)
        if has_ids:
            ids = [json.loads(line) for line in Path(f"{output}.ids").read_text().splitlines()]
            is_named = nested or path.stem == "dictionary"
            assert ids == [f"doc-{1000 + row}" if is_named else 1000 + row for row, _ in rows]


INVALID = sorted((Path(__file__).parent / "invalid_utf8").iterdir())


def is_utf8(value: bytes) -> bool:
    """What Python says."""
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


@pytest.mark.parametrize("field", ["text", "meta.body"])
@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.name)
def test_values_of_text_columns_that_are_not_utf8(
    path: Path, field: str, tmp_path: Path, gpt2: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = list(enumerate(texts_and_others()))
    good = [(row, value) for row, value in values if value is not None and is_utf8(value)]
    bad = [(row + 1, value) for row, value in values if value is None or not is_utf8(value)]
    for chunk_bytes in (1 << 20, 40):
        monkeypatch.setenv("TOKEND_CHUNK_BYTES", str(chunk_bytes))
        output = tmp_path / f"{chunk_bytes}.bin"
        with pytest.raises(BadDocumentError, match="row 1: not valid UTF-8 at byte 1 of the value"):
            gpt2.encode_files([path], output, field=field)
        manifest = gpt2.encode_files([path], output, field=field, bad_documents="skip", resume=True)
        ids = [id for _, value in good for id in (*gpt2.encode(value.decode()).tolist(), 50256)]
        assert np.fromfile(output, np.uint16).tolist() == ids
        places = np.fromfile(f"{output}.docs", "<u8").reshape(-1, 2).tolist()
        assert places == [[row, len(value)] for row, value in good]
        skipped = naive.skipped_of(output)
        assert [entry["line"] for entry in skipped] == [row for row, _ in bad]
        for entry, (_, value) in zip(skipped, bad, strict=True):
            problem = "the value is null"
            if value is not None:
                with pytest.raises(UnicodeDecodeError) as wrong:
                    value.decode()
                problem = f"not valid UTF-8 at byte {wrong.value.start} of the value"
            assert entry["reason"] == problem
        counts = manifest["sources"][0]["records"]
        assert (counts["n_in"], counts["n_bad"], manifest["n_documents"]) == (30, len(bad), len(good))
    # Replaced as Python's decoder does.
    output = tmp_path / "replaced.bin"
    gpt2.encode_files([path], output, field=field, bad_documents="skip", errors="replace")
    texts = [value.decode(errors="replace") for _, value in values if value is not None]
    assert np.fromfile(output, np.uint16).tolist() == [
        id for text in texts for id in (*gpt2.encode(text).tolist(), 50256)
    ]


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.name)
def test_ids_that_are_not_utf8(path: Path, tmp_path: Path, gpt2: Tokenizer) -> None:
    options: dict[str, Any] = {"id_field": "name", "bad_documents": "skip"}
    gpt2.encode_files([path], tmp_path / "a.bin", **options)
    rows = [row for row, value in enumerate(texts_and_others()) if value is not None and is_utf8(value)]
    ids = [json.loads(line) for line in (tmp_path / "a.bin.ids").read_text().splitlines()]
    assert ids == [f"row {row}" for row in rows if row % 7]
    wrong = [entry["line"] - 1 for entry in naive.skipped_of(tmp_path / "a.bin") if "of the id" in entry["reason"]]
    assert wrong == [row for row, value in enumerate(texts_and_others()) if value is not None and row % 7 == 0]
    gpt2.encode_files([path], tmp_path / "b.bin", errors="replace", **options)
    ids = [json.loads(line) for line in (tmp_path / "b.bin.ids").read_text().splitlines()]
    rows = [row for row, value in enumerate(texts_and_others()) if value is not None]
    assert ids == [f"row {row}" if row % 7 else f"row \ufffd {row}" for row in rows]


def test_values_that_are_no_utf8(tmp_path: Path, gpt2: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Path:
        data = (GOLDEN / name).read_bytes()
        at = data.index(b"word")
        (tmp_path / name).write_bytes(data[:at] + b"w\xffrd" + data[at + 4 :])
        return tmp_path / name

    source = broken("stream.arrow")
    for chunk_bytes, threads in ((1 << 20, 1), (2000, 2)):
        monkeypatch.setenv("TOKEND_CHUNK_BYTES", str(chunk_bytes))
        output = tmp_path / f"{threads}.bin"
        with pytest.raises(BadDocumentError, match="row 1: not valid UTF-8 at byte 34 of the value"):
            gpt2.encode_files([source], output, threads=threads)
        manifest = gpt2.encode_files([source], output, threads=threads, bad_documents="skip", resume=True)
        assert [entry["line"] for entry in naive.skipped_of(output)] == [1, 51, 151, 251]
        counts = manifest["sources"][0]["records"]
        assert (counts["n_in"], counts["n_bad"], manifest["n_documents"]) == (300, 4, 296)


def test_columns_that_are_not_there(tmp_path: Path, gpt2: Tokenizer) -> None:
    output = tmp_path / "out.bin"
    with pytest.raises(BadRequestError, match='no column "body"; there are id, text, score'):
        gpt2.encode_files([GOLDEN / "zstd.parquet"], output, field="body")
    with pytest.raises(BadRequestError, match='column "score" is Float64, not text'):
        gpt2.encode_files([GOLDEN / "flat.arrow"], output, field="score")
    packed = tmp_path / "x.parquet.gz"
    packed.write_bytes(naive.compress("gz", (GOLDEN / "none.parquet").read_bytes()))
    with pytest.raises(BadRequestError, match="within gzip; decompress it first"):
        gpt2.encode_files([packed], output)
    broken = tmp_path / "broken.parquet"
    broken.write_bytes((GOLDEN / "none.parquet").read_bytes()[:-50])
    with pytest.raises(InputInvalidError, match=r"broken\.parquet: not a readable parquet file"):
        gpt2.encode_files([broken], output)
    assert not output.exists() and not list(tmp_path.glob(".*"))
