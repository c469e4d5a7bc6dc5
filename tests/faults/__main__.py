"""`make faults`: runs the campaign and prints its table. `ITEMS="1 5"` chooses, `SHARE=0.1` shortens.

Exit code 1 if anything was violated.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from importlib import import_module

from .common import Row, Scale, Skip

ITEMS = {
    1: "kill_storm",
    2: "kill_at_each_call",
    3: "errors_at_each_call",
    4: "full_disk",
    5: "order",
    6: "inputs_change",
    7: "odd_inputs",
    8: "hostile_text",
    9: "clients_and_deaths",
    10: "damage",
    11: "sharing",
    12: "soak",
    13: "input_kinds",
    14: "formats",
    15: "output_kinds",
}


def run(number: int, scale: Scale) -> Row:
    """Runs one item; a defect of the harness is a violation too."""
    try:
        return import_module(f"{__package__}.{ITEMS[number]}").run(scale)
    except Skip as skip:
        return Row(ITEMS[number], skipped=str(skip))


def main() -> int:
    chosen = [int(word) for word in sys.argv[1:]] or list(ITEMS)
    scale = Scale(float(os.environ.get("SHARE", "1")), int(os.environ.get("SEED", "1")))
    n_violations = 0
    print("| | fault | tries | violations | worst | minutes |\n|---|---|---|---|---|---|", flush=True)
    for number in chosen:
        start = time.monotonic()
        try:
            row = run(number, scale)
        except Exception:
            row = Row(ITEMS[number], violations=[traceback.format_exc()])
        minutes = (time.monotonic() - start) / 60
        n_violations += len(row.violations)
        result = f"skipped: {row.skipped}" if row.skipped else row.worst
        print(
            f"| {number} | {row.fault} | {row.tries:,} | {len(row.violations)} | {result} | {minutes:.1f} |", flush=True
        )
        for violation in row.violations[:20]:
            print(f"  ! {violation}", file=sys.stderr, flush=True)
    return 1 if n_violations else 0


if __name__ == "__main__":
    sys.exit(main())
