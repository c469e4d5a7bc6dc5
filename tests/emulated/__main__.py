"""The AVX-512 tier on an emulated processor: `make avx512`.

Builds the core's own unit tests as a static binary, starts them on Bochs under a kernel of one file (`kernel.rs`
says how and why), and says what came of it. Arguments are filters of test names; without, all tests that compare the
tiers run, over a part of their cases; that takes a quarter of an hour or more. What it needs: Bochs 2.7 with its
text display (Debian: `apt install bochs bochs-term`), cargo, and objcopy. Without Bochs it says so and ends well.
"""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
BUILD = ROOT / "target" / "emulated"
BOCHS = ("bochs-bin", "bochs")
# A processor of 2019: F, BW, VL, VBMI, VBMI2, VAES.
PROCESSOR = "corei7_icelake_u"
# The unit tests that go through `tier::available()`.
FILTERS = ("every_tier", "documents_together", "general_way_does", "first_merges", "what_is_certain")
STATIC = "-C target-feature=+crt-static -C relocation-model=static"

CONFIGURATION = """\
display_library: term
cpu: model={processor}, count=1, ips=100000000, reset_on_triple_fault=0
memory: guest=1792, host=1792
romimage: file={build}/rom.bin, address=0xffff0000
optramimage1: file={build}/kernel.bin, address=0x100000
optramimage2: file={build}/arguments, address=0x0fff0000
optramimage3: file={binary}, address=0x10000000
vgaromimage: file={vga}
port_e9_hack: enabled=1
boot: floppy
log: {build}/bochs.log
panic: action=fatal
"""


def main(filters: list[str]) -> int:
    bochs = next((found for name in BOCHS if (found := shutil.which(name))), None)
    vga = next(iter(Path("/usr/share").glob("*/VGABIOS-lgpl-latest")), None)
    if bochs is None or vga is None:
        print("avx512: skipped, Bochs is not installed (Debian: apt install bochs bochs-term)")
        return 0
    BUILD.mkdir(parents=True, exist_ok=True)
    build_kernel()
    binary = Path(os.environ.get("TOKEND_TEST_BINARY") or build_tests())
    # No debug information: it is two thirds of the file, and all of it is loaded.
    subprocess.run(["objcopy", "--strip-debug", binary, BUILD / "tests"], check=True)
    arguments = ["tests", "--test-threads=1", *(filters or FILTERS)]
    (BUILD / "arguments").write_bytes(b"".join(word.encode() + b"\0" for word in arguments) + b"\0")
    names = {"processor": PROCESSOR, "build": BUILD, "binary": BUILD / "tests", "vga": vga}
    (BUILD / "bochsrc").write_text(CONFIGURATION.format(**names))
    # A Bochs with its debugger waits for a command.
    (BUILD / "continue").write_text("c\n")
    command = [bochs, "-q", "-f", str(BUILD / "bochsrc"), "-rc", str(BUILD / "continue")]
    start, status = time.monotonic(), 255
    for line in lines_of(command):
        if line.startswith("emulated: exit "):
            status = int(line.split()[2])
            break
        print(line, flush=True)
    print(f"avx512: {'passed' if status == 0 else 'FAILED'} in {time.monotonic() - start:.0f} s")
    return status


def build_kernel() -> None:
    """The kernel's two images: the ROM, and what lies in memory."""
    linker = ["-nostdlib", "-static", "-no-pie", f"-Wl,-T,{HERE / 'kernel.ld'}", "-Wl,--build-id=none"]
    options = [f"-Clink-arg={word}" for word in linker]
    options += ["-Cpanic=abort", "-Crelocation-model=static", "-Ccode-model=small"]
    subprocess.run(["rustc", "--edition=2024", "-O", *options, "-o", BUILD / "kernel", HERE / "kernel.rs"], check=True)
    for image, words in (("rom.bin", ["-j", ".rom"]), ("kernel.bin", ["-R", ".rom"])):
        subprocess.run(["objcopy", "-O", "binary", *words, BUILD / "kernel", BUILD / image], check=True)


def build_tests() -> str:
    """The core's unit tests, static; the path of the binary."""
    command = ["cargo", "test", "-p", "tokend-core", "--release", "--lib", "--no-run", "--message-format=json"]
    settings = {"RUSTFLAGS": STATIC, "CARGO_TARGET_DIR": str(BUILD / "cargo")}
    built = subprocess.run(command, cwd=ROOT, env=os.environ | settings, check=True, stdout=subprocess.PIPE)
    messages = (json.loads(line) for line in built.stdout.splitlines())
    return next(path for message in messages if (path := message.get("executable")))


def lines_of(command: list[str]) -> Iterator[str]:
    """What the guest prints, line by line; ends the emulator when nobody asks for more."""
    process, terminal = pty.fork()
    if process == 0:
        os.environ["TERM"] = "xterm"
        os.execv(command[0], command)
    rest, is_guest = "", False
    try:
        while True:
            try:
                read = os.read(terminal, 1 << 16)
            except OSError:
                return
            *lines, rest = (rest + read.decode(errors="replace").replace("\r", "")).split("\n")
            for line in lines:
                # Before that Bochs speaks; the first instruction is the last it says.
                if is_guest:
                    yield line
                is_guest = is_guest or "f000:fff0" in line
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(terminal)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
