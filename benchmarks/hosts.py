"""Train on hosts that are network namespaces of this machine; cut, delay and kill them.

    sudo python -m benchmarks.hosts WORK [--parts equal resumed cut delay killed signal overhead]

Linux and Python 3.12 or newer, with the rights of root.

Each host has a name, an address and a device of its own. Its packets pass through this program,
which forwards, delays or drops them (a TUN device in each namespace; no module of the kernel for
delays is needed). Processes that share a machine share its cores, so the seconds of a step say
nothing about real hosts.

``equal``: four hosts train in float64 and end with the weights of one process. ``resumed``: two
processes go on from what the four saved, and end with the weights of one that was not interrupted.
``cut``: a host's link is cut in the middle of training. ``delay``: each packet takes 200 ms.
``killed``: a host's process is killed. ``signal``: one process gets SIGTERM. After each the same
command must end with the bits of a run that nothing happened to. ``overhead``: eight processes of
one device each, without namespaces: the loop against the bare compiled step, and the collectives
of the program against those of one process with eight devices. Exits with 1 if anything differs.
"""

import argparse
import contextlib
import fcntl
import heapq
import itertools
import json
import multiprocessing
import os
import random
import selectors
import signal
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

HOSTS = 4
TIMEOUT = 30  # --parallel.timeout: seconds until a silent process counts as lost
SETTINGS = [
    *("--config", "digits", "--model.name", "resnet", "--model.block", "basic"),
    *("--model.stage-sizes", "1", "--model.widths", "8", "--model.stem", "cifar"),
    *("--data.batch-size", "144"),
    *("--compile-cache", "None", "--save-every", "2steps", "--evaluate-every", "1000"),
]
TIMES = ("time", "images_per_second", "data_wait", "checksum")


class Network:
    """Hosts with addresses 10.77.0.1, 10.77.0.2, ..., whose packets this process forwards.

    Attributes:
        delay: Seconds that each packet takes.
        cut_off: Hosts whose packets are dropped.
        packets: Number of packets that were forwarded.
    """

    def __init__(self, hosts):
        self.delay, self.cut_off, self.packets = 0.0, frozenset(), 0
        self._names = [f"flax-resnet-{os.getpid()}-{host}" for host in range(hosts)]
        self._tunnels = [self._add(host) for host in range(hosts)]
        self._ends = threading.Event()
        threading.Thread(target=self._forward, daemon=True).start()

    def _add(self, host):
        """Make a host; return the file of its TUN device."""
        name = self._names[host]
        subprocess.run(["ip", "netns", "add", name], check=True)
        with open("/proc/self/ns/net") as here:
            self.enter(host)
            tunnel = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(tunnel, 0x400454CA, struct.pack("16sH", b"eth0", 0x1001))  # TUNSETIFF
            os.setns(here.fileno(), os.CLONE_NEWNET)
        for words in (
            "link set lo up",
            "link set eth0 mtu 60000 up",
            f"addr add {address(host)}/24 dev eth0",
        ):
            subprocess.run(["ip", "-n", name, *words.split()], check=True)
        return tunnel

    def enter(self, host):
        """Put this thread on a host."""
        with open(f"/run/netns/{self._names[host]}") as there:
            os.setns(there.fileno(), os.CLONE_NEWNET)

    def _forward(self):
        waiting, numbers = [], itertools.count()
        selector = selectors.DefaultSelector()
        for host, tunnel in enumerate(self._tunnels):
            selector.register(tunnel, selectors.EVENT_READ, host)
        while not self._ends.is_set():
            pause = max(0.0, waiting[0][0] - time.monotonic()) if waiting else 0.1
            for key, _ in selector.select(min(pause, 0.1)):
                with contextlib.suppress(BlockingIOError):
                    packet = os.read(key.fd, 1 << 16)
                    target = packet[19] - 1
                    if packet[0] >> 4 != 4 or not 0 <= target < len(self._tunnels):
                        continue  # IPv6's and multicast
                    if not self.cut_off & {key.data, target}:
                        due = time.monotonic() + self.delay
                        heapq.heappush(waiting, (due, next(numbers), target, packet))
            while waiting and waiting[0][0] <= time.monotonic():
                *_, target, packet = heapq.heappop(waiting)
                self.packets += 1
                with contextlib.suppress(BlockingIOError):  # full: dropped, and sent again by TCP
                    os.write(self._tunnels[target], packet)

    def close(self):
        self._ends.set()
        for name in self._names:
            subprocess.run(["ip", "netns", "del", name], check=False)


def address(host):
    return f"10.77.0.{host + 1}"


