"""Pictures written to files."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image

from flax_resnet.errors import UserError


def write_picture(image: Image.Image, path: str | os.PathLike[str]) -> None:
    """Write an image to a file whose extension names the format; folders are made.

    Raises:
        UserError: The file cannot be written.
    """
    target = Path(path).expanduser()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        image.save(target)
    # Pillow raises ValueError for an unknown extension, or if the format cannot store the image.
    except (OSError, ValueError) as error:
        raise UserError(
            f"{target} cannot be written ({error}): name another place, ending in .png."
        ) from error
