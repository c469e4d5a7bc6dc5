"""`tokend serve`, and the commands that ask a running daemon."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
from tokend_client import Client, paths
from tokend_client.errors import NotFoundError
from tokend_client.protocol import JobInfo

from .. import spawn
from ..config import ServerConfig
from .follow import follow
from .output import duration, plural, size
from .report import report


def serve(arguments: argparse.Namespace) -> int:
    """Runs a daemon until it is told to stop."""
    from ..server import serve as run

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    roots = tuple(Path(os.path.abspath(root)) for root in arguments.root)
    for root in roots:
        if not root.is_dir():
            raise NotFoundError(f"--root {root}: no such directory")
    config = ServerConfig(
        endpoint=arguments.endpoint or paths.default_endpoint(),
        roots=roots,
        threads=arguments.threads,
        ahead_tokens=max(arguments.ahead_tokens, 1),
        preload=tuple(arguments.preload),
        idle_timeout_s=arguments.idle_timeout,
        drain_timeout_s=arguments.drain_timeout,
    )
    if arguments.state_dir:
        config = replace(config, state_dir=Path(os.path.abspath(arguments.state_dir)))
    return run(config)


def _client(arguments: argparse.Namespace) -> Client:
    return spawn.connect(arguments.endpoint or paths.default_endpoint())


def jobs(arguments: argparse.Namespace) -> int:
    """Lists the jobs that the daemon remembers."""
    with _client(arguments) as client:
        infos = client.jobs()
    if arguments.json:
        print(msgspec.json.encode(infos).decode())
        return 0
    for info in infos:
        print(_job_line(info))
    return 0


def _job_line(info: JobInfo) -> str:
    share = f"{info.bytes_done / info.bytes_total:4.0%}" if info.bytes_total else "    "
    line = f"{info.job_id}  {info.state:9}  {share}  {info.n_tokens:>14,} tokens  {info.output}"
    if info.state == "running" and info.eta_s is not None:
        line += f"  ({size(info.bytes_per_s)}/s, {duration(info.eta_s)} to go)"
    if info.n_skipped:
        line += f"  ({info.n_skipped:,} left out)"
    remark = info.error.message if info.error else info.note
    return f"{line}\n    {remark}" if remark else line


def wait(arguments: argparse.Namespace) -> int:
    """Waits for a job and reports as `encode` does; interrupting the wait leaves the job alone."""
    with _client(arguments) as client:
        info = client.job(arguments.job).status()
        manifest = follow(client, arguments.job, info.output)
        info = client.job(arguments.job).status()
    seconds = (info.finished_s or 0.0) - (info.started_s or 0.0)
    report(manifest, info.output, seconds, arguments.json)
    return 0


def cancel(arguments: argparse.Namespace) -> int:
    """Cancels a job."""
    with _client(arguments) as client:
        info = client.job(arguments.job).cancel()
        if info.state == "running":
            for moment in client.job(arguments.job).progress():
                info.state = moment.state
    print(msgspec.json.encode(info).decode() if arguments.json else f"{info.job_id}  {info.state}")
    return 0


def status(arguments: argparse.Namespace) -> int:
    """Shows how the daemon is."""
    with _client(arguments) as client:
        found, caches = client.status(), client.cache_stats()
    if arguments.json:
        print(json.dumps({**msgspec.to_builtins(found), "cache": caches}))
        return 0
    counts = ", ".join(f"{number} {state}" for state, number in sorted(found.jobs.items())) or "none"
    rows = [
        ("daemon", f"{found.version}, pid {found.pid}, up {duration(found.uptime_s)}"),
        ("endpoint", found.endpoint),
        ("jobs", counts),
        ("threads", str(found.threads)),
        ("memory", size(found.rss_bytes)),
        ("open files", f"{found.open_fds} of {found.max_fds}"),
        ("clients", f"{found.n_clients}, {found.n_requests:,} requests"),
    ]
    for name, stats in caches.items():
        looked_up = stats["hits"] + stats["misses"]
        rate = f"{stats['hits'] / looked_up:.2%} hits" if looked_up else "not used yet"
        used = f"{stats['entries']:,} entries, {stats['evictions']:,} evicted"
        rows.append(("cache", f"{os.path.basename(name)}: {rate}, {used}"))
    rows += [("problem", problem) for problem in found.problems]
    for name, value in rows:
        print(f"{name:12} {value}")
    return 0


def stop(arguments: argparse.Namespace) -> int:
    """Stops the daemon and waits until it has gone."""
    endpoint = arguments.endpoint or paths.default_endpoint()
    with _client(arguments) as client:
        if arguments.now:
            client.shutdown(drain=False)
        else:
            n_jobs = spawn.drain(client)
            if n_jobs:
                hint = "Ctrl-C stops waiting, `tokend stop --now` cancels"
                print(f"tokend: waiting for {plural(n_jobs, 'job')} ({hint})", file=sys.stderr)
    spawn.await_end(endpoint, timeout_s=40.0 if arguments.now else None)
    if arguments.json:
        print(json.dumps({"stopped": True}))
    return 0
