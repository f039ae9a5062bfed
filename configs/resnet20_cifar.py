"""ResNet-20 on CIFAR-10, as in the paper; resnet32, 44, 56 and 110 by override.

Source:   He et al. 2015, "Deep Residual Learning for Image Recognition", section 4.2: SGD 0.1,
          momentum 0.9, weight decay 1e-4, batch 128, x0.1 at 32k and 48k of 64k steps (epochs 91
          and 137 of 182 on 45,000 images); 4-pixel pad-and-crop and mirroring; option A.
Command:  python train.py --config resnet20_cifar
          python train.py --config resnet20_cifar --model.name resnet56 --workdir runs/resnet56
          (the paper warms resnet110 up: add --optimizer.warmup-epochs 1)
Expected: test error 8.75% (paper; resnet32 7.51, 44 7.17, 56 6.97, 110 6.43).
Cost:     0.041 GMACs an image: a schedule of minutes on a GPU, of three hours on two CPU cores with
          AVX2 and the native package.
"""

from flax_resnet.config import Config, DataConfig, ModelConfig, OptimizerConfig

config = Config(
    model=ModelConfig(name="resnet20"),
    data=DataConfig(name="cifar10", batch_size=128),
    optimizer=OptimizerConfig(
        learning_rate=0.1,
        nesterov=False,
        weight_decay=1e-4,
        decay_all=True,  # as the paper's solver
        schedule="step",
        milestones=(91, 137),
    ),
    epochs=182,
)
