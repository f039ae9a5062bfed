"""The settings of a training run: frozen dataclasses, and the only place with defaults.

A recipe is a file ``configs/NAME.py`` that sets ``config = Config(...)``; the command line
overrides any field (``--optimizer.learning-rate 0.1``). Epochs count passes over the training
set, rates are fractions.
"""

from dataclasses import dataclass, field
from typing import Literal

# Of each channel on the scale 0 to 1, as all published weights for ImageNet expect.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ModelConfig:
    """Which model; see flax_resnet.models.ResNet for the switches. None: as the variant has it."""

    name: str = "resnet50"
    """One of `flax-resnet list`."""
    stem: Literal["imagenet", "cifar", "deep"] | None = None
    """7x7 with max-pool, 3x3, or three 3x3 with max-pool."""
    shortcut: Literal["A", "B", "C"] | None = None
    """Zero-padded identity, projection where the shape changes, projection everywhere."""
    version: Literal["v1", "v1.5", "v2"] | None = None
    """Stride on the first 1x1, on the 3x3, or pre-activation."""
    norm: Literal["batch", "group"] | None = None
    """Batch or group normalisation."""
    avg_pool_shortcut: bool | None = None
    """Average-pool in the projections (ResNet-D)."""
    zero_init_residual: bool | None = None
    """Start every block as the identity."""
    stochastic_depth: float | None = None
    """Probability of skipping the last block; earlier ones less, linearly."""
    dropout: float | None = None
    """Dropout rate before the classifier."""
    block_dropout: float | None = None
    """Dropout rate inside the blocks (wide ResNets)."""
    hidden: tuple[int, ...] | None = None
    """Widths of hidden layers between the pooled features and the classifier."""
    frozen_statistics: bool | None = None
    """Keep batch norm's running statistics as they are."""
    frozen_affine: bool | None = None
    """Keep batch norm's scale and bias as they are."""
    conv_impl: Literal["auto", "jax", "onednn", "reference"] = "auto"
    """How convolutions are computed on CPU: chosen; without oneDNN; with it; as XLA does."""
    remat: bool | None = None
    """Recompute blocks in the backward pass: less memory, a third more work."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the computation; parameters stay float32."""


@dataclass(frozen=True)
class DataConfig:
    """Which images, and how they are fed."""

    name: str = "cifar10"
    """digits, mnist, fashion_mnist, cifar10, cifar100, any prepared TFDS set, or folder: the image
    folder, .csv, .jsonl or .npz that dir names."""
    dir: str | None = None
    """Folder with the original files or prepared sets; default ~/tensorflow_datasets."""
    download: bool = True
    """Fetch missing files."""
    batch_size: int = 128
    """Images in a step, over all devices."""
    validation: float = 0.1
    """Share of the training images kept aside to choose the best checkpoint."""
    image_size: int | None = None
    """Height and width the model sees. None: as stored; of image files 224."""
    train_sizes: tuple[tuple[int, int], ...] = ()
    """In training, where they differ: (first epoch, from 0; height and width), such as 0 160 12
    192."""
    resize: int | None = None
    """Image files in evaluation: the shorter side, before the middle of image_size is cut out;
    default 256/224 of image_size."""
    interpolation: Literal["bilinear", "bicubic"] | None = None
    """Of image files' resizing; default bilinear."""
    splits: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Shares of train, validation and test where a folder or prepared set has no splits."""
    on_bad_image: Literal["skip", "error"] = "skip"
    """Images that cannot be read: leave them out and say so, or stop."""
    workers: int | None = None
    """Threads that decode image files; default one a core."""


@dataclass(frozen=True)
class AugmentConfig:
    """What is done to training images, on the device and by seed; see data.Augmentation."""

    random_resized_crop: bool = False
    """A part of random size and shape, resized; for image folders while they are decoded."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Its share of the image's area."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Its width / height."""
    crop_padding: int = 4
    """Pixels on each side before a random crop of the original size; 0 for none."""
    flip: bool = True
    """Mirror half of the images."""
    rotation: float = 0.0
    """Degrees to either side."""
    shift: float = 0.0
    """Share of the height and of the width, to either side."""
    shear: float = 0.0
    """Degrees to either side."""
    zoom: float = 0.0
    """Factors from 1 - zoom to 1 + zoom."""
    fill: Literal["nearest", "reflect", "constant"] = "nearest"
    """What lies outside of a rotated, shifted, sheared or zoomed image."""
    rand_augment: tuple[int, int] | None = None
    """Number of operations and magnitude, 0 to 30."""
    trivial_augment: bool = False
    """One operation of any magnitude (TrivialAugmentWide)."""
    color_jitter: tuple[float, float, float, float] | None = None
    """Amounts of brightness, contrast, saturation and hue."""
    grayscale: float = 0.0
    """Probability of a grey image."""
    random_erasing: float = 0.0
    """Probability of an erased box."""
    cutout: int = 0
    """Side in pixels of a square cut out; 0 for none."""
    repeats: int = 1
    """Copies of each image in a batch, augmented differently; the batch stays as large."""
    mixup_alpha: float = 0.0
    """Mix each image with its neighbour, by shares from Beta(alpha, alpha); 0 for none."""
    cutmix_alpha: float = 0.0
    """Put a box of the neighbour into each image; with mixup too, one of the two for a batch."""


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimiser and learning rate."""

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    """adam adds weight decay to the gradient, as torch's; adamw decouples it."""
    learning_rate: float = 0.1
    """The rate after warm-up."""
    base_batch_size: int | None = None
    """The batch size that learning_rate is meant for: it is multiplied by batch size / this (Goyal
    et al. 2017). None: it is taken as it is."""
    momentum: float = 0.9
    """Of sgd."""
    nesterov: bool = True
    """Of sgd."""
    weight_decay: float = 1e-4
    """L2 strength."""
    decay_all: bool = False
    """Decay normalisation parameters and biases too; the default decays kernels only."""
    schedule: Literal["constant", "cosine", "linear", "step"] = "cosine"
    """How the rate falls after warm-up."""
    warmup_epochs: float = 0.0
    """Epochs of linear rise from zero."""
    milestones: tuple[float, ...] = ()
    """step: epochs at which the rate is multiplied by decay_factor."""
    decay_factor: float = 0.1
    """step: the multiplier."""


