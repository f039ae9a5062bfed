"""Plain-20 on CIFAR-10: ResNet-20 without its shortcuts, for the degradation study.

Source:   He et al. 2015, section 4.2 and figure 6: the recipe of configs/resnet20_cifar.py.
Command:  python train.py --config plain20_cifar
Expected: about 9% test error (read off the paper's figure).
Cost:     as resnet20 of the same recipe.
"""

from flax_resnet.config import Config, DataConfig, ModelConfig, OptimizerConfig

config = Config(
    model=ModelConfig(name="plain20"),
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
