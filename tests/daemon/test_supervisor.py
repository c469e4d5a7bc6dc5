"""What the daemon tells systemd."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path


def test_ready_watchdog_status_stopping(run_folder: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(run_folder / "notify"))
        supervisor.settimeout(60)
        command = [sys.executable, "-m", "tokend", "serve", "--endpoint", f"ipc://{run_folder}/r/t.sock"]
        environment = {**os.environ, "NOTIFY_SOCKET": str(run_folder / "notify"), "WATCHDOG_USEC": "600000"}
        environment["TOKEND_STATE_DIR"] = str(run_folder / "state")
        with (run_folder / "log").open("wb") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log, env=environment)
        try:
            assert supervisor.recv(4096) == b"READY=1\nSTATUS=jobs: none"
            for _ in range(3):
                assert supervisor.recv(4096) == b"WATCHDOG=1\nSTATUS=jobs: none"
            process.send_signal(signal.SIGTERM)
            last = b""
            while last != b"STOPPING=1":
                last = supervisor.recv(4096)
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait()
