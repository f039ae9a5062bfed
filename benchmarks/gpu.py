"""What a GPU computes and how fast, in one script of at most ten minutes.

    python -m benchmarks.gpu [--output gpu.json] [--limit 540] [--flax-example models.py] [--toy]

It measures four things, and prints a line of JSON for each:

- ``parity``: logits of resnet50 and resnext50_32x4d on the GPU and on the CPU, the largest
  difference relative to the largest logit, in full float32, in the GPU's default precision and in
  bfloat16.
- ``steps``: milliseconds of a training step in float32 and in bfloat16, of ours, of plain Flax
  (``--flax-example`` names ``examples/imagenet/models.py`` of a checkout of Flax, else the same
  structure of ``benchmarks.cpu.plain_flax``) and of torchvision where torch sees the GPU. The
  contenders take turns in random order; figures are medians.
- ``grouped``: a 3x3 convolution in 32 groups beside the same in one group.
- ``resume``: a run that is killed by SIGKILL and resumed, its weights compared bit by bit with
  those of a run that was not.

``--toy`` does the same with small nets and images, on any device. A part that fails is reported and
the others go on; what ``--limit`` (seconds) leaves no time for is reported as not run.
"""

import argparse
import importlib.util
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

# Contenders in one process share the memory of the GPU.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np
import optax

import flax_resnet as fr

ROOT = Path(__file__).resolve().parent.parent
MODELS = ("resnet50", "resnext50_32x4d")
ROUNDS = 15


def random_variables(model, shape):
    """Variables with He's kernels and statistics that are not 0 and 1, on the CPU."""
    init = partial(model.init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), jnp.zeros(shape, jnp.float32))
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        if path[-1].key in ("scale", "var"):
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        spread = np.sqrt(2 / np.prod(leaf.shape[:-1])) if len(leaf.shape) > 1 else 0.1
        return rng.normal(0, spread, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def parity(toy):
    """Return the largest relative difference of the logits from the CPU's in float32."""
    size, images = (32, 2) if toy else (224, 8)
    found = {}
    for name in ("resnet20", "resnext29_32x4d") if toy else MODELS:
        model = fr.create_model(name, num_classes=10, conv_impl="reference")
        x = np.random.default_rng(1).normal(size=(images, size, size, 3)).astype(np.float32)
        variables = random_variables(model, x.shape)

        def logits(device, precision, dtype, model=model, variables=variables, x=x):
            with jax.default_device(device), jax.default_matmul_precision(precision):
                apply = jax.jit(partial(model.clone(dtype=dtype).apply, train=False))
                return np.asarray(apply(variables, x), np.float64)

        wanted = logits(jax.devices("cpu")[0], "highest", jnp.float32)
        for label, precision, dtype in (
            ("float32", "highest", jnp.float32),
            ("default precision", "default", jnp.float32),
            ("bfloat16", "default", jnp.bfloat16),
        ):
            got = logits(jax.devices()[0], precision, dtype)
            found[f"{name}, {label}"] = {
                "difference": float(np.abs(got - wanted).max() / np.abs(wanted).max()),
                "same class": float(np.mean(got.argmax(1) == wanted.argmax(1))),
            }
    return found


def our_step(name, dtype, images, size):
    """Build our training step as a function of no arguments."""
    model = fr.create_model(name, dtype=jnp.dtype(dtype))
    step = fr.TrainStep(model, optax.sgd(0.01, momentum=0.9))
    x = jax.random.normal(jax.random.key(1), (images, size, size, 3), jnp.float32)
    batch = {"image": x, "label": jnp.arange(images) % 10}
    state = [jax.jit(partial(step.init, sample=x))(jax.random.key(0))]
    compiled = jax.jit(step, donate_argnums=0).lower(state[0], batch).compile()

    def run():
        state[0], metrics = compiled(state[0], batch)
        return float(metrics["loss"])

    return run


def flax_step(model, images, size):
    """Build the training step of a plain Linen module with batch norm, as our_step."""
    tx = optax.sgd(0.01, momentum=0.9)
    x = jax.random.normal(jax.random.key(1), (images, size, size, 3), jnp.float32)
    labels = jnp.arange(images) % 10
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(0), x)

    def train_step(params, stats, opt_state):
        def loss_of(params):
            held = {"params": params, "batch_stats": stats}
            logits, new = model.apply(held, x, train=True, mutable=["batch_stats"])
            logits = logits.astype(jnp.float32)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), new["batch_stats"]

        (loss, new), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, opt_state = tx.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), new, opt_state, loss

    params, stats = variables["params"], variables["batch_stats"]
    state = [params, stats, tx.init(params)]
    compiled = jax.jit(train_step, donate_argnums=(0, 1, 2)).lower(*state).compile()

    def run():
        *state[:], loss = compiled(*state)
        return float(loss)

    return run


def flax_model(name, dtype, example):
    """Return Flax's example net, or the same structure where no checkout is named."""
    if example and name == "resnet50":
        spec = importlib.util.spec_from_file_location("flax_imagenet_models", example)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.ResNet50(num_classes=1000, dtype=jnp.dtype(dtype))
    from benchmarks.cpu.plain_flax import MODELS as PLAIN
    from benchmarks.cpu.plain_flax import PlainResNet

    return PlainResNet(**PLAIN[name], dtype=jnp.dtype(dtype))


