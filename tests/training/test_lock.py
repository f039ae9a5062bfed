"""The lock of a run's folder: one owner, whatever is killed, moved, or started at once."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import flax_resnet
from flax_resnet.errors import UserError
from flax_resnet.training import lock
from flax_resnet.training.lock import Lock, owner_of

ROOT = Path(flax_resnet.__file__).parents[1]
# Takes the lock at a given time, says so, and keeps it; or prints why it was refused.
TAKE = """
import sys, time
from pathlib import Path
from flax_resnet.errors import UserError
from flax_resnet.training.lock import Lock
print("ready", flush=True)
time.sleep(max(0, float(sys.stdin.readline()) - time.time()))
try:
    Lock(Path(sys.argv[1]), "train")
    print("taken", flush=True)
    time.sleep(60)
except UserError as error:
    print(error, flush=True)
"""


def start(folder):
    return subprocess.Popen(
        [sys.executable, "-c", TAKE, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def answers_of(processes):
    """What each prints; they begin together, once all are ready."""
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    begin_at = time.time() + 0.02 * len(processes)
    for process in processes:
        process.stdin.write(f"{begin_at}\n")
        process.stdin.flush()
    return [process.stdout.readline().strip() for process in processes]


def test_a_second_owner_is_refused_and_changes_nothing(tmp_path):
    first = Lock(tmp_path, "train")
    before = (tmp_path / ".lock").read_bytes(), (tmp_path / ".lock").stat().st_mtime_ns
    with pytest.raises(UserError, match=rf"is in use by process {os.getpid()} on .*--workdir\.$"):
        Lock(tmp_path, "train")
    assert before == ((tmp_path / ".lock").read_bytes(), (tmp_path / ".lock").stat().st_mtime_ns)
    assert os.listdir(tmp_path) == [".lock"]
    first.release()
    assert os.listdir(tmp_path) == []
    Lock(tmp_path, "train").release()


def test_a_killed_owner_is_replaced_at_once(tmp_path):
    with start(tmp_path) as process:
        assert answers_of([process]) == ["taken"]
        assert owner_of(tmp_path).pid == process.pid
        with pytest.raises(UserError, match="is in use"):
            Lock(tmp_path, "train")
        process.send_signal(signal.SIGKILL)
    assert owner_of(tmp_path) is None
    ours = Lock(tmp_path, "train")
    assert ours.replaced.pid == process.pid
    ours.release()


def as_on_another_host(folder, *, silent_for):
    """Change the lock to that of a run on another host, which has been silent for some seconds."""
    path = folder / ".lock"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"host": "other", "token": "x"}))
    then = time.time() - silent_for
    os.utime(path, (then, then))


def test_an_owner_on_another_host_is_replaced_when_its_heartbeat_has_stopped(tmp_path):
    first = Lock(tmp_path, "train")
    as_on_another_host(tmp_path, silent_for=lock.STALE_SECONDS / 2)
    with pytest.raises(UserError, match=r"on other .*last sign of life was 30 s ago"):
        Lock(tmp_path, "train")
    as_on_another_host(tmp_path, silent_for=lock.STALE_SECONDS + 1)
    second = Lock(tmp_path, "train")
    with pytest.raises(UserError, match="was taken over by process"):
        first.check()
    first.release()  # the lock of the second stays
    second.check()
    second.release()


def test_where_processes_cannot_be_seen_the_heartbeat_decides(tmp_path, monkeypatch):
    """As on macOS and Windows, where a killed run could otherwise never be resumed."""
    monkeypatch.setattr(lock, "_system", lambda: "")
    monkeypatch.setattr(lock, "_born", lambda pid: "")
    Lock(tmp_path, "train")
    with pytest.raises(UserError, match="last sign of life"):
        Lock(tmp_path, "train")
    then = time.time() - lock.STALE_SECONDS - 1
    os.utime(tmp_path / ".lock", (then, then))
    Lock(tmp_path, "train").release()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("error", ["ENOSYS", "EOPNOTSUPP", "ENOLCK"])
def test_a_file_system_without_flock_has_the_lock_too(tmp_path, monkeypatch, error):
    def refuse(*_):
        raise OSError(getattr(errno, error), "refused")

    monkeypatch.setattr(fcntl, "flock", refuse)
    first = Lock(tmp_path, "train")
    with pytest.raises(UserError, match="is in use by process"):
        Lock(tmp_path, "train")
    first.release()
    assert os.listdir(tmp_path) == []


def test_a_lock_that_fails_otherwise_is_reported(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(UserError, match=r"cannot be written \(Input/output error\)"):
        Lock(tmp_path, "train")


def test_a_half_written_lock_is_replaced(tmp_path):
    (tmp_path / ".lock").write_text('{"job": "train", "ho')
    Lock(tmp_path, "train").release()


def test_the_heartbeat_renews_the_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.02)
    ours = Lock(tmp_path, "train")
    os.utime(tmp_path / ".lock", (1, 1))
    until = time.monotonic() + 5
    while (tmp_path / ".lock").stat().st_mtime < 2:
        assert time.monotonic() < until
        time.sleep(0.01)
    ours.release()


@pytest.mark.slow
def test_of_twenty_starts_at_once_one_wins(tmp_path):
    """Also where all of them find a stale lock."""
    Lock(tmp_path, "train")
    as_on_another_host(tmp_path, silent_for=lock.STALE_SECONDS + 1)
    processes = [start(tmp_path) for _ in range(20)]
    try:
        answers = answers_of(processes)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert answers.count("taken") == 1
    winner = processes[answers.index("taken")]
    assert all(f"in use by process {winner.pid} " in text for text in answers if text != "taken")
