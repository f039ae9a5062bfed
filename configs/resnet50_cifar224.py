"""ResNet-50 on CIFAR-10 enlarged to 224x224: the widely copied tutorial.

Source:   the transfer-learning tutorials that resize CIFAR-10 to ImageNet's size: Adam 1e-3,
          10 epochs, batch 64, mirroring. Images are enlarged on the device, not before.
Command:  python train.py --config resnet50_cifar224
Expected: not measured here (from scratch; 4.1 GMACs an image).
Cost:     for a GPU or TPU.
"""

from flax_resnet.config import AugmentConfig, Config, DataConfig, ModelConfig, OptimizerConfig

config = Config(
    model=ModelConfig(name="resnet50"),
    data=DataConfig(name="cifar10", batch_size=64, image_size=224),
    augment=AugmentConfig(crop_padding=0),
    optimizer=OptimizerConfig(
        name="adam", learning_rate=1e-3, weight_decay=0.0, schedule="constant"
    ),
    epochs=10,
)
