"""Jobs of the daemon, as a command waits for them."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from tokend_client.errors import NotConnectedError, TokendError

from .output import progress_bar

if TYPE_CHECKING:
    from tokend_client import Client


def connected(arguments: argparse.Namespace) -> Client:
    """A client of this user's daemon, which is started if none runs."""
    # Sockets are not needed with --local, and take longer to import than a small file to encode.
    from tokend_client import paths

    from .. import spawn

    return spawn.ensure(arguments.endpoint or paths.default_endpoint())


def follow(client: Client, job_id: str, output: str) -> dict[str, Any]:
    """Shows a job's progress until it has ended; returns its manifest, or raises its error."""
    job = client.job(job_id)
    try:
        with progress_bar(os.path.basename(output)) as update:
            for moment in job.progress():
                update(moment.bytes_done, moment.bytes_total, moment.tokens, moment.note)
        result = job.wait()
    except NotConnectedError as error:
        # The daemon may have gone before it could say so itself.
        what = f"{error.message}; job {job_id} is kept, and goes on with the next one"
        raise NotConnectedError(what, error.hint) from None
    manifest = {**result.manifest, "up_to_date": result.up_to_date}
    manifest |= {"reused": result.reused} if result.reused is not None else {}
    manifest |= {"encoded_bytes": result.encoded_bytes} if result.encoded_bytes is not None else {}
    if result.note is not None:
        print(f"tokend: {result.note}", file=sys.stderr)
    return manifest


def follow_own(client: Client, job_id: str, output: str) -> dict[str, Any]:
    """Follows the job that this command submitted: who interrupts the command means the job."""
    try:
        return follow(client, job_id, output)
    except KeyboardInterrupt:
        try:
            client.job(job_id).cancel(timeout=2.0)
        except TokendError as error:
            print(f"tokend: the job could not be cancelled: {error}", file=sys.stderr)
        raise
