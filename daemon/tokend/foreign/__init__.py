"""Token sets of other tools, as `tokend inspect` and `tokend verify` see them.

`recognise` tells a set's format by what is in its files, never by their names alone; `read_set` reads headers and
indices and compares them with the lengths of the files; `scan` reads every id. Files are read, not mapped, so one
that shrinks meanwhile is an error and no signal. The first fault is a `StreamError` that names path, place and value.

The layouts stand at the top of the files in `rust_core/core/src/export`.
"""

from .documents import document_ends, drop_rows, tell_eot
from .recognise import recognise
from .scan import Scanned, scan
from .sets import ForeignSet, Span, read_set

TOKEN_FORMATS = ("megatron", "llmc", "datatrove", "olmo", "npy", "litdata", "mds", "raw")
"""As `recognise` names them, and as the manifest of a set that was made of one names its sources."""

__all__ = [
    "TOKEN_FORMATS",
    "ForeignSet",
    "Scanned",
    "Span",
    "document_ends",
    "drop_rows",
    "read_set",
    "recognise",
    "scan",
    "tell_eot",
]
