"""Every malformed or odd document, in every container, with one worker and with several: each is accounted for.

The documents of `malformed` stand among others, one of which is there twice and one of which is too short. What must
come out is what Python's `json` and tiktoken make of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiktoken
from tokend import Tokenizer, _core
from tokend_client.errors import BadDocumentError, InputInvalidError

from . import naive
from .containers import CONTAINERS, borders
from .malformed import LINES, TEXTS
from .test_resume import contents

CASES = {f"{name}.jsonl": case for name, case in LINES.items()} | {f"{name}.txt": case for name, case in TEXTS.items()}
REASONS = {"filtered": "0 tokens, fewer than 1", "duplicate": "the same text as an earlier document"}


def around(name: str) -> tuple[bytes, int]:
    """The content of a file that has the case in it, and the number of its line or text."""
    case = CASES[name]
    if name.endswith(".txt"):
        return case.begins + b"#".join([b"one", b"two, three", case.content, b"one", b"", "日本 the last".encode()]), 3
    before = b'{"text":"one"}\n\n{"text":"two, three"}\n'
    after = '\n{"text":"one"}\r\n{"text":""}\n{"text":"日本 the last"}'.encode()
    return case.begins + before + case.content + after, 4


def workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """One worker that gets all at once, then several that get a few bytes each."""
    yield 1
    monkeypatch.setenv("TOKEND_CHUNK_BYTES", "50")
    monkeypatch.setenv("TOKEND_PART_BYTES", "1")
    yield 3


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("special", [None, "raise", "text", "token"])
def test_each_is_accounted_for(
    special: str | None,
    container: str,
    tmp_path: Path,
    gpt2: Tokenizer,
    tiktoken_gpt2: tiktoken.Encoding,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = [name for name, case in CASES.items() if case.special == special]
    options: dict[str, Any] = {"special": special} if special else {}
    sources, expected, seen = [], [], set[str]()
    for name in names:
        content, number = around(name)
        sources.append(tmp_path / name)
        sources[-1].write_bytes(CONTAINERS[container](content))
        read = partial(naive.text, separator=b"#") if name.endswith(".txt") else naive.jsonl
        expected.append(read(tiktoken_gpt2, content, seen=seen, min_tokens=1, **options))
        kinds = [kind for kind, line, _ in expected[-1].skipped if line == number]
        # The same text may have been in a file before.
        assert kinds in ([CASES[name].outcome], ["duplicate"]) or CASES[name].outcome in ("document", "blank")
    options |= {"separator": "#", "bad_documents": "skip", "deduplicate": True, "min_tokens": 1}
    made = []
    for threads in workers(monkeypatch):
        output = tmp_path / f"{threads}.bin"
        naive.check(gpt2.encode_files(sources, output, threads=threads, **options), output, *expected)
        for entry in naive.skipped_of(output):
            name = Path(entry["path"]).name
            is_case = entry["kind"] == "bad" and entry["line"] == around(name)[1]
            assert (CASES[name].reason if is_case else REASONS[entry["kind"]]) in entry["reason"], name
        _core.verify(str(output))
        made.append(contents(output))
    assert made[0] == made[1]
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.outcome == "bad"])
def test_the_first_bad_one_fails_the_job_which_goes_on_with_skip(
    name: str, tmp_path: Path, gpt2: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    content, number = around(name)
    offset = content.index(case.content, 20 if name.startswith("null") else 0)
    # With a limit a text, too, is looked at document by document.
    options: dict[str, Any] = {"separator": "#", "max_tokens": 1 << 30}
    options |= {"special": case.special} if case.special else {}
    for container, threads in zip(("plain", "bgzf in parts"), workers(monkeypatch), strict=True):
        source, output = tmp_path / f"{threads}-{name}", tmp_path / f"{threads}.bin"
        source.write_bytes(CONTAINERS[container](content))
        with pytest.raises(BadDocumentError) as raised:
            gpt2.encode_files([source], output, threads=threads, **options)
        where = f"{'document' if name.endswith('txt') else 'line'} {number}, byte {offset}"
        where += " (decompressed)" if container != "plain" else ""
        assert raised.value.message.startswith(f"{source}: {where}: ") and case.reason in raised.value.message
        assert raised.value.hint is not None and "--bad-documents skip" in raised.value.hint
        assert not output.exists() and not Path(f"{output}.json").exists()
        gpt2.encode_files([source], output, threads=threads, resume=True, bad_documents="skip", **options)
        (entry,) = naive.skipped_of(output)
        assert (entry["line"], entry["offset_bytes"]) == (number, offset)
        assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("bad_documents", ["fail", "skip"])
@pytest.mark.parametrize("container", [name for name in CONTAINERS if name != "plain"])
def test_what_is_cut_off_fails_at_its_end(
    container: str, bad_documents: str, tmp_path: Path, gpt2: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"".join(b'{"text":"document %d"}\n' % number for number in range(400))
    packed = CONTAINERS[container](content)
    suffix = {"bgzf": "gz", "xz-blocks": "xz"}.get(kind := container.split()[0], kind)
    source, output = tmp_path / f"cut.jsonl.{suffix}", tmp_path / "cut.bin"
    sizes = {1, 5, *range(17, len(packed), len(packed) // 7), len(packed) - 1} - borders(container, content)
    for threads in workers(monkeypatch):
        for size in sizes:
            source.write_bytes(packed[:size])
            with pytest.raises(InputInvalidError) as raised:
                gpt2.encode_files([source], output, threads=threads, bad_documents=bad_documents)
            assert f"at byte {size}" in raised.value.message and "ends too early" in raised.value.message
            assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("options", [{}, {"bad_documents": "skip"}, {"deduplicate": True, "separator": "|"}])
def test_a_byte_order_mark_of_text_is_text(
    options: dict[str, Any], packed: bool, tmp_path: Path, gpt2: Tokenizer, tiktoken_gpt2: tiktoken.Encoding
) -> None:
    """Of JSON lines it is passed over and counted; the ids of a text are tiktoken's over it (decision 297)."""
    data = "\ufeffHello, world!".encode()
    path = tmp_path / "a.txt"
    path.write_bytes(naive.compress("gz", data) if packed else data)
    manifest = gpt2.encode_files([path], tmp_path / "o.bin", **options)
    ids = np.fromfile(tmp_path / "o.bin", "<u2").tolist()
    assert ids == [*tiktoken_gpt2.encode("\ufeffHello, world!"), 50256]
    assert all(source.get("records", {}).get("n_byte_order_marks", 0) == 0 for source in manifest["sources"])
