"""Training: the pure step and its state, the loop around them, and transfer learning.

``step.py`` and ``state.py`` hold what a loop of your own needs. ``run.py`` resolves settings into
the objects of a run, ``segments.py`` plans it, ``loop.py`` trains it, and ``recording.py`` writes
its history, checkpoints and results. Names are imported when they are first used, because
prediction needs few of them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
