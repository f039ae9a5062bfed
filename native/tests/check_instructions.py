"""Checks that no code outside an instruction set's own functions contains its instructions.

Usage: check_instructions.py BUILD. Reads the object files of a build by objdump. A function that
several files share, such as an inline one of the standard library, is kept once by the linker,
whichever file it is from: with AVX instructions in it the program would stop on a processor that
has none.
"""

import re
import subprocess
import sys
from pathlib import Path

SETS = {"avx2": "11flax_resnet4avx2", "avx512": "11flax_resnet6avx512"}
# The registers that AVX-512 adds: 512 bits wide, masks, and numbers above 15.
AVX512 = re.compile(r"%zmm|%k[0-7]\b|%[xy]mm(1[6-9]|2\d|3[01])\b")
SYMBOL = re.compile(r"^[0-9a-f]+ <(.+)>:$")
INSTRUCTION = re.compile(r"^\s+[0-9a-f]+:\s+(?:\{\w+\} )?(\S+)(.*)$")


def misplaced(path: Path) -> set[str]:
    """Returns the functions of an object file that have instructions of a set that isn't theirs."""
    command = ["objdump", "-d", "--no-show-raw-insn", str(path)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found, symbol = set(), ""
    for line in text.splitlines():
        if match := SYMBOL.match(line):
            symbol = match[1]
        elif match := INSTRUCTION.match(line):
            is_avx = match[1].startswith("v") and match[1] not in ("verr", "verw")
            owner = next((name for name, mangled in SETS.items() if mangled in symbol), None)
            if (is_avx and owner is None) or (AVX512.search(match[2]) and owner != "avx512"):
                found.add(f"{path.name}: {symbol}")
    return found


def main() -> None:
    """Checks all object files of the build and exits with the functions that are wrong."""
    files = sorted(Path(sys.argv[1]).rglob("*.o"))
    bad = sorted(set().union(*(misplaced(path) for path in files)))
    if bad or not files:
        sys.exit("\n".join(["instructions in functions that other processors run:", *bad]))
    print(f"{len(files)} object files hold instruction sets apart")


if __name__ == "__main__":
    main()
