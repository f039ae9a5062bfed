"""A block diagram of a model, by stage."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..models import ModelSummary, ResNet
from ..models.blocks import conv_specs
from ..models.layers import ConvSpec
from ..models.resnet import DEEP_STEMS, STEM_POOLS, STEMS
from ..output_files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH, _LINE, _GAP, _PADDING = 9.4, 0.27, 0.42, 0.14  # inches
_INK, _FAINT, _EDGE = "#1c2430", "#6b7482", "#b6bdc9"
_FILLS = {"stem": "#e8f1ee", "fc": "#f3ecf8"}
_STAGE_FILL = "#e9f0fb"
_STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "flax_resnet", "text.parse_math": False}


def save_diagram(
    model: ResNet,
    summary: ModelSummary,
    image_shape: tuple[int, int, int],
    title: str,
    path: str | Path,
) -> None:
    """Draw a model's stages from the image to the logits: layers, output shapes and parameters.

    Args:
        model: The model.
        summary: Its summary for images of ``image_shape``.
        image_shape: ``(H, W, C)``.
        title: Title of the diagram.
        path: The file; its suffix (.svg, .png or .pdf) determines the format.

    Raises:
        UserError: The file cannot be written.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    cards = {"stem": _stem_lines(model)}
    cards |= {name: _stage_lines(model, i) for i, name in enumerate(model.stages[1:-1])}
    cards["fc"] = _head_lines(model)
    heights = [len(lines) * _LINE + 2 * _PADDING for lines in cards.values()]
    total = sum(heights) + _GAP * (len(cards) + 1) + 1.5
    try:
        with replacing(path) as fresh, mpl.rc_context(_STYLE):
            figure = Figure(figsize=(_WIDTH, total))
            axes = figure.add_axes((0, 0, 1, 1))
            axes.set(xlim=(0, _WIDTH), ylim=(0, total))
            axes.axis("off")
            axes.text(0.5, total - 0.45, title, fontsize=15, weight="bold", color=_INK)
            size = f"{summary.parameters:,} parameters · {summary.macs / 1e9:.3f} GMACs an image"
            axes.text(0.5, total - 0.75, size, fontsize=10, color=_FAINT)
            top = total - 1.15
            axes.text(3.6, top, f"image  {_shape(image_shape)}", ha="center", va="center",
                      fontsize=10, color=_INK)  # fmt: skip
            top -= 0.16
            for (name, lines), height, stage in zip(
                cards.items(), heights, summary.stages, strict=True
            ):
                _arrow(axes, top, top - _GAP)
                top -= _GAP
                _card(axes, name, lines, top, height, model.residual and name not in _FILLS)
                axes.text(7.25, top - height / 2 + 0.1, _shape(stage.output_shape), va="center",
                          fontsize=10, color=_INK)  # fmt: skip
                axes.text(7.25, top - height / 2 - 0.13, f"{stage.parameters:,} parameters",
                          va="center", fontsize=9, color=_FAINT)  # fmt: skip
                top -= height
            metadata = {"Date": None} if Path(path).suffix == ".svg" else None
            figure.savefig(fresh, dpi=130, metadata=metadata, facecolor="white")
    except ValueError as error:  # the suffix is no image format
        raise UserError(
            f"{path} cannot be written ({error}): name another path, ending in .svg or .png."
        ) from error


def _card(
    axes: "Axes", name: str, lines: list[str], top: float, height: float, residual: bool
) -> None:
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

    box = FancyBboxPatch((0.5, top - height), 6.2, height, boxstyle="round,pad=0,rounding_size=0.1",
                         facecolor=_FILLS.get(name, _STAGE_FILL), edgecolor=_EDGE)  # fmt: skip
    axes.add_patch(box)
    axes.text(0.72, top - height / 2, name, va="center", fontsize=11, weight="bold", color=_INK)
    for number, line in enumerate(lines):
        y = top - _PADDING - (number + 0.5) * _LINE
        color, size = (_INK, 10) if number == 0 else (_FAINT, 9)
        axes.text(1.75, y, line, va="center", fontsize=size, color=color)
    if residual:
        axes.add_patch(FancyArrowPatch(
            (6.45, top - 0.06), (6.45, top - height + 0.06), arrowstyle="-|>", mutation_scale=9,
            connectionstyle="arc3,rad=-0.35", color=_FAINT, linewidth=1.1,
        ))  # fmt: skip


def _arrow(axes: "Axes", start: float, stop: float) -> None:
    arrow = {"arrowstyle": "-|>", "color": _FAINT, "linewidth": 1.2}
    axes.annotate("", (3.6, stop), (3.6, start), arrowprops=arrow)


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def _conv(spec: ConvSpec) -> str:
    parts = [f"{spec.kernel}×{spec.kernel}, {spec.features}"]
    parts += [f"{spec.groups} groups"] * (spec.groups > 1)
    parts += [f"dilation {spec.dilation}"] * (spec.dilation > 1)
    return ", ".join(parts)


def _stem_lines(model: ResNet) -> list[str]:
    width, (kernel, stride) = model.stem_width or model.widths[0], STEMS[model.stem]
    if model.stem in DEEP_STEMS:
        first, second = (width * eighths // 8 for eighths in DEEP_STEMS[model.stem])
        convs = f"{kernel}×{kernel}, {first}  →  3×3, {second}  →  3×3, {width}"
    else:
        convs = f"{kernel}×{kernel}, {width}"
    lines = [convs + (f"  (stride {stride})" if stride > 1 else "")]
    pool = model.pool_after_stem
    if pool == "conv":
        lines.append(f"3×3, {width}  (stride 2)")
    elif pool != "none":
        window, stride, _ = STEM_POOLS.get(model.stem, (3, 2, 1))
        kind = {"mean": "mean-pool 2×2", "blur": f"max-pool {window}×{window} and blur"}
        text = kind.get(model.anti_alias or "", f"max-pool {window}×{window}")
        lines.append(f"{text}  (stride {stride})")
    return lines


def _stage_lines(model: ResNet, index: int) -> list[str]:
    strides = [*model.stage_strides.values()]
    halves = strides[index + 1] > strides[index]
    pools = model.downsampling == "conv_pool" and index > 0
    specs = conv_specs(model.block, model.widths[index], 1, model.version, model.groups,
                       model.width_per_group)  # fmt: skip
    kind = "pre-activation " if model.version == "v2" else ""
    count = model.stage_sizes[index]
    blocks = "block" if count == 1 else "blocks"
    lines = [f"{count} × {kind}{model.block} {blocks}", "  →  ".join(map(_conv, specs))]
    notes = ["the first halves the size"] if halves and not pools else []
    notes += [f"3×3, {model.widths[index]} and 2×2 max-pool before them"] if pools else []
    if model.attention:
        notes.append({"se": "squeeze-and-excitation", "eca": "ECA"}[model.attention])
    return [*lines, "; ".join(notes)] if notes else lines


def _head_lines(model: ResNet) -> list[str]:
    pooled = "mean over the pixels" if model.pooling == "mean" else "all pixels"
    layers = [f"dense, {size}, ReLU" for size in model.hidden]
    return ["  →  ".join([pooled, *layers, f"dense, {model.num_classes} classes"])]
