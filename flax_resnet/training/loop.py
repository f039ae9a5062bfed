"""The training loop: step, log, evaluate, save; resume where a run stopped."""

import time
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from itertools import chain
from pathlib import Path

import jax
import jax.numpy as jnp
from rich.console import Console

from ..config import Config, check_config, flatten, parse_interval
from ..errors import UserError
from ..report import Progress, Trackers, check_trackers, open_trackers, read_history
from ..report.environment import write_environment
from ..report.page import FOLDER
from ..runtime import keep_programs, require_determinism
from ..storage import is_remote
from .budget import print_budget
from .checkpoint import Checkpoints
from .clock import Clock
from .debugging import explain
from .distributed import connect, wait_for_processes, watch_peers
from .divergence import DivergedError, check_loss, check_state
from .evaluation import to_means
from .memory import exhaustion_explained
from .messages import note, warn
from .nonfinite import NonfiniteSteps
from .partitioning import compile_step
from .plan import phase_message, print_plan
from .preemption import Stopped, stop_on_signal
from .profiling import Profiler
from .recording import HISTORY, Recorder, TrainResult
from .resolve import resolve
from .run import Run
from .saving import SaveSchedule
from .state import TrainState
from .transfer.features import keep_features
from .transfer.head import fit_head
from .workdir import lock_workdir, open_workdir, workdir_of


def train(config: Config, console: Console | None = None) -> TrainResult:
    """Train as ``config`` describes, from the newest checkpoint in its workdir if there is one.

    It writes the run's folder; ``report.history`` describes the lines of its history. SIGINT or
    SIGTERM finishes the step, saves and returns; a second SIGINT stops at once. Processes of
    several hosts are connected, and JAX's compilation cache is set as the settings ask.

    Args:
        config: The settings.
        console: Where progress is printed; by default the terminal. In all processes but the first
            it becomes quiet.

    Raises:
        UserError: Settings are wrong, data are missing, the workdir holds another run, or the loss
            or the state is not finite.
    """
    console = console or Console(highlight=False, soft_wrap=True)
    warnings = check_config(config)
    workdir = workdir_of(config)
    check_trackers(config.track, workdir)
    if config.profile and is_remote(workdir):
        raise UserError(
            f"--profile writes its trace as it goes, and --workdir {workdir} is in object storage: "
            "leave it out, or name a local --workdir.",
            exit_code=2,
        )
    if config.deterministic:
        require_determinism()
    connect(config.parallel)
    is_primary = jax.process_index() == 0
    console.quiet = console.quiet or not is_primary
    for warning in warnings:
        warn(console, warning)
    if text := keep_programs(config.compile_cache):
        note(console, text)
    with watch_peers(config.parallel.timeout), stop_on_signal(console) as stop:
        run = resolve(config)
        if config.model.dtype == "auto":
            console.print(f"Computing in {run.config.model.dtype}, by --model.dtype auto.")
        if config.profile and run.solver == "lbfgs":
            raise UserError(
                "--profile traces the steps of an optimiser, and L-BFGS fits this head without "
                "any: leave it out, or add --transfer.solver sgd.",
                exit_code=2,
            )
        print_plan(run, console)
        if config.dry_run:
            print_budget(run, console)
            return TrainResult(workdir, 0, False, None, {})
        # With the images: on kept features the model has only the stages that train.
        init = run.init
        state = init()
        wait_for_processes()
        with lock_workdir(config) as lock:
            workdir = open_workdir(run, state)
            if is_primary:
                write_environment(workdir / FOLDER)
            if run.views:
                run = keep_features(run, state, console)
            opened = Checkpoints(
                workdir / "checkpoints",
                timeout=config.checkpoint.timeout,
                on_error=config.checkpoint.on_error,
                report=partial(warn, console),
            )
            with (
                closing(opened) as checkpoints,
                closing(_open_trackers(run, workdir, checkpoints, console)) as trackers,
                closing(Profiler(config.profile, workdir, run.last_step, console)) as profiler,
            ):
                recorder = Recorder(
                    run, workdir, lock, checkpoints, stop, console, trackers, profiler
                )
                with exhaustion_explained():
                    return _train(run, state, recorder, init)


