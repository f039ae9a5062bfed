"""Train in object storage on loopback, kill runs, cut connections, and compare with local runs.

    python -m benchmarks.object_storage WORK --stores s3 gs --cuts 24

For each store: a run on the digits, and one on a part of CIFAR-10 whose images, starting weights
and folder are all in the store. Each is killed by SIGKILL after random steps and started again
until it ends. Its history (without times) and ``model.safetensors`` must then have the bits of a
run in a local folder. Then the digits train through a proxy that cuts the connection at random byte
offsets of what is uploaded, and through one that cuts every upload until the run gives up. Exits
with 1 if anything was lost. The time is that of starting and compiling: where
``JAX_COMPILATION_CACHE_DIR`` names a folder, only the first run compiles.

Needs ``moto[server]`` and an emulator of GCS (``tests/object_stores.py``).
"""

import argparse
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import safetensors.numpy

from benchmarks.subset import write_subset
from flax_resnet.weights.formats.orbax_storage import COMMITTED
from tests.object_stores import STORES, CuttingProxy, with_environment

TIMES = ("time", "images_per_second", "data_wait", "checksum")
NET = ["--model.name", "resnet", "--model.block", "basic", "--model.stem", "cifar"]
NET += ["--model.stage-sizes", "1", "--model.widths", "8"]
DIGITS = [
    *("--config", "digits", *NET, "--epochs", "3", "--evaluate-every", "1"),
    *("--data.batch-size", "128", "--save-every", "3steps", "--compile-cache", "None"),
]
CIFAR = [
    *("--config", "resnet20_cifar", *NET, "--data.batch-size", "128"),
    *("--epochs", "6", "--evaluate-every", "1", "--save-every", "3steps"),
    *("--compile-cache", "None", "--transfer.mode", "full", "--optimizer.schedule", "constant"),
]
PARTS = ("digits", "cifar", "cuts", "refused")


def command(words, workdir):
    return [sys.executable, "-m", "flax_resnet", "train", *words, "--workdir", str(workdir)]


def finish(words, workdir, environment, log):
    """Run a command to its end; return its exit code."""
    with open(log, "ab") as file:
        return subprocess.run(
            command(words, workdir), env=environment, stdout=file, stderr=file
        ).returncode


def end_of(path):
    """The history without times, and the bytes of each array of the weights."""
    lines = [json.loads(line) for line in (path / "history.jsonl").read_bytes().splitlines()]
    for line in lines:
        for name in TIMES:
            line.pop(name, None)
    arrays = safetensors.numpy.load((path / "model.safetensors").read_bytes())
    return lines, {name: array.tobytes() for name, array in arrays.items()}


