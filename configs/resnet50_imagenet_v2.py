"""ResNet-50 on ImageNet-1k: the recipe of torchvision's second weights (V2).

Source:   "How to Train State-Of-The-Art Models Using TorchVision's Latest Primitives" (2021) and
          github.com/pytorch/vision, references/classification: SGD 0.5 for a batch of 1,024, 5
          epochs of warm-up, cosine, weight decay 2e-5 but on norms, TrivialAugmentWide, random
          erasing 0.1, mixup 0.2 or CutMix 1.0, label smoothing 0.1, each image 4 times in a batch,
          trained at 176, evaluated at 224 of 232.
          Its moving average is taken every 32 steps with a share of 2e-5 * 1024 * 32 / 600 =
          1.09e-3; ours every step with 1 - (1 - 1.09e-3) ** (1 / 32) = 3.415e-5, the same horizon.
Command:  python train.py --config resnet50_imagenet_v2 --data.dir IMAGENET
          (a folder with train/CLASS/*.JPEG and val/CLASS/*.JPEG)
Expected: 80.9% / 95.4% validation accuracy (torchvision's; not run by us).
Differs:  the average starts with the weights of step 0 and not after warm-up, so that evaluations
          of the first 50 epochs lag behind; erased boxes are black and not grey; the classifier's
          bias is not decayed; the rate moves every step and not every epoch.
Cost:     600 epochs of 1.28 million photos; eight GPUs or a TPU slice for three days.
"""

from flax_resnet.config import AugmentConfig, Config, DataConfig, ModelConfig, OptimizerConfig

config = Config(
    model=ModelConfig(name="resnet50"),
    data=DataConfig(
        name="folder", batch_size=1024, image_size=224, resize=232, train_sizes=((0, 176),)
    ),
    augment=AugmentConfig(
        random_resized_crop=True,
        crop_padding=0,
        trivial_augment=True,
        random_erasing=0.1,
        repeats=4,
        mixup_alpha=0.2,
        cutmix_alpha=1.0,
    ),
    optimizer=OptimizerConfig(
        learning_rate=0.5,
        nesterov=False,
        weight_decay=2e-5,
        schedule="cosine",
        warmup_epochs=5,
    ),
    label_smoothing=0.1,
    ema_decay=1 - 3.415e-5,
    epochs=600,
)
