"""The page of figures, docs/performance.md."""

import statistics

from benchmarks.cpu.workloads import CONTENDERS, WORKLOADS

# Multiply-accumulates of one image, 1e9: torchvision's and the papers' figures for the nets at
# 224 x 224; of the CIFAR nets `flax-resnet summary`.
GMACS = {
    ("resnet50", 224): 4.089,
    ("resnet101", 224): 7.801,
    ("resnet152", 224): 11.514,
    ("resnext50_32x4d", 224): 4.230,
    ("wide_resnet50_2", 224): 11.398,
    ("resnet18", 32): 0.556,
    ("resnet20", 32): 0.041,
}

# A share of the peak above which that peak is none: the processor lacks the dtype's instructions.
EMULATED = 5.0

HEAD = """# Speed on the CPU

Written by `python -m benchmarks.cpu` from `performance.json`; see there for how it is measured.
Milliseconds are medians of a step (training: forward, backward, SGD with momentum) or of a batch of
logits; ratios are PyTorch's median over ours, so that above 1 ours is quicker. PyTorch is the best
of its own ways that took part in that row. "Tuned" is with the memory allocator's settings of
`fr.tune_cpu`, for ours with its XLA flag too; "as installed" is without. Peak: the share of the
machine's arithmetic peak (a matrix product of 2048 by 2048 in the row's dtype, as PyTorch reaches
it) that the model's nominal arithmetic comes to: Winograd's convolutions, with oneDNN, do less of
it. Processor time is the sum over all threads, waiting ones of PyTorch's included; it tells more
than the clock where other programs run beside. Who was far behind after the first turn was left at
that turn's 3 samples, or 2 where a step takes over 8 seconds. Without instructions for bfloat16
PyTorch computes its products one number at a time, and ours in float32; there is no peak then.
"""


def _medians(figures):
    return {
        name: statistics.median(row["seconds"])
        for name, row in figures["contenders"].items()
        if row.get("seconds")
    }


def _best(medians, framework, tuned):
    of_it = [
        seconds
        for name, seconds in medians.items()
        if (CONTENDERS[name].framework, CONTENDERS[name].tuned) == (framework, tuned)
    ]
    return min(of_it, default=None)


def _ratio(other, ours):
    return "–" if other is None or ours is None else f"{other / ours:.2f}"


def _share_of_peak(name, seconds, gemm):
    if seconds is None:
        return "–"
    workload = WORKLOADS[name]
    macs = GMACS[workload.model, workload.size] * 1e9
    operations = 2 * macs * workload.batch * (3 if workload.train else 1)
    share = operations / seconds / gemm
    return f"{share:.0%}" if share < EMULATED else "–"


def _ratios(kept):
    lines = [
        "## Ratios",
        "",
        "| workload | samples | jax / PyTorch as installed | jax / PyTorch tuned | "
        "with oneDNN / as installed | with oneDNN / tuned | jax / plain Flax | jax, of the peak | "
        "with oneDNN, of the peak |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, figures in kept.items():
        medians = _medians(figures)
        ours, native = medians.get("ours, jax only"), medians.get("ours, with oneDNN")
        installed, tuned = (_best(medians, "torch", value) for value in (False, True))
        samples = len(figures["contenders"][min(medians, key=medians.__getitem__)]["seconds"])
        cells = [
            name,
            str(samples),
            _ratio(installed, ours),
            _ratio(tuned, ours),
            _ratio(installed, native),
            _ratio(tuned, native),
            _ratio(medians.get("plain Flax"), ours),
            *(_share_of_peak(name, seconds, figures["gemm"]) for seconds in (ours, native)),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _peaks(figures):
    text = f"peak {figures['gemm'] / 1e9:.0f} GFLOP/s"
    if "convolution" in figures:
        text += f", PyTorch's 3x3 convolution {figures['convolution'] / 1e9:.0f}"
    return text


def _each(name, figures):
    workload = WORKLOADS[name]
    kind = "training" if workload.train else "inference"
    lines = [
        "",
        f"## {name}",
        "",
        f"{workload.model}, {kind}, batch {workload.batch} at {workload.size}×{workload.size}, "
        f"{workload.dtype}; {figures['date']}; {_peaks(figures)}.",
        "",
        "| | median, ms | fastest, ms | processor, ms | first step, s | compiled, s | memory, MB |",
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


def page(kept):
    """The text of the page for ``{workload: {"date", "gemm", "contenders": figures}}``."""
    lines = [HEAD, *_ratios(kept)]
    for name, figures in kept.items():
        lines += _each(name, figures)
    return "\n".join(lines) + "\n"
