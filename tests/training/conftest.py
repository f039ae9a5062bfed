"""For all tests of training."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def noise_photos(tmp_path):
    """Two classes of 40 photos of noise."""
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        folder = tmp_path / "photos" / label
        folder.mkdir(parents=True)
        for number in range(40):
            pixels = rng.integers(0, 256, (24, 32, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "photos"
