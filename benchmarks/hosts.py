"""Train on hosts that are network namespaces of this machine; cut, delay and kill them.

    sudo python -m benchmarks.hosts WORK [--parts equal resumed cut delay killed signal]

Linux and Python 3.12 or newer, with the rights of root. Nothing may pause the processes: a host
without a heartbeat for 30 s counts as lost.

Each host has a name, an address and a device of its own. Its packets pass through this program,
which forwards, delays or drops them (a TUN device in each namespace; no module of the kernel for
delays is needed). Processes that share a machine share its cores, so the seconds of a step say
nothing about real hosts.

``equal``: four hosts train in float64 and end with the state of one process. ``resumed``: two
processes go on from what the four saved, and end with the state of one that was not interrupted.
``cut``: a host's link is cut in the middle of training. ``delay``: each packet takes 200 ms.
``killed``: a host's process is killed. ``signal``: one process gets SIGTERM. After each the same
command must end with the bits of a run that nothing happened to. Exits with 1 if anything differs.
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
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

HOSTS = 4
STEPS = 16  # of the runs that something happens to, after step 4
TIMEOUT = 30  # --parallel.timeout: seconds until a silent process counts as lost
SETTINGS = [
    *("--config", "digits", "--model.name", "resnet", "--model.block", "basic"),
    *("--model.stage-sizes", "1", "--model.widths", "8", "--model.stem", "cifar"),
    *("--data.batch-size", "144", "--save-every", "2steps", "--evaluate-every", "1000"),
]
LOST = "another process of this run is gone"


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


# --- Runs ----------------------------------------------------------------------


def train(words, log, network=None, host=0, double=False):
    """Train in this process, a new one, on a host of the network; never returns."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream in (1, 2):
        os.dup2(output, stream)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if network is not None:
        network.enter(host)
        os.unshare(os.CLONE_NEWUTS)
        # Gloo listens at the address that its host's name resolves to.
        socket.sethostname(address(host))
    for name in [name for name in os.environ if "proxy" in name.lower() or name == "XLA_FLAGS"]:
        del os.environ[name]
    os.environ["OMP_NUM_THREADS"] = "1"
    import jax

    from flax_resnet.cli import main as cli

    jax.config.update("jax_num_cpu_devices", 1)
    end_with_the_state()
    if double:
        jax.config.update("jax_enable_x64", True)
        compute_in_float64()
    code = cli(["train", *SETTINGS, *words])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def end_with_the_state():
    """Let this process end a run with its state in a file, without its tests and its page."""
    import jax

    from flax_resnet.training import recording

    def finish(self, state):
        if jax.process_index() == 0:
            leaves = map(np.asarray, jax.tree.leaves(state))
            np.savez(self.workdir / f"state-{int(state.step)}.npz", *leaves)
        return recording.TrainResult(self.workdir, int(state.step), True, None, {})

    recording.Recorder.finish = finish


def compute_in_float64():
    """Let this process train a model with gradients and sums in float64."""
    import jax.numpy as jnp

    from flax_resnet.training import budget, loop, recording, run, step

    build, zeros = run.build_model, step.zero_step_metrics
    types = {"dtype": jnp.float64, "param_dtype": jnp.float64}
    run.build_model = lambda *a, **k: build(*a, **k).clone(**types)

    def in_float64():
        return {name: value.astype(jnp.float64) for name, value in zeros().items()}

    for module in (step, recording, loop, budget):
        if hasattr(module, "zero_step_metrics"):
            module.zero_step_metrics = in_float64


def start(workdir, steps, network=None, hosts=HOSTS, timeout=600, double=False):
    """Start a run on hosts of the network, or alone; each writes into a file beside its folder.

    The processes are copies of this one, which has imported JAX.
    """
    words = ["--workdir", str(workdir), "--max-steps", str(steps)]
    words += ["--compile-cache", str(workdir.parent / "programs")]
    if network is not None:
        words += ["--parallel.coordinator", f"{address(0)}:{random.randrange(20_000, 30_000)}"]
        words += ["--parallel.processes", str(hosts), "--parallel.timeout", str(timeout)]
    children = []
    for host in range(hosts if network is not None else 1):
        mine = [*words, *(["--parallel.process", str(host)] if network is not None else [])]
        arguments = mine, log_of(workdir, host), network, host, double
        children.append(multiprocessing.get_context("fork").Process(target=train, args=arguments))
        children[-1].start()
    return children


def log_of(workdir, host):
    return workdir.with_name(f"{workdir.name}-host{host}.txt")


def last_lines(workdir, hosts=HOSTS):
    texts = [log_of(workdir, host).read_text().strip() for host in range(hosts)]
    return [text.splitlines()[-1] if text else "" for text in texts]


def finish(children, seconds=1200):
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


def complete(workdir, steps, network=None, hosts=HOSTS, double=False):
    """Train to a step, on hosts or alone; return the seconds that it took."""
    codes, seconds = finish(start(workdir, steps, network, hosts, double=double))
    assert not any(codes), f"{codes}: see {log_of(workdir, 0)}"
    return max(seconds)


