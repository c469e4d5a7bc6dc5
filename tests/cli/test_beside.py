"""The lists beside a trainer's set, made in memory that is far below them."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokend import Tokenizer, _core, beside

N_RECORDS, N_TEXTS = 30_000, 5_000
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, gpt2: Tokenizer) -> tuple[str, dict[str, Any], list[bytes]]:
    """A set of text, of records with ids, and of text again; its manifest, and the line of each document."""
    folder = tmp_path_factory.mktemp("made")
    for name in ("a", "c"):
        (folder / f"{name}.txt").write_text("".join(f"{name}{number}|" for number in range(N_TEXTS)))
    ids = [f"{number} {'naïve' * (number % 40)}" for number in range(N_RECORDS)]
    records = (json.dumps({"id": id, "text": f"t{n % 500}"}, ensure_ascii=False) + "\n" for n, id in enumerate(ids))
    (folder / "b.jsonl").write_text("".join(records))
    inputs = [folder / "a.txt", folder / "b.jsonl", folder / "c.txt"]
    gpt2.encode_files(inputs, folder / "o.bin", separator="|", id_field="id")
    manifest = json.loads((folder / "o.bin.json").read_text())
    lines = [(json.dumps(id, ensure_ascii=False) + "\n").encode() for id in ids]
    nothing = [b"null\n"] * N_TEXTS
    return str(folder / "o.bin"), manifest, [*nothing, *lines, *nothing]


def naive(made: str, lines: list[bytes], **how: Any) -> dict[str, bytes]:
    """What stands in each list, by the orders whole in memory."""
    n, seed = len(lines), how["seed"]
    order = _core.shuffled(n, seed, n).tolist() if how["is_shuffled"] else range(n)
    if not how["val_fraction"]:
        return {".ids": b"".join(lines[document] for document in order)}
    sides = _core.sides(made, how["val_fraction"], seed, 0, n)
    listed = {name: [lines[d] for d in order if sides[d] == is_val] for name, is_val in ((".train", 0), (".val", 1))}
    return {f"{name}.ids": b"".join(found) for name, found in listed.items()} | {".sides": sides.tobytes()}


@pytest.mark.parametrize("is_shuffled", [False, True])
@pytest.mark.parametrize("val_fraction", [0.0, 0.3])
@pytest.mark.parametrize(("bucket_bytes", "n_open"), [(64 << 20, 200), (400_000, 200), (400_000, 3)])
def test_lists_are_those_that_are_made_whole(
    made: tuple[str, dict[str, Any], list[bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_shuffled: bool,
    val_fraction: float,
    bucket_bytes: int,
    n_open: int,
) -> None:
    place, manifest, lines = made
    if not (is_shuffled or val_fraction):
        # As beside a set of ours: no lines for what has no ids.
        lines = [line for line in lines if line != b"null\n"]
    how = {"val_fraction": val_fraction, "seed": 5, "is_shuffled": is_shuffled}
    monkeypatch.setattr(beside, "_BUCKET_BYTES", bucket_bytes)
    monkeypatch.setattr(beside, "_OPEN_MAX", n_open)
    monkeypatch.setattr(beside, "_BLOCK", 999)
    output = str(tmp_path / "o")
    beside.keep(place, manifest, output, **how)
    expected = naive(place, lines, **how)
    found = {name: Path(f"{output}{name}").read_bytes() for name in expected}
    if ".sides" in found:
        found[".sides"] = found[".sides"][16:]
    assert found == expected
    suffixes = sorted(name.removeprefix("o") for name in os.listdir(tmp_path))
    assert suffixes == sorted(expected) == sorted(beside.suffixes(manifest, val_fraction=val_fraction))


def test_memory_does_not_grow_with_the_documents(
    made: tuple[str, dict[str, Any], list[bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, manifest, lines = made
    monkeypatch.setattr(beside, "_BUCKET_BYTES", 200_000)
    monkeypatch.setattr(beside, "_BLOCK", 500)
    whole = sum(map(len, lines))
    assert whole > 3_000_000
    tracemalloc.start()
    try:
        beside.keep(place, manifest, str(tmp_path / "o"), val_fraction=0.3, seed=5, is_shuffled=True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # With the room of some fifty open files.
    assert peak < whole / 2, f"{peak} bytes for lists of {whole}"


def test_places_of_a_shuffle_are_its_reverse() -> None:
    for n in (1, 2, 7, 1000, 4097):
        order = _core.shuffled(n, 3, n)
        assert np.array_equal(_core.shuffled_to(n, 3, 0, n)[order], np.arange(n))
        assert np.array_equal(_core.shuffled_to(n, 3, n // 2, n + 5), _core.shuffled_to(n, 3, 0, n)[n // 2 :])
