"""The training loop: step, log, evaluate, save; take up where a run stopped."""

import dataclasses
import math
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import jax
from rich.console import Console

from ..config import Config, check_config
from ..data import Prefetch, train_batches
from ..errors import UserError
from ..report import Progress
from .budget import print_budget
from .checkpoint import Checkpoints
from .clock import Clock
from .distributed import connect, watch_peers
from .evaluation import Scores, score_of, to_means
from .mesh import data_mesh, local_shard, replicate
from .parallel import (
    Advance,
    Partitioning,
    choose_partitioning,
    compile_step,
    configure,
    enter,
    leave,
    place_batch,
    place_state,
)
from .plan import phase_told, print_plan
from .preemption import Stopped, StopRequest, stop_on_signal
from .recording import TrainResult, evaluate_and_log, finish, kept_history
from .setup import Run, prepare
from .state import TrainState
from .step import Batch, Metrics, zero_metrics
from .transfer.features import keep_features, views_of
from .transfer.head import train_head
from .transfer.start import choose_solver
from .workdir import open_workdir, write_description


def train(config: Config, console: Console | None = None) -> TrainResult:
    """Train as ``config`` says, from the newest checkpoint in its workdir if there is one.

    Writes the run's folder; see docs of report.history for its lines. SIGINT or SIGTERM finishes
    the step, saves and returns; a second SIGINT stops at once.

    Raises:
      UserError: wrong settings, missing data, a workdir of another run, a loss that is not finite.
    """
    console = console or Console(highlight=False, soft_wrap=True)
    warnings = check_config(config)
    connect(config.parallel)
    primary = jax.process_index() == 0
    console.quiet = console.quiet or not primary
    for warning in warnings:
        console.print(f"[yellow]warning:[/] {warning}")
    if config.compile_cache is not None:
        cache = Path(config.compile_cache).expanduser()
        jax.config.update("jax_compilation_cache_dir", str(cache))
    with watch_peers(config.parallel.timeout), stop_on_signal(console) as stop:
        partitioning = choose_partitioning(
            config.parallel, config.data.batch_size, config.microbatches, data_mesh()
        )
        run = _partitioned(prepare(config), partitioning)
        views = views_of(run)
        solver = choose_solver(config, views)
        print_plan(run, views, solver, partitioning.mesh, console)
        if config.dry_run:
            print_budget(run, partitioning, console)
            return TrainResult(Path(config.workdir or "."), 0, False, None, {})
        workdir = open_workdir(config, write=primary)
        if primary:
            names, framing = run.dataset.classes, run.dataset.framing
            write_description(workdir, names, run.preprocessing, framing)
        if views:
            run = keep_features(run, views, console)
        checkpoints = Checkpoints(workdir / "checkpoints")
        try:
            if solver == "lbfgs":
                state, step = train_head(run, workdir, checkpoints, console)
                state = place_state(state, partitioning)
            else:
                state, step = _train(run, partitioning, workdir, checkpoints, stop, console)
            with suppress(Stopped):
                ended = step >= run.last_step and not checkpoints.eval_pending(step)
                if ended or solver == "lbfgs":
                    return finish(run, partitioning, workdir, checkpoints, state, stop, console)
            best = checkpoints.best_step()  # waits for the save
            console.print(
                f"Stopped after step {step:,}; saved. The same command goes on from there."
            )
            return TrainResult(workdir, step, False, best, {})
        finally:
            checkpoints.close()


def _partitioned(run: Run, partitioning: Partitioning) -> Run:
    """The run whose model, options and state are those of the partitioning."""
    parts = configure(run.model, run.options, partitioning, run.config.microbatches)
    run = dataclasses.replace(run, model=parts[0], options=parts[1])
    return dataclasses.replace(run, state=run.in_phase(run.state, run.phases[0]))