def _open_trackers(run: Run, workdir: Path, checkpoints: Checkpoints, console: Console) -> Trackers:
    """Open the trackers of a run, with the lines of its history up to the newest checkpoint."""
    names = run.config.track if jax.process_index() == 0 else ()
    step = checkpoints.latest_step() or 0
    past = [line for line in read_history(workdir / HISTORY) if line["step"] <= step]
    return open_trackers(names, workdir, flatten(run.config), past, partial(note, console))


def _train(
    run: Run, state: TrainState, recorder: Recorder, init: Callable[[], TrainState]
) -> TrainResult:
    checkpoints = recorder.checkpoints
    if run.solver == "lbfgs":
        state, step = fit_head(run, state, recorder)
    else:
        state, step = fit(run, state, recorder, init)
    is_done = step >= run.last_step and not checkpoints.eval_pending(step)
    with suppress(Stopped):
        if is_done or run.solver == "lbfgs":
            return recorder.finish(state)
    best = checkpoints.best_step()  # waits for the save
    recorder.console.print(f"Stopped after step {step:,}; saved. The same command resumes there.")
    recorder.console.print(recorder.profiler.goodput())
    return TrainResult(recorder.workdir, step, False, best, {})


def fit(
    run: Run, state: TrainState, recorder: Recorder, init: Callable[[], TrainState]
) -> tuple[TrainState, int]:
    """Train to the last step, or until a signal asks the run to stop.

    Args:
        run: The run.
        state: The state before the first step; a checkpoint takes its place.
        recorder: Evaluates and saves.
        init: Makes the state before the first step again.

    Returns:
        The state, and the number of steps done.

    Raises:
        DivergedError: The loss, a gradient or the state is not finite, and the settings do not say
            to go on.
    """
    config, factor, rollbacks = run.config, None, 0
    while True:
        try:
            return _fit(run, state, recorder, factor)
        except Diverged as end:
            latest = recorder.checkpoints.latest_step() or 0
            if config.on_nan == "rollback" and rollbacks < MOST_ROLLBACKS:
                factor, rollbacks = end.rate_factor / 2, rollbacks + 1
                reason = str(end.error).partition(": training")[0]
                if end.steps:
                    reason = f"{end.steps}: the loss or the gradient is not finite"
                warn(
                    recorder.console,
                    f"{reason}: training goes on after step {latest:,} with {factor:g} times the "
                    "learning rate.",
                )
                state = init()  # the former one was donated
                continue
            raise _explained(run, recorder, init, end) from end


MOST_ROLLBACKS = 5


class Diverged(Exception):
    """Training diverged.

    Attributes:
        error: What a run that stops says.
        step: The number of steps done when it was noticed.
        rate_factor: That of the state.
        steps: The steps whose loss or gradient is not finite, with their learning rates and
            samples; empty if only the state shows it.
    """

    def __init__(self, error: DivergedError, step: int, rate_factor: float, steps: str) -> None:
        super().__init__(str(error))
        self.error, self.step, self.rate_factor, self.steps = error, step, rate_factor, steps


def _explained(
    run: Run, recorder: Recorder, init: Callable[[], TrainState], end: Diverged
) -> UserError:
    """The error of a run that diverged, with the step at which it did."""

    def restore() -> tuple[TrainState, int]:
        state, _, step = recorder.restore(init())
        return with_rate_factor(run, state, end.rate_factor), step

    recorder.console.print("Looking for the step that failed: computing steps again.")
    recorder.checkpoints.wait()
    found = explain(run, restore, end.step, recorder.workdir)
    if found is None:
        return end.error
    advice = str(end.error).partition("diverged. ")[2]
    return DivergedError(f"{found} {advice}")


def with_rate_factor(run: Run, state: TrainState, factor: float) -> TrainState:
    """The state with a factor of the learning rate."""
    array = run.partitioning.replicate(jnp.asarray(factor, jnp.float32))
    return state.replace(rate_factor=array)  # type: ignore[attr-defined, no-any-return]


