"""Speed on the CPU: ours in each way, plain Flax, PyTorch, side by side in one run.

    python -m benchmarks.cpu                                     # everything: hours
    python -m benchmarks.cpu --workloads resnet50_train --samples 10
    python -m benchmarks.cpu --render                            # the page again, from the figures

Each contender is a process that has built its program before timing starts. Turns are taken in
random order; a turn is one untimed step, then a few timed ones. Reported are medians, and ratios of
medians. Who is far behind after the first turn (see `is_behind`) is left at that. The figures
are kept in ``docs/performance.json``, a workload run again replaces its own there, and
``docs/performance.md`` is written from them. Needs the extra ``torch``.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.cpu import peak, report
from benchmarks.cpu.workloads import CONTENDERS, WORKLOADS
from flax_resnet.runtime import cpu_environment

STEPS_A_TURN = 3
SLOW_SECONDS = 8  # a step that makes a turn one of two
NOT_TUNED = ("XLA_FLAGS", "GLIBC_TUNABLES")


class Worker:
    """The process of one contender."""

    def __init__(self, contender):
        self.contender = contender
        plain = {name: value for name, value in os.environ.items() if name not in NOT_TUNED}
        tuned = cpu_environment(plain) if contender.tuned else {}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.cpu.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=plain | {"TF_CPP_MIN_LOG_LEVEL": "3", "FLAX_RESNET_TUNE": "0"} | tuned,
        )

    def ask(self, **order):
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"error": "the process died"}

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def is_behind(name, figures):
    """Whether another of the same framework and settings is 1.15 times as quick as this one, or
    another of any kind 2.5 times."""
    own = statistics.median(figures[name]["seconds"])
    for other, row in figures.items():
        if not row["seconds"]:
            continue
        a, b = CONTENDERS[name], CONTENDERS[other]
        alike = a.framework == b.framework == "torch" and a.tuned == b.tuned
        if own > (1.15 if alike else 2.5) * statistics.median(row["seconds"]):
            return True
    return False


def compare(workload, contenders, samples):
    """Figures of each contender: seconds of each step, first step, compilation, peak memory."""
    workers, figures = {}, {}
    for name in contenders:
        contender = CONTENDERS[name]
        worker = Worker(contender)
        order = {"framework": contender.framework, "options": dict(contender.options)}
        figures[name] = worker.ask(build=workload, **order) | {
            "seconds": [],
            "processor": [],
        }
        print(f"  {name}: {figures[name]}", flush=True)
        if "error" in figures[name]:
            worker.close()
        else:
            workers[name] = worker
    waiting = dict.fromkeys(workers, samples)
    while waiting:
        turn = list(waiting)
        random.shuffle(turn)
        for name in turn:
            slow = figures[name]["settled"] > SLOW_SECONDS
            count = min(2 if slow else STEPS_A_TURN, waiting[name])
            reply = workers[name].ask(run=count)
            if "error" in reply:
                figures[name]["error"] = reply["error"]
                del waiting[name]
                continue
            figures[name]["seconds"] += reply["seconds"]
            figures[name]["processor"] += reply["processor"]
            figures[name]["bytes"] = reply["bytes"]
            waiting[name] -= count
        for name in list(waiting):
            if waiting[name] <= 0 or is_behind(name, figures):
                del waiting[name]
    for worker in workers.values():
        worker.close()
    for name in contenders:
        if seconds := figures[name]["seconds"]:
            processor = statistics.median(figures[name]["processor"])
            print(
                f"  {name:36} {statistics.median(seconds) * 1e3:9.1f} ms, "
                f"processor {processor * 1e3:9.1f} ms",
                flush=True,
            )
    return figures


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu", description=__doc__)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--samples", type=int, default=30, help="timed steps of each contender")
    parser.add_argument("--figures", type=Path, default=Path("docs/performance.json"))
    parser.add_argument("--render", action="store_true", help="write the page only")
    options = parser.parse_args()
    kept = json.loads(options.figures.read_text()) if options.figures.exists() else {}
    if not options.render:
        for workload in options.workloads:
            print(workload, flush=True)
            dtype = WORKLOADS[workload].dtype
            before = peak.measure(dtype)
            started = time.strftime("%Y-%m-%d")
            figures = compare(workload, options.contenders, options.samples)
            after = peak.measure(dtype)
            peaks = {kind: max(before[kind], after[kind]) for kind in before}
            kept[workload] = {"date": started, **peaks, "contenders": figures}
            options.figures.parent.mkdir(exist_ok=True)
            options.figures.write_text(json.dumps(kept, indent=1) + "\n")
    page = options.figures.with_suffix(".md")
    page.write_text(report.page(kept), encoding="utf-8")
    print(f"Written: {page}")


if __name__ == "__main__":
    main()
