"""Settings of the process that make JAX fast on a CPU; importing this file changes nothing."""

import os
import sys
import warnings
from collections.abc import Mapping

from .jax_internals import has_started

# XLA:CPU computes single convolutions with its YNN library, whose weight gradients are up to a
# hundred times slower than Eigen's ([64, 32, 32, 64] by 3x3x64: 4661 ms instead of 46 on 2 cores
# with AVX2).
XLA_FLAG = "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution"

# XLA allocates one large buffer at each call. By default glibc maps and unmaps it each time, with a
# page fault for each of its pages. With these settings it is kept, in huge pages, and in the main
# arena, because the arenas of XLA's threads end at 64 MiB: after a dozen steps there are no faults.
# glibc reads them when a process starts.
ALLOCATOR = ":".join(
    (
        "glibc.malloc.arena_max=1",
        "glibc.malloc.hugetlb=1",
        "glibc.malloc.mmap_threshold=8000000000",
        "glibc.malloc.trim_threshold=16000000000",
    )
)


SWITCH = "FLAX_RESNET_TUNE"  # an environment variable; "0" turns tuning off


def tune_cpu(restart: bool = False) -> None:
    """Tune this process for JAX on a CPU; call it before the first computation.

    Sets a flag of XLA, and reports it once on standard error. Settings of the user are kept.
    Nothing is done if JAX has another device than the CPU, or if ``FLAX_RESNET_TUNE=0`` is set.

    Args:
        restart: Also set the allocator's settings. They are read when a process starts, so the
            process is replaced by a new one with the same command line (``exec``: same number, same
            standard streams). Restart only where a program begins, before it has done or opened
            anything. The command line does so for training.

    Warns:
        UserWarning: JAX has started already, so the flag has no effect.
    """
    if os.environ.get(SWITCH) == "0" or not uses_cpu(os.environ):
        return
    new = cpu_environment(os.environ)
    if not restart:
        new.pop("GLIBC_TUNABLES", None)
    if not new:
        return
    if "XLA_FLAGS" in new and has_started():
        warnings.warn("tune_cpu: JAX has started already; call it first", stacklevel=2)
    print(f"tuned for the CPU: {', '.join(new)} ({SWITCH}=0 turns it off)", file=sys.stderr)
    os.environ.update(new)
    if "GLIBC_TUNABLES" in new:
        os.environ[SWITCH] = "0"  # done, for the new process and its children
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def uses_cpu(environment: Mapping[str, str]) -> bool:
    """Return whether JAX will compute on the CPU, without starting it.

    It will if ``JAX_PLATFORMS`` says so, or if no plug-in for another device is installed.
    """
    if platforms := environment.get("JAX_PLATFORMS"):
        return platforms.split(",")[0] == "cpu"
    import importlib.metadata  # here, as it takes longer than all else of `flax-resnet --help`

    plugins = importlib.metadata.entry_points(group="jax_plugins")
    tpu = any(True for _ in importlib.metadata.distributions(name="libtpu"))
    return not plugins and not tpu


def cpu_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables to set before a process on the CPU starts.

    Args:
        environment: The variables that are set. Settings that the user made are not changed.
    """
    new = {}
    flags = environment.get("XLA_FLAGS", "")
    if XLA_FLAG.split("=")[0] not in flags:
        new["XLA_FLAGS"] = f"{flags} {XLA_FLAG}".strip()
    tunables = environment.get("GLIBC_TUNABLES", "")
    if sys.platform == "linux" and "glibc.malloc" not in tunables:
        new["GLIBC_TUNABLES"] = f"{tunables}:{ALLOCATOR}".strip(":")
    return new
