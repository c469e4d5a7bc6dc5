"""Jobs in this process that stop part of the way, however fast or slow the machine is."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from tokend import Tokenizer, _core
from tokend_client.errors import CancelledError


def suspended_at(tokenizer: Tokenizer, n_tokens: int, inputs: list[Path], output: Path, **options: Any) -> bool:
    """Encodes until about `n_tokens` are written and leaves what a resumed run needs; whether it did not end before."""
    control = _core.JobControl()
    # The job waits there, so that it cannot come to its end before it is seen.
    control.set_ceiling(n_tokens)
    ended = threading.Event()

    def has_begun() -> bool:
        return any(output.parent.glob(f".{output.name}.checkpoint*")) or any(output.glob(".*checkpoint*"))

    def suspend() -> None:
        while not ended.wait(0.001) and (control.progress()[2] < n_tokens or not has_begun()):
            pass
        # What was written is put into the checkpoint just after it is counted.
        time.sleep(0.05)
        control.suspend()

    watcher = threading.Thread(target=suspend)
    watcher.start()
    try:
        tokenizer.encode_files(inputs, output, control=control, **options)
    except CancelledError:
        return True
    finally:
        ended.set()
        watcher.join()
    return False
