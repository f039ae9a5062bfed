"""ResNet-50 with a 3x3 stem on CIFAR-100.

Source:   He et al. 2015 (arXiv:1512.03385) on 32x32 images, with the weight decay and the schedule
          that common reproductions use: x0.2 at epochs 60, 120 and 160.
Command:  python train.py --config resnet50_cifar100
Expected: 79.9% test accuracy (published reproductions; not run by us in full).
Cost:     200 epochs; an accelerator is needed.
"""

from dataclasses import replace

from flax_resnet.config import load_config

resnet50 = load_config("resnet50_cifar")
config = replace(
    resnet50,
    data=replace(resnet50.data, name="cifar100"),
    optimizer=replace(
        resnet50.optimizer,
        nesterov=True,
        weight_decay=5e-4,
        milestones=(60, 120, 160),
        decay_factor=0.2,
        warmup_epochs=1,
    ),
    workdir=None,
)
