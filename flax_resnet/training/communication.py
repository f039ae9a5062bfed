"""The collective operations of a compiled program."""

import math
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Collective:
    """A collective operation of a compiled program.

    Attributes:
        kind: Such as ``"all-reduce"``.
        bytes: Size of its result.
    """

    kind: str
    bytes: int


# A line such as `%x = (f32[3,3]{1,0}, /*index=5*/f32[]) all-reduce(...)`.
_COLLECTIVE = re.compile(
    r"^ *(?:ROOT )?%?[\w.-]+ = (.*?) "
    r"(all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(",
    re.MULTILINE,
)
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+))\[([\d,]*)\]")


def collectives_of(program: str) -> list[Collective]:
    """The collective operations of a compiled program's text (HLO)."""
    found = []
    for match in _COLLECTIVE.finditer(program):
        size = 0
        for _, bits, shape in _ARRAY.findall(match[1]):
            elements = math.prod(int(side) for side in shape.split(",") if side)
            size += elements * int(bits or 8) // 8
        found.append(Collective(match[2], size))
    return found