def set_variables(devices, double):
    for name in [name for name in os.environ if "proxy" in name.lower() or name == "XLA_FLAGS"]:
        del os.environ[name]
    os.environ["OMP_NUM_THREADS"] = "1"
    import jax

    jax.config.update("jax_num_cpu_devices", devices)
    jax.config.update("jax_enable_x64", double)


def train(words, log, *, network=None, host=0, devices=1, double=False):
    """Train in this process, a new one, on a host of the network; never returns."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if network is not None:
        network.enter(host)
        os.unshare(os.CLONE_NEWUTS)
        # Gloo listens at the address that its host's name resolves to.
        socket.sethostname(address(host))
    set_variables(devices, double)
    from flax_resnet.cli import main as cli

    if double:
        compute_in_float64()
    code = cli(["train", *SETTINGS, *words])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def child(*arguments, **options):
    """Start ``train`` in a process that is a copy of this one, which has imported JAX before."""
    process = multiprocessing.get_context("fork").Process(
        target=train, args=arguments, kwargs=options
    )
    process.start()
    return process


def start(network, workdir, words, hosts=HOSTS, double=False):
    """Start a run on some hosts; their output goes into files beside its folder."""
    joint = ["--parallel.coordinator", f"{address(0)}:{random.randrange(20_000, 30_000)}"]
    joint += ["--parallel.processes", str(hosts), "--workdir", str(workdir), *words]
    return [
        child(
            [*joint, "--parallel.process", str(host)],
            f"{workdir}-host{host}.txt",
            network=network,
            host=host,
            double=double,
        )
        for host in range(hosts)
    ]


def last_lines(workdir, hosts=HOSTS):
    texts = [Path(f"{workdir}-host{host}.txt").read_text().strip() for host in range(hosts)]
    return [text.splitlines()[-1] if text else "" for text in texts]


def finish(children, seconds=900):
    """Wait for processes; return their exit codes and the seconds until each ended."""
    began, ended = time.monotonic(), {}
    while len(ended) < len(children) and time.monotonic() - began < seconds:
        for host, one in enumerate(children):
            if host not in ended and one.exitcode is not None:
                ended[host] = time.monotonic() - began
        time.sleep(0.05)
    for one in children:
        one.kill()
        one.join()
    return [one.exitcode for one in children], [ended.get(n) for n in range(len(children))]


def alone(workdir, words, double=False, devices=1):
    """Train in one process."""
    log = f"{workdir}-alone.txt"
    one = child(["--workdir", str(workdir), *words], log, devices=devices, double=double)
    codes, _ = finish([one])
    assert codes == [0], log


def wait_for(workdir, step, children):
    """Wait until a checkpoint of a step is complete."""
    while not (workdir / "checkpoints" / str(step)).is_dir():
        assert all(one.exitcode is None for one in children), last_lines(workdir)
        time.sleep(0.05)


def arrays(workdir, step):
    """The state after a step of training in float64."""
    import numpy as np

    with np.load(workdir / f"state-{step}.npz") as found:
        return [found[name] for name in found.files]


def difference(one, other):
    """The largest difference of two lists of arrays, relative to each array's norm."""
    import numpy as np

    return max(
        float(np.linalg.norm((a - b).ravel()) / max(np.linalg.norm(b.ravel()), 1e-30))
        for a, b in zip(one, other, strict=True)
        if np.issubdtype(a.dtype, np.floating)
    )


