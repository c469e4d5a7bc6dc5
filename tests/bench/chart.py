"""A bar chart of rates as SVG, written by hand: no library is needed for rectangles and text."""

from __future__ import annotations

import statistics
from html import escape
from pathlib import Path
from typing import Any

_COLOURS = ("#2a6f97", "#e07a5f", "#81b29a", "#b8b8b8", "#6d597a")
_BAR, _GAP, _LEFT, _WIDTH = 16, 18, 130, 760


def bars(path: Path, runs: list[dict[str, Any]], names: list[str]) -> None:
    """Unseen text, one thread: a group of bars per corpus, MB/s."""
    corpora = list(dict.fromkeys(run["corpus"] for run in runs))
    rates: dict[tuple[str, str], float] = {}
    for corpus in corpora:
        for name in names:
            found = [
                run["mb_per_s"]
                for run in runs
                if (run["corpus"], run["peer"], run["state"], run["threads"]) == (corpus, name, "unseen", 1)
            ]
            if found:
                rates[corpus, name] = statistics.median(found)
    scale = (_WIDTH - _LEFT - 70) / max(rates.values())
    parts = []
    y = 40
    for corpus in corpora:
        parts.append(
            f'<text x="{_LEFT - 10}" y="{y + 12}" text-anchor="end" font-weight="bold">{escape(corpus)}</text>'
        )
        for name, colour in zip(names, _COLOURS, strict=False):
            if (corpus, name) not in rates:
                continue
            rate = rates[corpus, name]
            parts.append(f'<rect x="{_LEFT}" y="{y}" width="{rate * scale:.1f}" height="{_BAR - 2}" fill="{colour}"/>')
            label = f"{rate:.0f} {name}"
            parts.append(f'<text x="{_LEFT + rate * scale + 6:.1f}" y="{y + 12}">{escape(label)}</text>')
            y += _BAR
        y += _GAP
    title = "Unseen text, one thread: MB/s from a file in the page cache to a uint16 file on disk"
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH + 60}" height="{y}" '
        'font-family="sans-serif" font-size="12">'
        f'<rect width="100%" height="100%" fill="white"/><text x="10" y="22" font-size="14">{title}</text>'
        + "".join(parts)
        + "</svg>\n"
    )
