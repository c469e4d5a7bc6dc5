"""8. Pathological text: linear in its length, exact, and a cancel is answered at once and obeyed."""

from __future__ import annotations

import time

from tokend import Tokenizer

from .common import PATIENCE_S, Rig, Row, Scale, workplace

KINDS = {
    "letters": "a",
    "spaces": " ",
    "carets": "^",
    "alternating": "ab",
    "zalgo": "e\u0301\u0302\u0303\u0304",
    "digits": "0123456789",
    "newlines": "\n",
}


def run(scale: Scale) -> Row:
    row = Row("one pretoken of 10^7 bytes")
    size = scale.n(10_000_000, 300_000)
    worst_ratio, slowest_cancel_s, slowest_end_s = 0.0, 0.0, 0.0
    tokenizer = Tokenizer.load("gpt2")
    with workplace() as folder:
        rig = Rig(folder)
        rig.start()
        with rig.client() as client:
            for name, unit in KINDS.items():
                times = []
                for n_bytes in (size // 10, size):
                    text = unit * (n_bytes // len(unit.encode()))
                    path = folder / f"{name}.txt"
                    path.write_text(text)
                    row.tries += 1
                    start = time.monotonic()
                    result = client.submit([path], folder / f"{name}.bin", force=True).wait(timeout=PATIENCE_S)
                    times.append(time.monotonic() - start)
                    with result.open() as stream:
                        ids = stream[:-1]
                        exact = ids.tolist() == tokenizer.encode(text).tolist()
                        row.demand(exact, f"{name}, {n_bytes} bytes: ids differ from those of the text at once")
                        row.demand(client.decode_bytes(ids) == text.encode(), f"{name}: not what was given")
                worst_ratio = max(worst_ratio, times[1] / times[0] / 10)
                job = client.submit([path], folder / f"{name}-2.bin")
                time.sleep(0.02)
                asked = time.monotonic()
                at_cancel = job.cancel()
                slowest_cancel_s = max(slowest_cancel_s, time.monotonic() - asked)
                while (state := job.status().state) not in ("cancelled", "done"):
                    time.sleep(0.005)
                slowest_end_s = max(slowest_end_s, time.monotonic() - asked)
                was_over = at_cancel.bytes_done == at_cancel.bytes_total
                row.demand(state == "cancelled" or was_over, f"{name}: not cancelled")
        rig.stop()
    if scale.share == 1:
        # Short texts take as long as the machine is busy.
        row.demand(worst_ratio < 5, f"ten times the text took {10 * worst_ratio:.0f} times as long")
    row.worst = (
        f"ten times the text in {10 * worst_ratio:.1f} times the time; cancel answered in "
        f"{slowest_cancel_s * 1000:.0f} ms, obeyed in {slowest_end_s * 1000:.0f} ms"
    )
    return row
