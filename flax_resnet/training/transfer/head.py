"""A linear head on features: multinomial logistic regression by L-BFGS on all images at once."""

import dataclasses
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console

from ...metrics import classification_scores
from ...report import append_history, keep_history
from ..checkpoint import Checkpoints
from ..recording import HISTORY
from ..setup import Run
from ..state import TrainState
from ..step import zero_metrics
from .features import Features

# Of the L2 term on the standardised features' kernel, against the mean loss of an image.
STRENGTHS = tuple(10.0 ** (-n / 2) for n in range(13))  # 1 to 1e-6
WITHOUT_VALIDATION = 1e-2
PATIENCE = 3  # strengths without a better validation loss before the search ends
ITERATIONS = 300


@dataclass(frozen=True)
class Fit:
    """A head and how it does.

    Attributes:
      strength: of the L2 term.
      kernel, bias: ``[D, K]`` and ``[K]``, for features that are not standardised.
      iterations: of L-BFGS.
      train, val: ``{"loss", "top1", "top5"}``; empty for no images.
    """

    strength: float
    kernel: np.ndarray
    bias: np.ndarray
    iterations: int
    train: Mapping[str, float]
    val: Mapping[str, float]

    @property
    def rank(self) -> tuple[float, float]:
        """Greater is better: validation accuracy, then loss."""
        return self.val.get("top1", 0.0), -self.val.get("loss", 0.0)


def fit_strengths(
    train: tuple[np.ndarray, np.ndarray], val: tuple[np.ndarray, np.ndarray], classes: int
) -> list[Fit]:
    """Heads for the strengths of L2 from 1 downwards, until validation has got no better for a
    while; one of a middling strength where there are no validation images.

    Args:
      train, val: features float ``[N, D]`` and labels int ``[N]``.
      classes: how many there are.
    """
    from scipy.optimize import minimize  # here, as predicting imports this room too: 0.6 s

    features, labels = train
    mean, scale = features.mean(0), features.std(0)
    scale = np.where(scale > 0, scale, 1)
    standard = jnp.asarray((features - mean) / scale)
    targets = jnp.asarray(labels)
    width = features.shape[1]

    @jax.jit
    def objective(flat: jax.Array, strength: jax.Array) -> tuple[jax.Array, jax.Array]:
        def value(flat: jax.Array) -> jax.Array:
            kernel, bias = flat[:-classes].reshape(width, classes), flat[-classes:]
            logits = standard @ kernel + bias
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
            return losses.mean() + strength / 2 * jnp.sum(kernel**2)

        return jax.value_and_grad(value)(flat)

    def for_scipy(flat: np.ndarray, strength: float) -> tuple[float, np.ndarray]:
        loss, gradient = objective(flat.astype(np.float32), strength)
        return float(loss), np.asarray(gradient, np.float64)

    fits: list[Fit] = []
    flat = np.zeros(width * classes + classes)
    best_loss, worse = math.inf, 0
    for strength in STRENGTHS if len(val[1]) else (WITHOUT_VALIDATION,):
        found = minimize(  # from the last strength's, which is near
            for_scipy,
            flat,
            (np.float32(strength),),
            method="L-BFGS-B",
            jac=True,
            options={"maxiter": ITERATIONS},
        )
        flat = found.x
        kernel = flat[:-classes].reshape(width, classes) / scale[:, None]
        bias = flat[-classes:] - mean @ kernel
        scored = [_scores(*split, kernel, bias) for split in (train, val)]
        fits.append(Fit(strength, kernel, bias, int(found.nit), *scored))
        worse = 0 if scored[1].get("loss", 0) < best_loss else worse + 1
        best_loss = min(best_loss, scored[1].get("loss", math.inf))
        if worse >= PATIENCE:
            break
    return fits


def _scores(
    features: np.ndarray, labels: np.ndarray, kernel: np.ndarray, bias: np.ndarray
) -> dict[str, float]:
    return classification_scores(features @ kernel + bias, labels) if len(labels) else {}


def train_head(
    run: Run, workdir: Path, checkpoints: Checkpoints, console: Console
) -> tuple[TrainState, int]:
    """Fit the head of a run on kept features, write its history and its one checkpoint.

    Returns:
      The state with the head that validates best, and the steps done: one for each strength tried
      and one for the choice.
    """
    data = run.dataset
    assert isinstance(data.train, Features) and isinstance(data.validation, Features)
    if step := checkpoints.latest_step():
        saved = checkpoints.restore(step, {"state": run.state, "sums": zero_metrics()})
        console.print(f"The head is in {workdir} already.")
        return saved["state"], step
    keep_history(workdir / HISTORY, 0)
    began = time.perf_counter()
    fits = fit_strengths(data.train.everything(), data.validation.everything(), len(data.classes))
    seconds = time.perf_counter() - began
    best = max(fits, key=lambda fit: fit.rank)
    passes = sum(fit.iterations for fit in fits)
    for step, fit in enumerate([*fits, best], 1):
        entry: dict[str, Any] = {"step": step, "epoch": step, "time": round(seconds, 3)}
        entry |= {f"train_{name}": float(fit.train[name]) for name in ("loss", "top1")}
        entry |= {f"val_{name}": float(value) for name, value in fit.val.items()}
        entry |= {"learning_rate": 0.0, "l2": fit.strength, "data_wait": 0.0}
        entry["images_per_second"] = 0.0  # no image was looked at
        if jax.process_index() == 0:
            append_history(workdir / HISTORY, entry)
        val = f"  val loss {fit.val['loss']:.4f}  top-1 {fit.val['top1']:.2%}" if fit.val else ""
        name = "chosen: " if step > len(fits) else ""
        console.print(
            f"{name}L2 {fit.strength:.0e}  loss {fit.train['loss']:.4f}  "
            f"top-1 {fit.train['top1']:.2%}{val}"
        )
    console.print(f"L-BFGS took {passes} passes over the features, {seconds:.1f} s.")
    fc = run.state.params["fc"]
    head = {
        "kernel": jnp.asarray(best.kernel, fc["kernel"].dtype),
        "bias": jnp.asarray(best.bias, fc["bias"].dtype),
    }
    params = {**run.state.params, "fc": head}
    step = len(fits) + 1
    state = dataclasses.replace(run.state, params=params, step=jnp.asarray(step, jnp.int32))
    if state.ema is not None:
        ema = {"params": params, "batch_stats": state.batch_stats}
        state = dataclasses.replace(state, ema=jax.tree.map(jnp.copy, ema))
    checkpoints.save(step, {"state": state, "sums": zero_metrics()}, best.val.get("top1"))
    return state, step
