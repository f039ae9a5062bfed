"""The pure train and evaluation steps, the same under ``jit``, ``shard_map`` and ``pmap``.

A batch is ``{"image": [N, H, W, C] uint8 or float, "label": [N] int, "mask": [N] bool}``; the mask
is optional. Where an image can have several classes, labels are float ``[N, K]`` of 0 and 1.

With ``axis_name`` a step is called inside ``shard_map`` or ``pmap`` over that axis, and its batch
holds the examples of one device. Gradients and metrics are global then, and so are batch-norm
statistics, unless the model computes them in groups. The model must have a field ``axis_name``.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import NamedSharding

from ..metrics import LOSSES, targets_of
from .collectives import as_varying, global_sum
from .eval_step import (
    Batch,
    EvalStep,
    Loss,
    Metrics,
    example_weights,
    loss_function,
    metric_sums,
    zero_metrics,
)
from .microbatches import accumulate
from .state import TrainState
from .transfer.freezing import Trainable, merge, partition

COUNTED_STEPS = 256  # after which the counts of steps that are not finite begin again


@dataclass(frozen=True)
class TrainStep:
    """One optimiser step: a pure function of state and batch, and all that configures it.

    It is hashable, and equal steps are interchangeable under ``jax.jit``: lists become tuples, and
    a field that cannot be hashed, such as an array, is refused. Pass arrays that a loss needs, such
    as class weights, as tuples in a frozen dataclass with ``__call__``.

    Attributes:
        model: A Linen module called as ``(images, train)``.
        tx: An optax optimiser.
        loss: ``"softmax"`` cross-entropy, where an image has one class; binary cross-entropy,
            averaged over the classes, where it has one (``"one_vs_all"``) or several
            (``"sigmoid"``); or a function from logits ``[N, K]`` and targets float ``[N, K]`` to
            losses ``[N]``.
        augment: ``(key, images, index) -> images`` in training, where ``index`` ``[N]`` numbers
            the examples of the global batch, or None.
        preprocess: ``images -> images`` in training and evaluation, or None.
        train_preprocess: Takes the place of ``preprocess`` in training, if given.
        mix: ``(key, images, targets, axis_name) -> images, targets`` in training, with targets
            float ``[N, K]``: mixup or CutMix. The model must have ``num_classes``.
        class_weights: Weight of each class in the loss of training, with ``loss="softmax"``; the
            loss is the sum over a batch divided by its number of examples. Metrics do not weigh.
        label_smoothing: Fraction of each label that is spread evenly over all classes (Szegedy et
            al. 2016); where an image can have several classes, over yes and no.
        target_threshold: Makes each target 1 where it is above this and else 0, after smoothing and
            mixing, or None. Metrics use the labels.
        ema_decay: Decay of the moving average of parameters and running statistics, or None.
        trainable: Whether the parameter at a path such as ``("layer4_0", "conv1", "kernel")``
            trains; None trains all. A frozen parameter keeps its bits, is not differentiated, and
            has no optimiser state.
        freeze_before: The first stage that runs as in training. Earlier stages run as in
            evaluation, so that their batch norms keep their running statistics; whether their
            parameters train is up to ``trainable``. None for all stages. The model must have this
            field.
        microbatches: Number of microbatches that a batch is cut into and that run one after the
            other, to save memory. The gradient is that of the whole batch. Microbatch ``k`` of
            ``K`` holds the examples ``k::K``. Each has its own batch-norm statistics and dropout
            masks; the running statistics are updated in order.
        evaluate_flipped: Evaluate the mean of the logits of each image and its mirror image.
        measures_gradient: Whether the metrics of a step also have ``grad_norm``, the global norm of
            the gradient times the number of examples, and ``nonfinite_steps``, float32
            ``[COUNTED_STEPS]``: 1 at index ``state.step % COUNTED_STEPS`` if the loss or the
            gradient is not finite, else 0, so that the sum over as many steps tells which failed.
        skips_nonfinite: Whether such a step leaves all but ``state.step`` and the counts of
            ``optax.scale_by_schedule`` as it was, and adds nothing to the other metrics. The next
            step so has the learning rate that it would have had.
        compute_sharding: Where parameters are split over devices under ``jit``: the replicated
            sharding in which the forward and backward pass use them.

    Raises:
        TypeError: A field cannot be hashed.
        ValueError: An unknown loss.
    """

    model: nn.Module
    tx: optax.GradientTransformation
    loss: Loss = "softmax"
    augment: Callable[[jax.Array, jax.Array, jax.Array], jax.Array] | None = None
    preprocess: Callable[[jax.Array], jax.Array] | None = None
    train_preprocess: Callable[[jax.Array], jax.Array] | None = None
    mix: Callable[..., tuple[jax.Array, jax.Array]] | None = None
    class_weights: tuple[float, ...] | None = None
    label_smoothing: float = 0.0
    target_threshold: float | None = None
    ema_decay: float | None = None
    trainable: Trainable | None = None
    freeze_before: str | None = None
    microbatches: int = 1
    evaluate_flipped: bool = False
    measures_gradient: bool = False
    skips_nonfinite: bool = False
    compute_sharding: NamedSharding | None = None

    def __post_init__(self) -> None:
        if isinstance(self.loss, str) and self.loss not in LOSSES:
            raise ValueError(
                f"loss={self.loss!r} is not one of {', '.join(LOSSES)}, nor a function."
            )
        if self.class_weights is not None and self.loss != "softmax":
            raise ValueError(f"class_weights need loss='softmax', not {self.loss!r}")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):
                object.__setattr__(self, field.name, tuple(value))
            try:
                hash(getattr(self, field.name))
            except TypeError as error:
                raise TypeError(
                    f"TrainStep.{field.name} cannot be hashed ({error}), but equal steps must be "
                    "recognised as equal: give numbers, strings, tuples or frozen dataclasses, and "
                    "tuples in place of arrays."
                ) from error

    def init(self, key: jax.Array, sample: jax.Array | jax.ShapeDtypeStruct) -> TrainState:
        """Make a fresh state.

        Args:
            key: PRNG key of the initial weights and of all the run's randomness.
            sample: Images ``[N, H, W, C]`` as batches hold them; only shape and dtype matter.

        Raises:
            ValueError: ``trainable`` is true of no parameter, or the key is of another
                implementation than JAX's default one.
        """
        # The state holds the key's raw data, which steps take for the default implementation's.
        default = jax.config.jax_default_prng_impl  # type: ignore[attr-defined]
        if (given := jax.random.key_impl(key)) != default:
            raise ValueError(
                f"the key is of {given}, the steps' keys are of {default}: give "
                f"jax.random.key(seed), or set jax_default_prng_impl to {given}"
            )
        init_key, run_key = jax.random.split(key)
        images = jnp.zeros(sample.shape, sample.dtype)
        if self.preprocess is not None:
            images = self.preprocess(images)
        variables = self.model.init(init_key, images, train=False)
        return self.init_from(variables, jax.random.key_data(run_key))

    def init_from(self, variables: Any, key_data: jax.Array) -> TrainState:
        """Make a state of step 0 with the given variables ``{"params", "batch_stats"}``.

        Args:
            variables: Such as those of ``fr.load_pretrained``.
            key_data: ``jax.random.key_data`` of the PRNG key of all the run's randomness.

        Raises:
            ValueError: ``trainable`` is true of no parameter.
        """
        params, batch_stats = variables["params"], variables.get("batch_stats", {})
        ema = {"params": params, "batch_stats": batch_stats} if self.ema_decay else None
        state = TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=batch_stats,
            opt_state=(),
            # A copy: a donated state must not hold the same buffer twice.
            ema=jax.tree.map(jnp.copy, ema),
            key=key_data,
            rate_factor=jnp.ones((), jnp.float32),
        )
        return self.init_optimizer(state)

    def init_optimizer(self, state: TrainState) -> TrainState:
        """The state with a fresh optimiser state, for the parameters that this step trains."""
        trained, _ = partition(state.params, self.trainable)
        if not trained:
            raise ValueError("trainable is true of no parameter: there is nothing to train")
        return state.replace(opt_state=jax.jit(self.tx.init)(trained))  # type: ignore[attr-defined]

    def __call__(
        self, state: TrainState, batch: Batch, axis_name: str | None = None
    ) -> tuple[TrainState, Metrics]:
        """Update the state by one batch.

        Randomness derives from ``(state.key, state.step, index in the global batch)``, so that any
        number of devices gives the same numbers. A mask weighs the loss, but batch norm sees every
        example, so fill a training batch with real images.

        Returns:
            The new state, and the sums that ``evaluate`` returns, over the global batch. They are
            those of the labels without smoothing and, where examples are mixed, without mixing.
        """
        trained, frozen = partition(state.params, self.trainable)
        params = trained, frozen
        if self.compute_sharding is not None:
            params = lax.with_sharding_constraint(params, self.compute_sharding)
        examples, dropout_key = self._prepare(state, batch, axis_name)
        grads, batch_stats, sums = self._gradients(
            *params, state.batch_stats, examples, dropout_key, axis_name
        )
        updates, opt_state = self.tx.update(grads, state.opt_state, trained)
        # An optimiser's updates are its learning rate times the rest.
        updates = jax.tree.map(lambda leaf: leaf * state.rate_factor.astype(leaf.dtype), updates)
        params = merge(optax.apply_updates(trained, updates), frozen)
        ema = self._updated_ema(state.ema, {"params": params, "batch_stats": batch_stats})
        new = TrainState(
            state.step + 1, params, batch_stats, opt_state, ema, state.key, state.rate_factor
        )
        if not (self.measures_gradient or self.skips_nonfinite):
            return new, sums
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(norm) & jnp.isfinite(sums["loss"])
        if self.skips_nonfinite:
            opt_state = _with_schedule_counts(state.opt_state, opt_state)
            old = state.replace(step=new.step, opt_state=opt_state)  # type: ignore[attr-defined]
            new, sums = jax.tree.map(
                lambda one, other: jnp.where(finite, one, other),
                (new, sums),
                (old, jax.tree.map(jnp.zeros_like, sums)),
            )
            norm = jnp.where(finite, norm, 0)
        if self.measures_gradient:
            bad = 1 - finite.astype(jnp.float32)
            sums = sums | {
                "grad_norm": norm.astype(jnp.float32) * sums["count"],
                "nonfinite_steps": jnp.where(
                    jnp.arange(COUNTED_STEPS) == state.step % COUNTED_STEPS, bad, 0
                ),
            }
        return new, sums

    def evaluate(self, state: TrainState, batch: Batch, axis_name: str | None = None) -> Metrics:
        """Sum the metrics of a batch; the moving average of the weights is used if there is one.

        See ``EvalStep`` for what is returned.
        """
        return self.eval_step(state.eval_variables, batch, axis_name)

    @property
    def eval_step(self) -> EvalStep:
        """The evaluation that belongs to this step; it is equal in all phases of a run."""
        return EvalStep(
            self.model, self.loss, self.preprocess, self.evaluate_flipped, self.compute_sharding
        )

    def _prepare(
        self, state: TrainState, batch: Batch, axis_name: str | None
    ) -> tuple[Batch, jax.Array]:
        """The examples as the model sees them, and the dropout key.

        Returns:
            ``{"image", "label", "mask", "loss_weight"}``, with ``"target"`` where examples are
            mixed. The loss weights are the mask divided by its sum over the global batch.
        """
        images, labels = batch["image"], batch["label"]
        index = jnp.arange(len(images))
        if axis_name is not None:
            index += len(images) * lax.axis_index(axis_name)
        step_key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        augment_key, dropout_key = jax.random.split(step_key)
        if self.augment is not None:
            images = self.augment(augment_key, images, index)
        preprocess = self.train_preprocess or self.preprocess
        if preprocess is not None:
            images = preprocess(images)
        mask = example_weights(batch)
        # Without a mask the sum is known, and no communication is needed.
        devices = 1 if axis_name is None else lax.axis_size(axis_name)
        total = global_sum(mask.sum(), axis_name) if "mask" in batch else len(images) * devices
        examples = {"label": labels, "mask": mask, "loss_weight": mask / jnp.maximum(total, 1)}
        if self.mix is not None:
            mix_key = jax.random.fold_in(step_key, 2)  # 0 and 1 would be the two keys above
            num_classes: int = self.model.num_classes  # type: ignore[attr-defined]
            dtype = jnp.promote_types(images.dtype, jnp.float32)  # images may be integers
            targets = targets_of(labels, num_classes, dtype, self.label_smoothing)
            images, examples["target"] = self.mix(mix_key, images, targets, axis_name)
        return examples | {"image": images}, dropout_key

    def _gradients(
        self,
        trained: Any,
        frozen: Any,
        batch_stats: Any,
        examples: Batch,
        dropout_key: jax.Array,
        axis_name: str | None,
    ) -> tuple[Any, Any, Metrics]:
        """Gradients, new running statistics and metrics of the global batch."""
        model = self.model
        if self.freeze_before is not None:
            model = model.clone(freeze_before=self.freeze_before)
        if axis_name is not None:
            model = model.clone(axis_name=axis_name)
            # Each device differentiates its own copy: shard_map would otherwise sum the gradients
            # of replicated parameters by itself (check_vma), and pmap would not.
            trained = as_varying(trained, axis_name)

        # The loss is a function of the trained parameters alone, so that the backward pass stops at
        # the first stage that trains.
        def loss_of(
            trained: Any, batch_stats: Any, examples: Batch, key: jax.Array
        ) -> tuple[jax.Array, tuple[Any, Metrics]]:
            logits, updates = model.apply(
                {"params": merge(trained, frozen), "batch_stats": batch_stats},
                examples["image"],
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": key},
            )
            targets = examples.get("target")
            if targets is None:
                targets = targets_of(
                    examples["label"], logits.shape[-1], logits.dtype, self.label_smoothing
                )
            if self.target_threshold is not None:
                targets = (targets > self.target_threshold).astype(targets.dtype)
            if self.class_weights is not None:  # the cross-entropy is linear in the targets
                targets = targets * jnp.asarray(self.class_weights, targets.dtype)
            losses = loss_function(self.loss)(logits, targets)
            sums = metric_sums(logits, examples["label"], examples["mask"], self.loss)
            loss = jnp.sum(losses * examples["loss_weight"])
            return loss, (updates.get("batch_stats", {}), sums)

        differentiate = jax.value_and_grad(loss_of, has_aux=True)
        if self.microbatches == 1:
            (_, (batch_stats, sums)), grads = differentiate(
                trained, batch_stats, examples, dropout_key
            )
        else:
            grads, batch_stats, sums = accumulate(
                differentiate,
                trained,
                batch_stats,
                examples,
                dropout_key,
                self.microbatches,
                axis_name,
            )
        if axis_name is not None and _statistics_differ(model, self.microbatches, axis_name):
            # Running statistics are linear in the batch statistics, so averaging them over the
            # devices at every step gives what averaging once at the end would.
            batch_stats = lax.pmean(as_varying(batch_stats, axis_name), axis_name)
        return global_sum(grads, axis_name), batch_stats, global_sum(sums, axis_name)

    def _updated_ema(self, ema: Any, variables: Any) -> Any:
        if ema is None or self.ema_decay is None:
            return ema
        weight = 1 - self.ema_decay
        # In this form a value that has not changed, such as a frozen one, stays equal to the bit.
        return jax.tree.map(lambda old, new: old + weight * (new - old), ema, variables)


def zero_step_metrics() -> Metrics:
    """The sums of no steps that measure the gradient."""
    return zero_metrics() | {
        "grad_norm": jnp.zeros((), jnp.float32),
        "nonfinite_steps": jnp.zeros(COUNTED_STEPS, jnp.float32),
    }


def _with_schedule_counts(opt_state: Any, counted: Any) -> Any:
    """An optimiser state with the positions of another in the schedules of the learning rate."""

    def is_schedule(node: Any) -> bool:
        return isinstance(node, optax.ScaleByScheduleState)

    return jax.tree.map(
        lambda node, other: other if is_schedule(node) else node,
        opt_state,
        counted,
        is_leaf=is_schedule,
    )


def _statistics_differ(model: Any, microbatches: int, axis_name: str) -> bool:
    """Whether the running statistics differ between devices.

    They do where devices do not share batch statistics. On a single device they do not, but
    ``shard_map`` still types them as varying, and ``pmean`` makes them replicated.
    """
    groups = getattr(model, "batch_norm_groups", 0)
    return microbatches > 1 or groups != 1 or lax.axis_size(axis_name) == 1
