"""A job asks for the memory of its blocks once, not once for each block."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_buffers_are_lent_again(tmp_path: Path) -> None:
    """Counted in page faults, under an allocator that gives large buffers back to the kernel when they are freed.

    glibc does not once it has seen a few; others always do.
    """
    script = """
import resource, sys
import tokend
tokenizer = tokend.Tokenizer.load("gpt2")
def faults(output):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tokenizer.encode_files([sys.argv[1]], output, threads=1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(sys.argv[2] + "/first")
print(faults(sys.argv[2] + "/second"))
"""
    source = tmp_path / "a.txt"
    source.write_text("some words of a text, " * 1_500_000)
    result = subprocess.run(
        [sys.executable, "-c", script, str(source), str(tmp_path)],
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    n_pages = source.stat().st_size // os.sysconf("SC_PAGESIZE")
    # The text alone would be a fault for each of its pages; the mapping takes one for several.
    assert int(result.stdout) < n_pages / 2
