"""The state of a training run: everything that a step reads and writes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import NamedSharding

from .transfer.freezing import Trainable, partition


@dataclass(frozen=True)
class StepOptions:
    """What a step does besides forward, backward and update; static under jit.

    Attributes:
      augment: ``(key, images, place) -> images`` in training, see data.Augmentation.
      preprocess: ``images -> images`` in training and evaluation, see data.Preprocessing.
      train_preprocess: the same in training, where it differs.
      evaluate_flipped: evaluate the mean of the logits of each image and its mirror image.
      mix: ``(key, images, targets, axis_name) -> images, targets`` in training, targets ``[N, K]``
        float: mixup or CutMix, see data.Mixing; the model must have ``num_classes``.
      loss: "softmax" cross-entropy, where an image has one class; or "sigmoid" binary
        cross-entropy, the mean over the classes, where it has any number of them (labels ``[N,
        classes]``), or where each class is to be a question of its own.
      label_smoothing: share of each label spread evenly over all classes; with labels ``[N,
        classes]``, over yes and no.
      ema_decay: decay of the moving average of parameters and running statistics, or None.
      trainable: whether the parameter at a path such as ``("layer4_0", "conv1", "kernel")`` is
        trained; None trains all. What is not keeps its bits, is not differentiated and has no part
        in the optimiser's state. Batch norm's running statistics are the model's business
        (``freeze_before``, ``frozen_statistics``).
      microbatches: cut the batch into so many parts, run one after the other, to save memory: the
        gradient is that of the whole batch. Part ``k`` of ``K`` holds every ``K``-th example from
        the ``k``-th on. Each part has its own batch-norm statistics, and the running ones take them
        in order; dropout draws anew for each part.
      gathered: under ``jit`` with parameters spread over the devices, the (replicated) sharding in
        which the forward and backward pass use them.
    """

    augment: Callable[[jax.Array, jax.Array, jax.Array], jax.Array] | None = None
    preprocess: Callable[[jax.Array], jax.Array] | None = None
    train_preprocess: Callable[[jax.Array], jax.Array] | None = None
    evaluate_flipped: bool = False
    mix: Callable[..., tuple[jax.Array, jax.Array]] | None = None
    loss: Literal["softmax", "sigmoid"] = "softmax"
    label_smoothing: float = 0.0
    ema_decay: float | None = None
    trainable: Trainable | None = None
    microbatches: int = 1
    gathered: NamedSharding | None = None


@struct.dataclass
class TrainState:
    """A pytree; ``model``, ``tx`` and ``options`` are static fields.

    Attributes:
      step: steps done, int32 ``[]``.
      params, batch_stats: the model's variables.
      opt_state: the optimiser's, of the parameters that train.
      ema: ``{"params", "batch_stats"}`` averaged over steps, or None.
      key: raw data of the run's PRNG key, uint32; randomness is this folded with ``step``.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any
    key: jax.Array
    model: nn.Module = struct.field(pytree_node=False)
    tx: optax.GradientTransformation = struct.field(pytree_node=False)
    options: StepOptions = struct.field(pytree_node=False, default=StepOptions())

    @property
    def eval_variables(self) -> dict[str, Any]:
        """What evaluation and prediction use: the moving average where there is one."""
        if self.ema is not None:
            return dict(self.ema)
        return {"params": self.params, "batch_stats": self.batch_stats}


def create_train_state(
    model: nn.Module,
    tx: optax.GradientTransformation,
    key: jax.Array,
    sample: jax.Array | jax.ShapeDtypeStruct,
    options: StepOptions = StepOptions(),
) -> TrainState:
    """A fresh state.

    Args:
      model: a model of flax_resnet, or any Linen module called as ``(images, train)``.
      tx: an optax optimiser.
      key: PRNG key of the initial weights and of all the run's randomness.
      sample: images ``[N, H, W, C]`` as batches hold them; only shape and dtype matter.
      options: see :class:`StepOptions`.

    Raises:
      ValueError: ``options.trainable`` is true of no parameter; a key of another implementation
        than JAX's default one.
    """
    # The state holds the key's bare numbers, which steps take for the default's.
    default = jax.config.jax_default_prng_impl  # type: ignore[attr-defined]
    if (given := jax.random.key_impl(key)) != default:
        raise ValueError(
            f"the key is of {given}, the steps' keys are of {default}: give jax.random.key(seed), "
            f"or set jax_default_prng_impl to {given}"
        )
    init_key, run_key = jax.random.split(key)
    images = jnp.zeros(sample.shape, sample.dtype)
    if options.preprocess is not None:
        images = options.preprocess(images)
    variables = model.init(init_key, images, train=False)
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    trained, _ = partition(params, options.trainable)
    if not trained:
        raise ValueError("trainable is true of no parameter: there is nothing to train")
    ema = {"params": params, "batch_stats": batch_stats} if options.ema_decay else None
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=tx.init(trained),
        # A copy: a donated state must not hold the same buffer twice.
        ema=jax.tree.map(jnp.copy, ema),
        key=jax.random.key_data(run_key),
        model=model,
        tx=tx,
        options=options,
    )
