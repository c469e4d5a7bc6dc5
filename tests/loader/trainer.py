"""A rank of a training run, as a process: `python trainer.py CONFIG.json`. One line per batch on stdout.

{"batch": digest, "state": {...}, "workers": [pids]}      or, at last,      {"error": code}
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from tokend_client import Client, TokenLoader
from tokend_client.daemon_feed import DaemonFeed
from tokend_client.errors import TokendError


def digest(batch: Any) -> str:
    data = batch.tokens.tobytes() + batch.targets.tobytes() + batch.samples.tobytes()
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def train(config: dict[str, Any]) -> int:
    feed = DaemonFeed(Client(config["endpoint"], reconnect_timeout=1.0), run=config["run"], interval_s=0.1)
    with TokenLoader(config["path"], feed=feed, follow=True, **config["options"]) as loader:
        if config["state"] is not None:
            loader.load_state_dict(config["state"])
        try:
            for batch in loader:
                source: Any = loader._iterator._source if loader._iterator is not None else None
                workers = [process.pid for process in getattr(source, "_processes", [])]
                print(json.dumps({"batch": digest(batch), "state": batch.state, "workers": workers}), flush=True)
                time.sleep(config["step_s"])
        except TokendError as error:
            print(json.dumps({"error": error.code}), flush=True)
            return 3
        finally:
            feed.close()
    return 0


if __name__ == "__main__":
    sys.exit(train(json.loads(Path(sys.argv[1]).read_text())))
