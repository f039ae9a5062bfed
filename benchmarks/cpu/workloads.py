"""The workloads and contenders of the benchmarks."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Workload:
    """One model at one batch and image size.

    Attributes:
        model: The model's name, also in torchvision if it has the model.
        batch: The number of images.
        size: The side of the images in pixels.
        train: Whether to time a training step (SGD with momentum) or a batch of logits.
        classes: The number of classes.
        stem: ``"imagenet"`` or ``"cifar"``.
        dtype: The dtype of the computation. Parameters are float32.
        photo: Whether a step starts from the bytes of ``photo.photo()`` and ends with the
            probabilities, as in a warm process that answers for one photo.
    """

    model: str
    batch: int
    size: int
    train: bool
    classes: int = 1000
    stem: str = "imagenet"
    dtype: str = "float32"
    photo: bool = False


def _both_dtypes(name, *arguments, **options):
    return {
        name: Workload(*arguments, **options),
        f"{name}_bf16": Workload(*arguments, **options, dtype="bfloat16"),
    }


CIFAR = {"classes": 10, "stem": "cifar"}
WORKLOADS = {
    **_both_dtypes("resnet50_train", "resnet50", 8, 224, True),
    **_both_dtypes("resnext50_train", "resnext50_32x4d", 4, 224, True),
    **_both_dtypes("resnet18_cifar_train", "resnet18", 64, 32, True, **CIFAR),
    **_both_dtypes("resnet20_train", "resnet20", 128, 32, True, **CIFAR),
    **_both_dtypes("resnet50_infer_1", "resnet50", 1, 224, False),
    **_both_dtypes("resnet50_infer_16", "resnet50", 16, 224, False),
    **_both_dtypes("resnet50_infer_32", "resnet50", 32, 224, False),
    **_both_dtypes("resnext50_infer_1", "resnext50_32x4d", 1, 224, False),
    **_both_dtypes("resnext50_infer_16", "resnext50_32x4d", 16, 224, False),
    "resnet101_infer_16": Workload("resnet101", 16, 224, False),
    "wide_resnet50_2_infer_16": Workload("wide_resnet50_2", 16, 224, False),
    "resnet50_photo": Workload("resnet50", 1, 224, False, photo=True),
    "resnet152_train": Workload("resnet152", 2, 224, True),
}


@dataclass(frozen=True)
class Contender:
    """One participant of the comparison.

    Attributes:
        framework: ``"ours"``, ``"flax"``, ``"torch"`` or ``"onnx"``, a key of ``worker.BUILDERS``.
        tuned: Whether the process has the settings of ``flax_resnet.tune_cpu``: the memory
            allocator's, and for ours also XLA's flags.
        options: The keyword arguments of the framework's builder.
    """

    framework: str
    tuned: bool
    options: tuple[tuple[str, str], ...] = ()


def _torch(tuned):
    suffix = "tuned" if tuned else "as installed"
    return {
        f"PyTorch NCHW, {suffix}": Contender("torch", tuned, (("layout", "nchw"),)),
        f"PyTorch channels_last, {suffix}": Contender("torch", tuned, (("layout", "nhwc"),)),
        f"torch.compile, {suffix}": Contender(
            "torch", tuned, (("layout", "nhwc"), ("compile", "yes"))
        ),
    }


def _onnx(tuned):
    suffix = "tuned" if tuned else "as installed"
    return {
        f"{name}, {suffix}": Contender("onnx", tuned, (("engine", name.lower()),))
        for name in ("onnxruntime", "OpenVINO")
    }


CONTENDERS = {
    "ours, with oneDNN": Contender("ours", True, (("conv_impl", "onednn"),)),
    "ours, jax only": Contender("ours", True, (("conv_impl", "jax"),)),
    "ours, reference": Contender("ours", True, (("conv_impl", "reference"),)),
    "ours, not tuned": Contender("ours", False, (("conv_impl", "jax"),)),
    "ours, with oneDNN, not tuned": Contender("ours", False, (("conv_impl", "onednn"),)),
    "plain Flax": Contender("flax", False),
    **_torch(tuned=False),
    **_torch(tuned=True),
    **_onnx(tuned=False),
    **_onnx(tuned=True),
}


def contenders_of(workload, names):
    """The contenders among ``names`` that have the workload: engines of ONNX do not train."""
    return [name for name in names if not (workload.train and CONTENDERS[name].framework == "onnx")]
