"""What a run records: a line of the history at each evaluation, and what it came to at its end."""

from dataclasses import dataclass
from pathlib import Path

import jax
from rich.console import Console

from ..report import Entry, append_history, keep_history, read_history, results_table
from .checkpoint import Checkpoints
from .clock import Clock
from .evaluation import Scores, evaluate_split, to_means
from .mesh import replicate
from .parallel import Partitioning, place_state
from .preemption import StopRequest
from .run_report import write_run_report
from .setup import Run
from .state import TrainState
from .step import Metrics, zero_metrics

HISTORY = "history.jsonl"


@dataclass(frozen=True)
class TrainResult:
    """What a run came to.

    Attributes:
      workdir: the run's folder.
      step: steps done.
      finished: False where a signal stopped it before its end.
      best_step: step of the checkpoint with the best validation score, see score_of.
      test: scores of that checkpoint on the test images, see evaluate_split; empty unless
        finished.
    """

    workdir: Path
    step: int
    finished: bool
    best_step: int | None
    test: Scores


def kept_history(workdir: Path, step: int) -> list[Entry]:
    """The lines of the history up to ``step``; what a resumed run will write again is cut off."""
    if jax.process_index() == 0:
        return keep_history(workdir / HISTORY, step)
    return [line for line in read_history(workdir / HISTORY) if line["step"] <= step]


def evaluate_and_log(
    run: Run,
    partitioning: Partitioning,
    state: TrainState,
    train_sums: Metrics,
    step: int,
    clock: Clock,
    workdir: Path,
    stop: StopRequest,
    console: Console,
) -> Scores:
    """Evaluate the validation images; a line of the history and one on the console.

    Raises:
      Stopped: the run is to stop; nothing was written.
    """
    rate, wait = clock.images_per_second, clock.data_wait
    train_means = to_means(train_sums)
    val = evaluate_split(
        state, run.dataset.validation, run.config.data.batch_size, partitioning.mesh, stop
    )
    entry = {
        "step": step,
        "epoch": run.ends_epoch(step) or round(run.epoch_at(step), 4),
        "time": round(clock.total, 3),
        "train_loss": train_means["loss"],
        "train_top1": train_means["top1"],
        **{f"val_{name}": value for name, value in val.items()},
        # Of the step just done: schedules count from 0.
        "learning_rate": float(run.schedule(step - 1)),
        "images_per_second": round(rate, 2),
        "data_wait": round(wait, 4),
    }
    if jax.process_index() == 0:
        append_history(workdir / HISTORY, entry)
    told = f"  val loss {val['loss']:.4f}  val top-1 {val['top1']:.2%}" if val else ""
    told += f"  val mAP {val['map']:.2%}" if "map" in val else ""
    console.print(
        f"epoch {entry['epoch']:g}  step {step:,}  loss {train_means['loss']:.4f}  "
        f"top-1 {train_means['top1']:.2%}{told}  {rate:,.0f} images/s  data wait {wait:.0%}"
    )
    clock.restart()
    return val


def finish(
    run: Run,
    partitioning: Partitioning,
    workdir: Path,
    checkpoints: Checkpoints,
    state: TrainState,
    stop: StopRequest,
    console: Console,
) -> TrainResult:
    """Evaluate the best and the last checkpoint on the test images; table and last history line.

    Raises:
      Stopped: the run is to stop; the same call does the rest.
    """
    data, batch_size = run.dataset, run.config.data.batch_size
    last = int(state.step)
    best = checkpoints.best_step() or last
    past = kept_history(workdir, last)
    seconds = past[-1]["time"] if past else 0.0
    val = {
        line["step"]: {name[4:]: line[name] for name in line if name.startswith("val_")}
        for line in past
        if "val_top1" in line
    }
    tested = {last: evaluate_split(state, data.test, batch_size, partitioning.mesh, stop)}
    if best != last:
        was = place_state(run.in_phase(state, run.phase_at(best - 1)), partitioning)
        template = {"state": was, "sums": replicate(zero_metrics(), partitioning.mesh)}
        state = checkpoints.restore(best, template)["state"]
        tested[best] = evaluate_split(state, data.test, batch_size, partitioning.mesh, stop)
    rows = {
        name: (step, val.get(step), tested[step])
        for name, step in {"best": best, "last": last}.items()
    }
    test = tested[best]
    entry = {"step": last, "epoch": round(run.epoch_at(last), 4), "time": seconds}
    entry |= {"best_step": best} | {f"test_{name}": value for name, value in test.items()}
    if jax.process_index() == 0:
        append_history(workdir / HISTORY, entry)
    console.print(results_table(f"{run.config.model.name} on {data.name}", rows))
    for path, why in data.bad.items():
        console.print(f"[yellow]left out:[/] {path} {why}")
    rates = [line["images_per_second"] for line in past if line["images_per_second"]]
    rate = f", {sorted(rates)[len(rates) // 2]:,.0f} images/s" if rates else ""
    console.print(f"{last:,} steps in {seconds:,.0f} s{rate}. The run is in {workdir}.")
    if page := write_run_report(workdir, data, state, batch_size):
        console.print(f"Open {page}.")
    return TrainResult(workdir, last, True, best, test)
