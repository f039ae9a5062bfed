"""The settings of a training run: frozen dataclasses, the only place with defaults.

A recipe is a file ``configs/NAME.py`` that sets ``config = Config(...)``. The command line sets any
field (``--optimizer.learning-rate 0.1``) and prints the strings below the fields as its help. An
epoch is a pass over the training images; rates and probabilities are fractions of 1.
"""

from dataclasses import dataclass, field
from typing import Literal

from ..paths import cache_text

LossName = Literal["softmax", "one_vs_all", "sigmoid"]


@dataclass(frozen=True)
class ModelConfig:
    """The architecture; see flax_resnet.models.ResNet. None stands for the model's own value."""

    name: str = "resnet50"
    """The model's name, one of `flax-resnet list`, or resnet for the stages and block below."""
    stage_sizes: tuple[int, ...] | None = None
    """The number of blocks in each stage, such as 2 2 2 2."""
    block: Literal["basic", "bottleneck"] | None = None
    """Two 3x3 convolutions, or 1x1, 3x3 and 1x1."""
    widths: tuple[int, ...] | None = None
    """The planes of each stage."""
    groups: int | None = None
    """The groups of the 3x3 convolution of a bottleneck (ResNeXt)."""
    width_per_group: int | None = None
    """The width of each group for 64 planes (ResNeXt, wide ResNets)."""
    stem: Literal["imagenet", "cifar", "deep", "tiered"] | None = None
    """The first layers: 7x7 and max-pool, 3x3, or three 3x3 and max-pool (tiered: the first one is
    narrower)."""
    stem_width: int | None = None
    """The channels of the stem; by default the planes of the first stage."""
    stem_pool: Literal["none", "max", "zero_padded_max", "conv"] | None = None
    """What follows the stem: nothing, a max-pool, one that pads with zeros (BiT), or a convolution
    of stride 2 (ResNet-RS); by default what is usual after the stem."""
    attention: Literal["se", "eca"] | None = None
    """Gates on the channels of each block: squeeze-and-excitation or ECA."""
    se_reduction: int | None = None
    """The channels of a block divided by the hidden channels of its gate."""
    anti_alias: Literal["blur", "mean"] | None = None
    """A filter in place of strides."""
    standardized_kernels: bool | None = None
    """Standardise the kernels of convolutions (BiT)."""
    in_channels: int | None = None
    """The channels of the images that the model takes; by default those of the data, and where
    grey images are fine-tuned from weights of colour photos, 3."""
    shortcut: Literal["A", "B", "C"] | None = None
    """A zero-padded identity, a projection where the shape changes, or a projection everywhere."""
    version: Literal["v1", "v1.5", "v2"] | None = None
    """Stride on the first 1x1, stride on the 3x3, or pre-activation blocks."""
    norm: Literal["batch", "group"] | None = None
    """Batch normalisation or group normalisation."""
    avg_pool_shortcut: bool | None = None
    """Average-pool before the projections (ResNet-D)."""
    zero_init_residual: bool | None = None
    """Initialise every block as the identity."""
    stochastic_depth: float | None = None
    """The probability of skipping the last block; it rises linearly from 0 over the blocks."""
    dropout: float | None = None
    """The dropout rate before the classifier."""
    block_dropout: float | None = None
    """The dropout rate inside the blocks (wide ResNets)."""
    hidden: tuple[int, ...] | None = None
    """The widths of hidden layers between the pooled features and the classifier."""
    momentum: float | None = None
    """The fraction of batch norm's running statistics that an update keeps; by default 0.9, which
    torch writes as 0.1."""
    frozen_statistics: bool | None = None
    """Keep batch norm's running statistics as they are."""
    frozen_affine: bool | None = None
    """Keep batch norm's scale and bias as they are."""
    conv_impl: Literal["auto", "jax", "onednn", "reference"] = "auto"
    """The algorithms of convolutions on a CPU: the fastest, those in JAX, oneDNN, or XLA's."""
    remat: bool | None = None
    """Recompute blocks in the backward pass, which saves memory and costs a third more work."""
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    """The dtype of the computation; parameters stay float32. auto is bfloat16 where the devices
    multiply it fast."""


