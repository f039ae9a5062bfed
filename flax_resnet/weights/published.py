"""The table of weights that torchvision publishes for ImageNet-1k.

Every number is torchvision's own, from the metadata of its weights; the accuracies are those of
single crops of the 50,000 validation images.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..errors import UserError
from ..transform import EvalTransform

CLASSES_FILE = Path(__file__).with_name("imagenet_classes.txt")
TORCH_URL = "https://download.pytorch.org/models/"

# How the sets were trained.
_VISION = "https://github.com/pytorch/vision/"
RESNET = _VISION + "tree/main/references/classification#resnet"
RESNEXT = _VISION + "tree/main/references/classification#resnext"
WIDE = _VISION + "pull/912#issue-445437439"
NEW = _VISION + "issues/3995#new-recipe"
NEW_FIXRES = _VISION + "issues/3995#new-recipe-with-fixres"
NEW_RESNET50 = _VISION + "issues/3995#issuecomment-1013906621"
NEW_64X4D = _VISION + "pull/5935"


@dataclass(frozen=True)
class PublishedWeights:
    """One set of weights for one model, with the transform that it was evaluated with.

    Attributes:
        model: Name of the model in torchvision and here.
        version: 1 for torchvision's first recipe for the model, 2 for its later one.
        sha256: First 8 hex digits of the file's hash.
        parameters: Number of the model's parameters.
        acc1, acc5: Top-1 and top-5 accuracy in percent, as published.
        transform: How an image is prepared for the model.
        recipe: Address of the training's description.
    """

    model: str
    version: int
    sha256: str
    parameters: int
    acc1: float
    acc5: float
    transform: EvalTransform
    recipe: str

    @property
    def name(self) -> str:
        """Name of the set in torchvision, such as ``IMAGENET1K_V1``."""
        return f"IMAGENET1K_V{self.version}"

    @property
    def file(self) -> str:
        """Name of the published file, a state dict of PyTorch."""
        return f"{self.model}-{self.sha256}.pth"

    @property
    def url(self) -> str:
        """Address of the published file."""
        return TORCH_URL + self.file

    @property
    def timm(self) -> str:
        """Repository on the Hugging Face hub with the same weights as ``model.safetensors``."""
        return f"timm/{self.model}.tv{'' if self.version == 1 else self.version}_in1k"


# The two transforms: center crops of 224 pixels.
_RESIZE_256 = EvalTransform.center_crop(224, 256)
_RESIZE_232 = EvalTransform.center_crop(224, 232)

# fmt: off
_PUBLISHED = tuple(PublishedWeights(*row) for row in (
    # model, version, SHA-256, parameters, top-1 %, top-5 %, transform, recipe
    ("resnet18", 1, "f37072fd", 11_689_512, 69.758, 89.078, _RESIZE_256, RESNET),
    ("resnet34", 1, "b627a593", 21_797_672, 73.314, 91.420, _RESIZE_256, RESNET),
    ("resnet50", 1, "0676ba61", 25_557_032, 76.130, 92.862, _RESIZE_256, RESNET),
    ("resnet50", 2, "11ad3fa6", 25_557_032, 80.858, 95.434, _RESIZE_232, NEW_RESNET50),
    ("resnet101", 1, "63fe2227", 44_549_160, 77.374, 93.546, _RESIZE_256, RESNET),
    ("resnet101", 2, "cd907fc2", 44_549_160, 81.886, 95.780, _RESIZE_232, NEW),
    ("resnet152", 1, "394f9c45", 60_192_808, 78.312, 94.046, _RESIZE_256, RESNET),
    ("resnet152", 2, "f82ba261", 60_192_808, 82.284, 96.002, _RESIZE_232, NEW),
    ("resnext50_32x4d", 1, "7cdf4587", 25_028_904, 77.618, 93.698, _RESIZE_256, RESNEXT),
    ("resnext50_32x4d", 2, "1a0047aa", 25_028_904, 81.198, 95.340, _RESIZE_232, NEW),
    ("resnext101_32x8d", 1, "8ba56ff5", 88_791_336, 79.312, 94.526, _RESIZE_256, RESNEXT),
    ("resnext101_32x8d", 2, "110c445d", 88_791_336, 82.834, 96.228, _RESIZE_232, NEW_FIXRES),
    ("resnext101_64x4d", 1, "173b62eb", 83_455_272, 83.246, 96.454, _RESIZE_232, NEW_64X4D),
    ("wide_resnet50_2", 1, "95faca4d", 68_883_240, 78.468, 94.086, _RESIZE_256, WIDE),
    ("wide_resnet50_2", 2, "9ba9bcbe", 68_883_240, 81.602, 95.758, _RESIZE_232, NEW_FIXRES),
    ("wide_resnet101_2", 1, "32ee1156", 126_886_696, 78.848, 94.284, _RESIZE_256, WIDE),
    ("wide_resnet101_2", 2, "d733dc28", 126_886_696, 82.510, 96.020, _RESIZE_232, NEW),
))
# fmt: on


def published_weights(model: str | None = None) -> list[PublishedWeights]:
    """Return the published sets of ``model``, or of all models, each model's oldest first.

    The list is empty for a model without any, known or not.
    """
    return [entry for entry in _PUBLISHED if model in (None, entry.model)]


def find_published(model: str, weights: str) -> PublishedWeights:
    """Return one published set.

    Args:
        model: Name of a model.
        weights: Name of a set, or ``"DEFAULT"`` for the model's newest.

    Raises:
        UserError: No set of that name, or none for that model; the message names the choices.
    """
    entries = published_weights(model)
    if not entries:
        models = ", ".join(dict.fromkeys(entry.model for entry in _PUBLISHED))
        raise UserError(
            f"no weights are published for the model {model!r}: choose one of {models}, or give "
            "the path of a file of weights"
        )
    if weights == "DEFAULT":
        return entries[-1]
    for entry in entries:
        if entry.name == weights:
            return entry
    names = ", ".join(["DEFAULT", *(entry.name for entry in entries)])
    raise UserError(f"{model} has no published weights {weights!r}: choose one of {names}")


@cache
def imagenet_classes() -> tuple[str, ...]:
    """Return torchvision's names of the 1,000 classes of ImageNet-1k, by label."""
    return tuple(CLASSES_FILE.read_text(encoding="utf-8").splitlines())