def _train(
    run: Run,
    partitioning: Partitioning,
    workdir: Path,
    checkpoints: Checkpoints,
    stop: StopRequest,
    console: Console,
) -> tuple[TrainState, int]:
    """Train to the last step, or to a signal; returns the state and the steps done."""
    config = run.config
    step = start = checkpoints.latest_step() or 0
    phase = run.phase_at(start - 1)  # as it was saved
    state = place_state(run.in_phase(run.state, phase), partitioning)
    sums = replicate(zero_metrics(), partitioning.mesh)
    if start:
        saved = checkpoints.restore(start, {"state": state, "sums": sums})
        state, sums = saved["state"], saved["sums"]
        console.print(f"Going on from the checkpoint after step {start:,} in {workdir}.")
    past = kept_history(workdir, start)
    # A signal before or in its evaluation left that to us.
    eval_pending = start > 0 and checkpoints.eval_pending(start)
    if start >= run.last_step and not eval_pending:
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
        partial(place_batch, partitioning=partitioning),
    )
    clock = Clock(config.data.batch_size, batches, past[-1]["time"] if past else 0.0)

    def evaluate_and_save(state: TrainState, sums: Metrics, stopping: bool) -> tuple[Metrics, bool]:
        """Evaluate if it is time, and save; returns the sums to go on with, and whether to stop."""
        evaluates = run.evaluation_is_due(step) or step == run.last_step
        if evaluates and not stopping:
            try:
                # The history first: a run killed before the save writes its line again.
                val = evaluate_and_log(
                    run, partitioning, state, sums, step, clock, workdir, stop, console
                )
            except Stopped:
                stopping = True
            else:
                if run.evaluation_is_due(step):  # not where max_steps cuts an epoch short
                    sums = replicate(zero_metrics(), partitioning.mesh)
                checkpoints.save(step, {"state": state, "sums": sums}, score_of(val))
                return sums, stopping
        checkpoints.save(step, {"state": state, "sums": sums}, evaluated=not evaluates)
        return sums, stopping

    stopping, advance, size = False, None, None
    try:
        if eval_pending:
            sums, stopping = evaluate_and_save(state, sums, stop.poll())
        state, sums = enter((state, sums), partitioning)
        with Progress(console, run.last_step, start) as progress:
            while step < run.last_step and not stopping:
                batch = next(batches)
                if run.phase_at(step) != phase:
                    phase, advance = run.phase_at(step), None
                    state = run.in_phase(leave(state, partitioning), phase)
                    state = enter(place_state(state, partitioning), partitioning)
                    console.print(phase_told(phase))
                if advance is None or size != run.train_size_at(step):
                    size = run.train_size_at(step)
                    state = dataclasses.replace(state, options=run.sized(state.options, size))
                    advance = _compile(partitioning, state, sums, batch, console)
                    clock.restart()
                with jax.transfer_guard("disallow"):
                    state, sums = advance(state, sums, batch)
                step += 1
                clock.steps += 1
                stopping = stop.poll()
                pauses = stopping or run.evaluation_is_due(step) or step == run.last_step
                if pauses or clock.log_is_due():
                    means = to_means(leave(sums, partitioning))
                    _check_finite(means, step, config)
                    progress.update(
                        step,
                        epoch=run.epoch_at(step),
                        loss=means["loss"],
                        top1=means["top1"],
                        rate=clock.images_per_second,
                        wait=clock.data_wait,
                    )
                if pauses or _saves_after(step, config):
                    whole_state, whole_sums = leave((state, sums), partitioning)
                    whole_sums, stopping = evaluate_and_save(whole_state, whole_sums, stopping)
                    sums = enter(whole_sums, partitioning)
        return leave(state, partitioning), step
    finally:
        batches.close()


def _compile(
    partitioning: Partitioning, state: TrainState, sums: Metrics, batch: Batch, console: Console
) -> Advance:
    began = time.perf_counter()
    compiled = compile_step(partitioning, state, sums, batch)
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
    return config.save_every is not None and step % config.save_every == 0
