"""Plain-20 on CIFAR-10: ResNet-20 without its shortcuts, for the degradation study.

Source:   He et al. 2015, section 4.2 and figure 6: the recipe of configs/resnet20_cifar.py.
Command:  python train.py --config plain20_cifar
Expected: about 9% test error (read off the paper's figure).
Cost:     as resnet20 of the same recipe.
"""

from dataclasses import replace

from flax_resnet.config import load_config

resnet20 = load_config("resnet20_cifar")
config = replace(resnet20, model=replace(resnet20.model, name="plain20"), workdir=None)
