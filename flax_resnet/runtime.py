"""Settings of the process that make JAX fast on a CPU; importing this file changes nothing."""

import os
import re
import sys
import warnings
from collections.abc import Mapping, Set
from typing import Literal, NamedTuple

from .errors import UserError
from .jax_internals import has_started
from .paths import writable_folder
from .processor import BFLOAT16, multiplies_bfloat16, processor_features

Dtype = Literal["float32", "bfloat16"]
Task = Literal["train", "infer"]
DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16")
TASKS: tuple[Task, ...] = ("train", "infer")


class XlaFlag(NamedTuple):
    """A flag of XLA, and where measurements showed that it pays.

    Attributes:
        flag: ``--name=value``.
        first: The first version of jaxlib that the tests were run with. XLA ends the process at a
            flag that it does not know.
        before: The first version of jaxlib that they were not run with.
        dtypes: The dtypes of the computation.
        tasks: Whether for train steps or for logits.
        features: The processor must have one of these; none are needed where it is empty.
        with_native: Whether it pays too where ``flax-resnet-onednn`` computes the convolutions.
    """

    flag: str
    first: tuple[int, ...]
    before: tuple[int, ...]
    dtypes: tuple[Dtype, ...] = DTYPES
    tasks: tuple[Task, ...] = TASKS
    features: Set[str] = frozenset()
    with_native: bool = True


ONEDNN = "--xla_cpu_experimental_onednn_custom_call=true"

XLA_FLAGS = (
    # XLA:CPU computes single convolutions with its YNN library, whose weight gradients are up to a
    # hundred times slower than Eigen's ([64, 32, 32, 64] by 3x3x64: 4661 ms instead of 46 on 2
    # cores with AVX2).
    XlaFlag("--xla_cpu_experimental_ynn_fusion_type=-individual_convolution", (0, 8, 3), (0, 13)),
    # Convolutions by XLA's oneDNN. On 2 cores with AMX, JAX 0.12: resnet50's 16 logits 182 ms, not
    # 711, and its step of 8 images 662, not 1012; but 1186, not 1020, in float32. On AVX2 weight
    # gradients take a third more processor time in both dtypes. Logits take a tenth less there,
    # which the compilation outweighs: JAX cannot store these programs, see ``keep_programs``.
    XlaFlag(
        ONEDNN,
        (0, 12),
        (0, 13),
        dtypes=("bfloat16",),
        features=BFLOAT16,
        with_native=False,
    ),
)

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


# The first makes reductions deterministic, the second refuses algorithms that are not.
DETERMINISM = ("--xla_gpu_deterministic_ops=true", "--xla_gpu_exclude_nondeterministic_ops=true")

SWITCH = "FLAX_RESNET_TUNE"  # an environment variable; "0" turns tuning off

NATIVE_JAX = (0, 10)  # the oldest JAX that flax-resnet-onednn supports, as its library.py says


def tune_cpu(restart: bool = False, *, dtype: Dtype = "float32", task: Task = "train") -> None:
    """Tune this process for JAX on a CPU; call it before the first computation.

    Sets flags of XLA, and reports it once on standard error. Settings of the user are kept.
    Nothing is done if JAX has another device than the CPU, or if ``FLAX_RESNET_TUNE=0`` is set.

    Args:
        restart: Also set the allocator's settings. They are read when a process starts, so the
            process is replaced by a new one with the same command line (``exec``: same number, same
            standard streams). Restart only where a program begins, before it has done or opened
            anything. The command line does so for training.
        dtype: The dtype of the computation: some flags are faster for one and slower for others.
        task: Whether the process trains (``"train"``) or only predicts (``"infer"``).

    Warns:
        UserWarning: JAX has started already, so the flags have no effect.
    """
    import importlib.metadata  # here, as it takes longer than all else of `flax-resnet --help`

    if os.environ.get(SWITCH) == "0" or not uses_cpu(os.environ):
        return
    new = cpu_environment(os.environ, importlib.metadata.version("jaxlib"), dtype, task)
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