def history(workdir):
    lines = [json.loads(line) for line in (workdir / "history.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in line if key not in TIMES} for line in lines]


def weights(workdir):
    import safetensors.numpy

    found = safetensors.numpy.load_file(workdir / "model.safetensors")
    return {name: array.tobytes() for name, array in found.items()}


def report(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


# --- Parts -------------------------------------------------------------------


def equal(network, work):
    four, one = work / "four", work / "one"
    codes, _ = finish(start(network, four, ["--max-steps", "4"], double=True))
    assert codes == [0] * HOSTS, last_lines(four)
    alone(one, ["--max-steps", "4"], double=True)
    found = difference(arrays(four, 4), arrays(one, 4))
    report(f"{HOSTS} hosts, 4 steps in float64: differ from one process by {found:.1e}")
    return found < 1e-12


def resumed(network, work):
    if not (work / "four").exists():
        equal(network, work)
    four, one = work / "four", work / "one"
    codes, _ = finish(start(network, four, ["--max-steps", "8"], hosts=2, double=True))
    assert codes == [0, 0], last_lines(four, 2)
    alone(one, ["--max-steps", "8"], double=True)
    found = difference(arrays(four, 8), arrays(one, 8))
    report(f"resumed by 2 hosts, at step 8: differ from one process by {found:.1e}")
    return found < 1e-12


STEPS = 24


def expected_run(network, work):
    """A run on four hosts that nothing happens to."""
    workdir = work / "undisturbed"
    if not (workdir / "history.jsonl").exists():
        codes, _ = finish(start(network, workdir, ["--max-steps", str(STEPS)]))
        assert codes == [0] * HOSTS, last_lines(workdir)
    return workdir


def disturbed(network, work, name, disturb):
    """Train on four hosts, call ``disturb(children)`` after step 4; then start again."""
    expected = expected_run(network, work)
    workdir = work / name
    words = ["--max-steps", str(STEPS), "--parallel.timeout", str(TIMEOUT)]
    children = start(network, workdir, words)
    wait_for(workdir, 4, children)
    disturb(children)
    codes, seconds = finish(children)
    lines = last_lines(workdir)
    for host in range(HOSTS):
        after = f"{seconds[host]:.0f} s" if seconds[host] is not None else "not in time"
        report(f"{name}: host {host}: exit code {codes[host]} after {after}: {lines[host]}")
    network.cut_off = frozenset()
    again, _ = finish(start(network, workdir, ["--max-steps", str(STEPS)]))
    assert again == [0] * HOSTS, last_lines(workdir)
    same = history(workdir) == history(expected)
    same &= weights(workdir) == weights(expected)
    report(f"{name}: the same command then {'has the bits' if same else 'DIFFERS FROM THOSE'}")
    return same, codes, lines


def lost(codes, lines, gone=()):
    """Whether all hosts but those that are gone ended with the sentence and exit code 1."""
    return all(
        host in gone or (codes[host] == 1 and "another process of this run is gone" in lines[host])
        for host in range(HOSTS)
    )


def cut(network, work):
    def disturb(_):
        network.cut_off = frozenset({2})

    same, codes, lines = disturbed(network, work, "cut", disturb)
    return same and lost(codes, lines)


def killed(network, work):
    def disturb(children):
        children[3].kill()

    same, codes, lines = disturbed(network, work, "killed", disturb)
    return same and lost(codes, lines, {3})


def stopped(network, work):
    def disturb(children):
        children[1].terminate()

    same, codes, _ = disturbed(network, work, "signal", disturb)
    return same and codes == [0] * HOSTS


def delay(network, work):
    """Batch norm per device: a step has one collective, which waits for several packets."""
    words = ["--max-steps", "3", "--parallel.batch-norm", "per_device"]
    fast, slow = work / "without-delay", work / "delay"
    seconds = []
    for workdir, network.delay in ((fast, 0.0), (slow, 0.2)):
        codes, ended = finish(start(network, workdir, words))
        assert codes == [0] * HOSTS, last_lines(workdir)
        seconds.append(max(ended))
    network.delay = 0.0
    same = history(slow) == history(fast)
    same &= weights(slow) == weights(fast)
    report(
        f"delay: a run of 3 steps takes {seconds[1]:.0f} s with 200 ms, {seconds[0]:.0f} s "
        f"without; {'the same bits' if same else 'OTHER BITS'}"
    )
    return same


PARTS = {
    "equal": equal,
    "resumed": resumed,
    "cut": cut,
    "delay": delay,
    "killed": killed,
    "signal": stopped,
}


# --- Overhead ----------------------------------------------------------------

WINDOWS, WINDOW_STEPS = 9, 6


def measure_overhead(count, index, port, devices, folder, log):
    """Time the loop and the bare step by turns in this process of several; write JSON."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    set_variables(devices, double=False)
    import dataclasses

    from rich.console import Console

    import flax_resnet as fr
    from benchmarks.scaling import EnoughError
    from flax_resnet.training import loop
    from flax_resnet.training.communication import collectives_of

    compile_step, found = loop.compile_step, {}

    class Turns:
        """Calls the step for the loop, and alone before each window of the loop's steps."""

        def __init__(self, step, state, sums, batch):
            import jax

            self.step, self.batch = step, batch
            self.held = jax.tree.map(lambda leaf: leaf.copy(), (state, sums))
            self.calls, self.began = 0, None
            self.looped, self.bare = [], []
            self.run_bare()

        def run_bare(self):
            import jax

            began = time.perf_counter(), time.process_time()
            for _ in range(WINDOW_STEPS):
                self.held = self.step(*self.held, self.batch)
            jax.block_until_ready(self.held)
            return time.perf_counter() - began[0], time.process_time() - began[1]

        def __call__(self, state, sums, batch):
            import jax

            if self.calls % WINDOW_STEPS == 0:
                jax.block_until_ready((state, sums))
                if self.began is not None:
                    now = time.perf_counter(), time.process_time()
                    self.looped.append([a - b for a, b in zip(now, self.began, strict=True)])
                self.bare.append(self.run_bare())
                if len(self.looped) == WINDOWS:
                    raise EnoughError
                self.began = time.perf_counter(), time.process_time()
            self.calls += 1
            return self.step(state, sums, batch)

    def kept(step, partitioning, state, sums, batch):
        compiled = compile_step(step, partitioning, state, sums, batch)
        found["collectives"] = sorted(
            (one.kind, one.bytes) for one in collectives_of(compiled.as_text())
        )
        if count == 1:
            raise EnoughError
        found["turns"] = Turns(compiled, state, sums, batch)
        return found["turns"]

    loop.compile_step = kept
    digits = fr.load_config("digits")
    joint = {"coordinator": f"127.0.0.1:{port}", "processes": count, "process": index}
    config = dataclasses.replace(
        digits,
        data=dataclasses.replace(digits.data, batch_size=64, image_size=32),
        model=dataclasses.replace(digits.model, name="resnet8"),
        parallel=dataclasses.replace(digits.parallel, **(joint if count > 1 else {})),
        evaluate_every=1000,
        epochs=1000,
        workdir=folder,
        compile_cache=None,
    )
    with contextlib.suppress(EnoughError):
        fr.train(config, Console(quiet=True))
    turns = found.pop("turns", None)
    if turns is not None:
        found |= {"looped": turns.looped, "bare": turns.bare}
    print(json.dumps(found), flush=True)
    os._exit(0)


def overhead(_, work, processes=8):
    def run(count, index, port, devices):
        log = work / f"overhead-{count}-{index}.txt"
        folder = str(work / f"overhead-{count}")
        arguments = count, index, port, devices, folder, log
        one = multiprocessing.get_context("fork").Process(target=measure_overhead, args=arguments)
        one.start()
        return one, log

    def result(one, log):
        one.join()
        return json.loads(log.read_text().splitlines()[-1])

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [run(processes, index, port, 1) for index in range(processes)]
    found = [result(*one) for one in started]
    single = result(*run(1, 0, 0, processes))
    ratios = []
    for clock in (0, 1):  # that of the wall, and the processor's over all processes
        looped, bare = (
            [sum(one[kind][w][clock] for one in found) for w in range(len(found[0][kind]))]
            for kind in ("looped", "bare")
        )
        around = zip(bare, bare[1:], looped, strict=False)
        ratios.append([2 * one / (before + after) for before, after, one in around])
    same = all(one["collectives"] == single["collectives"] for one in found)
    wall, cpu = (statistics.median(one) for one in ratios)
    step = statistics.median(one[0] for one in found[0]["bare"]) / WINDOW_STEPS
    kinds = {kind: 0 for kind, _ in single["collectives"]}
    for kind, size in single["collectives"]:
        kinds[kind] += size
    report(
        f"{processes} processes of one device: the loop over the bare step of {step * 1e3:.0f} ms: "
        f"{wall:.3f} of the time, {cpu:.3f} of the processor time (medians of {WINDOWS} windows, "
        f"from {min(ratios[1]):.3f} to {max(ratios[1]):.3f})"
    )
    report(
        f"collectives: {len(single['collectives'])} ({kinds} bytes) in one process of {processes} "
        f"devices; {'the same' if same else 'OTHERS'} in each of the {processes} processes"
    )
    return same and cpu <= 1.05


PARTS["overhead"] = overhead


# --- Training in float64 -----------------------------------------------------


def compute_in_float64():
    """Let this process train a model with gradients and sums in float64, and end without a page."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from flax_resnet.training import budget, loop, recording, run, step

    build, zeros = run.build_model, step.zero_step_metrics
    types = {"dtype": jnp.float64, "param_dtype": jnp.float64}
    run.build_model = lambda *a, **k: build(*a, **k).clone(**types)

    def in_float64():
        return {name: value.astype(jnp.float64) for name, value in zeros().items()}

    for module in (step, recording, loop, budget):
        if hasattr(module, "zero_step_metrics"):
            module.zero_step_metrics = in_float64

    def finish_early(self, state):
        if jax.process_index() == 0:
            leaves = map(np.asarray, jax.tree.leaves(state))
            np.savez(self.workdir / f"state-{int(state.step)}.npz", *leaves)
        return recording.TrainResult(self.workdir, int(state.step), True, None, {})

    recording.Recorder.finish = finish_early


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    options = parser.parse_args()
    work = options.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    import flax_resnet.training.loop  # noqa: F401  the hosts' processes are copies of this one

    network = Network(HOSTS) if set(options.parts) - {"overhead"} else None
    failed = []
    try:
        for name in options.parts:
            if not PARTS[name](network, work):
                failed.append(name)
    finally:
        if network is not None:
            report(f"{network.packets:,} packets were forwarded")
            network.close()
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
