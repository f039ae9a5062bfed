"""The two facts about JAX that have no public name; the only file that imports ``jax._src``.

``tests/test_jax_internals.py`` fails once JAX offers a public name, so that this file can go.
"""

import sys
from typing import Any


def coordination_client() -> Any:
    """The client of the coordination service among a run's processes; None for one process."""
    from jax._src import distributed

    return distributed.global_state.client


def has_started() -> bool:
    """Whether JAX has initialised its devices, after which new flags of XLA have no effect.

    JAX is not imported for it.
    """
    bridge = sys.modules.get("jax._src.xla_bridge")
    return bridge is not None and bool(bridge.backends_are_initialized())
