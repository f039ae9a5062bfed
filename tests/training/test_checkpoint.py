"""Checkpoints of which a save or a removal fails."""

import logging
import os
import resource
import shutil
import signal
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from flax_resnet.errors import UserError
from flax_resnet.training import checkpoint, checkpoint_list
from flax_resnet.training.checkpoint import Checkpoints


@contextmanager
def no_file_larger_than(size):
    """Every write beyond ``size`` bytes of a file fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def tree_of(step):
    numbers = np.random.default_rng(step).normal(size=100_000)
    return {"weights": jnp.asarray(numbers, jnp.float32), "step": jnp.array(step)}


def test_earlier_checkpoints_are_known_after_a_failed_save(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, tree_of(1), score=0.5)
    assert checkpoints.best_step() == 1
    with no_file_larger_than(50_000), pytest.raises(UserError) as failure:
        checkpoints.save(2, tree_of(2), score=0.9)
        checkpoints.best_step()  # waits for the save in the background
    assert "could not be written" in str(failure.value) and "\n" not in str(failure.value)
    assert "that of step 1 is kept" in str(failure.value)
    assert (checkpoints.latest_step(), checkpoints.best_step()) == (1, 1)
    restored = checkpoints.restore(1, tree_of(0))
    np.testing.assert_array_equal(restored["weights"], tree_of(1)["weights"])
    checkpoints.save(3, tree_of(3), score=0.4)  # worse than the first, which must stay the best
    assert (checkpoints.latest_step(), checkpoints.best_step()) == (3, 1)
    checkpoints.close()
    again = Checkpoints(tmp_path / "checkpoints")
    assert (again.latest_step(), again.best_step()) == (3, 1)
    again.close()


def test_a_save_that_fails_prints_nothing(tmp_path, monkeypatch, caplog):
    """Of the arrays besides the first Python printed a hundred tracebacks: that the event loop was
    closed, or that nobody had waited for them."""
    shown = []
    monkeypatch.setattr(sys, "unraisablehook", shown.append)
    checkpoints = Checkpoints(tmp_path)
    many = {str(number): tree_of(number)["weights"] for number in range(60)}
    with no_file_larger_than(50_000), pytest.raises(UserError, match="could not be written"):
        checkpoints.save(1, many, wait=True)
    checkpoints.close()
    assert [str(one.exc_value) for one in shown] == []
    other = SimpleNamespace(exc_value=RuntimeError("Event loop is closed"), object=print)
    sys.unraisablehook(other)
    assert shown == [other]
    for text in ('OUT_OF_RANGE: Error writing "1/0" in OCDBT database', "of another library"):
        for kind in ("Task", "Future"):  # as Python logs them when they are collected
            message = f"{kind} exception was never retrieved\nfuture: <Future>"
            logging.getLogger("asyncio").error(message, exc_info=ValueError(text))
    found = [record.exc_info[1] for record in caplog.records if record.name == "asyncio"]
    assert list(map(str, found)) == ["of another library"] * 2


def test_a_save_between_evaluations_warns_of_nothing(tmp_path, caplog):
    """A notebook showed orbax's "Requested `tracked_metric`" at each."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, tree_of(1), wait=True)
    checkpoints.close()
    assert [record.message for record in caplog.records if record.levelno > logging.INFO] == []


def test_a_score_is_lost_only_with_the_last_attempt(tmp_path, monkeypatch):
    """Each attempt reported that the checkpoint could not become the best, which it then did."""
    monkeypatch.setattr(checkpoint, "PAUSE_SECONDS", 0)
    reports, finish = [], Checkpoints._finish
    checkpoints = Checkpoints(tmp_path, report=reports.append)

    def fail_first(self):
        monkeypatch.setattr(Checkpoints, "_finish", finish)
        finish(self)
        shutil.rmtree(tmp_path / "1")
        raise ValueError('Error writing "a": Failed to write: Input/output error [os_error_code=5]')

    monkeypatch.setattr(Checkpoints, "_finish", fail_first)
    checkpoints.save(1, tree_of(1), score=0.5, wait=True)
    assert (checkpoints.best_step(), reports) == (1, [])
    with no_file_larger_than(50_000), pytest.raises(UserError, match=r"\(File too large\)"):
        checkpoints.save(2, tree_of(2), score=0.9, wait=True)
    assert [report.partition(" (")[0] for report in reports] == [
        "The checkpoint of the evaluation after step 2 could not be written"
    ]
    checkpoints.close()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Failed to write: File too large [os_error_code='27']", "(File too large)"),
        # The order of such details differs from one error to the next.
        ("Failed to write: File too large [attempts='2'] [os_error_code='27']", "(File too large)"),
        ("Failed to write: x [os_error_code='5'] [attempts='2']", "(Input/output error)"),
        # tensorstore before 0.1.81
        ("Failed to write 9 bytes [OS error 27: EFBIG File too large] [a='b']", "(File too large)"),
        ("Failed to write: x [os_error_code='28']", "(no space is left there)"),
        ('Error writing "a" at "/' + "long/" * 90 + '": the cause', "the cause)"),
    ],
)
def test_the_reason_of_a_failed_save_is_in_its_sentence(tmp_path, monkeypatch, text, reason):
    finish = Checkpoints._finish

    def fail(self):
        finish(self)
        raise ValueError(f"OUT_OF_RANGE: {text}")

    checkpoints = Checkpoints(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(UserError) as failure:
        patch.setattr(Checkpoints, "_finish", fail)
        checkpoints.save(1, tree_of(1), wait=True)
    assert reason in str(failure.value)
    assert len(str(failure.value)) < 400
    checkpoints.close()


def test_nothing_is_left_of_a_save_that_failed(tmp_path):
    reports = []
    checkpoints = Checkpoints(tmp_path, on_error="continue", report=reports.append)
    checkpoints.save(1, tree_of(1), wait=True)
    with no_file_larger_than(50_000), pytest.raises(UserError, match="step 1 is kept"):
        checkpoints.save(2, tree_of(2))
        checkpoints.wait()
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    checkpoints.save(3, tree_of(3), wait=True)
    checkpoints.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "3"]


