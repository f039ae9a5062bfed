"""ResNet and ResNeXt for JAX: models, training, weights.

The public names are listed in ``__init__.pyi``. Each is imported at its first use, so that the
command line answers at once: JAX alone takes a second and a half.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.1.0"
