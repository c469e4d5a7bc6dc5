"""10. Damage at rest. A journal that is cut or has flipped bits: the daemon starts, says so, never tells a
wrong `done`. Flipped bits in outputs: `verify` and the reader find every one. In an image of the word cache:
it is not loaded, or what is encoded with it is right all the same.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

from tokend import Tokenizer, _core
from tokend_client import TokenStream
from tokend_client.errors import TokendError, UnknownJobError
from tokend_client.sidecars import MANIFEST, OF_SET

from .common import PATIENCE_S, Ground, Known, Rig, Row, Scale, workplace


def run(scale: Scale) -> Row:
    row = Row("journal cut or with flipped bits; outputs and cache images with flipped bits")
    chance = random.Random(scale.seed)
    said = lost = 0
    with workplace() as folder:
        ground = Ground(folder, scale.seed, [5000, 0, 300])
        for _ in range(scale.n(100, 3)):
            row.tries += 1
            rig = Rig(folder / f"rig{row.tries}")
            rig.folder.mkdir()
            rig.start()
            with rig.client() as client:
                for number in range(8):
                    known = Known(ground.outputs / f"{row.tries}-{number}.bin", [number % 3], f"{row.tries} {number}")
                    rig.jobs.append(known)
                    rig.submit(client, ground, known)
                for known in rig.jobs[:6]:
                    client.job(known.job_id).wait(timeout=PATIENCE_S)
            rig.kill()
            # One output goes, so that a `done` in the journal would be wrong; what is damaged is not the output.
            gone = rig.jobs[chance.randrange(6)]
            for end in ("", ".ends", ".json"):
                Path(f"{gone.output}{end}").unlink()
            what = _damage(rig, chance)
            rig.start()
            with rig.client() as client:
                problems = client.status().problems
                said += bool(problems)
                for known in rig.jobs:
                    lost += _look(row, client, known, known is gone, bool(problems), f"{what}")
                # It works on.
                after = Known(ground.outputs / f"{row.tries}-after.bin", [2], f"{row.tries} after")
                error = rig.submit(client, ground, after)
                row.demand(error is None, f"{what}: {error!r}")
                if error is None:
                    client.job(after.job_id).wait(timeout=PATIENCE_S)
            row.demand(rig.stop() == 0, f"{what}: the daemon did not end well")
            rig.check(row, ground)
        flips = _flip_outputs(row, ground, chance, scale)
        images = _flip_images(row, ground, chance, scale)
    row.worst = (
        f"{said} said, {lost} jobs unknown after that; flipped bits found: {flips} in outputs, {images} in cache images"
    )
    return row


def _damage(rig: Rig, chance: random.Random) -> str:
    (path,) = rig.state_dir.glob("journal-*.db")
    log = Path(f"{path}-wal")
    victim = log if log.exists() and log.stat().st_size and chance.random() < 0.3 else path
    size = victim.stat().st_size
    if chance.random() < 0.3 and victim is path:
        cut = chance.randrange(size)
        os.truncate(victim, cut)
        return f"{victim.name} cut to {cut} of {size} bytes"
    data = bytearray(victim.read_bytes())
    places = [chance.randrange(size) for _ in range(chance.choice([1, 1, 5, 50]))]
    for place in places:
        data[place] ^= 1 << chance.randrange(8)
    victim.write_bytes(data)
    return f"{victim.name}: bits flipped at {places[:5]}"


def _look(row: Row, client: object, known: Known, is_gone: bool, is_said: bool, what: str) -> int:
    """One job after the damage; 1 if it is not known any more."""
    try:
        info = client.job(known.job_id).status()  # type: ignore[attr-defined]
    except UnknownJobError:
        row.demand(is_said, f"{what}: a job is unknown, and nothing is said")
        return 1
    if info.state == "done" and is_said:
        row.demand(not is_gone, f"{what}: done, and the output is not there")
    if info.state == "done" and is_gone:
        try:
            client.job(known.job_id).wait(timeout=PATIENCE_S)  # type: ignore[attr-defined]
            row.demand(False, f"{what}: a result without an output")
        except TokendError:
            pass
    return 0


def _flip_outputs(row: Row, ground: Ground, chance: random.Random, scale: Scale) -> int:
    """Flips one bit at a time in the files of a set and of a stream: `verify` has to name each, and the reader's."""
    output = next(path for path in sorted(ground.outputs.glob("*.bin")) if path.stat().st_size > 1000)
    stream = ground.outputs.parent / "flipped"
    ground.tokenizer.encode_files(ground.inputs, stream, format="stream")
    of_set = [path for suffix in (*OF_SET.values(), MANIFEST) if (path := Path(f"{output}{suffix}")).exists()]
    of_stream = sorted(stream.iterdir())
    found = 0
    for number in range(scale.n(1000, 50)):
        place, files = ((output, of_set), (stream, of_stream))[number % 2]
        victim = chance.choice(files)
        whole = victim.read_bytes()
        data = bytearray(whole)
        offset = chance.randrange(len(data))
        data[offset] ^= 1 << chance.randrange(8)
        victim.write_bytes(data)
        row.tries += 1
        for name, check in (("verify", _core.verify), ("the reader", _read_whole)):
            try:
                check(str(place))
            except (TokendError, ValueError):
                found += name == "verify"
            else:
                # A manifest has no checksum of its own: a flipped bit in a path or a count of commits stays.
                is_known = victim.suffix == ".json"
                row.demand(is_known, f"{victim.name}: a bit flipped at {offset} was not found by {name}")
        victim.write_bytes(whole)
    return found


def _read_whole(place: str) -> None:
    with TokenStream(place) as stream:
        stream.verify()


def _flip_images(row: Row, ground: Ground, chance: random.Random, scale: Scale) -> int:
    """Flips one bit at a time in an image of the word cache; how often it was noticed, which is always."""
    image = ground.folder / "words"
    words = [f"{chance.choice(['un', 're', 'Über', 'データ'])}{chance.randrange(10**9)}ish" for _ in range(30_000)]
    text = " ".join(words)
    learned = Tokenizer.load("gpt2")
    expected = learned.encode(text).tolist()
    # So many that they are worth keeping.
    row.demand(learned.save_cache(str(image)), "the cache was not saved")
    whole = image.read_bytes()
    row.demand(len(whole) > 300, f"an image of {len(whole)} bytes")
    found = 0
    for number in range(scale.n(1000, 20)):
        data = bytearray(whole)
        # The header's fields in turn, then anywhere.
        place = number if number < 64 else chance.randrange(len(data))
        data[place] ^= 1 << chance.randrange(8)
        image.write_bytes(data)
        row.tries += 1
        fresh = Tokenizer.load("gpt2")
        is_loaded = fresh.load_cache(str(image))
        row.demand(not is_loaded, f"cache image: a bit flipped at {place} was not found")
        row.demand(fresh.encode(text).tolist() == expected, f"cache image: wrong ids, a bit flipped at {place}")
        found += not is_loaded
    return found
