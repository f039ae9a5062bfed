"""The guard against diverged training: a state that is not finite is never saved.

The loop sees that the loss or a gradient was not finite when it reads the metrics. ``explain`` then
computes the steps since the last checkpoint again, one by one, finds the first that fails, and
keeps the state before it in ``debug/step-N/``, from which ``flax-resnet debug-step`` repeats it.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp

from ..config import Config
from ..errors import UserError
from ..weights.formats.checkpoint import LOOP_COMPILATION
from .eval_step import Metrics
from .state import TrainState


class DivergedError(UserError):
    """Training diverged: a loss, a gradient or an array of the state is not finite."""


def check_loss(sums: Metrics, step: int, config: Config) -> None:
    """Raise a ``DivergedError`` if the loss or a gradient before ``step`` is not finite.

    The sums are looked at and not the means, which are NaN where all steps were skipped.
    """
    for name, text in (("loss", "The loss"), ("grad_norm", "The gradient's norm")):
        if not math.isfinite(sums[name]):
            raise _diverged(f"{text} is", step, config)


def check_state(state: TrainState, step: int, config: Config) -> None:
    """Raise a ``DivergedError`` that names the first array of ``state`` with NaN or infinity.

    It looks at what no gradient shows, such as the running statistics.
    """
    floats = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        if jnp.issubdtype(leaf.dtype, jnp.floating)
    }
    finite = jax.device_get(_are_finite(list(floats.values())))
    broken = [name for name, is_finite in zip(floats, finite, strict=True) if not is_finite]
    if broken:
        others = f" and {len(broken) - 1} other arrays are" if len(broken) > 1 else " is"
        raise _diverged(f"{broken[0]}{others}", step, config)


@partial(jax.jit, compiler_options=LOOP_COMPILATION)
def _are_finite(arrays: list[jax.Array]) -> jax.Array:
    return jnp.stack([jnp.isfinite(array).all() for array in arrays])


def _diverged(what: str, step: int, config: Config) -> DivergedError:
    return DivergedError(
        f"{what} not finite at step {step}: training diverged. Lower the learning rate "
        f"(--optimizer.learning-rate, now {config.optimizer.learning_rate:g}) or add warm-up "
        "(--optimizer.warmup-epochs 5); the checkpoints saved before are kept."
    )
