"""The state of a training run: the arrays that a step reads and writes."""

from typing import Any

import jax
from flax import struct


@struct.dataclass
class TrainState:
    """A pytree of arrays only; everything that configures a step is in ``TrainStep``.

    Attributes:
        step: Number of steps done, int32 ``[]``.
        params: The model's parameters.
        batch_stats: The model's running statistics.
        opt_state: The optimiser's state, for the parameters that train.
        ema: ``{"params", "batch_stats"}`` averaged over steps, or None.
        key: Raw data of the run's PRNG key, uint32. The randomness of a step is this key folded
            with ``step``.
        rate_factor: Factor of the learning rate, float32 ``[]``: 1, or less after the run was
            rolled back because it diverged.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any
    key: jax.Array
    rate_factor: jax.Array

    @property
    def eval_variables(self) -> dict[str, Any]:
        """The variables that evaluation and prediction use: the moving average if there is one."""
        if self.ema is not None:
            return dict(self.ema)
        return {"params": self.params, "batch_stats": self.batch_stats}
