"""`tokend explain` of what trainers read: the bytes of the source, through the note and the places beside the files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokend import Tokenizer, _core
from tokend.cli import main
from tokend.cli.parser import FOREIGN_FORMATS
from tokend.explain import explain
from tokend.foreign import read_set

EOT = 50256
TEXTS = ["Hello, world!", "", "naïve 日本語 text", "x " * 40, "the end", *(f"number {n}" for n in range(25))]
pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two inputs: text with separators, and JSON lines."""
    made = tmp_path_factory.mktemp("inputs")
    (made / "a.txt").write_text("".join(f"{text}||" for text in TEXTS[:9]))
    (made / "b.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS[9:]))
    return made


def encode(folder: Path, output: Path, *options: str) -> None:
    inputs = [str(folder / "a.txt"), str(folder / "b.jsonl")]
    assert main(["encode", *inputs, "-o", str(output), "--separator", "||", "--local", *options]) == 0


def check(place: Path, gpt2: Tokenizer, *, step: int = 1, made_of: Path | None = None) -> list[str]:
    """Each `step`-th token is found in its source; returns the texts of the documents that were met."""
    ids = np.concatenate(
        [np.fromfile(span.path, span.dtype, span.n_ids, offset=span.offset_bytes) for span in read_set(place).spans]
    ).tolist()
    met = {}
    for token in range(0, len(ids), step):
        found = explain(place, token, tokenizer=gpt2, context_bytes=10_000, made_of=made_of)
        assert found.is_exact and found.id == ids[token] and found.offset_bytes is not None, found
        assert ids[token - found.token_in_document :][: found.n_tokens_of_document].count(EOT) <= 1
        is_jsonl = found.source.endswith("b.jsonl")
        number = found.document_in_source + (9 if is_jsonl else 0)
        text, own = TEXTS[number].encode(), b"" if found.id == EOT else gpt2.decode_bytes([found.id])
        start = 0 if is_jsonl else found.document_offset_bytes
        assert start is not None and text[found.offset_bytes - start :].startswith(own)
        met[found.document] = TEXTS[number]
    return [met[number] for number in sorted(met)]


@pytest.mark.parametrize("name", FOREIGN_FORMATS)
def test_straight_from_the_inputs(name: str, folder: Path, tmp_path: Path, gpt2: Tokenizer) -> None:
    """The set of ours is gone; what it knew of its documents stands beside."""
    encode(folder, tmp_path / "o", "--format", name)
    assert (tmp_path / "o.docs").stat().st_size == 16 * len(TEXTS)
    assert check(tmp_path / "o", gpt2) == TEXTS


@pytest.mark.parametrize("name", ["megatron", "llmc", "olmo", "litdata", "mds", "datatrove"])
def test_shuffled_and_in_shards(name: str, folder: Path, tmp_path: Path, gpt2: Tokenizer) -> None:
    shards = [] if name == "megatron" else ["--shard-tokens", "60"]
    encode(folder, tmp_path / "o", "--format", name, "--shuffle", "--seed", "9", *shards)
    met = check(tmp_path / "o", gpt2)
    assert sorted(met) == sorted(TEXTS) and met != TEXTS
    if name in ("llmc", "olmo"):
        # A token of one file.
        one = sorted((tmp_path / "o").glob("*_000001.bin" if name == "llmc" else "*-00001.npy"))[0]
        assert 0 < len(check(one, gpt2, step=2)) < len(TEXTS)


@pytest.mark.parametrize("name", ["nanogpt", "megatron", "llmc", "olmo"])
def test_two_sides(
    name: str, folder: Path, tmp_path: Path, gpt2: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--val-fraction", "0.4", "--seed", "1", "--shuffle"]
    encode(folder, tmp_path / "o.bin", "--format", "bin", "--format", name, *given)
    place = tmp_path / f"o.{name}"
    match name:
        case "nanogpt":
            sides = [place / "train.bin", place / "val.bin"]
        case "megatron":
            sides = [Path(f"{place}_train"), Path(f"{place}_val.idx")]
        case "llmc":
            sides = [next(place.glob("*_train_*.bin")), next(place.glob("*_val_*.bin"))]
        case _:
            sides = [place / "train", place / "val"]
    met = [check(side, gpt2) for side in sides]
    assert all(met) and sorted([*met[0], *met[1]]) == sorted(TEXTS)
    # Without the set that it was made of nobody knows which is which; one that lies elsewhere can be named.
    for suffix in ("", ".ends", ".docs", ".json"):
        (tmp_path / f"o.bin{suffix}").rename(tmp_path / f"moved.bin{suffix}")
    (tmp_path / "moved.bin.json").write_text((tmp_path / "moved.bin.json").read_text().replace("o.bin", "moved.bin"))
    capsys.readouterr()
    arguments = ["explain", str(sides[0]), "--token", "3"]
    assert main(arguments) == 1
    assert "is told by the set that it was made of" in capsys.readouterr().err
    assert main([*arguments, "--set", str(tmp_path / "moved.bin")]) == 0
    assert main([*arguments, "--set", str(tmp_path / "none.bin")]) == 2
    capsys.readouterr()
    if name != "megatron":
        whole = ["explain", str(place), "--token", "3", "--set", str(tmp_path / "moved.bin")]
        assert main(whole) == 2 and "files of train and of val are no one set" in capsys.readouterr().err


@pytest.mark.parametrize("order", [[], ["--shuffle"]], ids=["", "shuffled"])
@pytest.mark.parametrize("name", FOREIGN_FORMATS)
def test_two_sides_without_the_set(
    name: str, order: list[str], folder: Path, tmp_path: Path, gpt2: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which document is on which side stands beside them, and their ids are in the order of each."""
    given = [*order, "--seed", "3", "--id-field", "text", "--val-fraction", "0.4"]
    encode(folder, tmp_path / "o", "--format", name, *given)
    assert not list(tmp_path.glob("*.bin.json"))
    place = tmp_path / "o"
    sides = {
        "nanogpt": [place / "train.bin", place / "val.bin"],
        "megatron": [Path(f"{place}_train"), Path(f"{place}_val")],
        "llmc": [*place.glob("*_train_*.bin"), *place.glob("*_val_*.bin")],
    }.get(name, [place / "train", place / "val"])
    met = [check(side, gpt2) for side in sides]
    assert all(met) and sorted([*met[0], *met[1]]) == sorted(TEXTS)
    for side, texts in zip(("train", "val"), met, strict=True):
        # Texts of the first input have none.
        lines = Path(f"{place}.{side}.ids").read_text().splitlines()
        assert [json.loads(line) for line in lines] == [text if text in TEXTS[9:] else None for text in texts]
    assert not Path(f"{place}.ids").exists() and not list(tmp_path.glob(".*"))
    # Of another split it says nothing, nor when it is cut off.
    data = (tmp_path / "o.sides").read_bytes()
    assert len(data) == 16 + len(TEXTS)
    for other in (b"\1" + data[1:], data[:-1]):
        (tmp_path / "o.sides").write_bytes(other)
        assert main(["explain", str(sides[0]), "--token", "3"]) == 1
        assert "is told by the set that it was made of" in capsys.readouterr().err


@pytest.mark.parametrize("several", [False, True])
def test_ids_follow_a_shuffle(several: bool, folder: Path, tmp_path: Path, gpt2: Tokenizer) -> None:
    names = ["megatron", "olmo", "mds"] if several else ["olmo"]
    formats = [word for name in names for word in ("--format", name)]
    encode(folder, tmp_path / "o", *formats, "--shuffle", "--seed", "5", "--id-field", "text")
    ids = [json.loads(line) for line in (tmp_path / "o.ids").read_text().splitlines()]
    for name in names:
        met = check(tmp_path / (f"o.{name}" if several else "o"), gpt2)
        assert met != TEXTS and sorted(met) == sorted(TEXTS)
        assert ids == [text if text in TEXTS[9:] else None for text in met]


def test_of_a_conversion(folder: Path, tmp_path: Path, gpt2: Tokenizer) -> None:
    encode(folder, tmp_path / "o.bin")
    for name, options in (
        ("megatron", ["--eot", "prepend"]),
        ("mds", ["--row-tokens", "7"]),
        ("olmo", ["--eot", "both"]),
    ):
        place = tmp_path / "there" / f"x-{name}"
        place.parent.mkdir(exist_ok=True)
        assert main(["convert", str(tmp_path / "o.bin"), "-o", str(place), "--format", name, *options]) == 0
        if name != "olmo":
            assert check(place, gpt2)[:5] == TEXTS[:5]
    # The end of text before the first document.
    found = explain(tmp_path / "there" / "x-olmo", 0, tokenizer=gpt2)
    assert (found.id, found.document, found.text) == (EOT, 0, "")
    assert explain(tmp_path / "there" / "x-olmo", 1, tokenizer=gpt2).text == "Hello"
    # And back again: what was known of the text came along.
    back = tmp_path / "back.bin"
    assert main(["convert", str(tmp_path / "there" / "x-megatron"), "-o", str(back), "--format", "bin"]) == 0
    assert explain(back, 1, tokenizer=gpt2).is_exact


def test_what_does_not_know(folder: Path, tmp_path: Path, gpt2: Tokenizer, capsys: pytest.CaptureFixture[str]) -> None:
    encode(folder, tmp_path / "o", "--format", "megatron")
    last = np.fromfile(tmp_path / "o.bin", "<u2").size - 1
    (tmp_path / "o.docs").unlink()
    assert explain(tmp_path / "o", 0, tokenizer=gpt2).is_exact
    found = explain(tmp_path / "o", last - 1, tokenizer=gpt2)
    assert not found.is_exact and "the places of its documents are missing" in (found.remark or "")
    (tmp_path / "o.tokend.json").unlink()
    for place, told in ((tmp_path / "o", "does not say what text it was made of"), (tmp_path / "none", "no such file")):
        assert main(["explain", str(place), "--token", "0"]) == 1
        assert told in capsys.readouterr().err
    out = ["-o", str(tmp_path / "own.bin"), "--format", "bin", "--tokenizer", "gpt2"]
    assert main(["convert", str(tmp_path / "o"), *out]) == 0
    capsys.readouterr()
    assert main(["explain", str(tmp_path / "own.bin"), "--token", "0"]) == 1
    told = capsys.readouterr().err
    assert "was converted from megatron files" in told and "hint: `tokend decode`" in told


def test_the_order_is_that_of_a_shuffled_set(tmp_path: Path, gpt2: Tokenizer) -> None:
    (tmp_path / "a.txt").write_text("".join(f"{number}|" for number in range(300)))
    gpt2.encode_files([tmp_path / "a.txt"], tmp_path / "a.bin", separator="|")
    arguments = ["convert", str(tmp_path / "a.bin"), "-o", str(tmp_path / "n"), "--format", "nanogpt", "--shuffle"]
    assert main([*arguments, "--seed", "77"]) == 0
    texts = gpt2.decode(np.fromfile(tmp_path / "n" / "train.bin", "<u2")).split("<|endoftext|>")[:-1]
    order = [int(text) for text in texts]
    assert sorted(order) == list(range(300)) != order
    assert _core.shuffled(300, 77, 300).tolist() == order
    assert _core.shuffled(300, 77, 9).tolist() == order[:9]
