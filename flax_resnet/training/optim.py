"""Optimisers and learning-rate schedules, from optax."""

from typing import Any

import jax
import optax
import optax.contrib

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

    ``sgd`` and ``adam`` add the weight decay to the gradient, as torch.optim does; ``adamw`` and
    ``sgdw`` decouple it (Loshchilov & Hutter 2019): it is the rate times the weight decay times the
    parameter, without momentum. ``lamb`` (You et al. 2020) scales only the steps of parameters that
    decay by their norm, as timm does. ``muon`` is ``optax.contrib.muon`` for the kernels of
    convolutions and ``sgdw`` for all else, as airbench (Jordan 2024) has it.
    """
    optimizer = _create_unclipped(config, schedule)
    if config.bias_rate != 1:
        # Last in the chain, it scales the learning rate.
        optimizer = optax.chain(optimizer, scale_biases(config.bias_rate))
    if config.clip_norm is None:
        return optimizer
    # Before the weight decay, as torch.nn.utils.clip_grad_norm_ does.
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)


def scale_biases(factor: float) -> optax.GradientTransformation:
    """Multiply the updates of biases by a factor."""

    def scale(path: tuple[Any, ...], update: jax.Array) -> jax.Array:
        return update * factor if getattr(path[-1], "key", None) == "bias" else update

    return optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(scale, updates))


def _create_unclipped(
    config: OptimizerConfig, schedule: optax.Schedule
) -> optax.GradientTransformation:
    mask = None if config.decay_all else decay_mask
    if config.name == "muon":
        return _muon(config, schedule)
    if config.name == "sgdw":
        return _sgdw(config, schedule)
    if config.name == "lamb":
        return _lamb(config, schedule)
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


def _sgdw(config: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    mask = None if config.decay_all else decay_mask
    return optax.chain(
        optax.trace(config.momentum, config.nesterov) if config.momentum else optax.identity(),
        optax.add_decayed_weights(config.weight_decay, mask),
        optax.scale_by_learning_rate(schedule),
    )


def _lamb(config: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """LAMB with the constants of timm; ``optax.lamb`` would scale biases by their norm too."""
    scale = optax.scale_by_trust_ratio()
    return optax.chain(
        optax.scale_by_adam(eps=1e-6),
        optax.add_decayed_weights(config.weight_decay, None if config.decay_all else decay_mask),
        scale if config.decay_all else optax.masked(scale, decay_mask),
        optax.scale_by_learning_rate(schedule),
    )


def _muon(config: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Muon for kernels ``[H, W, in, out]``, which it takes for matrices ``[H * W * in, out]``."""
    ratio = config.sgd_learning_rate / config.learning_rate
    matrix = optax.contrib.MuonDimensionNumbers((0, 1, 2), 3)
    muon = optax.contrib.muon(
        schedule,
        beta=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
        muon_weight_dimension_numbers=lambda kernels: jax.tree.map(lambda _: matrix, kernels),
    )
    sgd = _sgdw(config, lambda step: schedule(step) * ratio)
    return optax.partition({"muon": muon, "sgd": sgd}, _is_convolution)


def _is_convolution(params: Any) -> Any:
    """``"muon"`` for the kernels of convolutions, ``"sgd"`` for other parameters."""
    return jax.tree.map(lambda leaf: "muon" if leaf.ndim == 4 else "sgd", params)
