"""ResNet-50 with the 3x3 stem on CIFAR-10.

Source:   weiaicunzai/pytorch-cifar100's and kuangliu/pytorch-cifar's nets with the classic
          schedule: SGD 0.1, momentum 0.9, weight decay 1e-4, batch 128, x0.1 at epochs 100 and 150
          of 200; 4-pixel pad-and-crop and mirroring.
Command:  python train.py --config resnet50_cifar
Expected: 95.55% test accuracy after 200 epochs (published; not re-measured here).
Cost:     1.30 GMACs an image: for a GPU or TPU; on two CPU cores --max-steps 20 shows that it runs.
"""

from flax_resnet.config import Config, DataConfig, ModelConfig, OptimizerConfig

config = Config(
    model=ModelConfig(name="resnet50", stem="cifar"),
    data=DataConfig(name="cifar10", batch_size=128),
    optimizer=OptimizerConfig(
        learning_rate=0.1,
        nesterov=False,
        weight_decay=1e-4,
        schedule="step",
        milestones=(100, 150),
    ),
    epochs=200,
)
