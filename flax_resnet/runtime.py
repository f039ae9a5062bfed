"""Settings of the process that make JAX fast on a CPU; importing this file changes nothing."""

import os
import re
import sys
import warnings
from collections.abc import Mapping

from .jax_internals import has_started
from .paths import writable_folder

# XLA:CPU computes single convolutions with its YNN library, whose weight gradients are up to a
# hundred times slower than Eigen's ([64, 32, 32, 64] by 3x3x64: 4661 ms instead of 46 on 2 cores
# with AVX2).
XLA_FLAG = "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution"

# XLA ends the process at a flag that it does not know, so the flag is set only for the versions of
# jaxlib that the tests were run with: from the first, and before the second.
FLAG_VERSIONS = ((0, 8, 3), (0, 13))

# jaxlib 0.10.2 computes `jit(vmap(lambda r: sum((eye(3) @ r) ** 2)))` over 32,769 rows with an
# error of 0.8% (https://github.com/jax-ml/jax/issues/39103).
WRONG_JAXLIB = "0.10.2"

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
    import importlib.metadata  # here, as it takes longer than all else of `flax-resnet --help`

    if os.environ.get(SWITCH) == "0" or not uses_cpu(os.environ):
        return
    new = cpu_environment(os.environ, importlib.metadata.version("jaxlib"))
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
    import importlib.metadata

    plugins = importlib.metadata.entry_points(group="jax_plugins")
    tpu = any(True for _ in importlib.metadata.distributions(name="libtpu"))
    return not plugins and not tpu


def jaxlib_warning(version: str) -> str | None:
    """Return a sentence if this version of jaxlib computes wrong results on a CPU, else None."""
    if version != WRONG_JAXLIB:
        return None
    return (
        f"warning: jaxlib {version} computes wrong results on a CPU "
        "(https://github.com/jax-ml/jax/issues/39103): install another version, for example with "
        f"pip install 'jax!={version}' 'jaxlib!={version}'"
    )


def warn_of_wrong_results() -> None:
    """Print a sentence on standard error if JAX computes wrong results in this process."""
    import importlib.metadata

    if not uses_cpu(os.environ):
        return
    if warning := jaxlib_warning(importlib.metadata.version("jaxlib")):
        print(warning, file=sys.stderr)


def cpu_environment(environment: Mapping[str, str], jaxlib: str) -> dict[str, str]:
    """Return the variables to set before a process on the CPU starts.

    Args:
        environment: The variables that are set. Settings that the user made are not changed.
        jaxlib: The version of jaxlib.
    """
    new = {}
    flags = environment.get("XLA_FLAGS", "")
    first, after_last = FLAG_VERSIONS
    is_tested = first <= tuple(map(int, re.findall(r"\d+", jaxlib)[:3])) < after_last
    if is_tested and XLA_FLAG.split("=")[0] not in flags:
        new["XLA_FLAGS"] = f"{flags} {XLA_FLAG}".strip()
    tunables = environment.get("GLIBC_TUNABLES", "")
    if sys.platform == "linux" and "glibc.malloc" not in tunables:
        new["GLIBC_TUNABLES"] = f"{tunables}:{ALLOCATOR}".strip(":")
    return new


def keep_programs(folder: str | os.PathLike[str] | None) -> str | None:
    """Let JAX keep compiled programs in a folder, for quick restarts; None keeps none.

    Returns:
        A sentence for the user where the folder cannot be written, and None otherwise: JAX would
        warn at every program.
    """
    if folder is None:
        return None
    import jax  # here, because importing this file must be quick

    writable = writable_folder(folder)
    if writable is None:
        return f"{folder} cannot be written, so compiled programs are not kept."
    jax.config.update("jax_compilation_cache_dir", str(writable))
    return None
