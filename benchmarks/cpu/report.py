"""Writes the page of measurements, ``docs/performance.md``."""

import statistics

from benchmarks.cpu.workloads import CONTENDERS, WORKLOADS

# Billions of multiply-accumulates per image. For 224x224 pixels they are torchvision's and the
# papers' figures, for CIFAR those of `flax-resnet summary`.
GMACS = {
    ("resnet50", 224): 4.089,
    ("resnet101", 224): 7.801,
    ("resnet152", 224): 11.514,
    ("resnext50_32x4d", 224): 4.230,
    ("wide_resnet50_2", 224): 11.398,
    ("resnet18", 32): 0.556,
    ("resnet20", 32): 0.041,
}

# If a model seems to exceed the peak by this factor, the peak is not valid: PyTorch emulates the
# dtype, because the processor has no instructions for it.
MAX_FRACTION_OF_PEAK = 5.0

# The load average of an idle machine with one benchmark on two cores is below this.
MAX_LOAD = 4.0

HEAD = """# Speed on the CPU

`python -m benchmarks.cpu` measures these numbers and writes this page from `performance.json`;
its docstring describes the method.

- **Times** are medians in milliseconds of a training step (forward, backward, SGD with momentum)
  or of a batch of logits.
- **Ratios** are the other program's median divided by ours: above 1 ours is faster. PyTorch's
  median is that of its fastest configuration in the row. **Best peer** is the fastest of PyTorch,
  onnxruntime and OpenVINO with equal settings of the allocator, as far as they were measured.
- Each kind of processor has its own part. onnxruntime and OpenVINO run the ONNX file that
  `flax-resnet export` writes; they do not train, and onnxruntime has no bfloat16 on x86.
- **Tuned** processes have the memory allocator's settings of `fr.tune_cpu`, ours also its XLA
  flags. Processes **as installed** have neither.
- **Fraction of peak** is the model's nominal arithmetic per second, divided by that of PyTorch's
  product of two 2048x2048 matrices in the same dtype. It can exceed 100%, because Winograd
  convolutions (with oneDNN) need fewer multiplications than the nominal ones.
- **Processor time** is the sum over all threads, including PyTorch's waiting ones. It is more
  reliable than elapsed time if other programs run at the same time, and then ratios of processor
  time stand beside the others. The load average is that of the last five minutes.
- A contender that was much slower than another after its first turn was not measured again: it
  has 3 samples, or 2 if a step takes more than 8 seconds.
- On processors without bfloat16 instructions PyTorch multiplies bfloat16 values one at a time,
  and ours computes in float32. Such rows have no fraction of peak.
"""


def median_times(figures, kind="seconds"):
    return {
        name: statistics.median(row[kind])
        for name, row in figures["contenders"].items()
        if row.get("seconds")
    }


def _best(medians, framework, tuned):
    """Returns the smallest median of a framework, or None if it was not measured."""
    candidates = [
        seconds
        for name, seconds in medians.items()
        if (CONTENDERS[name].framework, CONTENDERS[name].tuned) == (framework, tuned)
    ]
    return min(candidates, default=None)


def best_peer(medians):
    """Returns the name and the median of the fastest peer with tuned settings, or two Nones."""
    peers = {
        name: seconds
        for name, seconds in medians.items()
        if CONTENDERS[name].framework in ("torch", "onnx") and CONTENDERS[name].tuned
    }
    name = min(peers, key=peers.__getitem__, default=None)
    return (None, None) if name is None else (name.removesuffix(", tuned"), peers[name])


def _ratio(other, ours):
    return "–" if other is None or ours is None else f"{other / ours:.2f}"


def _fraction_of_peak(name, seconds, gemm):
    if seconds is None:
        return "–"
    workload = WORKLOADS[name]
    macs = GMACS[workload.model, workload.size] * 1e9
    operations = 2 * macs * workload.batch * (3 if workload.train else 1)
    fraction = operations / seconds / gemm
    return f"{fraction:.0%}" if fraction < MAX_FRACTION_OF_PEAK else "–"


