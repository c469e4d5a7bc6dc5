"""The command line: `tokend COMMAND ...`.

stdout is data, stderr is talk. Exit codes: 0 done, 1 the job or check failed, 2 wrong usage, 3 no
daemon, 130 interrupted. Commands import what they need when they run, so that `--help` is instant.
"""

from __future__ import annotations

import os
import sys

from .parser import build_parser


def main(argv: list[str] | None = None) -> int:
    """Runs a command and returns its exit code; a user's mistake is a message, never a traceback."""
    arguments = build_parser().parse_args(argv)
    from tokend_client.errors import BadRequestError, NotConnectedError, TokendError

    try:
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
        print(f"tokend: error: {error}", file=sys.stderr)
        return 1
