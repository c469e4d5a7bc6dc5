"""Several fields to several outputs in one pass: each is the set that a job of its field alone makes."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Daemon
from interrupt import suspended_at
from tokend import Tokenizer, _core
from tokend_client import Client
from tokend_client.errors import BadDocumentError, BadRequestError, ConflictError
from tokend_client.protocol import TERMINAL_STATES

from . import naive
from .test_packed import GOLDEN
from .test_paths import tokend
from .test_resume import SMALL, contents

FIELDS = ("meta.body", "meta.name", "note")
OPTIONS: dict[str, Any] = {"bad_documents": "skip", "deduplicate": True, "min_tokens": 2, "id_field": "meta.name"}


def records(n_records: int) -> list[dict[str, Any]]:
    """Records in which each field is bad, too short or there again at other places."""
    made = []
    for n in range(n_records):
        body = 5 if n % 13 == 0 else f"line {n * n} é中 " * (n % 20)
        record: dict[str, Any] = {"id": n, "meta": {"body": body, "name": f"name {n % 70}"}}
        if n % 7:
            record["note"] = None if n % 11 == 0 else "a\\note\n" * (n % 5)
        made.append(record)
    return made


def old(path: Path) -> Path:
    then = time.time() - 3600
    os.utime(path, (then, then))
    return path


def write_lines(path: Path, rows: list[dict[str, Any]], kind: str = "") -> Path:
    path.write_bytes(naive.compress(kind, "".join(json.dumps(row) + "\n" for row in rows).encode()))
    return old(path)


@pytest.fixture(params=["lines", "zst", "columns", "several"])
def corpus(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[list[Path], tuple[str, ...]]:
    """Inputs and the fields that they have."""
    plain = write_lines(tmp_path / "a.jsonl", records(1500))
    packed = write_lines(tmp_path / "b.jsonl.zst", records(1300), "zst")
    columns = [GOLDEN / "nested.parquet", GOLDEN / "nested.arrow"]
    inputs = {"lines": [plain], "zst": [packed], "columns": columns, "several": [packed, *columns, plain]}
    return inputs[request.param], FIELDS if request.param in ("lines", "zst") else FIELDS[:2]


def alone(
    gpt2: Tokenizer, inputs: list[Path], folder: Path, fields: tuple[str, ...] = FIELDS, **options: Any
) -> list[dict[str, bytes]]:
    """What jobs of one field each make."""
    folder.mkdir()
    made = []
    for number, field in enumerate(fields):
        gpt2.encode_files(inputs, folder / f"{number}.bin", field=field, **options)
        made.append(contents(folder / f"{number}.bin"))
    return made


def places(folder: Path, fields: tuple[str, ...] = FIELDS) -> list[Path]:
    folder.mkdir(exist_ok=True)
    return [folder / f"{number}.bin" for number in range(len(fields))]


def together(folder: Path, fields: tuple[str, ...] = FIELDS) -> tuple[Path, dict[str, Any]]:
    """The first output and the options that make the others beside it."""
    first, *others = places(folder, fields)
    return first, {"field": fields[0], "more": dict(zip(fields[1:], others, strict=True))}


@pytest.mark.parametrize("threads", [1, 3])
def test_each_output_is_that_of_its_field_alone(
    threads: int,
    corpus: tuple[list[Path], tuple[str, ...]],
    tmp_path: Path,
    gpt2: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TOKEND_CHUNK_BYTES", "3000")
    inputs, fields = corpus
    expected = alone(gpt2, inputs, tmp_path / "alone", fields, **OPTIONS)
    first, several = together(tmp_path / "together", fields)
    control = _core.JobControl()
    manifest = gpt2.encode_files(inputs, first, threads=threads, control=control, **OPTIONS, **several)
    assert [contents(place) for place in places(first.parent, fields)] == expected
    assert all(any("skipped" in name for name in files) for files in expected)
    total = sum(path.stat().st_size for path in inputs)
    assert control.progress() == (total, total, manifest["n_tokens"], manifest["n_documents"])
    for place, made in zip(places(first.parent, fields), [manifest, *manifest["more"]], strict=True):
        assert made["n_tokens"] * 2 == place.stat().st_size
        _core.verify(str(place))
    assert not list(tmp_path.glob("**/.*.partial"))
    again = gpt2.encode_files(inputs, first, **OPTIONS, **several)
    assert again["up_to_date"] and all(other["up_to_date"] for other in again["more"])


def cut_log(output: Path, n_lines: int) -> None:
    """Takes back what an interrupted job knew of an output, but for the first lines."""
    (log,) = output.parent.glob(f".{output.name}.checkpoint*")
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:n_lines]))


def test_interrupted_again_and_again_with_outputs_at_different_places(
    corpus: tuple[list[Path], tuple[str, ...]], tmp_path: Path, gpt2: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SMALL.items():
        monkeypatch.setenv(name, value)
    inputs, fields = corpus
    expected = alone(gpt2, inputs, tmp_path / "alone", fields, **OPTIONS)
    first, several = together(tmp_path / "together", fields)
    n_tokens = (tmp_path / "alone/0.bin").stat().st_size // 2
    n_stops = 0
    for part in range(1, 7):
        options = OPTIONS | several | {"threads": 3, "resume": True}
        if suspended_at(gpt2, n_tokens * part // 7, inputs, first, **options):
            n_stops += 1
            cut_log(places(first.parent, fields)[part % len(fields)], 1 + 2 * part)
    control = _core.JobControl()
    gpt2.encode_files(inputs, first, resume=True, control=control, **OPTIONS, **several)
    assert n_stops > 0
    assert [contents(place) for place in places(first.parent, fields)] == expected
    total = sum(path.stat().st_size for path in inputs)
    assert control.progress()[:2] == (total, total)
    assert not list(tmp_path.glob("**/.*.partial"))


def test_outputs_that_were_cut_at_other_places_are_not_gone_on_with(
    tmp_path: Path, gpt2: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_lines(tmp_path / "a.jsonl", records(1500))
    for name, value in SMALL.items():
        monkeypatch.setenv(name, value)
    first, several = together(tmp_path / "together")
    assert suspended_at(gpt2, 8000, [source], first, **OPTIONS, **several)
    cut_log(first, 2)
    monkeypatch.setenv("TOKEND_CHUNK_BYTES", "7001")
    with pytest.raises(ConflictError, match="cut the input at other places"):
        gpt2.encode_files([source], first, resume=True, **OPTIONS, **several)
    gpt2.encode_files([source], first, **OPTIONS, **several)
    assert [contents(place) for place in places(first.parent)] == alone(gpt2, [source], tmp_path / "alone", **OPTIONS)


def test_an_output_that_is_there_is_not_made_again(tmp_path: Path, gpt2: Tokenizer) -> None:
    source = write_lines(tmp_path / "a.jsonl", records(200))
    first, several = together(tmp_path / "together")
    gpt2.encode_files([source], first, **OPTIONS, **several)
    _, _, last = places(first.parent)
    before = contents(last)
    for file in last.parent.glob(f"{last.name}*"):
        file.unlink()
    inode = first.stat().st_ino
    made = gpt2.encode_files([source], first, **OPTIONS, **several)
    assert contents(last) == before and first.stat().st_ino == inode
    assert made["up_to_date"] and [other["up_to_date"] for other in made["more"]] == [True, False]


def test_a_bad_document_of_any_field_fails_the_job_which_goes_on_with_skip(
    tmp_path: Path, gpt2: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEND_CHUNK_BYTES", "1000")
    rows = [{"meta": {"body": f"text {n}", "name": f"name {n}"}, "note": "x"} for n in range(400)]
    del rows[300]["note"]
    source = write_lines(tmp_path / "a.jsonl", rows)
    first, several = together(tmp_path / "together")
    with pytest.raises(BadDocumentError, match=r'line 301, byte .*"note"'):
        gpt2.encode_files([source], first, threads=2, **several)
    assert not any(place.exists() for place in places(first.parent))
    gpt2.encode_files([source], first, threads=2, resume=True, bad_documents="skip", **several)
    expected = alone(gpt2, [source], tmp_path / "alone", bad_documents="skip")
    assert [contents(place) for place in places(first.parent)] == expected


def test_what_does_not_go(tmp_path: Path, gpt2: Tokenizer) -> None:
    source = write_lines(tmp_path / "a.jsonl", records(20))
    text = tmp_path / "a.txt"
    text.write_text("no fields")
    out = tmp_path / "out"
    for inputs, more, options, message in (
        ([source], {"note": out}, {}, "files of each other"),
        ([source], {"note": f"{out}.ends"}, {}, "files of each other"),
        ([source], {"note": tmp_path / "b"}, {"format": "stream"}, "format bin"),
        ([source, text], {"note": tmp_path / "b"}, {}, "a.txt is not known to have fields"),
    ):
        with pytest.raises(BadRequestError, match=message):
            gpt2.encode_files(inputs, out, more=more, **options)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "a.txt"]


def test_command_line(tmp_path: Path, gpt2: Tokenizer) -> None:
    data = tmp_path / "data"
    data.mkdir()
    source = write_lines(data / "a.jsonl", records(50))
    expected = alone(gpt2, [source], tmp_path / "alone", bad_documents="skip")
    # Outputs in the directory of the inputs are no inputs, also the second time.
    outputs = [data / f"{number}.bin" for number in range(3)]
    named = [word for field, place in zip(FIELDS, outputs, strict=True) for word in ("--field", f"{field}={place}")]
    command = ["encode", "--local", data, "--bad-documents", "skip", *named]
    made = tokend(*command)
    assert made.returncode == 0, made.stderr
    assert [contents(place) for place in outputs] == expected
    assert made.stderr.count(b"left out:") == 2 and made.stderr.count(b" from ") == 3
    again = tokend(*command, "--json")
    assert again.returncode == 0 and json.loads(again.stdout)["more"][1]["up_to_date"]
    for arguments, message in (
        ([source, "-o", tmp_path / "x", "--field", "a", "--field", "b"], b"-o names one"),
        ([source], b"no output is named"),
        ([source, "--field", "text"], b"no output is named"),
        ([source, "--field", f"text={tmp_path / 'x'}", "--field", f"text={tmp_path / 'y'}"], b"named twice"),
        ([source, *named, "--format", "stream"], b"format bin"),
        ([source, *named, "--format", "bin", "--format", "llmc"], b"format bin"),
        ([source, *named, "--update"], b"of one field"),
        ([source, *named, "--dry-run"], b"of one field"),
    ):
        refused = tokend("encode", "--local", *arguments)
        assert refused.returncode == 2 and message in refused.stderr, refused.stderr


def test_through_the_daemon(tmp_path: Path, gpt2: Tokenizer, client: Client) -> None:
    source = write_lines(tmp_path / "a.jsonl", records(300))
    expected = alone(gpt2, [source], tmp_path / "alone", bad_documents="skip")
    first, several = together(tmp_path / "together")
    job = client.submit([source], first, bad_documents="skip", **several)
    result = job.wait(timeout=60)
    assert [other["data"]["file"] for other in result.manifest["more"]] == ["1.bin", "2.bin"]
    assert [contents(place) for place in places(first.parent)] == expected
    assert client.submit([source], first, bad_documents="skip", **several).wait(timeout=60).up_to_date


def test_a_daemon_that_is_killed_goes_on_with_all_outputs(
    tmp_path: Path, gpt2: Tokenizer, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_lines(tmp_path / "a.jsonl", records(4000))
    expected = alone(gpt2, [source], tmp_path / "alone", **OPTIONS)
    for name, value in SMALL.items():
        monkeypatch.setenv(name, value)
    first, several = together(tmp_path / "together")
    daemon = Daemon(run_folder)
    try:
        with Client(daemon.endpoint) as client:
            job_id = client.submit([source], first, key="fields", **OPTIONS, **several).job_id
            while (info := client.jobs()[0]).bytes_done == 0 and info.state not in TERMINAL_STATES:
                pass
        daemon.kill()
        daemon.start()
        with Client(daemon.endpoint) as client:
            client.job(job_id).wait(timeout=60)
            assert [contents(place) for place in places(first.parent)] == expected
        daemon.kill()
        daemon.start()
        with Client(daemon.endpoint) as client:
            # The manifests come from the disk now.
            manifest = client.job(job_id).wait(timeout=60).manifest
            assert [other["n_documents"] for other in manifest["more"]] == [
                place.with_name(f"{place.name}.ends").stat().st_size // 8 for place in places(first.parent)[1:]
            ]
        assert not list(tmp_path.glob("**/.*.partial"))
    finally:
        daemon.stop()
