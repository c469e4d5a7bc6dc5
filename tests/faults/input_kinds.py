"""13. Every kind of input: cut off anywhere, a bit flipped anywhere, and kill -9 with --resume inside it.

What is compressed, in one piece or two or in many that are decoded side by side, carries a checksum here, so damage is
an error or changes nothing; a parquet or arrow file may decode to another text, but neither ends the process nor is
called a defect. What was cut off never becomes an output. A killed job that is resumed ends with the files of an
undisturbed one.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from itertools import accumulate
from pathlib import Path
from unittest.mock import patch

import numpy as np
from inputs import naive
from inputs.containers import IN_PARTS, in_parts, pieces
from inputs.test_packed import GOLDEN
from inputs.test_resume import contents, make_inputs
from tokend import Tokenizer
from tokend_client.errors import TokendError

from .common import Row, Scale, workplace

SMALL = {"TOKEND_CHUNK_BYTES": "3000", "TOKEND_COMMIT_MS": "2", "TOKEND_SEGMENT_BYTES": "60000"}
CUTS = 400
FLIPS = 1500
KILLS = 40


def run(scale: Scale) -> Row:
    """All of it."""
    row = Row("every kind of input: cut, flipped, killed")
    chance = random.Random(scale.seed)
    with workplace() as folder, patch.dict(os.environ, {"TOKEND_PART_BYTES": "1"}):
        tokenizer = Tokenizer.load("gpt2")
        made = make_inputs(folder)
        small = {
            name: naive.compress(name.partition(".")[2], made[name.partition(".")[0]][0].read_bytes()[:20_000])
            for name in made
            if name.startswith(("jsonl.", "txt."))
        }
        lines = made["jsonl"][0].read_bytes()
        borders: dict[str, set[int]] = {}
        for kind in IN_PARTS:
            name = f"parts-{kind}.jsonl.{ {'bgzf': 'gz', 'xz-blocks': 'xz'}.get(kind, kind) }"
            parts = pieces(kind, lines[:20_000], 3000)
            small[name], borders[name] = b"".join(parts), set(accumulate(map(len, parts)))
            (folder / name).write_bytes(in_parts(kind, lines))
            made[name] = [folder / name]
        columns = {path.name: path.read_bytes() for path in GOLDEN.iterdir()}
        n_cut = n_noticed = n_flips = 0
        for name, data in (small | columns).items():
            is_packed = name in small
            source, output = folder / f"broken.{name}", folder / "broken.bin"
            # Cut between its pieces it is a whole file.
            sizes = [size for size in range(1, len(data) - 1) if size not in borders.get(name, ())]
            whole = _ids(tokenizer, source, data, folder / "whole.bin")
            for _ in range(scale.n(CUTS // 20, 2)):
                size = chance.choice(sizes)
                n_cut += 1
                problem = _ids(tokenizer, source, data[:size], output)
                # A parquet or arrow file cut in the middle has no footer; an arrow stream has none to miss.
                row.demand(
                    isinstance(problem, TokendError)
                    or (not is_packed and name in ("stream.arrow", "dictionary.arrow")),
                    f"{name} cut at {size} of {len(data)}: {problem!r}",
                )
                row.demand(_is_ordinary(problem), f"{name} cut at {size}: {problem!r}")
            for _ in range(scale.n(FLIPS // 20, 4)):
                at, bit = chance.randrange(len(data)), chance.randrange(8)
                broken = bytearray(data)
                broken[at] ^= 1 << bit
                n_flips += 1
                problem = _ids(tokenizer, source, bytes(broken), output)
                row.demand(_is_ordinary(problem), f"{name} with bit {bit} of byte {at} flipped: {problem!r}")
                n_noticed += isinstance(problem, TokendError)
                if is_packed and not isinstance(problem, TokendError):
                    row.demand(problem == whole, f"{name}: bit {bit} of byte {at} changed the output unnoticed")
            row.demand(not list(folder.glob(".broken*")), f"{name}: partial files are left")
        n_kills = _kills(row, scale, chance, folder, made)
        row.tries = n_cut + n_flips + n_kills
        row.worst = f"{n_cut} cut, {n_flips} flips ({n_noticed} were errors), {n_kills} kills"
    return row


def _ids(tokenizer: Tokenizer, source: Path, data: bytes, output: Path) -> bytes | TokendError:
    """The tokens of a file with this content, or the error."""
    source.write_bytes(data)
    options = {"field": "meta.body"} if "nested" in source.name else {}
    try:
        tokenizer.encode_files([source], output, bad_documents="skip", force=True, threads=3, **options)  # type: ignore[arg-type]
    except TokendError as error:
        return error
    return np.fromfile(output, np.uint16).tobytes()


def _is_ordinary(problem: bytes | TokendError) -> bool:
    return not isinstance(problem, TokendError) or problem.code in ("INPUT_INVALID", "BAD_DOCUMENT", "BAD_REQUEST")


def _kills(row: Row, scale: Scale, chance: random.Random, folder: Path, made: dict[str, list[Path]]) -> int:
    """Kills a job over each kind again and again."""
    n_kills = 0
    kinds = list(made) if scale.share >= 0.2 else ["mixed"]
    for kind in kinds:
        for format in ("bin", "stream"):
            whole, output = folder / f"whole-{kind}-{format}", folder / f"again-{kind}-{format}"
            with _encode(made[kind], whole, format) as process:
                row.demand(process.wait(120) == 0, f"{kind}: the undisturbed run failed")
            limit = scale.n(KILLS, 3)
            for attempt in range(10 * limit):
                with _encode(made[kind], output, format) as process:
                    if attempt < limit:
                        _await_checkpoint(process, output)
                        time.sleep(chance.uniform(0, 0.1))
                        process.send_signal(signal.SIGKILL)
                    code = process.wait(120)
                if code == 0:
                    break
                n_kills += 1
                row.demand(code == -signal.SIGKILL, f"{kind}, {format}: exit code {code} after {n_kills} kills")
            row.demand(contents(output) == contents(whole), f"{kind}, {format}: not the files of an undisturbed run")
    return n_kills


def _encode(inputs: list[Path], output: Path, format: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tokend", "encode", "--local", "--resume", "--format", format, "-o", str(output)]
    command += ["--separator", "|", "--bad-documents", "skip", "--deduplicate", *map(str, inputs)]
    return subprocess.Popen(command, env={**os.environ, **SMALL}, stderr=subprocess.DEVNULL)


def _await_checkpoint(process: subprocess.Popen[bytes], output: Path) -> None:
    """The interpreter's start takes most of a run: waits for the job itself."""
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        names = [path.name for place in (output, output.parent) if place.is_dir() for path in place.glob(".*")]
        if any("checkpoint" in name and (output.name in name or output.is_dir()) for name in names):
            return
