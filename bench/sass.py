"""Count the instructions that the loops of CUDA kernels issue, from compiled objects.

    python bench/sass.py OBJECT… [--arch sm_90] [--only REGEX]

For each kernel, the loops from the innermost on: instructions of one round, and how many of these
are products on tensor cores (HMMA, HGMMA), fused multiply-adds, loads from memory and from shared
memory. Divide by the entries that a round handles. Needs cuobjdump and nvdisasm of the CUDA
toolkit.
"""

from __future__ import annotations

import argparse
import re
import subprocess

KINDS = {"HMMA": "HG?MMA", "FMA": r"[FHD]FMA", "LDG": "LDG", "LDS": "LDS|LDSM"}


def kernels(path: str, arch: str) -> dict[str, list[tuple[int, str]]]:
    """Return the instructions of each kernel of an object, with their addresses."""
    text = subprocess.run(
        ["cuobjdump", "-sass", "-arch", arch, path], capture_output=True, text=True, check=True
    ).stdout
    found = {}
    for part in text.split("Function : ")[1:]:
        lines = re.findall(r"/\*([0-9a-f]{4,6})\*/\s+(.*?);", part)
        found[part.split("\n", 1)[0]] = [(int(at, 16), code) for at, code in lines]
    return found


def loops(code: list[tuple[int, str]]) -> list[tuple[int, int]]:
    """Return the first and the last instruction of each loop, shorter ones first."""
    place = {at: i for i, (at, _) in enumerate(code)}
    spans = []
    for i, (at, text) in enumerate(code):
        jump = re.search(r"BRA\S* (?:\S+, )?(?:`\(\S+\)|0x([0-9a-f]+))", text)
        if jump and jump[1] and int(jump[1], 16) < at:
            spans.append((place[int(jump[1], 16)], i))
    return sorted(set(spans), key=lambda span: span[1] - span[0])


def count(code: list[tuple[int, str]], span: tuple[int, int]) -> str:
    """Say what a round of a loop issues."""
    body = [text for _, text in code[span[0] : span[1] + 1]]
    names = [re.sub(r"^@!?U?P\w+ ", "", text).split(" ")[0].split(".")[0] for text in body]
    parts = [f"{sum(bool(re.fullmatch(k, n)) for n in names)} {kind}" for kind, k in KINDS.items()]
    return f"{len(body)} instructions: {', '.join(parts)}"


def main() -> None:
    """Print the loops of each kernel."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("objects", nargs="+")
    parser.add_argument("--arch", default="sm_90")
    parser.add_argument("--only", default="", help="kernels whose mangled name has this")
    options = parser.parse_args()
    for path in options.objects:
        for name, code in kernels(path, options.arch).items():
            if not re.search(options.only, name):
                continue
            print(f"{name}: {len(code)} instructions")
            for span in loops(code):
                print(f"  {count(code, span)}")


if __name__ == "__main__":
    main()
