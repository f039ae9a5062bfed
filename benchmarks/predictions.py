"""What ``--dry-run`` predicts for machines whose speed was published, beside what was published.

    python -m benchmarks.predictions      # prints the table of docs/pods.md

The model of ``--dry-run`` (``training.budget.simulate_scaling``) gets the speed of one device, or
of a smaller machine, from one publication, and the bandwidth from the maker's data sheet. It
predicts the speed of another machine, which is never used to set anything. All of resnet50 on
ImageNet.
"""

import math
from dataclasses import dataclass

from flax_resnet.training.budget import simulate_scaling

FLOPS = 6 * 4.089e9  # of an image of 224x224, forward and backward
GRADIENTS = 4 * 25_557_032  # bytes
IMAGES = 1_281_167
NVIDIA = "https://github.com/NVIDIA/DeepLearningExamples/tree/master"
MXNET = f"{NVIDIA}/MxNet/Classification/RN50v1.5"
PYTORCH = f"{NVIDIA}/PyTorch/Classification/ConvNets/resnet50v1.5"
FLAX = "https://github.com/google/flax/tree/main/examples/imagenet"
FFCV = "https://github.com/libffcv/ffcv-imagenet"
MLPERF = "https://developer.nvidia.com/deep-learning-performance-training-inference/training"


@dataclass(frozen=True)
class Machine:
    """A prediction.

    Attributes:
        name: The machine and the program.
        devices: Their number.
        batch: Images of a device.
        rate: Images a second of a device, as published for ``basis``.
        basis: What that was measured on, and where it was published.
        bandwidth: Bytes a second that a device sends, by the data sheet.
        published: Images a second of the machine.
        source: Where that was published.
    """

    name: str
    devices: int
    batch: int
    rate: float
    basis: tuple[str, str]
    bandwidth: float
    published: float
    source: str

    @property
    def predicted(self):
        """Images a second, with as much communication hidden as fits behind the backward pass."""
        flops = FLOPS * self.batch
        (found,) = simulate_scaling(
            flops, GRADIENTS, 1, self.rate * FLOPS, self.bandwidth, [self.devices]
        )
        return self.rate * self.devices * found.most


def pixels_of_ffcv():
    """The mean of an image's pixels over the 88 epochs of FFCV's recipe, relative to 224x224."""
    sizes = [160 + 32 * min(max((epoch - 65) / (76 - 65), 0), 1) for epoch in range(88)]
    return sum(size**2 for size in sizes) / len(sizes) / 224**2


def hours(epochs, time):
    return IMAGES * epochs / (time * 3600)


# NVLink of an A100 and a V100 in one direction; a link of a TPU v3 chip, of 656 Gb/s, for its two
# cores; InfiniBand of 400 Gb/s for each H100.
A100, V100, TPU_V3, H100 = 300e9, 150e9, 41e9, 50e9
MACHINES = (
    Machine(
        "8 A100 (DGX A100), MXNet",
        *(8, 512, 3410.52),
        ("1 A100, MXNet", MXNET),
        *(A100, 26673.72, MXNET),
    ),
    Machine(
        "16 V100 (DGX-2), MXNet",
        *(16, 256, 1492),
        ("1 V100, MXNet", MXNET),
        *(V100, 21484, MXNET),
    ),
    Machine(
        "8 V100, flax's example, mixed precision",
        *(8, 256, 1376),
        ("1 V100, MXNet", MXNET),
        *(V100, 62500 * 2048 / (4.3 * 3600), FLAX),
    ),
    Machine(
        "8 A100, FFCV, 88 epochs of 160 to 192 pixels",
        *(8, 512, 2470 / pixels_of_ffcv()),
        ("1 A100, PyTorch, by pixels", PYTORCH),
        *(A100, hours(88, 77.2 / 60), FFCV),
    ),
    Machine(
        "32 cores of TPU v3, flax's example, 1,024 images",
        *(32, 32, 125100 * 1024 / (4.4 * 3600) / 8),
        ("8 cores, the same batch", FLAX),
        *(TPU_V3, 125100 * 1024 / (2.1 * 3600), FLAX),
    ),
    Machine(
        "64 H100, MLPerf Training 3.0, taken as 35 epochs",
        *(64, 400, hours(35, 13.466 / 60) / 8),
        ("8 H100, 13.466 minutes", MLPERF),
        *(H100, hours(35, 2.664 / 60), MLPERF),
    ),
)


def rounded(value):
    """A number to three digits."""
    digits = 2 - math.floor(math.log10(value))
    return f"{round(value, digits):,.0f}"


def table():
    """Return the table as Markdown."""
    lines = [
        "| machine | from | predicted images/s | published | error |",
        "|---|---|---|---|---|",
    ]
    for one in MACHINES:
        error = one.predicted / one.published - 1
        lines.append(
            f"| {one.name} | [{one.basis[0]}]({one.basis[1]}) | {rounded(one.predicted)} | "
            f"[{rounded(one.published)}]({one.source}) | {error:+.0%} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
