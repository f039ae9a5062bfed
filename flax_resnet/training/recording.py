"""What a run leaves behind: lines of the history, checkpoints, results and a page."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import serialization
from rich.console import Console
from rich.text import Text

from ..data import Dataset, Preprocessing, Source
from ..errors import StorageError, UserError
from ..report import (
    Entry,
    Trackers,
    append_history,
    history_up_to,
    results_table,
    truncate_history,
)
from ..report.notebook import to_html
from ..report.page import FOLDER
from ..report.tables import text_table
from ..storage import edited
from ..weights import build_model, is_small, write_run_weights
from ..weights.formats.checkpoint import state_digest
from .checkpoint import Checkpoints
from .clock import Clock
from .distributed import all_agree, gather_texts, primary_decides
from .eval_step import Metrics
from .evaluation import Scores, SplitEvaluation, evaluate_split, score_of, to_means
from .lock import Lock
from .messages import warn
from .preemption import Stopped, StopRequest
from .profiling import Profiler
from .run import Run
from .run_page import PageEvaluation, write_run_page
from .state import TrainState
from .step import zero_step_metrics
from .stragglers import process_times, slowest_text

HISTORY = "history.jsonl"


@dataclass(frozen=True)
class TrainResult:
    """The result of a run.

    Attributes:
        workdir: The run's folder.
        step: Number of steps done.
        finished: False if a signal stopped the run before its end.
        best_step: Step of the checkpoint with the best validation score, see ``score_of``.
        test: Scores of that checkpoint on the test images; empty unless finished.
    """

    workdir: Path
    step: int
    finished: bool
    best_step: int | None
    test: Scores

    def _repr_html_(self) -> str:
        """The result as a table, which a notebook shows."""
        rows = {
            "steps": f"{self.step:,}",
            "finished": "yes" if self.finished else "no: the same call goes on",
            "best checkpoint": "" if self.best_step is None else f"step {self.best_step:,}",
            **{f"test {name}": f"{value:.4f}" for name, value in self.test.items()},
        }
        shown = [(name, value) for name, value in rows.items() if value]
        return to_html(text_table(str(self.workdir), ("", ""), shown))


@dataclass(frozen=True)
class Recorder:
    """Evaluates a run, and writes its history, checkpoints and results.

    Attributes:
        run: The run.
        workdir: Its folder.
        lock: Its lock, in the process that holds it.
        checkpoints: Those of the run.
        stop: Whether the run is to stop; polled during evaluation.
        console: Where progress is reported.
        trackers: They get the lines of the history too.
        profiler: It measures evaluations and checkpoints.
    """

    run: Run
    workdir: Path
    lock: Lock | None
    checkpoints: Checkpoints
    stop: StopRequest
    console: Console
    trackers: Trackers
    profiler: Profiler

    def restore(self, state: TrainState) -> tuple[TrainState, Metrics, int]:
        """Restore the newest checkpoint that is not damaged.

        Args:
            state: The state before the first step.

        Returns:
            The state and the metric sums on the devices, and the number of steps done; ``state``
            itself, zeros and 0 if there is no checkpoint.

        Raises:
            UserError: There are checkpoints, and all are damaged or belong to another model.
        """
        run, steps = self.run, self.checkpoints.steps()[::-1]
        if not steps:
            return (
                run.partitioning.put_state(state),
                run.partitioning.replicate(zero_step_metrics()),
                0,
            )
        failures: list[UserError] = []
        for step in steps:
            restored = None
            try:
                restored = self._restore(step, state)
            except StorageError:  # which says nothing about the checkpoint
                raise
            except UserError as error:
                failures.append(error)
            if all_agree(restored is not None) and restored is not None:
                break
        else:  # nothing is changed: another version of this package may read them
            raise failures[0] if failures else UserError("No process could read a checkpoint.")
        if step != steps[0]:
            self.checkpoints.set_aside(steps[steps.index(step) - 1])
            reason = str(failures[0]).partition(": copy it")[0] if failures else "Damaged"
            warn(
                self.console,
                f"{reason}; it is kept as {steps[0]}.damaged, and training goes on from the "
                f"checkpoint after step {step:,}, the one before.",
            )
        self.console.print(
            Text(f"Resuming from the checkpoint after step {step:,} in {self.workdir}.")
        )
        return *restored, step

    def truncate_history(self, step: int) -> list[Entry]:
        """Remove the lines of the history after ``step``, which a resumed run writes again.

        Returns:
            The lines up to ``step``.
        """
        path = self.workdir / HISTORY
        if jax.process_index() == 0:
            return truncate_history(path, step)
        return history_up_to(path, step)

    def append(self, entry: Entry) -> None:
        """Append a line to the history; one process of a run writes it."""
        if jax.process_index() == 0:
            self._check_lock()
            append_history(self.workdir / HISTORY, entry)
            self.trackers.append(entry)

    def _check_lock(self) -> None:
        if self.lock is not None:
            self.lock.check()

    def evaluate_and_save(
        self, step: int, state: TrainState, sums: Metrics, clock: Clock, stopping: bool
    ) -> tuple[Metrics, bool]:
        """Evaluate if an evaluation is due, and save a checkpoint.

        Args:
            step: Number of steps done.
            state: The state after them.
            sums: Training metrics summed since the last evaluation.
            clock: Time and speed of training.
            stopping: Whether the run is about to stop: an evaluation that is due is left to the
                run that resumes.

        Returns:
            The sums to continue with, and whether the run is to stop.
        """
        self._check_lock()
        run, saved = self.run, {"state": state, "sums": sums}
        # No later save would make good for one that fails.
        is_last = step >= run.last_step
        if not run.evaluates_at(step):
            self._save(step, saved, clock, wait=stopping)
            return sums, stopping
        if not stopping:
            try:
                # The history comes first: a run killed before the save writes its line again.
                scores = self._evaluate_and_log(step, state, sums, clock)
            except Stopped:
                stopping = True
        if stopping:
            self._save(step, saved, clock, evaluated=False, wait=True)
            return sums, stopping
        if run.evaluation_is_due(step):  # not where max_steps cuts an epoch short
            sums = run.partitioning.replicate(zero_step_metrics())
        saved = {"state": state, "sums": sums}
        self._save(step, saved, clock, score=score_of(scores), wait=is_last)
        return sums, stopping

    def _save(self, step: int, tree: Any, clock: Clock, **options: Any) -> None:
        with self.profiler.time("checkpoint"):
            self.checkpoints.save(step, tree, seconds=round(clock.total, 3), **options)

    def finish(self, state: TrainState) -> TrainResult:
        """Evaluate the best and the last checkpoint on the test images, and write the results.

        Raises:
            Stopped: The run is to stop; the same call does the rest.
        """
        run, dataset, last = self.run, self.run.dataset, int(state.step)
        best = self.checkpoints.best_step() or last
        past = self.truncate_history(last)
        seconds = past[-1]["time"] if past else 0.0
        tested = {last: self._evaluate(state, dataset.test, keep_logits=best == last)}
        if best != last:
            state, _ = self._restore(best, state)
            tested[best] = self._evaluate(state, dataset.test, keep_logits=True)
        validated = {
            line["step"]: {name[4:]: line[name] for name in line if name.startswith("val_")}
            for line in past
            if "val_top1" in line
        }
        test = tested[best].scores
        found = self._page_evaluation(state, tested[best])
        variables = run.partitioning.replicate(state.eval_variables)  # by all processes
        if jax.process_index() == 0:
            variables = jax.device_get(variables)
            model = build_model(run.config.model, len(dataset.classes))
            write_run_weights(self.workdir, variables, model, step=best, last_step=last)
        self.append(
            {
                "step": last,
                "epoch": past[-1]["epoch"] if past else round(run.epoch_at(last), 4),
                "time": seconds,
                "best_step": best,
                **{f"test_{name}": value for name, value in test.items()},
                **{f"last_test_{name}": value for name, value in tested[last].scores.items()},
            }
        )
        rows = {
            name: (step, validated.get(step), tested[step].scores)
            for name, step in {"best": best, "last": last}.items()
        }
        self.console.print(results_table(f"{run.config.model.name} on {dataset.name}", rows))
        share_bad(dataset)
        for path, reason in dataset.bad.items():
            self.console.print(Text.assemble(("left out:", "yellow"), f" {path} {reason}"))
        rates = [line["images_per_second"] for line in past if line["images_per_second"]]
        rate = f", {sorted(rates)[len(rates) // 2]:,.0f} images/s" if rates else ""
        self.console.print(
            Text(f"{last:,} steps in {seconds:,.0f} s{rate}. The run is in {self.workdir}.")
        )
        self.console.print(self.profiler.goodput())
        if slowest := slowest_text(past):
            self.console.print(slowest)
        self.profiler.save()
        # The others wait here: at its exit JAX ends a process that waits too long for process 0.
        with primary_decides():
            if jax.process_index() == 0:
                predictor = run.model, variables, Preprocessing.from_transform(run.transform)
                with edited(self.workdir, FOLDER, is_small) as folder:
                    page = write_run_page(folder, run.config, dataset, found, predictor)
                page = self.workdir / page.relative_to(folder)
                self.console.print(Text(f"Open {page}."))
        return TrainResult(self.workdir, last, True, best, test)

    def _restore(self, step: int, state: TrainState) -> tuple[TrainState, Metrics]:
        run = self.run
        # Its optimiser state is that of the phase in which the checkpoint was saved.
        template = run.step_for(run.phase_at(step - 1)).init_optimizer(state)
        template = run.partitioning.put_state(template)
        sums = run.partitioning.replicate(zero_step_metrics())
        restored = self.checkpoints.restore(step, {"state": template, "sums": sums})
        return restored["state"], restored["sums"]

    def _evaluate(
        self, state: TrainState, split: Source, keep_logits: bool = False
    ) -> SplitEvaluation:
        run = self.run
        with self.profiler.time("evaluation"):
            return evaluate_split(
                run.step.eval_step,
                state.eval_variables,
                split,
                run.config.data.batch_size,
                run.partitioning,
                self.stop,
                keep_logits,
            )

    def _evaluate_and_log(
        self, step: int, state: TrainState, sums: Metrics, clock: Clock
    ) -> Scores:
        """Evaluate the validation images; write a line of the history and one on the console.

        Raises:
            Stopped: The run is to stop; nothing was written.
        """
        run = self.run
        rate_factor = float(state.rate_factor)
        rate, wait, host_seconds = clock.images_per_second, clock.data_wait, clock.host_seconds
        train = to_means(sums)
        val = self._evaluate(state, run.dataset.validation).scores
        entry = {
            "step": step,
            "epoch": run.completed_epoch(step) or round(run.epoch_at(step), 4),
            "time": round(clock.total, 3),
            "train_loss": train["loss"],
            "train_top1": train["top1"],
            **{f"val_{name}": value for name, value in val.items()},
            # The rate of the step just done: schedules count from 0.
            "learning_rate": float(run.schedule(step - 1)) * rate_factor,
            **({} if rate_factor == 1 else {"rate_factor": rate_factor}),
            "grad_norm": train["grad_norm"],
            "images_per_second": round(rate, 2),
            "data_wait": round(wait, 4),
            **process_times(host_seconds),
            "digest": state_digest(serialization.to_state_dict(state)),
        }
        self.append(entry)
        text = f"  val loss {val['loss']:.4f}  val top-1 {val['top1']:.2%}" if val else ""
        text += f"  val mAP {val['map']:.2%}" if "map" in val else ""
        self.console.print(
            f"epoch {entry['epoch']:g}  step {step:,}  loss {train['loss']:.4f}  "
            f"top-1 {train['top1']:.2%}{text}  {rate:,.0f} images/s  data wait {wait:.0%}"
        )
        clock.restart()
        return val

    def _page_evaluation(self, state: TrainState, test: SplitEvaluation) -> PageEvaluation | None:
        """The evaluation that the page shows: of the test images or, without any, of the
        validation images, which otherwise fit the temperature."""
        dataset = self.run.dataset
        validation = SplitEvaluation({})
        if test.logits is None or not dataset.multi_label:  # which has no temperature
            validation = self._evaluate(state, dataset.validation, keep_logits=True)
        found = PageEvaluation("test", dataset.test, test, validation)
        if test.logits is None:
            found = PageEvaluation(
                "validation", dataset.validation, validation, SplitEvaluation({})
            )
        logits = [part.logits for part in (found.shown, found.fitted) if part.logits is not None]
        if found.shown.logits is None or not len(found.shown.logits):
            return None
        return found if all(np.isfinite(rows).all() for rows in logits) else None


def share_bad(dataset: Dataset) -> None:
    """Add to ``bad`` of each split the files that other processes could not read; all of them must
    call it."""
    splits = (dataset.train, dataset.validation, dataset.test)
    for text in gather_texts(json.dumps([dict(split.bad) for split in splits])):
        for split, bad in zip(splits, json.loads(text), strict=True):
            split.bad.update(bad)
