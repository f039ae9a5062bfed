"""How often something happens: by steps, epochs or time."""

import re
from dataclasses import dataclass
from typing import Literal

from ..errors import UserError

_UNITS: dict[str, tuple[Literal["steps", "epochs", "seconds"], float]] = {
    "": ("steps", 1),
    "step": ("steps", 1),
    "steps": ("steps", 1),
    "epoch": ("epochs", 1),
    "epochs": ("epochs", 1),
    "s": ("seconds", 1),
    "sec": ("seconds", 1),
    "min": ("seconds", 60),
    "h": ("seconds", 3600),
}


@dataclass(frozen=True)
class Interval:
    """A number of steps, epochs or seconds."""

    count: float
    unit: Literal["steps", "epochs", "seconds"]


def parse_interval(option: str, value: int | str | None) -> Interval | None:
    """Read an interval such as ``500``, ``500steps``, ``1epoch``, ``90s``, ``10min`` or ``2h``.

    Args:
        option: The option's name, for the error.
        value: The interval; None for never.

    Raises:
        UserError: The value is no interval above 0, or not a whole number of steps.
    """
    if value is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([a-z]*)", str(value))
    unit, factor = _UNITS.get(found[2], (None, 0.0)) if found else (None, 0.0)
    if found is None or unit is None:
        raise UserError(
            f"--{option} is {value}; it must be steps, epochs or time: 500, 500steps, 1epoch, 90s, "
            "10min or 2h.",
            exit_code=2,
        )
    count = float(found[1]) * factor
    if count <= 0:
        raise UserError(f"--{option} is {value}; it must be above 0.", exit_code=2)
    if unit == "steps" and count != int(count):
        raise UserError(f"--{option} is {value}; steps must be a whole number.", exit_code=2)
    return Interval(count, unit)
