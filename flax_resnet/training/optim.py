"""Optimisers and learning-rate schedules, from optax."""

from typing import Any

import jax
import optax

from ..config import OptimizerConfig


def create_schedule(config: OptimizerConfig, total_steps: int, epochs: float) -> optax.Schedule:
    """The learning rate by step, from 0: a linear warm-up, then the schedule that is named.

    That is constant, falls to zero along a cosine or a line, or falls by a factor at milestones.

    Args:
        config: The optimiser section of the settings.
        total_steps: Steps of the whole run.
        epochs: Epochs of the whole run.
    """
    per_epoch = total_steps / epochs
    warmup = round(config.warmup_epochs * per_epoch)
    rate = config.learning_rate
    after: optax.Schedule
    if config.schedule == "cosine":
        after = optax.cosine_decay_schedule(rate, max(total_steps - warmup, 1))
    elif config.schedule == "linear":
        after = optax.linear_schedule(rate, 0.0, max(total_steps - warmup, 1))
    elif config.schedule == "step":
        # Milestones count from the start of training, join_schedules from the end of warm-up.
        drops = {
            round(epoch * per_epoch) - warmup: config.decay_factor for epoch in config.milestones
        }
        after = optax.piecewise_constant_schedule(rate, drops)
    else:
        after = optax.constant_schedule(rate)
    if warmup == 0:
        return after
    # The first step already moves: the rate of step 0 is rate / warmup.
    rise = optax.linear_schedule(rate / warmup, rate, warmup - 1 or 1)
    return optax.join_schedules([rise, after], [warmup])


def decay_mask(params: Any) -> Any:
    """True for kernels: normalisation parameters and biases are not decayed (He et al. 2019)."""

    def is_kernel(path: tuple[Any, ...], _: Any) -> bool:
        return getattr(path[-1], "key", None) == "kernel"

    return jax.tree_util.tree_map_with_path(is_kernel, params)


def create_optimizer(
    config: OptimizerConfig, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """The optax optimiser that the settings name.

    ``sgd`` and ``adam`` add the weight decay to the gradient, as torch.optim does; ``adamw``
    decouples it (Loshchilov & Hutter 2019).
    """
    optimizer = _create_unclipped(config, schedule)
    if config.clip_norm is None:
        return optimizer
    # Before the weight decay, as torch.nn.utils.clip_grad_norm_ does.
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)


def _create_unclipped(
    config: OptimizerConfig, schedule: optax.Schedule
) -> optax.GradientTransformation:
    mask = None if config.decay_all else decay_mask
    if config.name == "adamw":
        return optax.adamw(schedule, weight_decay=config.weight_decay, mask=mask)
    if config.name == "adam":
        optimizer = optax.adam(schedule)
    else:
        # Without momentum, Nesterov's variant is plain SGD.
        momentum = config.momentum or None
        optimizer = optax.sgd(schedule, momentum, nesterov=config.nesterov and bool(momentum))
    if config.weight_decay == 0:
        return optimizer
    return optax.chain(optax.add_decayed_weights(config.weight_decay, mask), optimizer)
