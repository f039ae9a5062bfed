"""A search for the learning rate (Smith 2017, section 3.3): the loss while the rate rises."""

import dataclasses
import math
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optax

from ..config import Config, check_config
from ..errors import UserError
from ..report.plots import save_learning_rates
from .evaluation import to_means
from .partitioning import compile_step
from .resolve import resolve
from .step import zero_step_metrics

LOWEST, HIGHEST = 1e-6, 10.0
STEPS = 100
_SMOOTHING = 0.9  # of the moving average of the loss
_DIVERGED = 4.0  # times the least loss: the search ends
_FEWEST = 10  # steps that a suggestion needs


@dataclass(frozen=True)
class RateSearch:
    """The losses of a search.

    Attributes:
        rates: The learning rate of each step, float64 ``[N]``.
        losses: The loss before it, float64 ``[N]``.
        smoothed: Their moving average, float64 ``[N]``.
        suggestion: A tenth of the rate with the least smoothed loss; None where the loss did not
            fall.
    """

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    suggestion: float | None


def find_learning_rate(
    config: Config, *, steps: int = STEPS, plot: Path | None = None
) -> RateSearch:
    """Train a few steps while the learning rate rises from 1e-6 to 10, and watch the loss.

    No run is written. Weights, data, augmentation, optimiser and seed are those of the settings.

    Args:
        config: The settings.
        steps: Steps from the lowest to the highest rate; a loss that diverges ends them.
        plot: Also draw the loss by rate to this picture.

    Raises:
        UserError: Settings or data are wrong, or training does not go by steps.
    """
    if steps < _FEWEST:
        raise UserError(f"--steps is {steps}; it must be {_FEWEST} or more.", exit_code=2)
    check_config(config)
    run = resolve(config)
    if run.views:
        raise UserError(
            "A search for the learning rate trains the model itself: add --transfer.views 0.",
            exit_code=2,
        )
    needed = math.ceil(steps * config.data.batch_size / len(run.dataset.train))
    run = run.with_epochs(max(config.epochs, needed))
    # One program is compiled, for images of one size: that at which training begins.
    size = run.image_size_at(0)
    sizes = () if size is None else ((0, size),)
    data = dataclasses.replace(run.config.data, train_sizes=sizes)
    limited = dataclasses.replace(run.config, max_steps=steps, data=data)
    schedule = optax.exponential_decay(LOWEST, steps - 1, HIGHEST / LOWEST)
    run = dataclasses.replace(run, config=limited, schedule=schedule)
    # A step that is skipped would have the loss 0.
    whole = dataclasses.replace(run.step, skips_nonfinite=False)
    run = dataclasses.replace(run, step=whole)
    step = run.step_for(run.phase_at(0), size)
    # Its optimiser may keep other state under this schedule than under the config's.
    state = run.partitioning.put_state(step.init_optimizer(run.init()))
    losses: list[float] = []
    compiled = None
    with closing(run.batches(0)) as batches:
        for batch in batches:
            sums = run.partitioning.replicate(zero_step_metrics())
            compiled = compiled or compile_step(step, run.partitioning, state, sums, batch)
            state, sums = compiled(state, sums, batch)
            loss = to_means(sums)["loss"]
            if not math.isfinite(loss) or loss > _DIVERGED * min([loss, *smooth(losses)]):
                break
            losses.append(loss)
    rates = np.array([float(schedule(index)) for index in range(len(losses))])
    found = suggest(rates, np.array(losses))
    if plot is not None:
        save_learning_rates(found.rates, found.losses, found.smoothed, found.suggestion, plot)
    return found


def smooth(losses: list[float] | np.ndarray) -> np.ndarray:
    """The moving average of losses, without the bias towards zero at its start."""
    average, averages = 0.0, []
    for number, loss in enumerate(losses, 1):
        average = _SMOOTHING * average + (1 - _SMOOTHING) * float(loss)
        averages.append(average / (1 - _SMOOTHING**number))
    return np.array(averages)


def suggest(rates: np.ndarray, losses: np.ndarray) -> RateSearch:
    """Suggest a learning rate: a tenth of the one with the least smoothed loss."""
    smoothed = smooth(losses)
    suggestion = None
    if len(losses) >= _FEWEST and smoothed.min() < 0.98 * smoothed[0]:
        suggestion = float(rates[smoothed.argmin()]) / 10
    return RateSearch(rates, losses, smoothed, suggestion)
