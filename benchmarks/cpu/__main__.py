"""Benchmarks our algorithms, plain Flax and PyTorch on the CPU, interleaved in one run.

    python -m benchmarks.cpu                                     # all workloads: hours
    python -m benchmarks.cpu --workloads resnet50_train --samples 10
    python -m benchmarks.cpu --render                            # only rewrite the page

Each contender is a process that builds its program before timing starts. The contenders take turns
in random order. A turn is one untimed step and a few timed ones. The page reports medians and
ratios of medians. A contender that is much slower than another after its first turn (see
``is_behind``) gets no more turns. The measurements are stored in ``docs/performance.json`` by
processor, where a workload that is run again replaces its old ones, and ``docs/performance.md`` is
written from them. Needs the extras ``torch`` and ``onnx``, and ``openvino``. PyTorch may be
installed for another Python:

    python -m benchmarks.cpu --torch-python OTHER/bin/python
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from benchmarks.cpu import peak, report
from benchmarks.cpu.workloads import CONTENDERS, WORKLOADS, contenders_of
from flax_resnet.processor import processor_features
from flax_resnet.runtime import cpu_environment

STEPS_PER_TURN = 3
SLOW_SECONDS = 8  # If a step takes longer, a turn has only two.
# Variables of the environment that tuning sets: removed for every contender first.
TUNING_VARIABLES = ("XLA_FLAGS", "GLIBC_TUNABLES")


class Worker:
    """The process of one contender, which answers requests by lines of JSON."""

    def __init__(self, contender, workload, torch_python):
        self.contender = contender
        plain = {name: value for name, value in os.environ.items() if name not in TUNING_VARIABLES}
        tuned = {}
        if contender.tuned:
            task = "train" if workload.train else "infer"
            native = ("conv_impl", "onednn") in contender.options
            tuned = cpu_environment(plain, version("jaxlib"), workload.dtype, task, native=native)
        self.process = subprocess.Popen(
            [
                torch_python if contender.framework == "torch" else sys.executable,
                *("-m", "benchmarks.cpu.worker"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=plain | {"TF_CPP_MIN_LOG_LEVEL": "3", "FLAX_RESNET_TUNE": "0"} | tuned,
        )

    def request(self, **request):
        """Sends a request and returns the reply, which has ``"error"`` if the process died."""
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"error": "the process died"}

    def close(self):
        """Stops the process."""
        self.process.stdin.close()
        self.process.wait()


def is_behind(name, figures):
    """Returns whether a contender is too slow to be measured any further.

    That is so if another contender is 2.5 times as fast, or another one of PyTorch with the same
    tuning is 1.15 times as fast.
    """
    own = statistics.median(figures[name]["seconds"])
    for other, row in figures.items():
        if not row["seconds"]:
            continue
        a, b = CONTENDERS[name], CONTENDERS[other]
        same_group = a.framework == b.framework == "torch" and a.tuned == b.tuned
        if own > (1.15 if same_group else 2.5) * statistics.median(row["seconds"]):
            return True
    return False


def compare(workload, contenders, samples, torch_python=sys.executable):
    """Measures each contender: the seconds of each step, of the first step and of compilation, and
    the peak memory.

    Args:
        workload: The name of the workload.
        contenders: The names of the contenders.
        samples: The number of timed steps of each contender.
        torch_python: The Python that has PyTorch.

    Returns:
        ``{contender: measurements}``. A contender that failed has an ``"error"``.
    """
    workers, figures = {}, {}
    for name in contenders:
        contender = CONTENDERS[name]
        worker = Worker(contender, WORKLOADS[workload], torch_python)
        request = {"framework": contender.framework, "options": dict(contender.options)}
        figures[name] = worker.request(build=workload, **request) | {
            "seconds": [],
            "processor": [],
        }
        print(f"  {name}: {figures[name]}", flush=True)
        if "error" in figures[name]:
            worker.close()
        else:
            workers[name] = worker
    remaining = dict.fromkeys(workers, samples)
    while remaining:
        turns = list(remaining)
        random.shuffle(turns)
        for name in turns:
            slow = figures[name]["warm_step"] > SLOW_SECONDS
            count = min(2 if slow else STEPS_PER_TURN, remaining[name])
            reply = workers[name].request(run=count)
            if "error" in reply:
                figures[name]["error"] = reply["error"]
                del remaining[name]
                continue
            figures[name]["seconds"] += reply["seconds"]
            figures[name]["processor"] += reply["processor"]
            figures[name]["bytes"] = reply["bytes"]
            remaining[name] -= count
        for name in list(remaining):
            if remaining[name] <= 0 or is_behind(name, figures):
                del remaining[name]
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


def processor_name():
    """Names this machine's kind of processor: its model, its cores, and its widest vectors."""
    features = processor_features()
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    kinds = {"amx_bf16": "AMX", "avx512f": "AVX-512", "avx2": "AVX2"}
    widest = next((name for feature, name in kinds.items() if feature in features), "no AVX2")
    return f"{model}, {len(os.sched_getaffinity(0))} cores, {widest}"


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu", description=__doc__)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument(
        "--samples", type=int, default=30, help="number of timed steps of each contender"
    )
    parser.add_argument(
        "--figures",
        type=Path,
        default=Path("docs/performance.json"),
        help="JSON file of the measurements; the page is written next to it",
    )
    parser.add_argument(
        "--torch-python", default=sys.executable, help="the Python that has PyTorch"
    )
    parser.add_argument(
        "--render", action="store_true", help="only rewrite the page from the stored measurements"
    )
    options = parser.parse_args()
    stored = json.loads(options.figures.read_text()) if options.figures.exists() else {}
    if not options.render:
        measured = stored.setdefault(processor_name(), {})
        for name in options.workloads:
            print(name, flush=True)
            workload = WORKLOADS[name]
            contenders = contenders_of(workload, options.contenders)
            before = peak.measure(workload.dtype, options.torch_python)
            started = time.strftime("%Y-%m-%d")
            figures = compare(name, contenders, options.samples, options.torch_python)
            load = os.getloadavg()[1]
            after = peak.measure(workload.dtype, options.torch_python)
            peaks = {kind: max(before[kind], after[kind]) for kind in before}
            about = {"date": started, "jax": version("jax"), "load": load}
            measured[name] = {**about, **peaks, "contenders": figures}
            options.figures.parent.mkdir(exist_ok=True)
            options.figures.write_text(json.dumps(stored, indent=1) + "\n")
    page = options.figures.with_suffix(".md")
    page.write_text(report.page(stored), encoding="utf-8")
    print(f"Written: {page}")


if __name__ == "__main__":
    main()