def torch_step(name, dtype, images, size):
    """Build torchvision's training step on the GPU; None where torch sees none."""
    try:
        import torch
        import torchvision
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    model = torchvision.models.get_model(name).cuda().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    x = torch.randn(images, 3, size, size, device="cuda").to(memory_format=torch.channels_last)
    labels = torch.arange(images, device="cuda") % 10

    def run():
        with torch.autocast("cuda", torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = torch.nn.functional.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return run


def time_in_turns(steps, rounds):
    """Return the median milliseconds of each function, called in random order after two calls."""
    seconds = {name: [] for name in steps}
    for step in steps.values():
        step()
        step()
    order = list(steps)
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            began = time.perf_counter()
            steps[name]()
            seconds[name].append(time.perf_counter() - began)
    return {name: round(1000 * statistics.median(values), 3) for name, values in seconds.items()}


def steps(toy, example, has_time):
    """Return the milliseconds of training steps, by net and dtype."""
    images, size, rounds = (4, 64, 2) if toy else (64, 224, ROUNDS)
    found = {}
    for name in ("resnet18",) if toy else MODELS:
        for dtype in ("float32", "bfloat16"):
            if not has_time():
                found[f"{name}, {dtype}"] = "not run: no time was left"
                continue
            contenders = {
                "ours": our_step(name, dtype, images, size),
                "Flax": flax_step(flax_model(name, dtype, example), images, size),
                "torchvision": torch_step(name, dtype, images, size),
            }
            contenders = {who: step for who, step in contenders.items() if step is not None}
            found[f"{name}, {dtype}, {images} images"] = time_in_turns(contenders, rounds)
    return found


def grouped(toy):
    """Return the milliseconds of a convolution with its gradients, in 32 groups and in one."""
    images, size, channels, rounds = (2, 14, 64, 2) if toy else (64, 28, 512, ROUNDS)
    found = {}
    for dtype in ("float32", "bfloat16"):
        calls = {}
        for groups in (32, 1):
            x = jnp.ones((images, size, size, channels), dtype)
            kernel = jnp.ones((3, 3, channels // groups, channels), dtype) / channels

            def loss(x, kernel, groups=groups):
                y = jax.lax.conv_general_dilated(
                    *(x, kernel, (1, 1), "SAME"),
                    dimension_numbers=("NHWC", "HWIO", "NHWC"),
                    feature_group_count=groups,
                )
                return (y.astype(jnp.float32) ** 2).sum()

            compiled = jax.jit(jax.grad(loss, (0, 1))).lower(x, kernel).compile()
            calls[f"{groups} groups"] = lambda f=compiled, x=x, k=kernel: jax.block_until_ready(
                f(x, k)
            )
        found[dtype] = time_in_turns(calls, rounds)
    return found


def resume(folder):
    """Kill a run by SIGKILL after its first checkpoint, resume it, and compare its weights."""
    command = [sys.executable, "-m", "flax_resnet", "train", "--config", "digits"]
    command += ["--model.name", "resnet8", "--epochs", "3", "--save-every", "5", "--deterministic"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}

    def finish(workdir):
        done = subprocess.run([*command, "--workdir", workdir], check=False, **quiet)
        if done.returncode:
            raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[-1])
        return jax.tree.leaves(fr.load(workdir).variables)

    whole, killed = str(folder / "whole"), str(folder / "killed")
    wanted = finish(whole)
    with subprocess.Popen([*command, "--workdir", killed], **quiet) as process:
        while process.poll() is None:
            if any(path.name.isdigit() for path in Path(killed).glob("checkpoints/*")):
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.01)
        was_killed = process.wait() == -signal.SIGKILL
    got = finish(killed)
    same = all(np.array_equal(a, b) for a, b in zip(wanted, got, strict=True))
    return {"killed": was_killed, "same bits": same}


def main(arguments=None):
    """Run the parts that are asked for, print a line for each, and return all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="small nets and images, on any device")
    parser.add_argument("--limit", type=float, default=540, help="seconds for all parts")
    parser.add_argument("--output", type=Path, help="a file for all results as JSON")
    parser.add_argument("--flax-example", type=Path, help="Flax's examples/imagenet/models.py")
    parser.add_argument("--parts", nargs="*", default=["parity", "steps", "grouped", "resume"])
    options = parser.parse_args(arguments)
    began = time.monotonic()

    def has_time():
        return time.monotonic() - began < options.limit

    device = jax.devices()[0]
    if device.platform != "gpu" and not options.toy:
        parser.error(f"JAX sees no GPU but {device.platform}: add --toy to try the script.")
    results = {
        "device": {"kind": device.device_kind, "platform": device.platform, "jax": jax.__version__}
    }
    print(json.dumps(results), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        parts = {
            "parity": partial(parity, options.toy),
            "steps": partial(steps, options.toy, options.flax_example, has_time),
            "grouped": partial(grouped, options.toy),
            "resume": partial(resume, Path(scratch)),
        }
        for name in options.parts:
            try:
                found = parts[name]() if has_time() else "not run: no time was left"
            except Exception as error:  # the other parts are worth running
                found = f"failed: {type(error).__name__}: {error}".splitlines()[0][:300]
            results[name] = found
            print(json.dumps({name: found}), flush=True)
            if options.output:
                options.output.write_text(json.dumps(results, indent=2) + "\n")
    return results


if __name__ == "__main__":
    main()