def killed(words, workdir, environment, log, kills, last, rng):
    """Start a command until it ends; return after how many checkpoints each kill came.

    Of the ``last`` steps each of the ``kills`` has an equal part. When the checkpoint after a
    random step of it is complete, the process is killed at a random moment of the next half second.
    """
    from flax_resnet.storage import list_files, locate

    bounds = [1 + last * n // (kills + 1) for n in range(kills + 1)]
    moments = [rng.randrange(*pair) for pair in itertools.pairwise(bounds)]
    done = []
    while True:
        with open(log, "ab") as file:
            child = subprocess.Popen(
                command(words, workdir), env=environment, stdout=file, stderr=file
            )
            while moments and child.poll() is None:
                time.sleep(0.1)
                names = [name.split("/") for name in list_files(locate(workdir))]
                steps = [int(name[1]) for name in names if name[-1] == COMMITTED]
                if max(steps, default=0) >= moments[0]:
                    time.sleep(rng.uniform(0, 0.5))
                    os.kill(child.pid, signal.SIGKILL)
                    done.append(max(steps))
                    del moments[0]
                    break
            if child.wait() == 0:
                return done
            if child.returncode > 0:
                raise SystemExit(f"{words} failed: see {log}")


def cifar_subset(folder):
    """Write 1,280 training and 200 test images of CIFAR-10 in their format; return the folder."""
    archive = Path(__file__).parents[2] / "shared" / "data" / "cifar-10-binary.tar.gz"
    return write_subset(archive, folder / "data", train=256, test=200)


START = """
import sys, jax, jax.numpy as jnp, flax_resnet as fr
net = {"block": "basic", "stem": "cifar", "stage_sizes": (1,), "widths": (8,)}
model = fr.create_model("resnet", num_classes=10, **net)
variables = model.init(jax.random.key(1), jnp.zeros((1, 32, 32, 3)), train=False)
fr.save_weights(sys.argv[1], variables, model)
"""


def report(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--stores", nargs="+", default=list(STORES), choices=list(STORES))
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--cuts", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    work, rng = options.work.absolute(), random.Random(options.seed)
    work.mkdir(parents=True, exist_ok=True)
    wrong = 0

    def local(name, words):
        """The end of a run in a local folder."""
        began = time.perf_counter()
        assert finish(words, work / name, dict(os.environ), work / "log-local.txt") == 0
        found = end_of(work / name)
        report(
            f"{name} in a local folder: {time.perf_counter() - began:.0f} s, "
            f"{found[0][-1]['step']} steps, {len(found[0])} lines"
        )
        return found

    if set(options.parts) - {"cifar"}:
        expected = local("digits", DIGITS)
    if "cifar" in options.parts:
        data, weights = cifar_subset(work), work / "start.safetensors"
        subprocess.run([sys.executable, "-c", START, str(weights)], check=True)
        words = [*CIFAR, "--data.dir", str(data), "--transfer.weights", str(weights)]
        expected_cifar = local("cifar", words)

    for name in options.stores:
        log = work / f"log-{name}.txt"
        with STORES[name][0]() as store:
            environment = with_environment(store)
            os.environ.update(store.environment)
            from flax_resnet.storage import locate, upload

            runs = {}
            if "digits" in options.parts:
                runs["digits"] = DIGITS, expected
            if "cifar" in options.parts:
                for file in (weights, *data.rglob("*.*")):
                    upload(file, locate(f"{store.root}/in/{file.relative_to(work)}"))
                words = [*CIFAR, "--data.dir", f"{store.root}/in/data"]
                words += ["--transfer.weights", f"{store.root}/in/{weights.name}"]
                runs["cifar"] = words, expected_cifar
            for part, (words, end) in runs.items():
                workdir, last = f"{store.root}/{part}", end[0][-1]["step"]
                kills = killed(words, workdir, environment, log, options.kills, last, rng)
                same = end_of(locate(workdir)) == end
                wrong += not same
                report(
                    f"{store.root}: {part}, killed after the checkpoints of steps {kills}: "
                    f"{'the bits of the local run' if same else 'DIFFERENT'}"
                )
            if "cuts" in options.parts:
                wrong += not cuts(store, f"{store.root}/cuts", options.cuts, expected, log, rng)
            if "refused" in options.parts:
                wrong += not refused(store, f"{store.root}/refused", expected, log)
            for variable in store.environment:
                os.environ.pop(variable, None)
    sys.exit(1 if wrong else 0)


def cuts(store, workdir, number, expected, log, rng):
    """Train while connections are cut at random byte offsets of uploads; whether nothing is lost.

    A cut follows the one before after a random number of uploaded bytes, up to those of a save.
    """
    from flax_resnet.storage import locate

    proxy = CuttingProxy(store.port)
    environment = with_environment(store.through(proxy.port))
    ends = threading.Event()

    def cut_again():
        while not ends.is_set() and proxy.cuts < 10 * number:
            if not proxy.is_armed:
                proxy.cut(rng.randrange(1, 30_000))
            time.sleep(0.01)

    thread = threading.Thread(target=cut_again, daemon=True)
    thread.start()
    starts = 0
    while proxy.cuts < number or starts == 0:
        folder = f"{workdir}-{starts}"
        code = finish(DIGITS, folder, environment, log)
        starts += 1
        tries = 1
        while code and tries < 8:
            code, tries = finish(DIGITS, folder, environment, log), tries + 1
        same = code == 0 and end_of(locate(folder)) == expected
        report(
            f"{store.root}: digits, {proxy.cuts} cuts in {starts} runs so far, {tries} starts of "
            f"this one: {'the bits of the local run' if same else 'DIFFERENT'}"
        )
        if not same:
            ends.set()
            return False
    ends.set()
    thread.join()
    proxy.close()
    return True


def refused(store, workdir, expected, log):
    """Cut every upload for good in the middle of training; the run stops, and then ends."""
    from flax_resnet.storage import locate

    proxy = CuttingProxy(store.port)
    environment = with_environment(store.through(proxy.port))
    history = locate(f"{workdir}/history.jsonl")
    with open(log, "ab") as file:
        child = subprocess.Popen(
            [*command(DIGITS, workdir), "--checkpoint.timeout", "20"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        while child.poll() is None and not history.exists():
            time.sleep(0.2)
        proxy.cut(1000, again=10**9)
        began = time.perf_counter()
        _, message = child.communicate()
        file.write(message)
    took = time.perf_counter() - began
    proxy.close()
    sentence = message.decode().strip().splitlines()[-1]
    code = finish(DIGITS, workdir, with_environment(store), log)
    same = code == 0 and end_of(locate(workdir)) == expected
    report(
        f"{store.root}: every upload cut for good: exit code {child.returncode} after {took:.0f} s "
        f"({sentence}); then {'the bits of the local run' if same else 'DIFFERENT'}"
    )
    return same and child.returncode == 1


if __name__ == "__main__":
    main()
