"""15. kill -9 at random moments of every kind of output made from every kind of input at once, with `--resume`; and of
the daemon that makes it.

Inputs: JSON lines, plain and in zstd frames, BGZF, an xz stream of several blocks and bzip2 streams, parquet, arrow.
Outputs: several fields, limits with ids, cut documents and duplicates, formats of trainers in shards, split, shuffled.
After each kill whatever has its final name verifies. At the end every file, sidecars and lists included, is that of an
undisturbed run, and no other file is there.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from inputs.containers import in_parts
from inputs.test_packed import GOLDEN
from tokend import _core
from tokend_client.errors import TokendError

from .common import PATIENCE_S, Rig, Row, Scale, prose, workplace

SMALL = {
    "TOKEND_CHUNK_BYTES": "3000",
    "TOKEND_COMMIT_MS": "2",
    "TOKEND_SEGMENT_BYTES": "60000",
    "TOKEND_PART_BYTES": "1",
}
IDS = "--id-field meta.name"
LIMITS = f"{IDS} --deduplicate --min-tokens 2 --max-tokens 900 --truncate-tokens 300"
LAYOUT = "--val-fraction 0.2 --shuffle --seed 7"
TRAINERS = "--format datatrove --format litdata --format olmo --format mds --format llmc"
WAYS = {
    "fields": f"--field meta.body={{}}/a.bin --field meta.name={{}}/b.bin {LIMITS.replace('300', '200')}",
    "limits": f"--field meta.body -o {{}}/o.bin {LIMITS}",
    "stream": f"--field meta.body -o {{}}/o {LIMITS} --format stream",
    "by documents": f"--field meta.body -o {{}}/o --format bin {TRAINERS} --shard-documents 250 {IDS} {LAYOUT}",
    "by size": f"--field meta.body -o {{}}/o {TRAINERS} --shard-bytes 60K --deduplicate {LAYOUT}",
    "whole files": f"--field meta.body -o {{}}/o --format bin --format megatron --format nanogpt {LAYOUT}",
}
KILLS = 40
KILLS_OF_DAEMONS = 6


def run(scale: Scale) -> Row:
    row = Row("SIGKILL at random moments: fields, limits, sidecars, shards, split and shuffle, of every kind of input")
    chance = random.Random(scale.seed)
    with workplace() as folder:
        inputs = _inputs(folder, chance)
        ways = list(WAYS) if scale.share >= 0.2 else ["fields", "by size"]
        n_kills = [0, 0]
        for name in ways:
            way = _Way(row, name, folder, inputs)
            n_kills[0] += way.kill(chance, scale.n(KILLS, 2))
            if name != "by size" and scale.share >= 0.2:
                with patch.dict(os.environ, SMALL):
                    n_kills[1] += way.kill_daemons(chance, scale.n(KILLS_OF_DAEMONS))
        row.tries = sum(n_kills)
        row.worst = f"{n_kills[0]} kills of `encode --local`, {n_kills[1]} of daemons, {len(ways)} kinds of output"
    return row


def _inputs(folder: Path, chance: random.Random) -> list[Path]:
    """A file of each kind, an hour old. Some records are bad, some there twice, some too short or too long."""
    then = time.time() - 3600
    made = []
    for kind, suffix in (("zst", "zst"), ("bgzf", "gz"), ("xz-blocks", "xz"), ("bz2", "bz2"), ("plain", "")):
        lines = []
        for number in range(250):
            body = None if number % 31 == 0 else prose(chance, chance.choice([0, 20, 300, 300, 1000, 5000]))
            record = {"id": number, "meta": {"body": body, "name": f"{kind} {number % 200}"}}
            lines.append(json.dumps(record) + ("\n\n" if number % 9 == 0 else "\n") if number % 20 else "{bad\n")
        content = "".join([*lines, *chance.sample(lines, 30)]).encode()
        path = folder / f"{kind}.jsonl.{suffix}".rstrip(".")
        path.write_bytes(content if kind == "plain" else in_parts(kind, content, 20_000))
        os.utime(path, (then, then))
        made.append(path)
    return [*made, GOLDEN / "nested.parquet", GOLDEN / "nested.arrow"]


@dataclass
class _Way:
    """One kind of output, and the runs that make it."""

    row: Row
    name: str
    folder: Path
    inputs: list[Path]

    def kill(self, chance: random.Random, n_kills: int) -> int:
        """Kills the command again and again, then lets it end; the number of kills that met it."""
        whole, again = (self._place(name) for name in ("whole", "again"))
        n_met = 0
        begun = time.monotonic()
        with self._encode(whole) as process:
            _await_bytes(process, whole, 1)
            begun = time.monotonic()
            _, said = process.communicate(timeout=PATIENCE_S)
        usual_s = time.monotonic() - begun
        self.row.demand(process.returncode == 0, f"{self.name}: the undisturbed run failed: {said[-300:]!r}")
        total = _n_bytes(whole)
        for attempt in range(n_kills):
            # So that not only the first moments are met: what is done stays done.
            if attempt % 8 == 0:
                again = self._place(f"again-{attempt}")
            with self._encode(again) as process:
                # Somewhere in what is written, or in the time after that began, in which most is waiting for the disk.
                _await_bytes(process, again, chance.uniform(0, total) if attempt % 2 else 1)
                time.sleep(chance.uniform(0, usual_s / 20 if attempt % 2 else usual_s))
                process.send_signal(signal.SIGKILL)
                _, said = process.communicate(timeout=PATIENCE_S)
            n_met += process.returncode == -signal.SIGKILL
            usual = process.returncode in (0, -signal.SIGKILL)
            self.row.demand(usual, f"{self.name}: exit code {process.returncode}: {said[-300:]!r}")
            self._check_finals(again, whole)
            if attempt % 8 == 7 or attempt == n_kills - 1:
                with self._encode(again) as process:
                    _, said = process.communicate(timeout=PATIENCE_S)
                self.row.demand(process.returncode == 0, f"{self.name}: the last run failed: {said[-300:]!r}")
                self._compare(whole, again)
        return n_met

    def kill_daemons(self, chance: random.Random, n_kills: int) -> int:
        """Kills the daemon once in each job, for a second death at the same place would park it."""
        whole = self.folder / self.name.replace(" ", "-") / "whole"
        total = _n_bytes(whole)
        n_met = 0
        for attempt in range(n_kills):
            place, home = self._place(f"daemon-{attempt}"), self._place(f"home-{attempt}")
            rig = Rig(home)
            rig.start()
            command = self._command(place, "--no-wait", "--json", "--endpoint", rig.endpoint)
            told = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
            self.row.demand(told.returncode == 0, f"{self.name}: not accepted: {told.stderr[-300:]}")
            if told.returncode:
                rig.stop()
                break
            job_id = json.loads(told.stdout)["job_id"]
            _await_bytes(rig.process, place, chance.uniform(1, total))
            rig.kill()
            n_met += 1
            self._check_finals(place, whole)
            rig.start()
            with rig.client() as client:
                try:
                    client.job(job_id).wait(timeout=PATIENCE_S)
                except TokendError as error:
                    self.row.demand(False, f"{self.name}: the daemon's job failed: {error}")
            self.row.demand(rig.stop() == 0, f"{self.name}: the daemon did not end")
            self._compare(whole, place)
        return n_met

    def _place(self, name: str) -> Path:
        place = self.folder / self.name.replace(" ", "-") / name
        place.mkdir(parents=True)
        return place

    def _command(self, place: Path, *options: str) -> list[str]:
        words = WAYS[self.name].format(place, place).split()
        common = ["--bad-documents", "skip", "--no-reuse", "--threads", "2", *options]
        return [sys.executable, "-m", "tokend", "encode", *words, *common, *map(str, self.inputs)]

    def _encode(self, place: Path) -> subprocess.Popen[bytes]:
        environment = os.environ | SMALL | {"TOKEND_STATE_DIR": str(self.folder / "state")}
        command = self._command(place, "--local", "--resume")
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def _check_finals(self, place: Path, whole: Path) -> None:
        """Whatever looks finished is: a set with its manifest, a sealed stream, a directory, Megatron's last index."""
        for path in whole.iterdir():
            there = place / path.name
            if path.suffix == ".bin" and path.with_suffix(".bin.json").exists():
                is_there = there.with_suffix(".bin.json").exists()
            elif path.is_dir():
                is_there = _is_sealed(there) if (path / "manifest.json").exists() else there.exists()
            elif path.name == "o.megatron.tokend.json":
                is_there = all((place / index.name).exists() for index in whole.glob("*.idx"))
            else:
                continue
            try:
                if is_there:
                    _core.verify(str(there))
            except TokendError as error:
                self.row.demand(False, f"{self.name}: {path.name} is not complete: {error}")

    def _compare(self, whole: Path, again: Path) -> None:
        expected, found = _files(whole), _files(again)
        odd = [name for name in {*expected, *found} if expected.get(name) != found.get(name)]
        self.row.demand(not odd and len(expected) > 2, f"{self.name}: not as undisturbed: {sorted(odd)[:6]}")


def _is_sealed(stream: Path) -> bool:
    manifest = stream / "manifest.json"
    return manifest.exists() and json.loads(manifest.read_bytes()).get("state") == "sealed"


def _files(place: Path) -> dict[str, bytes]:
    """Every file; of a stream's manifest what chance and the number of commits do not make."""
    found = {path.relative_to(place).as_posix(): path.read_bytes() for path in place.rglob("*") if path.is_file()}
    if (manifest := found.get("o/manifest.json")) is not None:
        found["o/manifest.json"] = repr(json.loads(manifest) | {"stream_id": 0, "commit": 0}).encode()
    return found


def _n_bytes(place: Path) -> int:
    """Of everything there, also what is not finished."""
    total = 0
    for folder, _, names in os.walk(place):
        for name in names:
            # It may just have been renamed.
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(folder, name)).st_size
    return total


def _await_bytes(process: subprocess.Popen[bytes], place: Path, n_bytes: float) -> None:
    """The interpreter's start takes most of a run: waits until the job has written something."""
    deadline = time.monotonic() + PATIENCE_S
    while process.poll() is None and _n_bytes(place) < n_bytes and time.monotonic() < deadline:
        time.sleep(0.002)
