"""A small residual net on MNIST.

Source:   the widely taught MNIST residual net (two convolution stages, two residual blocks) with
          batch 64, Adam 1e-3 and x0.1 every 3 epochs; its block made He et al.'s, with batch norm.
Command:  python train.py --config mnist
          python train.py --config mnist --data.name fashion_mnist --workdir runs/fashion_mnist
Expected: 98.9% test accuracy after --epochs 2 (measured; at least 98.5%).
Cost:     about a minute an epoch on two CPU cores.
"""

from flax_resnet.config import AugmentConfig, Config, DataConfig, ModelConfig, OptimizerConfig

config = Config(
    model=ModelConfig(name="resnet_mnist"),
    data=DataConfig(name="mnist", batch_size=64),
    augment=AugmentConfig(crop_padding=0, flip=False),
    optimizer=OptimizerConfig(
        name="adam", learning_rate=1e-3, weight_decay=0.0, schedule="step", milestones=(3, 6)
    ),
    epochs=9,
)
