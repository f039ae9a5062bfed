"""A narrow ResNet-9 on CIFAR-10 in 12 epochs, by the settings of airbench.

Source:   Page 2018, "How to Train Your ResNet" (the net, here with a third of its operations);
          Jordan 2024 ("94% on CIFAR-10 in 3.29 seconds", airbench) and tysam-code/hlb-CIFAR10 (the
          settings: Muon, a frozen first convolution that whitens, alternating mirror images, shifts
          of 2 pixels, label smoothing, and evaluation on each image and its mirror image).
Command:  python train.py --config resnet9_cifar
Expected: 93.5% of the 5,000 validation images, the mean of three seeds; 94% is asked for
          (airbench94: 94.01% in 9.9 epochs of another net, on 50,000 training images and with more
          views of a test image; hlb-CIFAR10: 94.05% in 815 s on a CPU).
Cost:     0.13 GMACs an image: 53 minutes on one CPU core with AVX2 and the native package.
"""

from flax_resnet.config import AugmentConfig, Config, DataConfig, ModelConfig, OptimizerConfig

config = Config(
    model=ModelConfig(name="resnet9", widths=(32, 64, 256, 256), momentum=0.6),
    data=DataConfig(name="cifar10", batch_size=512),
    augment=AugmentConfig(crop_padding=2, crop_fill="mirror", alternating_flip=True),
    optimizer=OptimizerConfig(
        name="muon",
        learning_rate=0.24,
        sgd_learning_rate=0.8,
        momentum=0.9,
        weight_decay=0.02,
        schedule="linear",
        warmup_epochs=2,
    ),
    label_smoothing=0.2,
    whitened_stem=True,
    evaluate_flipped=True,
    evaluate_every=2,
    epochs=12,
)