def _fit(
    run: Run, state: TrainState, recorder: Recorder, factor: float | None
) -> tuple[TrainState, int]:
    """Train from the newest checkpoint on, with a factor of the learning rate where it is given."""
    console, stop, profiler = recorder.console, recorder.stop, recorder.profiler
    state, sums, start = recorder.restore(state)
    if factor is not None:
        state = with_rate_factor(run, state, factor)
    past = recorder.truncate_history(start)
    # True if the checkpoint was saved without the evaluation that was due, because of a signal.
    eval_pending = start > 0 and recorder.checkpoints.eval_pending(start)
    if start >= run.last_step and not eval_pending:
        return state, start
    # The phase in which the checkpoint was saved; without one, the first phase.
    done, phase = start, run.phase_at(max(start - 1, 0))
    with (
        closing(run.batches(start)) as batches,
        Progress(console, run.last_step, start) as progress,
    ):
        interval = parse_interval("save-every", run.config.save_every)
        waited = profiler.waits(batches)
        saves_at = SaveSchedule(interval, run.epoch_at, recorder.checkpoints)
        before = recorder.checkpoints.seconds(start) if start else 0.0
        if before is None:  # an earlier version saved it
            before = past[-1]["time"] if past else 0.0
        clock = Clock(run.config.data.batch_size, batches, before, profiler)
        if eval_pending:
            sums, stopping = recorder.evaluate_and_save(start, state, sums, clock, stop.poll())
            if stopping:
                return state, start
        nonfinite = NonfiniteSteps(run, sums, start)
        for segment in run.segments(start):
            step = run.step_for(segment.phase, segment.image_size)
            if segment.phase != phase:
                # A new phase starts with a fresh optimiser state for all of its parameters, because
                # the newly unfrozen ones have none.
                phase = segment.phase
                state = run.partitioning.put_state(step.init_optimizer(state))
                console.print(phase_message(phase))
            first_batch = next(waited)
            began = time.perf_counter()
            with profiler.time("compilation"):
                compiled = compile_step(step, run.partitioning, state, sums, first_batch)
            run.check_memory(compiled, step, state, sums, first_batch)
            console.print(f"Compiled the train step in {time.perf_counter() - began:.1f} s.")
            clock.restart()
            # The steps come first, so that zip takes no batch of the next segment.
            for index, batch in zip(segment.steps, chain([first_batch], waited), strict=False):
                with jax.transfer_guard("disallow"):
                    state, sums = profiler.step(index, compiled, state, sums, batch)
                done = index + 1
                clock.steps += 1
                stopping = stop.poll()
                evaluates = run.evaluates_at(done)
                with profiler.time("step", times=0):  # the others wait for process 0
                    saves = stopping or evaluates or saves_at.is_due(done)
                # Before every save, too: a checkpoint must not be replaced by one that diverged.
                if saves or clock.log_is_due():
                    with profiler.time("step", times=0):
                        read = jax.device_get(sums)
                        means, found = to_means(read), nonfinite.find(read, done)
                    try:
                        if run.config.on_nan == "skip":
                            nonfinite.report_skipped(found, float(state.rate_factor), console)
                        check_loss(read, done, run.config)
                        if saves:
                            with profiler.time("step", times=0):  # it waits for the devices, too
                                check_state(state, done, run.config)
                    except DivergedError as error:
                        rate_factor = float(state.rate_factor)
                        what = nonfinite.describe(found, rate_factor) if found.count else ""
                        raise Diverged(error, done, rate_factor, what) from error
                    progress.update(
                        done,
                        epoch=run.epoch_at(done),
                        loss=means["loss"],
                        top1=means["top1"],
                        rate=clock.images_per_second,
                        wait=clock.data_wait,
                    )
                if saves:
                    began = time.perf_counter()
                    sums, stopping = recorder.evaluate_and_save(done, state, sums, clock, stopping)
                    nonfinite.restart(sums)
                    blocked = None if evaluates else time.perf_counter() - began
                    saves_at.saved(done, blocked)
                if stopping:
                    return state, done
    return state, done
