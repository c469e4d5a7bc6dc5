"""What tokend calls the files of an output, behind the output's own name; `stream/bin.rs` has those of a set of ours.

Whoever removes, replaces, passes over or looks for files of a set goes by this.
"""

OF_SET = {"data": "", "ends": ".ends", "docs": ".docs", "ids": ".ids", "skipped": ".skipped.jsonl"}
"""The files of a set of ours, as its manifest names them."""

MANIFEST = ".json"
"""Of a set of ours; it is there last, and goes first."""

OF_FORMAT = (".docs", ".ids", ".train.ids", ".val.ids", ".sides", ".skipped.jsonl")
"""What may stand beside a set in a trainer's format; its note lists those that do, as `beside`."""

OF_STREAM = (".skipped.jsonl",)
"""What may stand beside the directory of a stream."""

ALL = frozenset({*OF_SET.values(), MANIFEST, *OF_FORMAT, *OF_STREAM} - {""})
"""Every name of a file that stands beside an output and goes with it."""
