"""ResNet-34 on a folder of photos, a folder for each class.

Source:   the recipe of the widely copied flower tutorials: all parameters from torchvision's
          weights, Adam at 1e-4.
Command:  python train.py --config resnet34_flowers --data.dir FOLDER
          (--transfer.weights PATH for a file of weights, none for random ones)
Expected: not measured.
Cost:     30 epochs of 3,400 photos at 224x224; an accelerator is advised.
"""

from flax_resnet.config import (
    AugmentConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    TransferConfig,
)

config = Config(
    model=ModelConfig(name="resnet34"),
    data=DataConfig(name="folder", batch_size=32, image_size=224),
    augment=AugmentConfig(random_resized_crop=True, crop_padding=0),
    optimizer=OptimizerConfig(name="adam", learning_rate=1e-4, weight_decay=0.0, schedule="cosine"),
    transfer=TransferConfig(weights="DEFAULT"),
    epochs=30,
)
