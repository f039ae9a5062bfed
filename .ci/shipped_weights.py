"""Check the trained nets that the installed package holds: python .ci/shipped_weights.py DATA.

Each loads without a network, answers on a few images, and predicts as many images right as its card
states where the folder DATA has its data set.
"""

import socket
import sys
from pathlib import Path

import numpy as np

import flax_resnet as fr
from flax_resnet.data import load_dataset
from flax_resnet.weights import shipped_weights
from flax_resnet.weights.shipped_weights import ShippedWeights


def check(one: ShippedWeights, data: Path) -> str:
    """Check one net.

    Args:
        one: The net.
        data: The folder of data sets, as for ``load_dataset``.

    Returns:
        A sentence on what was compared.

    Raises:
        AssertionError: The net does something else than its card states.
    """
    classifier = fr.load(one.name)
    expected = classifier.transform
    shape = (3, expected.height, expected.width, expected.channels)
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    chances = classifier.predict(noise).probabilities
    assert chances.shape == (3, len(classifier.classes)), chances.shape
    assert np.isfinite(chances).all() and np.allclose(chances.sum(1), 1, atol=1e-5), chances
    try:
        dataset = load_dataset(one.data, data, download=False)
    except fr.UserError as error:
        return f"{one.name} answers; its card was not compared: {error}"
    for split in ("validation", "test"):
        images = getattr(dataset, split)
        found = classifier.predict(images.images).probabilities.argmax(1)
        counts = int((found == images.labels).sum()), len(images)
        card = one.card["correct"][split], one.card["images"][split]
        assert counts == card, f"{one.name} {split}: {counts} and not {card}"
    return f"{one.name} answers, and its card is right to the image: {one.card['correct']}."


def main() -> None:
    """Check all nets of an installed package."""
    assert Path(fr.__file__).is_relative_to(sys.prefix), f"{fr.__file__} is not installed"

    def refuse(*_: object) -> None:
        raise OSError("the network was used")

    socket.socket.connect = refuse  # type: ignore[method-assign, assignment]
    held = shipped_weights.shipped_weights()
    assert held, "the package holds no trained nets"
    for one in held:
        print(check(one, Path(sys.argv[1])))


if __name__ == "__main__":
    main()