def _ratios(measured):
    lines = [
        "### Ratios",
        "",
        "| workload | samples | best peer | JAX only : best peer | with oneDNN : best peer | "
        "JAX only : PyTorch as installed | JAX only : PyTorch tuned | "
        "with oneDNN : PyTorch as installed | with oneDNN : PyTorch tuned | "
        "JAX only : plain Flax | JAX only, fraction of peak | with oneDNN, fraction of peak |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, figures in measured.items():
        medians = median_times(figures)
        ours, native = medians.get("ours, jax only"), medians.get("ours, with oneDNN")
        installed, tuned = (_best(medians, "torch", value) for value in (False, True))
        peer, best = best_peer(medians)
        samples = len(figures["contenders"][min(medians, key=medians.__getitem__)]["seconds"])
        cells = [
            name,
            str(samples),
            peer or "–",
            _ratio(best, ours),
            _ratio(best, native),
            _ratio(installed, ours),
            _ratio(tuned, ours),
            _ratio(installed, native),
            _ratio(tuned, native),
            _ratio(medians.get("plain Flax"), ours),
            *(_fraction_of_peak(name, seconds, figures["gemm"]) for seconds in (ours, native)),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _peaks(figures):
    text = f"JAX {figures['jax']}; " if "jax" in figures else ""
    text += f"peak {figures['gemm'] / 1e9:.0f} GFLOP/s"
    if "convolution" in figures:
        text += f", PyTorch's 3x3 convolution {figures['convolution'] / 1e9:.0f}"
    return text


def _workload_section(name, figures):
    workload = WORKLOADS[name]
    kind = "training" if workload.train else "inference"
    if workload.photo:
        kind += " from a JPEG file"
    lines = [
        "",
        f"### {name}",
        "",
        f"{workload.model}, {kind}, batch {workload.batch} at {workload.size}×{workload.size}, "
        f"{workload.dtype}; {figures['date']}; {_peaks(figures)}." + _load(figures),
        "",
        "| contender | median, ms | fastest, ms | processor, ms | first step, s | compilation, s | "
        "peak memory, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for contender, row in figures["contenders"].items():
        if "error" in row:
            lines.append(f"| {contender} | {row['error']} | | | | | |")
            continue
        seconds = row["seconds"]
        compilation = "" if row["compile"] is None else f"{row['compile']:.1f}"
        processor = statistics.median(row["processor"]) * 1e3
        median, fastest = statistics.median(seconds) * 1e3, min(seconds) * 1e3
        lines.append(
            f"| {contender} | {median:,.1f} | {fastest:,.1f} | {processor:,.1f} | "
            f"{row['first']:.1f} | {compilation} | {row['bytes'] / 1e6:,.0f} |"
        )
    return lines


def _load(figures):
    """Returns the load average and the ratio of processor times, where other programs ran too."""
    if figures.get("load", 0) < MAX_LOAD:
        return ""
    text = f" Other programs ran at the same time: the load average was {figures['load']:.0f}."
    times = median_times(figures, "processor")
    peer, best = best_peer(times)
    ratios = [
        f"{_ratio(best, times[name])} for {name}"
        for name in ("ours, with oneDNN", "ours, jax only")
        if name in times and peer
    ]
    if ratios:
        text += f" The least processor time of a peer ({peer}) divided by ours is "
        text += " and ".join(ratios) + "."
    return text


def page(stored):
    """Returns the text of the page.

    Args:
        stored: ``{processor: {workload: {"date", "jax", "gemm", "contenders": {contender:
            measurements}}}}``, as in ``docs/performance.json``.
    """
    lines = [HEAD]
    for processor, measured in stored.items():
        lines += [f"## {processor}", "", *_ratios(measured)]
        for name, figures in measured.items():
            lines += _workload_section(name, figures)
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"
