"""Damaged files for every reader of files that others write.

    python -m benchmarks.fuzz [--inputs 10000] [--seed 0] [READER ...]
    python -m benchmarks.fuzz --atheris 60 [READER ...]        # seconds; needs atheris

Each reader runs in a process of its own, whose address space grows by at most 3 GB. It may return
or refuse a file in one line. Anything else is a failure: another exception, a message of several
lines, more than ten seconds, or the memory. A file that failed is added to
``tests/fuzzing/corpus``, which ``tests/fuzzing/test_fuzzing.py`` reads again for ever. With
``--atheris`` the damage follows the code that it reaches, from the same files on.
"""

import argparse
import gc
import hashlib
import json
import multiprocessing
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import types
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tests.fuzzing.readers import CORPUS, READERS, draw, outcome

SECONDS = 10
GROWTH = 3 * 10**9  # bytes


def keep(name, content):
    """Add a file that failed to the corpus, and return its path."""
    folder = CORPUS / name.replace(" ", "_")
    folder.mkdir(exist_ok=True)
    path = folder / hashlib.sha256(content).hexdigest()[:12]
    path.write_bytes(content)
    return path


def limit_memory():
    """Let the address space grow by ``GROWTH`` from here on."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    size = pages * resource.getpagesize() + GROWTH
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


def too_slow(number, frame):
    raise TimeoutError(f"more than {SECONDS} seconds")


def fuzz(name, inputs, seed):
    """Read damaged files, and return what became of them."""
    warnings.simplefilter("ignore")
    counts, slowest, failures = Counter(), 0.0, {}
    signal.signal(signal.SIGALRM, too_slow)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        READERS[name].prepare(folder)
        limit_memory()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number in range(inputs):
            content = draw(name, f"{seed} {number}")
            began = time.perf_counter()
            signal.alarm(SECONDS)
            try:
                counts[outcome(name, content, folder)] += 1
            except Exception as error:
                counts["failed"] += 1
                frames = traceback.extract_tb(error.__traceback__)
                where = f"{type(error).__name__} at {Path(frames[-1].filename).name}"
                where += f":{frames[-1].lineno}"
                if where not in failures:
                    ours = [frame for frame in frames if "/flax_resnet/" in frame.filename]
                    last = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else ""
                    failures[where] = f"{error!s:.200} in {last}, {keep(name, content)}"
            finally:
                signal.alarm(0)
            slowest = max(slowest, time.perf_counter() - began)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        "inputs": inputs,
        **{kind: counts[kind] for kind in ("read", "refused", "failed")},
        "slowest_ms": round(slowest * 1e3),
        "grown_MB": round(grown / 1e3),
        "failures": failures,
    }


def fuzz_by_coverage(name, seconds):
    """Let atheris choose the damage; it ends the process at the first failure."""
    import atheris

    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as scratch:
        folder, seeds = Path(scratch, "files"), Path(scratch, "seeds")
        folder.mkdir()
        seeds.mkdir()
        for number, content in enumerate(READERS[name].seeds()):
            (seeds / str(number)).write_bytes(content)
        READERS[name].prepare(folder)

        def try_one(content):
            try:
                outcome(name, content, folder)
            except Exception:
                print(f"kept as {keep(name, content)}", file=sys.stderr)
                raise

        # Ours only: all that is imported are tens of thousands of functions, which takes minutes.
        functions = [one for one in gc.get_objects() if isinstance(one, types.FunctionType)]
        for function in functions:
            if str(function.__module__).startswith("flax_resnet"):
                atheris.instrument_func(function)
        options = [f"-max_total_time={seconds}", f"-timeout={SECONDS}", "-rss_limit_mb=4000"]
        atheris.Setup([sys.argv[0], *options, str(seeds)], try_one)
        atheris.Fuzz()


def main():
    """Fuzz the readers and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("readers", nargs="*", default=list(READERS))
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", default="0")
    parser.add_argument("--atheris", type=int, metavar="SECONDS")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if absent := [name for name in options.readers if not READERS[name].is_installed]:
        sys.exit(f"packages are missing for {', '.join(absent)}")
    if options.child:
        fuzz_by_coverage(options.readers[0], options.atheris)
        return
    total = failed = 0
    for name in options.readers:
        if options.atheris:
            command = [sys.executable, "-m", "benchmarks.fuzz", "--child", name]
            command += ["--atheris", str(options.atheris)]
            done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
            lines = done.stderr.splitlines()
            if done.returncode == 0:
                lines = [line for line in lines if "DONE" in line][-1:]
            print(f"{name}: exit code {done.returncode}", *lines[-40:], sep="\n    ", flush=True)
            failed += done.returncode != 0
            continue
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, context) as pool:  # which notices a process that crashes
            found = pool.submit(fuzz, name, options.inputs, options.seed).result()
        failures = found.pop("failures")
        print(f"{name}: {json.dumps(found)}", flush=True)
        for where, what in failures.items():
            print(f"    {where}: {what}", flush=True)
        total, failed = total + options.inputs, failed + found["failed"]
    print(f"{total:,} inputs, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
