"""Plain-56 on CIFAR-10: ResNet-56 without its shortcuts, for the degradation study.

Source:   He et al. 2015, section 4.2 and figure 6: the recipe of configs/resnet20_cifar.py.
Command:  python train.py --config plain56_cifar
Expected: about 13% test error (read off the paper's figure), worse than plain-20: depth without
          shortcuts degrades.
Cost:     as resnet56 of the same recipe.
"""

from dataclasses import replace

from flax_resnet.config import load_config

plain20 = load_config("plain20_cifar")
config = replace(plain20, model=replace(plain20.model, name="plain56"), workdir=None)
