"""`make demo`: the main job on real text, as a user would run it.

Starts a daemon of its own, tokenizes the running Python's standard library with progress, and reads
the result back: as text through the command line, and as arrays through the client.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from tokend_client import TokenStream

BIN = Path(sys.executable).parent


def run(*arguments: str, **options: object) -> None:
    """Shows a command and runs it."""
    shown = shlex.join(["tokend", *arguments])
    print(f"\n$ {shown}", flush=True)
    subprocess.run([str(BIN / "tokend"), *arguments], check=True, **options)  # type: ignore[call-overload]


def main() -> None:
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    sources = sorted(path for path in stdlib.rglob("*.py") if "site-packages" not in path.parts)
    n_bytes = sum(path.stat().st_size for path in sources)
    print(f"The corpus: Python's own standard library, {len(sources)} files, {n_bytes / 1e6:.1f} MB.")
    print("A few of the files are deliberately not UTF-8, so broken bytes become U+FFFD (--errors replace);")
    print("and text that looks like a special token is ordinary text in source code (--special text).")
    with tempfile.TemporaryDirectory(prefix="tokend-demo-") as folder:
        os.environ["TOKEND_ENDPOINT"] = f"ipc://{folder}/run/tokend.sock"
        os.environ["TOKEND_STATE_DIR"] = f"{folder}/state"
        os.chdir(folder)
        Path("files.txt").write_text("".join(f"{path}\n" for path in sources))
        try:
            run("encode", "--files-from", "files.txt", "-o", "stdlib.bin", "--errors", "replace", "--special", "text")
            run("inspect", "stdlib.bin")
            run("decode", "stdlib.bin", "--count", "60")
            print("\n\n>>> stream = TokenStream('stdlib.bin')")
            with TokenStream("stdlib.bin") as stream:
                print(stream)
                print(f">>> stream[:8]\n{stream[:8]!r}")
                print(f">>> stream.document({stream.n_documents - 1})[-4:]\n{stream.document(-1)[-4:]!r}")
                if stream.n_documents != len(sources):
                    sys.exit(f"{len(sources)} files went in, {stream.n_documents} documents came out")
            run("status")
        finally:
            run("stop")
    print("\nEvery file is a document of the stream, and nothing of this is left behind.")


if __name__ == "__main__":
    main()
