"""The training loop: step, log, evaluate, save; take up where a run stopped."""

import dataclasses
import math
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from rich.console import Console

from ..config import Config, check_config
from ..data import Prefetch, train_batches
from ..errors import UserError
from ..report import Progress, keep_history
from .checkpoint import Checkpoints
from .clock import Clock
from .evaluation import Scores, score_of, to_means
from .features import keep_features, views_of
from .head import train_head
from .mesh import check_batch_size, data_mesh, local_shard, replicate, shard_batch
from .plan import phase_told, print_plan
from .preemption import stop_on_signal
from .recording import HISTORY, TrainResult, evaluate_and_log, finish
from .setup import Run, prepare
from .state import TrainState
from .step import Metrics, train_step, zero_metrics
from .transfer import choose_solver
from .workdir import open_workdir, write_description


def train(config: Config, console: Console | None = None) -> TrainResult:
    """Train as ``config`` says, from the newest checkpoint in its workdir if there is one.

    Writes the run's folder; see docs of report.history for its lines. SIGINT or SIGTERM finishes
    the step, saves and returns; a second SIGINT stops at once.

    Raises:
      UserError: wrong settings, missing data, a workdir of another run, a loss that is not finite.
    """
    primary = jax.process_index() == 0
    console = console or Console(highlight=False, soft_wrap=True)
    console.quiet = console.quiet or not primary
    for warning in check_config(config):
        console.print(f"[yellow]warning:[/] {warning}")
    if config.compile_cache is not None:
        cache = Path(config.compile_cache).expanduser()
        jax.config.update("jax_compilation_cache_dir", str(cache))
    mesh = data_mesh()
    check_batch_size(config.data.batch_size, mesh)
    run = prepare(config)
    views = views_of(run)
    solver = choose_solver(config, views)
    workdir = open_workdir(config)
    if primary:
        names, framing = run.dataset.classes, run.dataset.framing
        write_description(workdir, names, run.preprocessing, framing)
    print_plan(run, mesh, console)
    if views:
        run = keep_features(run, views, console)
    checkpoints = Checkpoints(workdir / "checkpoints")
    try:
        with stop_on_signal(console) as stop:
            if solver == "lbfgs":
                state, step = train_head(run, workdir, checkpoints, console)
                return finish(run, mesh, workdir, checkpoints, state, console)
            state, step = _train(run, mesh, workdir, checkpoints, stop, console)
            if stop.is_set() and step < run.last_step:
                console.print(
                    f"Stopped after step {step:,}; saved. The same command goes on from there."
                )
                return TrainResult(workdir, step, False, checkpoints.best_step(), {})
            return finish(run, mesh, workdir, checkpoints, state, console)
    finally:
        checkpoints.close()


def _train(
    run: Run,
    mesh: Mesh,
    workdir: Path,
    checkpoints: Checkpoints,
    stop: threading.Event,
    console: Console,
) -> tuple[TrainState, int]:
    """Train to the last step, or to a signal; returns the state and the steps done."""
    config = run.config
    start = checkpoints.latest_step() or 0
    phase = run.phase_at(start - 1)  # as it was saved
    state, sums = replicate((run.in_phase(run.state, phase), zero_metrics()), mesh)
    if start:
        saved = checkpoints.restore(start, {"state": state, "sums": sums})
        state, sums = saved["state"], saved["sums"]
        console.print(f"Going on from the checkpoint after step {start:,} in {workdir}.")
    past = keep_history(workdir / HISTORY, start)
    if start >= run.last_step:
        return state, start

    batches = Prefetch(
        train_batches(
            run.dataset.train,
            seed=config.seed,
            batch_size=config.data.batch_size,
            start=start,
            stop=run.last_step,
            random_crops=run.draws_crops,
            repeats=config.augment.repeats,
            size_at=run.train_size_at,
            shard=local_shard(),
        ),
        partial(shard_batch, mesh=mesh),
    )
    batch = next(batches)
    advance, size = None, None
    clock = Clock(config.data.batch_size, batches, past[-1]["time"] if past else 0.0)
    step = start
    try:
        with Progress(console, run.last_step, start) as progress:
            while True:
                if run.phase_at(step) != phase:
                    phase, advance = run.phase_at(step), None
                    state = replicate(run.in_phase(state, phase), mesh)
                    console.print(phase_told(phase))
                if advance is None or size != run.train_size_at(step):
                    size = run.train_size_at(step)
                    state = dataclasses.replace(state, options=run.sized(state.options, size))
                    advance = _compile_step(state, sums, batch, console)
                    clock.restart()
                state, sums = advance(state, sums, batch)
                step += 1
                clock.steps += 1
                evaluates = run.evaluation_is_due(step) or step == run.last_step
                if evaluates or stop.is_set() or clock.log_is_due():
                    means = to_means(sums)
                    _check_finite(means, step, config)
                    progress.update(
                        step,
                        epoch=run.epoch_at(step),
                        loss=means["loss"],
                        top1=means["top1"],
                        rate=clock.images_per_second,
                        wait=clock.data_wait,
                    )
                if evaluates:
                    # The history first: a run killed before the save writes its line again.
                    val = evaluate_and_log(run, mesh, state, means, step, clock, workdir, console)
                    if run.evaluation_is_due(step):  # not where max_steps cuts an epoch short
                        sums = replicate(zero_metrics(), mesh)
                    checkpoints.save(step, {"state": state, "sums": sums}, score_of(val))
                elif stop.is_set() or _saves_after(step, config):
                    checkpoints.save(step, {"state": state, "sums": sums})
                if step == run.last_step or stop.is_set():
                    return state, step
                batch = next(batches)
    finally:
        batches.close()


def _compile_step(state: TrainState, sums: Metrics, batch: Any, console: Console) -> Any:
    """``(state, sums, batch) -> (state, sums)``, compiled; state and sums are donated."""

    def advance(state: TrainState, sums: Metrics, batch: Any) -> tuple[TrainState, Metrics]:
        state, metrics = train_step(state, batch)
        return state, jax.tree.map(jnp.add, sums, metrics)

    began = time.perf_counter()
    # Out as in: otherwise the compiler may lay the new state out differently from the donated one.
    shardings = jax.tree.map(lambda leaf: leaf.sharding, (state, sums))
    jitted = jax.jit(advance, donate_argnums=(0, 1), out_shardings=shardings)
    compiled = jitted.lower(state, sums, batch).compile()
    console.print(f"Compiled the train step in {time.perf_counter() - began:.1f} s.")
    return compiled


def _check_finite(means: Scores, step: int, config: Config) -> None:
    if not math.isfinite(means["loss"]):
        raise UserError(
            f"The loss is not finite at step {step}: training diverged. Lower the learning rate "
            f"(--optimizer.learning-rate, now {config.optimizer.learning_rate:g}) or add warm-up "
            "(--optimizer.warmup-epochs 5); the checkpoints saved before are kept."
        )


def _saves_after(step: int, config: Config) -> bool:
    return config.save_every_steps is not None and step % config.save_every_steps == 0
