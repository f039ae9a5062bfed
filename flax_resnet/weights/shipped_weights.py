"""Weights of our own training that are part of the package: they load without a network.

``shipped/MODEL-DATA.safetensors`` holds arrays in float16 with their description, and
``MODEL-DATA.json`` beside it the card; ``python -m benchmarks.ship`` writes both from a run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..text_files import parse_json

FOLDER = Path(__file__).with_name("shipped")


@dataclass(frozen=True)
class ShippedWeights:
    """A set of weights, and its card.

    Attributes:
        model: Name of the model.
        data: Name of the data set that it was trained on.
        card: ``command``, ``commit``, ``epochs`` and ``seed`` of the training; ``correct`` and
            ``images`` by split, of the weights as they are stored; ``licence`` and
            ``intended_use``.
    """

    model: str
    data: str
    card: Mapping[str, Any]

    @property
    def name(self) -> str:
        """What ``fr.load`` takes, such as ``"resnet20/cifar10"``."""
        return f"{self.model}/{self.data}"

    @property
    def path(self) -> Path:
        """The file of weights."""
        return FOLDER / f"{self.model}-{self.data}.safetensors"

    def accuracy(self, split: str) -> float:
        """Return the top-1 accuracy on ``"validation"`` or ``"test"`` images."""
        return float(self.card["correct"][split]) / float(self.card["images"][split])


@cache
def _all() -> tuple[ShippedWeights, ...]:
    cards = (parse_json(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json")))
    return tuple(ShippedWeights(card["model"], card["data"], card) for card in cards)


def shipped_weights(model: str | None = None) -> list[ShippedWeights]:
    """Return the shipped sets of a model, or of all models."""
    return [one for one in _all() if model in (None, one.model)]


def find_shipped(name: str) -> ShippedWeights | None:
    """Return the shipped set of that name, or None."""
    return next((one for one in _all() if one.name == name), None)
