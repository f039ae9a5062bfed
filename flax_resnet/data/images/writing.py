"""Pictures written to files."""

from __future__ import annotations

import os

from PIL import Image

from flax_resnet.errors import UserError
from flax_resnet.output_files import replacing


def write_picture(image: Image.Image, path: str | os.PathLike[str]) -> None:
    """Write an image to a file whose extension names the format; folders are made.

    Raises:
        UserError: The file cannot be written.
    """
    try:
        with replacing(path) as fresh:
            image.save(fresh)
    # Pillow raises ValueError for an unknown extension, or if the format cannot store the image.
    except ValueError as error:
        raise UserError(
            f"{path} cannot be written ({error}): name another path, ending in .png."
        ) from error
