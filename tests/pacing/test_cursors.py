"""Readers: whom pacing waits for, and whom retirement keeps tokens for, also after a death of the daemon."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokend.cursors import EXPIRY_S, Cursors
from tokend_client.errors import IoError
from tokend_client.protocol import CursorReport


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Table:
    """A table of cursors that may be opened again, as after a kill."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = Clock()
        self.open()

    def open(self) -> None:
        self.cursors = Cursors(self.folder / "state", "ipc:///x", self.clock)

    def report(self, run: str, loader: str, low: int, wanted: int = 0, stream_id: str | None = "id") -> None:
        report = CursorReport(path="/s", stream_id=stream_id, low_water=low, position=wanted, wanted=wanted)
        self.cursors.report(run, loader, [report])

    def wait(self, seconds: float) -> None:
        self.clock.now += seconds
        self.cursors.tick()

    @property
    def live(self) -> list[str]:
        return sorted(reader.loader for reader in self.cursors.live("/s"))

    @property
    def low(self) -> int:
        return self.cursors.low_water("/s", "id")


@pytest.fixture
def table(tmp_path: Path) -> Table:
    table = Table(tmp_path)
    table.cursors.may_retire("/s")
    table.clock.now += EXPIRY_S
    return table


def test_registrations_expire(table: Table) -> None:
    table.report("run", "a", 10)
    table.wait(EXPIRY_S / 2)
    table.report("run", "b", 20)
    assert table.live == ["a", "b"]
    table.wait(EXPIRY_S / 2 + 1)
    assert table.live == ["b"]
    assert table.low == 10, "a dead reader is resumed"


def test_a_run_that_is_over_holds_nothing(table: Table) -> None:
    assert table.low == 0, "nobody reads: nothing is known"
    table.report("one", "a", 10)
    table.report("two", "b", 30)
    assert table.low == 10
    table.cursors.over("one", ["/s"])
    assert table.low == 30
    table.cursors.over("two", ["/s"])
    assert table.low == 0


def test_a_dead_reader_is_forgotten_once_its_run_has_gone_on_without_it(table: Table) -> None:
    table.report("run", "a", 10)
    table.report("run", "b", 10)
    table.wait(EXPIRY_S + 1)
    table.report("run", "new", 50)
    table.wait(EXPIRY_S / 2)
    table.report("run", "new", 60)
    assert table.low == 10, "the others of the new start may not have reported yet"
    table.wait(EXPIRY_S / 2 + 1)
    table.report("run", "new", 70)
    table.cursors.tick()
    assert table.low == 70


def test_another_run_does_not_stand_in_for_a_dead_one(table: Table) -> None:
    table.report("run", "a", 10)
    table.wait(EXPIRY_S + 1)
    for _ in range(5):
        table.report("other", "b", 50)
        table.wait(EXPIRY_S / 2)
    assert table.low == 10


def test_a_rank_that_fell_silent_beside_others_holds_its_place(table: Table) -> None:
    for second in range(0, 300, 30):
        table.report("run", "a", 100)
        if second < 90:
            table.report("run", "b", 40)
        table.wait(30)
    assert table.live == ["a"] and table.low == 40


def test_they_survive_the_daemon(table: Table) -> None:
    table.report("run", "a", 10)
    table.report("done", "c", 0)
    table.cursors.over("done", ["/s"])
    table.report("run", "a", 20)
    table.wait(100.0)
    table.report("run", "a", 30)
    table.open()  # Killed: nothing was closed.
    assert table.live == [] and table.low == 0, "whoever lives has a minute to say so"
    assert table.cursors.retiring() == ["/s"]
    table.wait(EXPIRY_S)
    assert table.low in (20, 30)
    # Its ranks report again; the last one late, but in time.
    table.report("run", "a", 80)
    table.wait(EXPIRY_S - 1)
    table.report("run", "b", 60)
    table.report("run", "a", 85)
    table.wait(2)
    assert table.low == 60


def test_another_stream_in_the_same_place(table: Table) -> None:
    """A stream that was made anew must not be retired by what was read of the old one."""
    table.report("run", "a", 500)
    assert table.low == 500
    assert table.cursors.low_water("/s", "new") == 0
    table.report("run", "b", 0, stream_id=None)
    assert table.cursors.low_water("/s", "new") == 0
    table.report("run", "b", 7, stream_id="new")
    assert table.cursors.low_water("/s", "new") == 7


def test_streams_that_are_not_retired_leave_nothing(tmp_path: Path) -> None:
    table = Table(tmp_path)
    table.report("run", "a", 10)
    assert not table.cursors.path.exists() and table.live == ["a"]
    table.wait(EXPIRY_S + 1)
    assert table.cursors._readers == {}


@pytest.mark.parametrize("damage", ["", "{}", "[1", '{"version": 1, "streams": {}, "digest": "0"}'])
def test_a_damaged_file_frees_nothing(table: Table, damage: str) -> None:
    table.report("run", "a", 10)
    table.cursors.path.write_text(damage)
    table.open()
    table.cursors.may_retire("/s")
    table.report("other", "b", 90)
    table.wait(EXPIRY_S + 1)
    assert table.low == 0 and "until it is moved away" in str(table.cursors.damage)
    assert table.cursors.path.read_text() == damage, "it is left for who looks at it"


def test_a_flipped_number_is_noticed(table: Table) -> None:
    table.report("run", "a", 10)
    found = json.loads(table.cursors.path.read_text())
    found["streams"]["/s"]["run"][1] = 99
    table.cursors.path.write_text(json.dumps(found))
    table.open()
    assert table.cursors.damage is not None


def test_a_disk_that_does_not_take_it(table: Table) -> None:
    state = table.cursors.path.parent
    table.cursors.path.unlink()
    state.rmdir()
    state.write_text("a file in its place")
    with pytest.raises(IoError, match=r"cursors-.*cannot be written"):
        table.report("new", "a", 10)


def test_rates(table: Table) -> None:
    for second in range(60):
        table.report("run", "a", 0, wanted=1000 * second)
        table.clock.now += 1
    (reader,) = table.cursors.live("/s")
    assert 900 < reader.tokens_per_s < 1100
