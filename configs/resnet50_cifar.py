"""ResNet-50 with the 3x3 stem on CIFAR-10.

Source:   weiaicunzai/pytorch-cifar100's and kuangliu/pytorch-cifar's nets with the classic
          schedule: SGD 0.1, momentum 0.9, weight decay 1e-4, batch 128, x0.1 at epochs 100 and 150
          of 200; 4-pixel pad-and-crop and mirroring.
Command:  python train.py --config resnet50_cifar
Expected: 95.55% test accuracy after 200 epochs (published; not re-measured here).
Cost:     1.30 GMACs an image: for a GPU or TPU; on two CPU cores --max-steps 20 shows that it runs.
"""

from dataclasses import replace

from flax_resnet.config import load_config

resnet18 = load_config("resnet18_cifar")
config = replace(resnet18, model=replace(resnet18.model, name="resnet50"), workdir=None)
