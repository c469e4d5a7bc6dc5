"""`python -m tokend`."""

from .cli import run

run()
