"""The part of a page that shows the model: stages, and filters of the first convolution."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..models import ModelSummary
from ..text_files import read_run_file
from .page_tables import number
from .pictures import data_uri, filter_grid, to_webp

_MOST_FILTERS = 256


def model_section(
    summary: ModelSummary, name: str, image_shape: Sequence[int], kernels: np.ndarray | None
) -> dict[str, Any]:
    """Return what a page shows of a model.

    Args:
        summary: Its size and cost.
        name: Its name.
        image_shape: ``(H, W, C)`` of its input.
        kernels: Weights of the first convolution as PyTorch has them, ``[out, in, h, w]``.
    """
    size = "×".join(map(str, image_shape))
    blocks = [{"name": "input", "shape": size, "height": _height(image_shape)}]
    rows = []
    for stage in summary.stages:
        shape = "×".join(map(str, stage.output_shape))
        blocks.append({"name": stage.name, "shape": shape, "height": _height(stage.output_shape)})
        rows.append(
            [
                stage.name,
                shape,
                number(stage.parameters, f"{stage.parameters:,}"),
                number(stage.macs, f"{stage.macs / 1e9:.4f}"),
                f"{stage.macs / max(summary.macs, 1):.1%}",
            ]
        )
    total = [summary.parameters, summary.macs]
    rows.append(["all", "", f"{total[0]:,}", f"{total[1] / 1e9:.4f}", "100.0%"])
    columns = ("stage", "output (H×W×C)", "parameters", "GMACs", "of all GMACs")
    section = {
        "lead": f"{name}: {summary.parameters:,} parameters, {summary.macs / 1e9:.3f} GMACs an "
        f"image of {size}.",
        "blocks": blocks,
        "stages": (columns, rows),
        "filters": None,
        "filters_note": "",
    }
    if kernels is not None:
        grid = filter_grid(kernels, _MOST_FILTERS)
        section["filters"] = data_uri(to_webp(grid, max(grid.shape), lossless=True))
        out, channels, height, width = kernels.shape
        shown = f"the first {_MOST_FILTERS} of {out}" if out > _MOST_FILTERS else f"all {out}"
        kind = "in colour" if channels == 3 else "the mean of their channels"
        section["filters_note"] = (
            f"{shown} filters, {height}×{width} for {channels} channels, {kind}; each scaled to "
            "its own lowest and highest weight."
        )
    return section


def run_model(
    workdir: Path, settings: dict[str, Any], classes: Sequence[str]
) -> tuple[dict[str, Any] | None, np.ndarray | None]:
    """Return what the page of a run shows of its model, and the weights of its first convolution.

    Both are None where the settings are those of no model that this version knows.
    """
    from ..config import ModelConfig
    from ..models import summarize
    from ..weights import build_model

    fields = {
        name.removeprefix("model."): value
        for name, value in settings.items()
        if name.startswith("model.")
    }
    try:
        kernels = _first_convolution(workdir)
        transform = _transform(workdir)
        config = ModelConfig(**fields)
        channels = kernels.shape[1] if kernels is not None else config.in_channels or 3
        model = build_model(config, len(classes), in_channels=channels)
        side = transform.get("model_size")
        height, width = (side or transform.get(name, 224) for name in ("height", "width"))
        shape = (height, width, channels)
        summary = summarize(model, shape)
    except (UserError, TypeError, ValueError, OSError):
        return None, None
    return model_section(summary, config.name, shape, kernels), kernels


def _first_convolution(workdir: Path) -> np.ndarray | None:
    """Return the weights of the first convolution of a finished run, or None."""
    from ..weights import RUN_WEIGHTS
    from ..weights.formats.files import read_weights

    path = workdir / RUN_WEIGHTS
    if not path.is_file():
        return None
    weights = read_weights(path)
    name = next((name for name in ("conv1.weight", "conv1.0.weight") if name in weights), None)
    return None if name is None else np.asarray(weights[name])


def _transform(workdir: Path) -> dict[str, Any]:
    found = read_run_file(workdir, "preprocessing.json")
    return found if isinstance(found, dict) else {}


def _height(shape: Sequence[int]) -> int:
    """Return the height of a block in pixels, by the resolution of its output."""
    side = shape[0] if len(shape) == 3 else 1
    return round(26 + 12 * math.log2(max(side, 1)))
