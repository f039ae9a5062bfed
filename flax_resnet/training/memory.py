"""Whether a step fits the memory, from the compiled program, before it runs."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

from ..errors import UserError
from ..host_memory import host_limit


def check_memory(
    compiled: jax.stages.Compiled,
    batch_size: int,
    unit: int,
    compile_with: Callable[[int], jax.stages.Compiled],
    microbatches: int = 1,
) -> None:
    """Check that a compiled step fits, next to what is in memory already.

    Args:
        compiled: The step.
        batch_size: Images of its global batch.
        unit: A smaller batch must be a multiple of this.
        compile_with: Compiles the step for another batch size.
        microbatches: Number of microbatches that each batch is cut into.

    Raises:
        UserError: It does not fit; the message has a batch size that does, if there is one.
    """
    limit, held, where = memory_limit()
    if limit is None or held + _needed(compiled) <= limit:
        return
    problem = (
        f"A step with batch size {batch_size:,} needs {_gigabytes(held + _needed(compiled))} of "
        f"memory by XLA's estimate, more than the {_gigabytes(limit)} of {where}"
    )
    smaller = unit << ((batch_size - 1) // unit).bit_length()
    while (smaller := smaller // 2) >= unit:
        fraction = smaller / batch_size
        # In proportion, as most of the memory is activations: most sizes are not compiled.
        if held + 0.9 * fraction * _needed(compiled) > limit:
            continue
        needed = held + _needed(compile_with(smaller))
        if needed <= limit:
            # Microbatches of the whole batch that are no larger than those of the smaller one.
            units = batch_size // unit
            factor = next(
                n for n in range(2, units + 1) if units % n == 0 and n * smaller >= batch_size
            )
            raise UserError(
                f"{problem}: use --data.batch-size {smaller}, which needs {_gigabytes(needed)}, or "
                f"--microbatches {microbatches * factor}."
            )
    raise UserError(f"{problem}, and no smaller batch fits: use smaller images or another model.")


@contextmanager
def exhaustion_explained() -> Iterator[None]:
    """Turn the error of a device whose memory is exhausted into a UserError."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        # Those of files and of other resources name them, and are explained elsewhere.
        if "RESOURCE_EXHAUSTED" not in str(error) or "memory" not in str(error).lower():
            raise
        raise UserError(
            f"The device is out of memory ({str(error).splitlines()[0]:.200}): use a smaller "
            "--data.batch-size, or --microbatches; the last checkpoint is complete."
        ) from error


def memory_limit() -> tuple[int | None, int, str]:
    """Return the bytes that may be in use, those that are, and whose limit it is.

    The limit is that of the first local device; all devices of a CPU share that of ``host_limit``.
    None stands for an unknown one.
    """
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        stats = device.memory_stats() or {}
        limit = stats.get("bytes_limit")
        return limit, stats.get("bytes_in_use", 0), f"the {device.device_kind}"
    if sys.platform != "linux":
        return None, 0, ""
    held = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    limit, where = host_limit()
    return limit, held, where


def _needed(compiled: jax.stages.Compiled) -> int:
    """Return the bytes that a program allocates while it runs, on all devices of one memory."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return 0
    outputs = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    copies = jax.local_device_count() if jax.local_devices()[0].platform == "cpu" else 1
    return copies * (analysis.temp_size_in_bytes + max(outputs, 0))


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:,.2g} GB" if count < 1e10 else f"{count / 1e9:,.0f} GB"
