"""Any seed, order, packing, number of ranks and workers, save point, growth, stalls, deaths: one result."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from . import naive
from .any_run import Case, Phase, cases, check

DOCUMENTS = naive.documents(seed=7, n=150, longest=90)
OTHERS = naive.documents(seed=8, n=40, longest=90)
N_EXAMPLES = int(os.environ.get("TOKEND_EXAMPLES", 12))


@given(case=cases())
@settings(max_examples=N_EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_run(tmp_path_factory: pytest.TempPathFactory, case: Case) -> None:
    check(tmp_path_factory.mktemp("run"), case, DOCUMENTS, OTHERS)


@pytest.mark.parametrize("pack", ["concat", "bestfit"])
def test_any_workers(tmp_path: Path, pack: str) -> None:
    """Saved with three worker processes a rank and gone on with without, and the other way round."""
    case = Case(
        seed=3, shuffle="window", pack=pack, window_tokens=900, block_tokens=500, is_mixture=True,
        phases=(Phase(2, 3, 0), Phase(1, 0, 2)), save_at=9, tokens_per_commit=700, segment_tokens=2000, stalls=1,
        kills=(0.05,),
    )  # fmt: skip
    check(tmp_path / "one", case, DOCUMENTS, OTHERS)
    check(tmp_path / "two", replace(case, phases=case.phases[::-1]), DOCUMENTS, OTHERS)
