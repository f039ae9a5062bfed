"""The first records of CIFAR-10, as a data set of its own, for runs of seconds."""

import tarfile
from pathlib import Path

from flax_resnet.data.formats import CIFAR10

RECORD_BYTES = 1 + 3 * 32 * 32


def write_subset(archive: Path, folder: Path, *, train: int, test: int) -> Path:
    """Write the first records of an archive in the same binary format.

    Args:
        archive: ``cifar-10-binary.tar.gz``.
        folder: Where the folder of the data set is made; ``--data.dir`` takes it.
        train: Records of each of the five training files.
        test: Records of the test file.

    Returns:
        ``folder``.
    """
    into = folder / CIFAR10.folder
    into.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as tar:
        for name in CIFAR10.members:
            content = tar.extractfile(f"{CIFAR10.folder}/{name}").read()
            if name != CIFAR10.class_names:
                content = content[: RECORD_BYTES * (test if name in CIFAR10.test else train)]
            (into / name).write_bytes(content)
    return folder
