"""The guard against diverged training: a state that is not finite is never saved."""

import math
from functools import partial

import jax
import jax.numpy as jnp

from ..config import Config
from ..errors import UserError
from ..models import QUICK_COMPILATION
from .state import TrainState


def check_loss(loss: float, step: int, config: Config) -> None:
    """Raise a ``UserError`` if the mean loss of the steps before ``step`` is not finite."""
    if not math.isfinite(loss):
        raise _diverged("The loss is", step, config)


def check_state(state: TrainState, step: int, config: Config) -> None:
    """Raise a ``UserError`` that names the first array of ``state`` with NaN or infinity.

    A gradient that is not finite makes its parameter so, and the optimiser's averages of it, for
    good. So the step need not compute the gradient's norm, and costs nothing more: it is enough to
    look at the state before it is saved.
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


@partial(jax.jit, compiler_options=QUICK_COMPILATION)
def _are_finite(arrays: list[jax.Array]) -> jax.Array:
    return jnp.stack([jnp.isfinite(array).all() for array in arrays])


def _diverged(what: str, step: int, config: Config) -> UserError:
    return UserError(
        f"{what} not finite at step {step}: training diverged. Lower the learning rate "
        f"(--optimizer.learning-rate, now {config.optimizer.learning_rate:g}) or add warm-up "
        "(--optimizer.warmup-epochs 5); the checkpoints saved before are kept."
    )
