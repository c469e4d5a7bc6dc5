"""Jobs over each kind of input, interrupted again and again, end with the bytes of an undisturbed run."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest
from interrupt import suspended_at
from tokend import Tokenizer, _core
from tokend_client.errors import BadDocumentError, ConflictError

from . import naive
from .make_golden import documents
from .test_packed import GOLDEN

SMALL = {"TOKEND_CHUNK_BYTES": "3000", "TOKEND_COMMIT_MS": "2", "TOKEND_SEGMENT_BYTES": "60000"}


def make_inputs(folder: Path) -> dict[str, list[Path]]:
    """Files of each kind, an hour old."""
    texts = [text or "" for text in documents()] * 6
    lines = "".join(
        json.dumps({"id": n, "text": text}) + ("\n\n" if n % 9 == 0 else "\n") if n % 20 else "{bad\n"
        for n, text in enumerate(texts)
    ).encode()
    flow = "|".join(texts).encode()
    made: dict[str, list[Path]] = {}
    for name, content in (("jsonl", lines), ("txt", flow)):
        for kind in ("", *naive.KINDS):
            path = folder / f"in.{name}.{kind}".rstrip(".")
            path.write_bytes(naive.compress(kind, content))
            made[f"{name}.{kind}".rstrip(".")] = [path]
    made["parquet"] = [GOLDEN / name for name in ("zstd.parquet", "checked.parquet", "none.parquet")]
    made["arrow"] = [GOLDEN / name for name in ("flat.arrow", "dictionary.arrow", "view.arrow")]
    made["mixed"] = [made["txt.gz"][0], made["jsonl.zst"][0], *made["parquet"], made["jsonl"][0], *made["arrow"]]
    old = time.time() - 3600
    for paths in made.values():
        for path in paths:
            if path.parent == folder:
                os.utime(path, (old, old))
    return made


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


def contents(output: Path) -> dict[str, bytes]:
    """All files of an output, without what differs from stream to stream."""
    files = {
        path.name.replace(output.name, "OUT"): path.read_bytes()
        for path in output.parent.glob(f"{output.name}*")
        if path.is_file()
    }
    if output.is_dir():
        files |= {path.name: path.read_bytes() for path in output.iterdir()}
        manifest = json.loads(files.pop("manifest.json"))
        for name in ("stream_id", "commit"):
            manifest.pop(name)
        files["manifest"] = json.dumps(manifest).encode()
    return {name: data.replace(output.name.encode(), b"OUT") for name, data in files.items()}


KINDS = [
    "jsonl",
    "txt",
    "parquet",
    "arrow",
    "mixed",
    *(f"{name}.{kind}" for name in ("jsonl", "txt") for kind in naive.KINDS),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("format", ["bin", "stream"])
def test_interrupted_again_and_again(
    kind: str,
    format: str,
    inputs: dict[str, list[Path]],
    tmp_path: Path,
    gpt2: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in SMALL.items():
        monkeypatch.setenv(name, value)
    is_record = not kind.startswith("txt")
    options = {"separator": "|", "format": format, "special": "text"}
    if is_record:
        options |= {"bad_documents": "skip", "deduplicate": kind == "mixed"}  # type: ignore[dict-item]
        if kind.startswith("jsonl"):
            options["id_field"] = "id"
    whole, output = tmp_path / "whole", tmp_path / "again"
    undisturbed = gpt2.encode_files(inputs[kind], whole, threads=1, **options)  # type: ignore[arg-type]
    n_stops = sum(
        suspended_at(gpt2, undisturbed["n_tokens"] * part // 9, inputs[kind], output, threads=2, resume=True, **options)
        for part in range(1, 9)
    )
    control = _core.JobControl()
    manifest = gpt2.encode_files(inputs[kind], output, threads=2, resume=True, control=control, **options)  # type: ignore[arg-type]
    assert n_stops > 0
    total = sum(path.stat().st_size for path in inputs[kind])
    assert control.progress()[:2] == (total, total)
    assert manifest["sources"] == undisturbed["sources"]
    assert contents(output) == contents(whole)
    assert not list(tmp_path.glob("**/.*.partial"))
    _core.verify(str(output))
    control = _core.JobControl()
    assert gpt2.encode_files(inputs[kind], output, control=control, **options)["up_to_date"]  # type: ignore[arg-type]


def test_a_job_that_failed_goes_on_with_skip_and_nothing_else(
    inputs: dict[str, list[Path]], tmp_path: Path, gpt2: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SMALL.items():
        monkeypatch.setenv(name, value)
    lines = inputs["jsonl"][0].read_bytes().replace(b"{bad\n", b"")
    source = tmp_path / "in.jsonl"
    source.write_bytes(lines + b"{bad\n" + lines + b"{bad\n")
    for format in ("bin", "stream"):
        whole, output = tmp_path / f"whole-{format}", tmp_path / f"again-{format}"
        gpt2.encode_files([source], whole, bad_documents="skip", format=format)
        with pytest.raises(BadDocumentError, match=f"line {lines.count(bytes([10])) + 1}, byte {len(lines)}: "):
            gpt2.encode_files([source], output, format=format, threads=2)
        with pytest.raises(ConflictError, match="other options"):
            gpt2.encode_files([source], output, bad_documents="skip", resume=True, min_tokens=1, format=format)
        control = _core.JobControl()
        seen: list[int] = []
        ended = threading.Event()

        def look(control: _core.JobControl = control, seen: list[int] = seen, ended: threading.Event = ended) -> None:
            while not ended.wait(0.0001):
                seen.append(control.progress()[0])

        watcher = threading.Thread(target=look)
        watcher.start()
        gpt2.encode_files([source], output, bad_documents="skip", resume=True, format=format, control=control)
        ended.set()
        watcher.join()
        assert control.progress()[0] == source.stat().st_size
        assert not [done for done in seen if 0 < done < len(lines) - 6000], "it went on where it had failed"
        assert contents(output) == contents(whole)