def require_determinism() -> None:
    """Let XLA use only deterministic algorithms on GPUs; call it before the first computation.

    Raises:
        UserError: JAX has started without these flags.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    absent = [flag for flag in DETERMINISM if flag not in flags]
    if not absent:
        return
    if has_started():
        import jax

        if jax.default_backend() == "cpu":
            return
        raise UserError(
            f"deterministic: JAX has started already; set XLA_FLAGS='{' '.join(DETERMINISM)}' "
            "before it starts."
        )
    os.environ["XLA_FLAGS"] = " ".join([flags, *absent]).strip()


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


def cpu_environment(
    environment: Mapping[str, str],
    jaxlib: str,
    dtype: Dtype = "float32",
    task: Task = "train",
    features: Set[str] | None = None,
    native: bool | None = None,
) -> dict[str, str]:
    """Return the variables to set before a process on the CPU starts.

    Args:
        environment: The variables that are set. Settings that the user made are not changed.
        jaxlib: The version of jaxlib.
        dtype: The dtype of the computation.
        task: Whether it trains or predicts.
        features: The processor's features; by default those of this machine.
        native: Whether ``flax-resnet-onednn`` computes the convolutions; by default whether it is
            installed.
    """
    new = {}
    flags = environment.get("XLA_FLAGS", "")
    wanted = xla_flags(jaxlib, dtype, task, features, native)
    added = [flag for flag in wanted if flag.split("=")[0] not in flags]
    if added:
        new["XLA_FLAGS"] = " ".join([flags, *added]).strip()
    tunables = environment.get("GLIBC_TUNABLES", "")
    if sys.platform == "linux" and "glibc.malloc" not in tunables:
        new["GLIBC_TUNABLES"] = f"{tunables}:{ALLOCATOR}".strip(":")
    return new


def xla_flags(
    jaxlib: str,
    dtype: Dtype,
    task: Task,
    features: Set[str] | None = None,
    native: bool | None = None,
) -> list[str]:
    """Return the flags of ``XLA_FLAGS`` that pay; the arguments are those of the function above."""
    if native is None:
        native = has_native()
    version = _numbers(jaxlib)
    has = processor_features() if features is None else features
    return [
        row.flag
        for row in XLA_FLAGS
        if row.first <= version < row.before
        and dtype in row.dtypes
        and task in row.tasks
        and not (row.features and row.features.isdisjoint(has))
        and (row.with_native or not native)
    ]


def has_native() -> bool:
    """Return whether ``flax-resnet-onednn`` is installed beside a JAX that it supports.

    Neither is imported.
    """
    import importlib.metadata
    from importlib.util import find_spec

    if find_spec("flax_resnet_onednn") is None:
        return False
    return _numbers(importlib.metadata.version("jax")) >= NATIVE_JAX


def _numbers(version: str) -> tuple[int, ...]:
    """Return the first three numbers of a version."""
    return tuple(map(int, re.findall(r"\d+", version)[:3]))


def auto_cpu_dtype(flags: str, uses_native: bool = True) -> Dtype:
    """Return the dtype that ``--model.dtype auto`` is on this machine's CPU.

    It is bfloat16 where the processor multiplies it, and convolutions are oneDNN's: XLA's own are
    slower in bfloat16 than in float32.

    Args:
        flags: The flags of XLA that the process has or will have.
        uses_native: Whether the model may use ``flax-resnet-onednn``.
    """
    by_onednn = ONEDNN in flags or (uses_native and has_native())
    return "bfloat16" if by_onednn and multiplies_bfloat16(processor_features()) else "float32"


def keep_programs(folder: str | os.PathLike[str] | None) -> str | None:
    """Let JAX keep compiled programs in a folder, for quick restarts; None keeps none.

    Returns:
        A sentence for the user where programs cannot be kept, and None otherwise: JAX would warn
        at every program.
    """
    if folder is None:
        return None
    if ONEDNN in os.environ.get("XLA_FLAGS", ""):  # "MemoryError: std::bad_alloc", JAX 0.12.0.1
        return f"compiled programs are not kept, because JAX cannot store those with {ONEDNN}."
    import jax  # here, because importing this file must be quick

    writable = writable_folder(folder)
    if writable is None:
        return f"{folder} cannot be written, so compiled programs are not kept."
    jax.config.update("jax_compilation_cache_dir", str(writable))
    return None
