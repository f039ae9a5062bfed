"""Train for hours in two processes, and see whether memory, threads and open files grow.

    python -m benchmarks.soak WORK --hours 2 --cifar cifar-10-binary.tar.gz
    python -m benchmarks.soak WORK --report      # the slopes of what was sampled so far

One process trains a small net on the digits again and again, each time in a fresh folder and to
the page of its report. Without ``--cifar`` it is alone; else another process trains a resnet20 on
10,000 images of CIFAR-10 in one long run (EMA, mixup, two microbatches, saves by time, an
evaluation each epoch), which SIGTERM ends. Every ten seconds WORK/samples.jsonl gets a line with
the memory (resident, MB), threads and open files of both.

The slopes are least squares through the means of 24 equal parts of the time: without the first
fifth, in which programs compile and caches fill, and of the second half alone. Their standard
errors are those of that line. Time in which all was suspended does not count. The cost of saves by
time is the time for which they stop the training, and a core for as long as they go on after that.
It exits with 1 if a process failed.
"""

import argparse
import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.subset import write_subset
from flax_resnet.processor import available_cores
from flax_resnet.runtime import tune_cpu

SECONDS = 10.0  # between samples
PARTS = 24
QUANTITIES = {
    "memory_MB": "MB resident",
    "anonymous_MB": "MB of that not of files",
    "threads": "threads",
    "files": "open files",
}


def train_digits(work: Path) -> None:
    """Train on the digits until the process is ended; write the number of runs to a file."""
    import flax_resnet as fr
    from flax_resnet import config as settings

    for number in range(1, 10**9):
        workdir = work / "digits"
        shutil.rmtree(workdir, ignore_errors=True)
        result = fr.train(
            settings.Config(
                model=settings.ModelConfig(name="resnet8"),
                data=settings.DataConfig(name="digits", batch_size=128),
                augment=settings.AugmentConfig(crop_padding=1, flip=False, mixup_alpha=0.2),
                epochs=2,
                ema_decay=0.9,
                microbatches=2,
                save_every=5,
                workdir=str(workdir),
                compile_cache=str(work / "xla"),
            )
        )
        if not result.finished:  # by a signal
            return
        (work / "digits.runs").write_text(str(number))


def train_cifar(work: Path) -> None:
    """Train on CIFAR-10 until SIGTERM; write what each save took to a file."""
    import flax_resnet as fr
    from flax_resnet import config as settings
    from flax_resnet.training.saving import SaveSchedule

    saved = SaveSchedule.saved

    def recorded(self, step, seconds):
        row = {"blocked": seconds, "background_before": self._checkpoints.background_seconds}
        with open(work / "saves.jsonl", "a") as file:
            file.write(json.dumps({"step": step, "time": time.monotonic()} | row) + "\n")
        saved(self, step, seconds)

    SaveSchedule.saved = recorded
    (work / "saves.jsonl").unlink(missing_ok=True)
    fr.train(
        settings.Config(
            model=settings.ModelConfig(name="resnet20"),
            data=settings.DataConfig(name="cifar10", dir=str(work / "data"), download=False),
            augment=settings.AugmentConfig(mixup_alpha=0.2),
            epochs=10_000,
            ema_decay=0.99,
            microbatches=2,
            save_every="60s",
            workdir=str(work / "cifar"),
            compile_cache=str(work / "xla"),
        )
    )


def sample(pid: int) -> dict[str, float]:
    """Memory, threads, open files, and processor seconds of a process."""
    folder = Path("/proc") / str(pid)
    lines = (folder / "status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    ticks = (folder / "stat").read_text().rpartition(")")[2].split()[11:13]
    return {
        "memory_MB": int(status["VmRSS"].split()[0]) / 1024,
        "anonymous_MB": int(status["RssAnon"].split()[0]) / 1024,
        "threads": int(status["Threads"]),
        "files": len(list((folder / "fd").iterdir())),
        "cpu_seconds": sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK"),
    }


def soak(work: Path, seconds: float, cifar: Path | None) -> int:
    """Start the processes, sample them, and end them; return how many failed."""
    if cifar is not None:
        write_subset(cifar, work / "data", train=2000, test=1000)
    names = ["digits", "cifar"] if cifar is not None else ["digits"]
    children = {}
    for name in names:
        with open(work / f"{name}.log", "w") as log:
            command = [sys.executable, "-m", "benchmarks.soak", str(work), "--child", name]
            children[name] = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    elapsed, before = 0.0, time.monotonic()
    with open(work / "samples.jsonl", "w") as file:
        while elapsed < seconds and all(child.poll() is None for child in children.values()):
            time.sleep(SECONDS)
            now = time.monotonic()
            elapsed, before = elapsed + min(now - before, 3 * SECONDS), now
            try:
                rows = {name: sample(child.pid) for name, child in children.items()}
            except (OSError, KeyError):  # one has just ended
                break
            file.write(json.dumps({"seconds": round(elapsed, 1)} | rows) + "\n")
            file.flush()
    failed = 0
    for name, child in children.items():
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)  # both save and stop
            try:
                child.wait(300)
            except subprocess.TimeoutExpired:
                child.kill()
        if child.returncode not in (0, -signal.SIGTERM):  # the latter between two runs
            failed += 1
            print(f"{name} ended with {child.returncode}: see {work / name}.log")
    return failed


