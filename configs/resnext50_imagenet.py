"""ResNeXt-50 (32x4d) on ImageNet-1k: the recipe of torchvision's first weights (V1).

Source:   github.com/pytorch/vision, references/classification: SGD 0.1 for a batch of 256, momentum
          0.9, x0.1 every 30 epochs, weight decay 1e-4 on everything; after Goyal et al. 2017.
Command:  python train.py --config resnext50_imagenet --data.dir IMAGENET
          (a folder with train/CLASS/*.JPEG and val/CLASS/*.JPEG)
Expected: 77.6% / 93.7% validation accuracy (torchvision's; not run by us).
Cost:     100 epochs of 1.28 million photos; eight GPUs or a TPU slice for a day.
"""

from dataclasses import replace

from flax_resnet.config import load_config

resnet50 = load_config("resnet50_imagenet")
config = replace(
    resnet50,
    model=replace(resnet50.model, name="resnext50_32x4d"),
    optimizer=replace(resnet50.optimizer, milestones=(30, 60, 90)),
    epochs=100,
    workdir=None,
)
