"""Settings of the process that make JAX quick on a CPU. Nothing happens on import."""

import os
import sys
import warnings
from collections.abc import Mapping

# XLA:CPU hands single convolutions to its YNN library, whose weight gradients are up to a hundred
# times slower than Eigen's ([64, 32, 32, 64] by 3x3x64: 4661 ms, not 46, on 2 cores with AVX2).
XLA_FLAG = "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution"

# XLA asks for one large buffer at each call. glibc maps it afresh and gives it back each time, and
# each of its pages is a fault; so it is kept, in huge pages, and in the one arena that can hold it:
# those of XLA's threads end at 64 MiB. A dozen steps on, none faults. Read when a process starts.
ALLOCATOR = ":".join(
    (
        "glibc.malloc.arena_max=1",
        "glibc.malloc.hugetlb=1",
        "glibc.malloc.mmap_threshold=8000000000",
        "glibc.malloc.trim_threshold=16000000000",
    )
)


SWITCH = "FLAX_RESNET_TUNE"  # in the environment; "0" leaves all as it is


def tune_cpu(restart: bool = False) -> None:
    """Set up this process for JAX on a CPU; call it before the first computation.

    Sets the flag of XLA above. The allocator's settings are read when a process starts: with
    ``restart`` the process becomes a new one of the same command line (``exec``: same number, same
    standard streams) that has them. So restart where a program begins only, before it has done or
    opened anything. The command line does so for training.

    What was done is said once, on standard error. Settings of the user's stay; nothing is done
    where JAX has another device than the CPU, or where ``FLAX_RESNET_TUNE=0`` is set.

    Warns:
      UserWarning: JAX has started already, so that the flag comes too late.
    """
    if os.environ.get(SWITCH) == "0" or not uses_cpu(os.environ):
        return
    new = cpu_environment(os.environ)
    if not restart:
        new.pop("GLIBC_TUNABLES", None)
    if not new:
        return
    if "XLA_FLAGS" in new and _jax_has_started():
        warnings.warn("tune_cpu: JAX has started already; call it first", stacklevel=2)
    print(f"tuned for the CPU: {', '.join(new)} ({SWITCH}=0 turns it off)", file=sys.stderr)
    os.environ.update(new)
    if "GLIBC_TUNABLES" in new:
        os.environ[SWITCH] = "0"  # done, for the new process and its children
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def uses_cpu(environment: Mapping[str, str]) -> bool:
    """Whether JAX will compute on the CPU, told without starting it: by ``JAX_PLATFORMS``, or
    because no plug-in for another device is installed."""
    if platforms := environment.get("JAX_PLATFORMS"):
        return platforms.split(",")[0] == "cpu"
    import importlib.metadata  # here, as it takes longer than all else of `flax-resnet --help`

    plugins = importlib.metadata.entry_points(group="jax_plugins")
    tpu = any(True for _ in importlib.metadata.distributions(name="libtpu"))
    return not plugins and not tpu


def _jax_has_started() -> bool:
    bridge = sys.modules.get("jax._src.xla_bridge")
    return bool(bridge and getattr(bridge, "backends_are_initialized", lambda: False)())


def cpu_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables to set, beside those of ``environment``, before a process on the CPU starts.

    What the user set of the same settings stays.
    """
    new = {}
    flags = environment.get("XLA_FLAGS", "")
    if XLA_FLAG.split("=")[0] not in flags:
        new["XLA_FLAGS"] = f"{flags} {XLA_FLAG}".strip()
    tunables = environment.get("GLIBC_TUNABLES", "")
    if sys.platform == "linux" and "glibc.malloc" not in tunables:
        new["GLIBC_TUNABLES"] = f"{tunables}:{ALLOCATOR}".strip(":")
    return new
