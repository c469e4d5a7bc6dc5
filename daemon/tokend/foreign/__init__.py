"""Token sets of other tools, as `tokend inspect` and `tokend verify` see them.

`recognise` tells a set's format by what is in its files, never by their names alone; `read_set` reads headers and
indices and compares them with the lengths of the files; `scan` reads every id. Files are read, not mapped, so one
that shrinks meanwhile is an error and no signal. The first fault is a `StreamError` that names path, place and value.

The layouts stand at the top of the files in `rust_core/core/src/export`.
"""

from .recognise import recognise
from .scan import Scanned, scan
from .sets import ForeignSet, Span, read_set

__all__ = ["ForeignSet", "Scanned", "Span", "read_set", "recognise", "scan"]