def test_a_save_that_fails_last_is_reported(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    with no_file_larger_than(50_000), pytest.raises(UserError, match="there is none before it"):
        checkpoints.save(1, tree_of(1))
        checkpoints.close()


@contextmanager
def removing_one_file():
    """One file can be removed, then none, as if the process were killed."""
    unlink, removed = os.unlink, []

    def first_only(path, **options):
        if removed:
            raise OSError(5, "Input/output error")
        removed.append(path)
        unlink(path, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "unlink", first_only)
        yield


def test_a_checkpoint_removed_in_part_is_no_damaged_one(tmp_path):
    reports = []
    checkpoints = Checkpoints(tmp_path, on_error="continue", report=reports.append)
    for step in (1, 2):
        checkpoints.save(step, tree_of(step), wait=True)
    with removing_one_file():
        checkpoints.save(3, tree_of(3))
        checkpoints.retry_is_due  # noqa: B018  waits for the save, as each step does
        checkpoints.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3", "deleted"]
    again = Checkpoints(tmp_path, report=reports.append)
    assert (again.steps(), reports) == ([2, 3], [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"]
    again.close()


def test_a_pruned_checkpoint_removed_in_part_is_no_damaged_one(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step in (1, 2):
        checkpoints.save(step, tree_of(step), wait=True)
    checkpoints.close()
    listed = checkpoint_list.list_checkpoints(tmp_path, verify=False)
    with removing_one_file(), pytest.raises(OSError, match="Input/output"):
        checkpoint_list.prune_checkpoints(tmp_path, listed)
    listed = checkpoint_list.list_checkpoints(tmp_path, verify=True)
    assert [(one.name, one.marks) for one in listed] == [
        ("2", ("latest", "verified")),
        ("deleted", ("deleted",)),
    ]
    assert checkpoint_list.prune_checkpoints(tmp_path, listed) == ["deleted"]


def test_the_time_of_training_is_kept_and_sealed(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, tree_of(1), wait=True)
    checkpoints.save(2, tree_of(2), wait=True, seconds=12.345)
    assert [checkpoints.seconds(step) for step in (1, 2)] == [None, 12.345]
    path = tmp_path / "2" / "_CHECKPOINT_METADATA"
    path.write_text(path.read_text().replace("12.345", "92.345"))
    with pytest.raises(UserError, match="the checksum of its metadata differs"):
        checkpoints.restore(2, tree_of(2))
    checkpoints.close()


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_pending_evaluation_replaces_its_checkpoint_only_when_it_is_complete(
    tmp_path, monkeypatch
):
    """The only checkpoint of a run was deleted before the new one was written."""
    monkeypatch.setattr(checkpoint, "PAUSE_SECONDS", 0)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(5, tree_of(5), evaluated=False, wait=True)
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(UserError, match="step 5 is kept"):
        patch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage._replace(free=100))
        checkpoints.save(5, tree_of(6), score=0.5, wait=True)
    with no_file_larger_than(50_000), pytest.raises(UserError, match="step 5 is kept"):
        checkpoints.save(5, tree_of(6), score=0.5, wait=True)
    assert names_in(tmp_path) == ["5"]
    assert checkpoints.eval_pending(5)
    restored = checkpoints.restore(5, tree_of(0))
    np.testing.assert_array_equal(restored["weights"], tree_of(5)["weights"])
    checkpoints.save(5, tree_of(6), score=0.5, wait=True)
    assert names_in(tmp_path) == ["5"]
    assert (checkpoints.best_step(), checkpoints.eval_pending(5)) == (5, False)
    restored = checkpoints.restore(5, tree_of(0))
    np.testing.assert_array_equal(restored["weights"], tree_of(6)["weights"])
    checkpoints.close()


def test_a_checkpoint_that_was_being_replaced_is_taken_up_again(tmp_path):
    """As SIGKILL leaves it before, and after, the new one is complete."""
    folder = tmp_path / "checkpoints"
    checkpoints = Checkpoints(folder)
    checkpoints.save(5, tree_of(5), evaluated=False, wait=True)
    checkpoints.close()
    (folder / "5").rename(folder / "5.pending")
    listed = checkpoint_list.list_checkpoints(tmp_path, verify=False)
    assert [(one.name, one.marks) for one in listed] == [
        ("5.pending", ("evaluation pending, set aside",))
    ]
    assert checkpoint_list.prune_checkpoints(tmp_path, listed) == []
    again = Checkpoints(folder)
    assert (again.steps(), again.eval_pending(5), names_in(folder)) == ([5], True, ["5"])
    again.close()
    shutil.copytree(folder / "5", folder / "5.pending")
    Checkpoints(folder).close()
    assert names_in(folder) == ["5"]