@dataclass(frozen=True)
class TransferConfig:
    """Starting from weights that were trained on other images."""

    weights: str = "none"
    """none (random), DEFAULT or IMAGENET1K_V1, _V2 (torchvision's), timm/NAME, a file of weights,
    or a run's folder. The classifier is always fresh. They also say the normalisation, and the
    image_size, resize and interpolation where data leaves these open."""
    mode: Literal["full", "partial", "head", "gradual"] = "full"
    """What trains: all; the parts from freeze_before on; the head alone; or the head first, and a
    part more below it after each unfreeze_epochs."""
    freeze_before: str | None = None
    """The first part that trains, such as layer4; default of partial: the last stage. In gradual,
    those before it never do."""
    unfreeze_epochs: float = 1.0
    """gradual: epochs between one part and the next, or fewer where there are not so many."""
    layer_decay: float | None = None
    """Learning rate of each part over that of the part above it; default 1, in gradual 1/2.6
    (Howard & Ruder 2018, section 3.2)."""
    statistics: Literal["frozen", "updated"] = "frozen"
    """Batch norm's running statistics in frozen parts; model.frozen_statistics is for all parts."""
    affine: Literal["frozen", "trained"] = "frozen"
    """Batch norm's scale and bias in frozen parts; model.frozen_affine is for all parts."""
    views: int | None = None
    """Compute the frozen parts once for this many views of each image and keep the results on disk:
    1 is the image without augmentation, more are augmented. 0: compute them at every step. Default:
    1 for the head, 0 otherwise."""
    solver: Literal["lbfgs", "sgd"] | None = None
    """head: L-BFGS on all images at once, its L2 strength chosen on the validation images, or the
    optimizer's steps. Default: lbfgs where there are views and no hidden layers."""
    feature_cache: str = "~/.cache/flax_resnet/features"
    """Folder of the kept results; delete it at any time."""


@dataclass(frozen=True)
class ParallelConfig:
    """Devices and hosts; see docs/pods.md."""

    mode: Literal["auto", "jit", "shard_map", "pmap"] = "auto"
    """How the step is compiled: auto takes shard_map where batch norm is not global, else jit."""
    batch_norm: str = "global"
    """Whose statistics batch norm uses: global, per_device, or groups:N, the batch in N parts."""
    shard_params: bool = False
    """Spread parameters and optimiser state over the devices: less memory on each."""
    distributed: Literal["auto", "off"] = "auto"
    """auto: find the other processes on TPU pods, under SLURM, Open MPI and in Kubernetes jobs."""
    coordinator: str | None = None
    """HOST:PORT of process 0, where nothing is found by itself."""
    processes: int | None = None
    """How many processes there are, with coordinator."""
    process: int | None = None
    """The number of this one, from 0, with coordinator."""
    timeout: int = 100
    """Seconds after which a process that is not heard of counts as dead."""
    flop_rate: float = 1e14
    """dry_run: FLOP/s that a device sustains; a third of an A100's 312e12 in bfloat16."""
    bandwidth: float = 2.5e10
    """dry_run: bytes a second that a device sends; 200 Gb/s."""


@dataclass(frozen=True)
class Config:
    """A training run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    transfer: TransferConfig = field(default_factory=TransferConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    epochs: int = 10
    """Passes over the training images."""
    max_steps: int | None = None
    """Stop after this many steps in all; the schedule still follows epochs."""
    seed: int = 0
    """Of the initial weights, the order of the images and the augmentation."""
    loss: Literal["softmax", "sigmoid"] = "softmax"
    """Cross-entropy over the classes, or yes and no for each class: for images with any number of
    classes, and possible with one."""
    label_smoothing: float = 0.0
    """Share of each label spread over all classes (Szegedy et al. 2016)."""
    ema_decay: float | None = None
    """Keep and evaluate a moving average of the weights, for example 0.999."""
    evaluate_flipped: bool = False
    """Evaluate the mean of the logits of each image and its mirror image."""
    workdir: str | None = None
    """The run's folder; default runs/NAME. A started run in it goes on where it stopped."""
    evaluate_every: int = 1
    """Epochs between evaluations on the validation images."""
    microbatches: int = 1
    """Parts that a step's batch is cut into, one after the other, to save memory."""
    save_every: int | None = None
    """Save also every so many steps; a checkpoint is saved at each evaluation in any case."""
    compile_cache: str | None = "~/.cache/flax_resnet/xla"
    """Folder of compiled programs, for quick restarts; None for none."""
    dry_run: bool = False
    """Print the plan of memory, communication and scaling, and stop."""


# What may change when a run is taken up again: none of it changes the numbers of a step, but for
# rounding and, with batch norm per device, the number of devices.
FREE_ON_RESUME = (
    *(
        "model.conv_impl",
        "data.dir",
        "data.download",
        "max_steps",
        "workdir",
        "compile_cache",
        "dry_run",
    ),
    "transfer.feature_cache",
    *(f"parallel.{name}" for name in ("mode", "shard_params", "distributed", "coordinator")),
    *(f"parallel.{name}" for name in ("processes", "process", "timeout")),
    *("parallel.flop_rate", "parallel.bandwidth"),
)
