"""Packs GPT-2's `vocab.json` and `merges.txt` into `data/gpt2_merges.u16`.

    python rust_core/core/tools/pack_gpt2.py DIRECTORY

DIRECTORY holds the two files as OpenAI published them (`encoder.json` and `vocab.bpe` under their
other names). The output is the merges in priority order, each as two little-endian u16 ids. That
everything else about the vocabulary follows from them is checked here: bytes are ids 0..255 in the
order of the byte-level alphabet, the k-th merge makes id 256 + k, `<|endoftext|>` is the last id.
"""

import json
import struct
import sys
from pathlib import Path

N_BYTES = 256
END_OF_TEXT = "<|endoftext|>"
OUTPUT = Path(__file__).parent.parent / "data" / "gpt2_merges.u16"


def alphabet() -> list[str]:
    """The 256 characters of the byte-level alphabet in the order of GPT-2's ids."""
    printable = [b for b in range(N_BYTES) if 0x21 <= b <= 0x7E or 0xA1 <= b <= 0xAC or b >= 0xAE]
    n_others = N_BYTES - len(printable)
    return [chr(b) for b in printable] + [chr(0x100 + k) for k in range(n_others)]


def pack(vocab: dict[str, int], merge_lines: list[str]) -> bytes:
    """The packed merges; exits with the first line that does not fit the rule."""
    for expected, character in enumerate(alphabet()):
        if vocab.get(character) != expected:
            sys.exit(f"vocab.json: {character!r} has id {vocab.get(character)}, expected {expected}")
    packed = bytearray()
    for priority, line in enumerate(merge_lines):
        left, right = line.split(" ")
        expected = N_BYTES + priority
        if vocab.get(left + right) != expected:
            sys.exit(f"merges.txt: merge {priority} ({line!r}) does not make id {expected}")
        packed += struct.pack("<HH", vocab[left], vocab[right])
    last = N_BYTES + len(merge_lines)
    if vocab.get(END_OF_TEXT) != last or len(vocab) != last + 1:
        sys.exit(f"vocab.json: expected {END_OF_TEXT} = {last} and nothing more")
    return bytes(packed)


def main() -> None:
    """Reads the directory given on the command line and writes the packed file."""
    if len(sys.argv) != 2:
        sys.exit("usage: pack_gpt2.py DIRECTORY")
    directory = Path(sys.argv[1])
    vocab = json.loads((directory / "vocab.json").read_text(encoding="utf-8"))
    lines = (directory / "merges.txt").read_text(encoding="utf-8").split("\n")
    merges = [line for line in lines if line and not line.startswith("#version")]
    packed = pack(vocab, merges)
    OUTPUT.write_bytes(packed)
    sys.stderr.write(f"{OUTPUT}: {len(merges)} merges, {len(packed)} bytes\n")


if __name__ == "__main__":
    main()
