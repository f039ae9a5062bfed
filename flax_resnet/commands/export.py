"""The command export: a trained model as a file for another program."""

from typing import TYPE_CHECKING, Any, Literal

from ..errors import UserError
from .grammar import command
from .options import ClassNames, Model

if TYPE_CHECKING:
    from ..inference.export import Exported


@command
def export_command(
    source: Model,
    /,
    *,
    output: str,
    format: Literal["onnx", "openvino", "stablehlo", "safetensors", "pth"] | None = None,
    preprocess: bool = False,
    resize: bool = False,
    opset: int = 18,
    int8: bool = False,
    calibration: str | None = None,
    held_out: str | None = None,
    max_loss: float = 0.01,
    classes: ClassNames = None,
    photos: str | None = None,
    license: str | None = None,
    force: bool = False,
) -> None:
    """Write a trained model to a file for another program, and compare both on real images.

    Args:
        output: The file to write; its ending gives the format: .onnx, .xml, .stablehlo,
            .safetensors or .pth.
        format: The format, to be checked against the ending.
        preprocess: Take uint8 images [N, H, W, 3] and give probabilities; otherwise the file takes
            normalised images [N, 3, H, W] and gives logits.
        resize: With --preprocess, take photos of any size.
        opset: The version of ONNX's operators.
        int8: Quantise to eight-bit integers.
        calibration: With --int8, photos that set the ranges; by default the run's training images.
        held_out: With --int8, a folder with a folder for each class, on which the loss of accuracy
            is measured; by default the run's test images.
        max_loss: With --int8, the largest loss of accuracy, as a fraction of the photos.
        photos: A folder of photos for the comparison; by default two photographs are used.
        license: The licence of the weights, such as apache-2.0, for the metadata.
        force: Replace the file if it exists.
    """
    from ..inference import load
    from ..inference.export import Calibration

    if not int8 and (calibration or held_out):
        raise UserError("--calibration and --held-out need --int8.", exit_code=2)
    done = load(source, classes=classes).export(
        output,
        format=format,
        preprocess=preprocess,
        resize=resize,
        opset=opset,
        int8=Calibration(calibration, held_out, max_loss) if int8 else None,
        photos=_photos(photos),
        license=license,
        force=force,
    )
    _print(done)


def _photos(folder: str | None) -> list[Any] | None:
    if folder is None:
        return None
    from ..inference import find_files

    found = find_files([folder])
    if not found.paths:
        raise UserError(f"There are no photos in {folder}.")
    return list(found.paths[:64])


def _print(done: "Exported") -> None:
    print(f"{done.path}: {done.format}, {done.facts['size']}")
    for title, text in done.facts.items():
        if title != "size":
            print(f"{title:12}{text}")
    compared = done.comparison
    file = "the file in float32 with" if "int8" in done.facts else "with"
    print(
        f"{'compared':12}{file} the source on {compared.images} images: logits differ by "
        f"{compared.difference:.1e} of the largest, the most probable class agrees in "
        f"{compared.agreement:.0%}"
    )