def slope(hours: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """The slope of a least-squares line, and its standard error."""
    x = hours - hours.mean()
    value = float(x @ values / (x @ x))
    rest = values - values.mean() - value * x
    return value, float(np.sqrt(rest @ rest / (len(x) - 2) / (x @ x)))


def slope_of(rows: list[dict], name: str, quantity: str) -> dict[str, float]:
    """The slope of a quantity of a process over samples, through the means of their parts."""
    parts = np.array_split(np.arange(len(rows)), PARTS)
    hours = np.array([np.mean([rows[i]["seconds"] for i in part]) for part in parts]) / 3600
    values = np.array([np.mean([rows[i][name][quantity] for i in part]) for part in parts])
    value, error = slope(hours, values)
    return {
        "slope_per_hour": value,
        "standard_error": error,
        "first": values[0],
        "last": values[-1],
        "largest": max(row[name][quantity] for row in rows),
    }


def cost_of_saves(path: Path) -> dict[str, float]:
    """The share of the processor's time that saves by time took, after the first."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    costs = []  # of those between evaluations
    for row, following in itertools.pairwise(rows):
        if row["blocked"] is not None:
            background = following["background_before"] / available_cores()
            costs.append((row["blocked"], background, following["time"] - row["time"]))
    blocked, background, seconds = np.sum(costs, axis=0) if costs else (0.0, 0.0, 1.0)
    return {
        "number": len(costs),
        "mean_blocked_ms": round(1e3 * blocked / max(len(costs), 1), 1),
        "mean_background_ms_of_all_cores": round(1e3 * background / max(len(costs), 1), 1),
        "seconds_from_one_to_the_next": round(seconds / max(len(costs), 1), 1),
        "share_of_the_time": round((blocked + background) / seconds, 5),
    }


def report(work: Path) -> None:
    """Print the slopes of the samples, and write them to ``WORK/slopes.json``."""
    rows = [json.loads(line) for line in (work / "samples.jsonl").read_text().splitlines()]
    spans = {"after the first fifth": len(rows) // 5, "second half": len(rows) // 2}
    if len(rows) < 4 * PARTS:
        print(f"{len(rows)} samples are too few for slopes.")
        return
    found: dict[str, dict] = {"minutes": rows[-1]["seconds"] / 60}
    print(f"{found['minutes']:.0f} minutes, {len(rows)} samples")
    for name in [name for name in rows[0] if name != "seconds"]:
        print(f"{name}: {rows[-1][name]['cpu_seconds']:,.0f} s of processor time")
        found[name] = {}
        for span, first in spans.items():
            print(f"  {span}")
            found[name][span] = {}
            for quantity, unit in QUANTITIES.items():
                line = slope_of(rows[first:], name, quantity)
                found[name][span][quantity] = line
                print(
                    f"    {unit}: {line['first']:.1f} at first, {line['last']:.1f} at last, "
                    f"{line['slope_per_hour']:+.2f} ± {line['standard_error']:.2f} an hour"
                )
    runs = work / "digits.runs"
    print(f"runs on the digits: {runs.read_text() if runs.exists() else 0}")
    history = work / "cifar" / "history.jsonl"
    if history.exists():
        last = json.loads(history.read_text().splitlines()[-1])
        print(f"CIFAR: step {last['step']:,}, {len(history.read_text().splitlines())} evaluations")
    if (work / "saves.jsonl").exists():
        found["saves"] = cost_of_saves(work / "saves.jsonl")
        print("saves:", json.dumps(found["saves"]))
    (work / "slopes.json").write_text(json.dumps(found, indent=1) + "\n")


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--cifar", type=Path, help="cifar-10-binary.tar.gz")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--child", choices=["digits", "cifar"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    work = options.work.absolute()
    if options.child:
        # So that a process that leaks files fails, and not the machine.
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
        tune_cpu(restart=True)  # as the command line does
        (train_digits if options.child == "digits" else train_cifar)(work)
        return 0
    failed = 0
    if not options.report:
        work.mkdir(parents=True, exist_ok=True)
        failed = soak(work, options.hours * 3600, options.cifar)
    report(work)
    return 1 if failed else 0


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    sys.exit(main())
