"""A linear head on features: multinomial logistic regression, fitted by L-BFGS on all images."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ...metrics import classification_scores
from ..recording import Recorder
from ..run import Run
from ..state import TrainState
from ..step import zero_step_metrics
from .features import Features

# Factors of the L2 penalty on the kernel for standardised features, relative to the mean loss.
STRENGTHS = tuple(10.0 ** (-n / 2) for n in range(13))  # 1 to 1e-6
DEFAULT_STRENGTH = 1e-2  # without validation images to choose by
PATIENCE = 3  # strengths without a better validation loss before the search ends
ITERATIONS = 300


@dataclass(frozen=True)
class Fit:
    """A fitted head and its scores.

    Attributes:
        strength: Factor of the L2 penalty.
        kernel: ``[D, K]``, for features that are not standardised.
        bias: ``[K]``.
        iterations: Those of L-BFGS.
        train: ``{"loss", "top1", "top5"}`` on the training images.
        val: The same on the validation images; empty for no images.
    """

    strength: float
    kernel: np.ndarray
    bias: np.ndarray
    iterations: int
    train: Mapping[str, float]
    val: Mapping[str, float]

    @property
    def rank(self) -> tuple[float, float]:
        """Orders heads by validation accuracy, then by loss; greater is better."""
        return self.val.get("top1", 0.0), -self.val.get("loss", 0.0)


def fit_strengths(
    train: tuple[np.ndarray, np.ndarray],
    val: tuple[np.ndarray, np.ndarray],
    classes: int,
    class_weights: tuple[float, ...] | None = None,
    strengths: Sequence[float] | None = None,
) -> list[Fit]:
    """Fit a head for each L2 strength, from 1 downwards.

    The search ends when the validation loss has not improved for a while. Without validation images
    there is one head of a medium strength.

    SciPy's L-BFGS-B calls a compiled objective, so every pass over the features runs on the device;
    scikit-learn's LogisticRegression has the same optimiser, but computes on the host.

    Args:
        train: Features float ``[N, D]`` and labels int ``[N]``.
        val: The same of the validation images.
        classes: Number of classes.
        class_weights: Weight of each class in the loss that is minimised; by default 1.
        strengths: Other L2 strengths than ``STRENGTHS``.
    """
    # Imported here because prediction imports this package too, and SciPy takes 0.6 s.
    from scipy.optimize import minimize

    features, labels = train
    mean, scale = features.mean(0), features.std(0)
    scale = np.where(scale > 0, scale, 1)
    standardised = jnp.asarray((features - mean) / scale)
    targets = jnp.asarray(labels)
    weights = jnp.asarray(class_weights or (1.0,) * classes, jnp.float32)[targets]
    width = features.shape[1]

    @jax.jit
    def objective(flat: jax.Array, strength: jax.Array) -> tuple[jax.Array, jax.Array]:
        def value(flat: jax.Array) -> jax.Array:
            kernel, bias = flat[:-classes].reshape(width, classes), flat[-classes:]
            logits = standardised @ kernel + bias
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
            return (weights * losses).mean() + strength / 2 * jnp.sum(kernel**2)

        return jax.value_and_grad(value)(flat)

    def for_scipy(flat: np.ndarray, strength: float) -> tuple[float, np.ndarray]:
        loss, gradient = objective(flat.astype(np.float32), strength)
        return float(loss), np.asarray(gradient, np.float64)

    fits: list[Fit] = []
    flat = np.zeros(width * classes + classes)
    best_loss, without_progress = math.inf, 0
    for strength in strengths or (STRENGTHS if len(val[1]) else (DEFAULT_STRENGTH,)):
        found = minimize(  # starts from the last strength's solution, which is near
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
        without_progress = 0 if scored[1].get("loss", 0) < best_loss else without_progress + 1
        best_loss = min(best_loss, scored[1].get("loss", math.inf))
        if without_progress >= PATIENCE:
            break
    return fits


def _scores(
    features: np.ndarray, labels: np.ndarray, kernel: np.ndarray, bias: np.ndarray
) -> dict[str, float]:
    return classification_scores(features @ kernel + bias, labels) if len(labels) else {}


def fit_head(run: Run, state: TrainState, recorder: Recorder) -> tuple[TrainState, int]:
    """Fit the head of a run on kept features; write its history and its one checkpoint.

    Args:
        run: The run; its data set holds features.
        state: The state before the first step.
        recorder: Writes the history and the checkpoint.

    Returns:
        The state with the head of the best validation score, and the number of steps done: one for
        each strength tried, and one for the choice.
    """
    data, console = run.dataset, recorder.console
    assert isinstance(data.train, Features) and isinstance(data.validation, Features)
    restored, _, step = recorder.restore(state)
    if step:
        return restored, step
    recorder.truncate_history(0)
    began = time.perf_counter()
    fits = fit_strengths(data.train.everything(), data.validation.everything(), len(data.classes),
                         run.step.class_weights)  # fmt: skip
    seconds = time.perf_counter() - began
    best = max(fits, key=lambda fit: fit.rank)
    for step, fit in enumerate([*fits, best], 1):
        entry: dict[str, Any] = {"step": step, "epoch": step, "time": round(seconds, 3)}
        entry |= {f"train_{name}": float(fit.train[name]) for name in ("loss", "top1")}
        entry |= {f"val_{name}": float(value) for name, value in fit.val.items()}
        entry |= {"learning_rate": 0.0, "l2": fit.strength, "data_wait": 0.0}
        entry["images_per_second"] = 0.0  # the images themselves were not read
        recorder.append(entry)
        val = f"  val loss {fit.val['loss']:.4f}  top-1 {fit.val['top1']:.2%}" if fit.val else ""
        name = "chosen: " if step > len(fits) else ""
        console.print(
            f"{name}L2 {fit.strength:.0e}  loss {fit.train['loss']:.4f}  "
            f"top-1 {fit.train['top1']:.2%}{val}"
        )
    passes = sum(fit.iterations for fit in fits)
    console.print(f"L-BFGS took {passes} passes over the features, {seconds:.1f} s.")
    fc = state.params["fc"]
    head = {
        "kernel": jnp.asarray(best.kernel, fc["kernel"].dtype),
        "bias": jnp.asarray(best.bias, fc["bias"].dtype),
    }
    params = {**state.params, "fc": head}
    step = len(fits) + 1
    ema = state.ema
    if ema is not None:
        ema = jax.tree.map(jnp.copy, {"params": params, "batch_stats": state.batch_stats})
    state = state.replace(  # type: ignore[attr-defined]
        params=params, ema=ema, step=jnp.asarray(step, jnp.int32)
    )
    state = run.partitioning.put_state(state)
    sums = run.partitioning.replicate(zero_step_metrics())
    recorder.checkpoints.save(step, {"state": state, "sums": sums}, best.val.get("top1"))
    return state, step
