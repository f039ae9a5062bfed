"""Losses and metrics: the one package that defines them, for training, evaluation and reports.

``losses.py`` and ``accuracy.py`` are JAX: one value per example, for use inside a compiled step.
All other modules are NumPy in float64: they score a whole set of images at once. Every name is
imported when it is first used, so that a report is written without waiting for JAX.
"""

import lazy_loader

# The names are listed in __init__.pyi.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