def newest(workdir):
    """The step of the newest checkpoint that is complete, and when it was."""
    saved = [path for path in (workdir / "checkpoints").glob("*") if path.name.isdigit()]
    last = max(saved, key=lambda path: int(path.name), default=None)
    return (0, 0.0) if last is None else (int(last.name), last.stat().st_ctime)


def state(workdir, step):
    """The arrays of the state after a step at which a run ended."""
    with np.load(workdir / f"state-{step}.npz") as found:
        return [found[name] for name in found.files]


def difference(one, other):
    """The largest difference of two lists of arrays, relative to each array's norm."""
    return max(
        float(np.linalg.norm((a - b).ravel()) / max(np.linalg.norm(b.ravel()), 1e-30))
        for a, b in zip(one, other, strict=True)
        if np.issubdtype(a.dtype, np.floating)
    )


def history(workdir):
    lines = [json.loads(line) for line in (workdir / "history.jsonl").read_text().splitlines()]
    return [[line[name] for name in ("step", "train_loss", "val_loss", "digest")] for line in lines]


def same_bits(one, other, step):
    """Whether two runs have the same history, and the same state after a step."""
    pairs = zip(state(one, step), state(other, step), strict=True)
    same = all(a.tobytes() == b.tobytes() for a, b in pairs)
    return same and history(one) == history(other)


def report(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


# --- Parts -------------------------------------------------------------------


def equal(network, work):
    complete(work / "four", 4, network, double=True)
    complete(work / "one", 4, double=True)
    found = difference(state(work / "four", 4), state(work / "one", 4))
    report(f"{HOSTS} hosts, 4 steps in float64: differ from one process by {found:.1e}")
    return found < 1e-12


def resumed(network, work):
    if not (work / "four").exists():
        equal(network, work)
    complete(work / "four", 8, network, hosts=2, double=True)
    complete(work / "one", 8, double=True)
    found = difference(state(work / "four", 8), state(work / "one", 8))
    report(f"resumed by 2 hosts, at step 8: differ from one process by {found:.1e}")
    return found < 1e-12


def disturbed(network, work, name, disturb, expect):
    """Train on four hosts and call ``disturb(children)`` after step 4; then start again.

    ``expect(host, code, line)`` says whether a host ended as documented, by its exit code and the
    last line of its output.
    """
    expected, workdir = work / "undisturbed", work / name
    if not (expected / f"state-{STEPS}.npz").exists():
        complete(expected, STEPS, network)
    children = start(workdir, STEPS, network, timeout=TIMEOUT)
    while newest(workdir)[0] < 4:
        assert all(one.exitcode is None for one in children), last_lines(workdir)
        time.sleep(0.05)
    began = time.time()
    disturb(children)
    codes, seconds = finish(children)
    lines = last_lines(workdir)
    for host in range(HOSTS):
        after = f"{seconds[host]:.0f} s" if seconds[host] is not None else "not in time"
        report(f"{name}: host {host}: exit code {codes[host]} after {after}: {lines[host]}")
    step, saved = newest(workdir)
    when = f"{saved - began:.1f} s after" if saved > began else "before"
    report(f"{name}: the last checkpoint, of step {step}, was complete {when} that")
    network.cut_off = frozenset()
    complete(workdir, STEPS, network)
    same = same_bits(workdir, expected, STEPS)
    report(f"{name}: the same command then {'has the bits' if same else 'DIFFERS FROM THOSE'}")
    return same and step < STEPS and all(map(expect, range(HOSTS), codes, lines))


def ends_with_the_sentence(_, code, line):
    return code == 1 and LOST in line


def cut(network, work):
    def disturb(_):
        network.cut_off = frozenset({2})

    return disturbed(network, work, "cut", disturb, ends_with_the_sentence)


def killed(network, work):
    def expect(host, code, line):
        return code == -signal.SIGKILL if host == 3 else ends_with_the_sentence(host, code, line)

    return disturbed(network, work, "killed", lambda children: children[3].kill(), expect)


def stopped(network, work):
    def expect(host, code, line):
        return code == 0

    return disturbed(network, work, "signal", lambda children: children[1].terminate(), expect)


def delay(network, work):
    fast, slow = work / "without-delay", work / "delay"
    seconds = [complete(fast, 2, network)]
    network.delay = 0.2
    seconds.append(complete(slow, 2, network))
    network.delay = 0.0
    same = same_bits(slow, fast, 2)
    report(
        f"delay: a run of 2 steps takes {seconds[1]:.0f} s with 200 ms, {seconds[0]:.0f} s "
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    options = parser.parse_args()
    work = options.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    import flax_resnet.training.loop  # noqa: F401  the hosts' processes are copies of this one

    network, failed = Network(HOSTS), []
    try:
        for name in options.parts:
            if not PARTS[name](network, work):
                failed.append(name)
    finally:
        report(f"{network.packets:,} packets were forwarded")
        network.close()
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
