"""Trackers: a resumed run continues its curves, and a dead tracker is given up."""

import csv
import dataclasses
import threading
from pathlib import Path

import pytest

from flax_resnet import UserError, train
from flax_resnet.config import Config, DataConfig
from flax_resnet.report import check_trackers, open_trackers, trackers
from tests.tiny_net import TINY

SETTINGS = {"epochs": 4, "model.name": "resnet20"}


def line(step, **more):
    """A line of the history, which also holds texts."""
    texts = {"digest": "ba3b2bad627ee3bc", "checksum": "b1d853e1"}
    return (
        {"step": step, "epoch": step / 10, "train_loss": 1 / step, "val_top1": None} | texts | more
    )


LAST = {"step": 40, "epoch": 4.0, "best_step": 30, "test_top1": 0.5}


def tracked(names, workdir, past, lines):
    """Track a run that has the lines ``past`` and then gets ``lines``; return the notes."""
    notes = []
    opened = open_trackers(names, workdir, SETTINGS, past, notes.append)
    for entry in lines:
        opened.append(entry)
    opened.close()
    return notes


def killed_and_resumed(name, workdir):
    """The run is killed after step 30, and its newest checkpoint is that of step 20."""
    steps = {step: line(step) for step in (10, 20, 30, 40)}
    assert tracked([name], workdir, [], [steps[10], steps[20], steps[30]]) == []
    past = [steps[10], steps[20]]
    assert tracked([name], workdir, past, [steps[30], steps[40], LAST]) == []
    # The same command again evaluates a finished run once more.
    assert tracked([name], workdir, [*steps.values(), LAST], [LAST]) == []


def test_csv_has_each_value_once(tmp_path):
    killed_and_resumed("csv", tmp_path)
    with (tmp_path / "metrics.csv").open() as file:
        rows = [(row["step"], row["value"]) for row in csv.DictReader(file)
                if row["metric"] == "train_loss"]  # fmt: skip
    assert [int(step) for step, _ in rows] == [10, 20, 30, 40]
    assert float(rows[1][1]) == 0.05


def test_event_files_have_one_unbroken_curve(tmp_path):
    pytest.importorskip("tensorboardX")
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    killed_and_resumed("tensorboard", tmp_path)
    events = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {event.step: event.value for event in events.Scalars("loss/train")} == pytest.approx(
        {10: 0.1, 20: 0.05, 30: 1 / 30, 40: 0.025}
    )
    assert [event.step for event in events.Scalars("top1/test")] == [40]


def test_mlflow_has_one_run_with_one_unbroken_curve(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    mlflow.set_tracking_uri(None)
    monkeypatch.setattr(trackers, "PATIENCE", 300)  # it first makes the tables of its database
    killed_and_resumed("mlflow", tmp_path)
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("flax_resnet")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.params["model.name"] == "resnet20"
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "train_loss")
    assert [point.step for point in history] == [10, 20, 30, 40]


class Broken:
    def __init__(self, opening):
        pass

    def log(self, step, values):
        raise SystemExit("no space left")

    def close(self):
        pass


@pytest.mark.slow
@pytest.mark.usefixtures("no_page")
def test_an_overwritten_run_is_a_new_one_of_its_trackers(tmp_path, console, monkeypatch):
    """Its curves were taken for those of the run that was deleted, and none were logged."""
    logged = []

    class Remembering:
        def __init__(self, opening):
            self.run = opening.state.setdefault("run", opening.settings["seed"])

        def log(self, step, values):
            logged.append((self.run, step))

        def close(self):
            pass

    monkeypatch.setitem(trackers._TRACKERS, "csv", (None, Remembering))
    data, workdir = DataConfig(name="digits", batch_size=1024), tmp_path / "run"
    (workdir / "tensorboard").mkdir(parents=True)
    for name in ("metrics.csv", "tensorboard/events", "notes.txt"):
        (workdir / name).write_text("of the first run")
    for seed in (0, 1):
        config = Config(TINY, data, epochs=1, seed=seed, track=("csv",), compile_cache=None)
        train(dataclasses.replace(config, workdir=str(workdir), overwrite=True), console)
    steps = [[step for run, step in logged if run == seed] for seed in (0, 1)]
    assert steps[0] and steps[0] == steps[1]
    assert (workdir / "notes.txt").exists()
    assert not (workdir / "metrics.csv").exists() and not (workdir / "tensorboard").exists()


def hanging(opening):
    threading.Event().wait()


@pytest.mark.parametrize(
    ("opens", "sentence"),
    [
        (Broken, "csv is given up, training goes on (SystemExit: no space left)."),
        (lambda opening: 1 / 0, "csv is given up, training goes on (ZeroDivisionError: division"),
        (hanging, "csv does not answer: its curves lack the last values."),
    ],
)
def test_a_dead_tracker_is_given_up_with_a_note(opens, sentence, tmp_path, monkeypatch):
    monkeypatch.setitem(trackers._TRACKERS, "csv", (None, opens))
    monkeypatch.setattr(trackers, "PATIENCE", 0.2)
    (note,) = tracked(["csv"], tmp_path, [], [line(10), line(20)])
    assert note.startswith(sentence)


def test_a_missing_package_is_wrong_usage(monkeypatch):
    monkeypatch.setitem(trackers._TRACKERS, "wandb", ("no_such_package", None))
    with pytest.raises(UserError, match=r'pip install "flax-resnet\[wandb\]"') as error:
        check_trackers(["csv", "wandb"], Path("run"))
    assert error.value.exit_code == 2