@dataclass(frozen=True)
class DataConfig:
    """The images and how they are read."""

    name: str = "cifar10"
    """digits, mnist, fashion_mnist, cifar10, cifar100, any prepared TFDS set; or what dir names:
    folder (of images, or a .csv, .tsv, .jsonl or .npz), webdataset or parquet (shards)."""
    dir: str | None = None
    """The folder of the original files or prepared sets; default TFDS_DATA_DIR, if that is set, or
    ~/tensorflow_datasets."""
    columns: str | None = None
    """The columns of a list that hold paths, labels and optionally splits, such as id,breed, or the
    image and the label in shards, such as jpg,cls; by default they are recognized."""
    download: bool = True
    """Download missing files."""
    batch_size: int = 128
    """Images in a step, over all devices."""
    validation: float = 0.1
    """The fraction of the training images that is kept aside to choose the best checkpoint, of our
    own sets and of prepared ones with a test split and no validation split; splits is for all
    others."""
    image_size: int | None = None
    """The height and width of the model's input; default 224 for image files, else as stored."""
    train_sizes: tuple[tuple[int, int], ...] = ()
    """Sizes of training images that differ from image_size: pairs of the first epoch, from 0, and
    the height and width, such as 0 160 12 192."""
    resize: int | None = None
    """The shorter side to which image files are resized in evaluation, before the centre crop of
    image_size; default 256/224 of image_size."""
    interpolation: Literal["bilinear", "bicubic"] | None = None
    """The interpolation that resizes image files; default bilinear."""
    sampling: Literal["balanced"] | None = None
    """The training images of an epoch: as many of each class (balanced), so that images of small
    classes are repeated and those of large ones take turns; by default each image once."""
    shuffle: Literal["global", "shards"] = "global"
    """The order of an epoch: any image may follow any other (global), or images are read in runs
    from shards in random order (shards), which object storage and disks deliver faster."""
    splits: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Fractions of train, validation and test where a folder, a list, shards or a .npz, or a
    prepared set, has no splits; and of train and validation where only the latter is missing."""
    on_bad_image: Literal["skip", "error"] = "skip"
    """What happens if an image cannot be read: it is left out and reported, or the run stops."""
    workers: int | None = None
    """The number of threads that decode image files; default one for each core."""


@dataclass(frozen=True)
class AugmentConfig:
    """The augmentation of training images, on the device and by seed; see data.Augmentation."""

    random_resized_crop: bool = False
    """Cut out a box of random size and shape and resize it; image files are cut while decoded."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """The range of the box's area, as a fraction of the image's."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """The range of the box's width divided by its height."""
    crop_padding: int = 4
    """The padding in pixels before a random crop of the original size; 0 turns it off."""
    crop_fill: Literal["constant", "mirror"] = "constant"
    """The pixels of this padding: black, or the image mirrored (d c b | a b c d)."""
    flip: bool = True
    """Mirror half of the images."""
    alternating_flip: bool = False
    """Let flip mirror half of the images in the first epoch, and in each later one those that were
    not mirrored in the one before (Jordan 2024)."""
    rotation: float = 0.0
    """The largest rotation to either side, in degrees."""
    shift: float = 0.0
    """The largest shift to either side, as a fraction of the height and of the width."""
    shear: float = 0.0
    """The largest shear to either side, in degrees."""
    zoom: float = 0.0
    """Zoom by factors from 1 - zoom to 1 + zoom."""
    fill: Literal["nearest", "reflect", "constant"] = "nearest"
    """The pixels outside a rotated, shifted, sheared or zoomed image."""
    rand_augment: tuple[int, int] | None = None
    """The number of operations of RandAugment and their magnitude, 0 to 30."""
    timm_rand_augment: tuple[int, float, float] | None = None
    """The number of operations of timm's RandAugment, their magnitude, 0 to 10, and its standard
    deviation; 2 6 0.5 is its rand-m6-mstd0.5-inc1. Each is applied to half of the images."""
    trivial_augment: bool = False
    """Apply one random operation of a random magnitude (TrivialAugmentWide)."""
    color_jitter: tuple[float, float, float, float] | None = None
    """The amounts of random brightness, contrast, saturation and hue."""
    grayscale: float = 0.0
    """The probability of a grey image."""
    random_erasing: float = 0.0
    """The probability of an erased box."""
    cutout: int = 0
    """The side in pixels of a square that is erased; 0 turns it off."""
    repeats: int = 1
    """The number of differently augmented copies of each image in a batch of the same size."""
    mixup_alpha: float = 0.0
    """Mix each image with another by a weight from Beta(alpha, alpha) (mixup); 0 turns it off."""
    cutmix_alpha: float = 0.0
    """Paste a box of another image (CutMix); with mixup too, each batch gets one of the two."""


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimiser and the learning rate."""

    name: Literal["sgd", "sgdw", "adam", "adamw", "lamb", "muon"] = "sgd"
    """The optimiser; sgd and adam add weight decay to the gradient, like torch, and sgdw and adamw
    decouple it; lamb scales adamw's step of each kernel by the kernel's norm (You et al. 2020);
    muon trains the kernels of convolutions by Muon and all else by sgdw."""
    learning_rate: float = 0.1
    """The learning rate after warm-up."""
    base_batch_size: int | None = None
    """The batch size that learning_rate is meant for; the rate is scaled linearly to the batch size
    (Goyal et al. 2017). None leaves the rate as it is."""
    clip_norm: float | None = None
    """The global norm that gradients are scaled down to where theirs is greater."""
    momentum: float = 0.9
    """The momentum of sgd, sgdw and muon."""
    nesterov: bool = True
    """Use Nesterov momentum in these."""
    sgd_learning_rate: float = 0.1
    """With muon, the learning rate after warm-up of what sgdw trains."""
    bias_rate: float = 1.0
    """The factor of the learning rate of biases, those of batch norm in front."""
    weight_decay: float = 1e-4
    """The strength of weight decay."""
    decay_all: bool = False
    """Also decay normalisation parameters and biases, not only kernels."""
    schedule: Literal["constant", "cosine", "linear", "step"] = "cosine"
    """How the learning rate falls after warm-up."""
    warmup_epochs: float = 0.0
    """The number of epochs in which the learning rate rises linearly from 0."""
    milestones: tuple[float, ...] = ()
    """The epochs at which schedule step multiplies the learning rate by decay_factor."""
    decay_factor: float = 0.1
    """The factor of schedule step."""


@dataclass(frozen=True)
class TransferConfig:
    """Training that starts from weights trained on other images."""

    weights: str = "none"
    """none (random), DEFAULT or IMAGENET1K_V1, _V2 (torchvision's), another model's as
    resnet50/IMAGENET1K_V2, timm/NAME, a weights file, or a run's folder. The classifier is always
    new. The weights also set the normalisation and, of image files, the image_size, resize and
    interpolation that data leaves open."""
    in_channels_init: Literal["adapt", "fresh"] = "adapt"
    """The first convolution where the weights have other channels: for one channel their sum, else
    repeated and scaled (adapt), or random values (fresh)."""
    mode: Literal["full", "partial", "head", "gradual"] = "full"
    """What is trained: the whole model, the stages from freeze_before on, the head, or first the
    head and after each unfreeze_epochs one more stage below it."""
    freeze_before: str | None = None
    """The first stage that is trained, such as layer4; by default partial trains the last stage and
    the head. gradual never trains the stages before it."""
    unfreeze_epochs: float = 1.0
    """The number of epochs between two stages of gradual; fewer where the last stage would be added
    after half of the run."""
    layer_decay: float | None = None
    """The learning rate of a stage divided by that of the stage above it; default 1, for gradual
    1/2.6 (Howard & Ruder 2018, section 3.2)."""
    statistics: Literal["frozen", "updated"] = "frozen"
    """Batch norm's running statistics in frozen stages; model.frozen_statistics is for all."""
    affine: Literal["frozen", "trained"] = "frozen"
    """Batch norm's scale and bias in frozen stages; model.frozen_affine is for all stages."""
    views: int | None = None
    """Compute the frozen stages once for this many views of each image and store the features on
    disk: 1 is the image without augmentation, more are augmented, 0 computes them at every step.
    Default 1 for head, else 0."""
    solver: Literal["lbfgs", "sgd"] | None = None
    """The solver of head: L-BFGS on all images at once, with the L2 strength that is best on the
    validation images, or the optimiser's steps (sgd). Epochs and learning rates are for sgd only.
    Default lbfgs if there are views, and no hidden layers, dropout, label smoothing or sampling."""
    feature_cache: str = field(default_factory=lambda: f"{cache_text()}/features")
    """The folder of stored features; it can be deleted at any time. Default features in
    FLAX_RESNET_CACHE, or where that is not set, in ~/.cache/flax_resnet."""


@dataclass(frozen=True)
class ParallelConfig:
    """Devices and hosts; see docs/pods.md."""

    mode: Literal["auto", "jit", "shard_map"] = "auto"
    """How the step is compiled; auto: jit, or shard_map for groups or flax-resnet-onednn."""
    batch_norm: str = "global"
    """The images that share batch norm statistics: global, per_device, or groups:N for N groups."""
    shard_params: bool = False
    """Shard parameters and optimiser state over the devices, which saves memory on each."""
    distributed: Literal["auto", "off"] = "auto"
    """auto finds the other processes on TPU pods, under SLURM, Open MPI and in Kubernetes jobs."""
    coordinator: str | None = None
    """HOST:PORT of process 0, where it is not found automatically."""
    processes: int | None = None
    """The number of processes, with coordinator."""
    process: int | None = None
    """The index of this process, from 0, with coordinator."""
    timeout: int = 100
    """The number of seconds after which a silent process is taken for dead."""
    flop_rate: float = 1e14
    """The FLOP/s that a device sustains, for dry_run; a third of an A100's 312e12 in bfloat16."""
    bandwidth: float = 2.5e10
    """The bytes a second that a device sends, for dry_run; 200 Gb/s."""


@dataclass(frozen=True)
class CheckpointConfig:
    """How checkpoints are saved; see docs/reliability.md."""

    on_error: Literal["continue", "stop"] = "continue"
    """What follows a save that failed three times: a warning, or the end of the run."""
    timeout: int = 600
    """The number of seconds after which a save that does not end stops the run."""


@dataclass(frozen=True)
class Config:
    """A training run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    transfer: TransferConfig = field(default_factory=TransferConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    epochs: int = 10
    """Passes over the training images."""
    max_steps: int | None = None
    """Stop after this many steps in all; the learning rate still follows epochs."""
    seed: int = 0
    """The seed of the initial weights, the order of the images and the augmentation."""
    loss: LossName = "softmax"
    """Cross-entropy over the classes (softmax), or the mean over the classes of a binary
    cross-entropy for each, where an image has one class (one_vs_all) or any number (sigmoid)."""
    target_threshold: float | None = None
    """With one_vs_all and sigmoid: a class of an image that is mixed of several (mixup, CutMix) is
    a full label where its fraction is above this, and else none; None keeps the fractions."""
    class_weights: Literal["balanced"] | None = None
    """The weight of each class in the softmax loss of training: balanced weighs an image by the
    inverse of the number of images of its class, on average 1; by default all weigh the same."""
    label_smoothing: float = 0.0
    """The fraction of each label that is spread over all classes (Szegedy et al. 2016)."""
    ema_decay: float | None = None
    """Keep and evaluate an exponential moving average of the weights with this decay, for example
    0.999."""
    whitened_stem: bool = False
    """Start the first convolution as the whitening of patches of the training images, and keep it
    so (Jordan 2024)."""
    evaluate_flipped: bool = False
    """Evaluate the mean of the logits of each image and its mirror image."""
    workdir: str | None = None
    """The run's folder; default runs/NAME. A run that was started in it is resumed."""
    evaluate_every: int = 1
    """The number of epochs between evaluations on the validation images."""
    microbatches: int = 1
    """Split the batch of a step into this many batches, computed one after the other, to save
    memory."""
    deterministic: bool = False
    """Use only algorithms of GPUs that give the same bits each time; some are slower. On a CPU all
    do."""
    on_nan: Literal["stop", "skip", "rollback"] = "stop"
    """What follows a step whose loss or gradient is not finite: the end of the run, with a dump
    from which debug-step repeats it; the next step, from the state before; or the last checkpoint,
    with half the learning rate from there on."""
    save_every: int | str | None = "60s"
    """Also save a checkpoint each time so many steps, epochs, or so much time is done (500,
    500steps, 1epoch, 90s, 10min, 2h), not only at evaluations; None: only there. By time, saves are
    so far apart that they take less than a hundredth of the time."""
    profile: int | None = None
    """Trace this many steps with JAX's profiler, and print the time of input, steps, evaluation and
    checkpoints. Every step is then waited for."""
    track: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio", "csv"], ...] = ()
    """Trackers of experiments that also get the curves; they need extras of the same names."""
    compile_cache: str | None = field(default_factory=lambda: f"{cache_text()}/xla")
    """The folder of compiled programs, for quick restarts; None turns it off. Default xla in
    FLAX_RESNET_CACHE, or where that is not set, in ~/.cache/flax_resnet."""
    dry_run: bool = False
    """Print the plan of memory, communication and scaling, and stop."""
    calibrate: int | None = None
    """With dry_run, time this many steps, and simulate scaling with the FLOP/s of a device in them
    in place of parallel.flop_rate."""
    overwrite: bool = False
    """Delete a run in workdir that has other settings or other data, and train in its place.
    Without it such a run is kept, and this one refused."""
