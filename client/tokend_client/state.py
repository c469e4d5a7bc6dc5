"""The state of a run, which a checkpoint keeps: after how many samples, and of what run.

    v             version of this layout
    k             global samples handed out
    seed, seq_len, global_batch, order
                  parameters on which batches depend; `global_batch` may change where it divides `k`
    mix           hash of weights and stages; "" where there is one stream
    streams       8 hexadecimal digits for each stream's name and identity; of many streams, one hash of them
    row           checksum of the last sample's ids; -1 before the first

Under 500 bytes, whatever the run is made of. Every key is always there: distributed checkpoints read only those
that a fresh state has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .errors import StateMismatchError
from .permutation import derive

if TYPE_CHECKING:
    from .assemble import Assembler

VERSION = 2
"""1 had the names of the inputs without their sizes."""
STREAMS_NAMED = 16
"""Up to so many streams a state tells which one is another; of more it has one hash, to stay small."""


def of(run: Assembler, k: int) -> dict[str, Any]:
    """The state of a run after `k` samples, the last of which is known."""
    config = run.config
    return {
        "v": VERSION,
        "k": k,
        "seed": config.seed,
        "seq_len": config.seq_len,
        "global_batch": config.global_batch,
        "order": config.order,
        "mix": f"{derive(*run.mix.identity):016x}" if len(config.streams) > 1 else "",
        "streams": _streams(run),
        "row": run.checksum(k - 1) if k else -1,
    }


def check(run: Assembler, state: Mapping[str, Any]) -> int:
    """The number of samples that a state stands for, if it is one of this run's.

    Raises `StateMismatchError` that names what differs. Waits until the last of them is there.
    """
    try:
        k = int(state["k"])
        version = state["v"]
    except (KeyError, TypeError, ValueError):
        raise StateMismatchError(f"{state!r} is no state of a TokenLoader") from None
    if version != VERSION:
        raise StateMismatchError(
            f"a state of version {version}, of another tokend_client; this one writes version {VERSION}",
            f"if streams and parameters are those of then: loader.seek({k}), which checks nothing",
        )
    config = run.config
    if k % config.global_batch:
        raise StateMismatchError(
            f"the state is at sample {k}, which global_batch={config.global_batch} does not divide",
            f"the run had global_batch={state.get('global_batch')}; a divisor of {k} will do",
        )
    for name, now in (("seed", config.seed), ("seq_len", config.seq_len), ("order", config.order)):
        if state.get(name) != now:
            raise StateMismatchError(
                f"the state has {name}={state.get(name)!r}, the loader {now!r}",
                "give the loader what the run began with; only rank, world_size, workers, prefetch "
                "and global_batch may change",
            )
    run.open()
    fresh = of(run, 0)
    if state.get("streams") != fresh["streams"]:
        raise StateMismatchError(
            f"the state was made with other streams (different: {_different(run, str(state.get('streams')))})",
            "names, order of names, tokenizer, options, and names and sizes of the inputs must be the same; "
            f"to go on with other data nevertheless: loader.seek({k}), which checks nothing",
        )
    if state.get("mix") != fresh["mix"]:
        raise StateMismatchError("the state was made with other weights or stages")
    if k:
        run.ready(k - config.global_batch)
        row = run.checksum(k - 1)
        if state.get("row") != row:
            raise StateMismatchError(
                f"sample {k - 1} has checksum {row}, but had {state.get('row')} when the state was made",
                "the streams' tokens have changed since",
            )
    return k


def _streams(run: Assembler) -> str:
    ids = "".join(f"{identity >> 32:08x}" for identity in run.identities())
    return ids if len(run.config.streams) <= STREAMS_NAMED else f"{derive(ids):016x}"


def _different(run: Assembler, then: str) -> str:
    """Which streams are not those of `then`, in words."""
    names = list(run.config.streams)
    now = _streams(run)
    differ = [name for n, name in enumerate(names) if then[8 * n : 8 * n + 8] != now[8 * n : 8 * n + 8]]
    if len(then) != len(now) or not differ:
        return "their number"
    return f"at least one of {len(names)}" if len(names) > STREAMS_NAMED else ", ".join(differ)
