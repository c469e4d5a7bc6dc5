"""The command line: `tokend COMMAND ...`.

stdout is data, stderr is talk. Exit codes: 0 done, 1 the job or check failed, 2 wrong usage, 3 no
daemon, 130 interrupted. Commands import what they need when they run, so that `--help` is instant.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import NoReturn

from . import early
from .output import check_utf8


def run() -> NoReturn:
    """The console script: runs the command and ends the process.

    At once, without taking the interpreter apart: that is a tenth of the time of a small job, and all that is
    to last has been written and closed by then.
    """
    early.begin(sys.argv[1:])
    code = main()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = code or 1
    except OSError as error:
        # What was printed last has not arrived: a full disk behind `>`.
        print(f"tokend: error: standard output: {error.strerror}", file=sys.stderr)
        code = code or 1
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    os._exit(code)


def main(argv: list[str] | None = None) -> int:
    """Runs a command and returns its exit code; a user's mistake is a message, never a traceback."""
    from .parser import build_parser

    given = sys.argv[1:] if argv is None else argv
    arguments = build_parser(given[0] if given else None).parse_args(given)
    from tokend_client.errors import BadRequestError, NotConnectedError, TokendError

    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that cannot show a character of the text gets its escape.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        for word in given:
            check_utf8(word)
        return int(arguments.run(arguments))
    except KeyboardInterrupt:
        print("tokend: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output has gone; there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except TokendError as error:
        print(f"tokend: error: {error}", file=sys.stderr)
        if isinstance(error, NotConnectedError):
            return 3
        return 2 if isinstance(error, BadRequestError) else 1
    except OSError as error:
        where = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        print(f"tokend: error: {where}", file=sys.stderr)
        return 1
