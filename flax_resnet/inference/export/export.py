"""``classifier.export``: a file for another program, compared with its source."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ...data import Preprocessing
from ...errors import UserError
from ...storage import is_remote, locate, upload
from ...weights import load_weights
from ..predict import to_probabilities
from .comparison import Comparison, check_same, compare, logits_of, real_pixels, resize_difference
from .int8 import Calibration, quantize
from .onnx_file import NORMALIZED, OPSETS, PHOTOS, PIXELS, description, write_onnx
from .onnx_graph import open_session

if TYPE_CHECKING:
    from ..classifier import Classifier

Format = Literal["onnx", "openvino", "stablehlo", "safetensors", "pth"]
FORMATS: dict[str, Format] = {
    ".onnx": "onnx",
    ".xml": "openvino",
    ".stablehlo": "stablehlo",
    ".safetensors": "safetensors",
    ".pth": "pth",
}
"""The format of each ending of a file's name."""

_OPTIONS = {
    "onnx": {"preprocess", "resize", "opset", "int8", "license"},
    "openvino": {"preprocess", "license"},
    "stablehlo": {"preprocess", "license"},
    "safetensors": set[str](),
    "pth": set[str](),
}
"""The options of each format."""


@dataclass(frozen=True)
class Exported:
    """A file that was exported and compared with its source.

    Attributes:
        path: The file.
        format: Its format.
        comparison: How near its logits of real images are to those of its source; probabilities
            where a file of OpenVINO or StableHLO gives them.
        facts: More about the file, for a report: title -> text.
    """

    path: Path
    format: Format
    comparison: Comparison
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Request:
    """What is to be written.

    Attributes:
        classifier: The source.
        takes: What the file takes, see ``onnx_file``.
        opset: Version of ONNX's operators.
        licence: The licence of the weights.
        photos: Images for the comparison.
        int8: How to quantise the file, or None.
    """

    classifier: Classifier
    takes: str
    opset: int
    licence: str | None
    photos: Sequence[Any] | None
    int8: Calibration | None


@dataclass(frozen=True)
class _Written:
    """A file that was written and read again.

    Attributes:
        compute: Computes logits or probabilities ``[N, K]`` of stored pixels, by the file.
        facts: As in ``Exported``.
        gives: What it computes.
    """

    compute: Callable[[np.ndarray], np.ndarray]
    facts: dict[str, str]
    gives: Literal["logits", "probabilities"] = "logits"


def export(
    classifier: Classifier,
    output: str | Path,
    *,
    format: Format | None = None,
    preprocess: bool = False,
    resize: bool = False,
    opset: int = OPSETS[0],
    int8: Calibration | None = None,
    photos: Sequence[Any] | None = None,
    license: str | None = None,
    force: bool = False,
) -> Exported:
    """Write the classifier to a file for another program.

    The file is read again, and its logits of real images are compared with the classifier's; it is
    only put in its place if they are the same up to rounding.

    Args:
        classifier: The trained model.
        output: The file, in a folder that exists.
        format: ``"onnx"``, ``"openvino"``, ``"stablehlo"``, ``"safetensors"`` or ``"pth"``; by
            default that of the file's ending.
        preprocess: The file takes uint8 images ``[N, H, W, C]`` of the transform's size instead of
            normalised ones ``[N, C, H, W]``, and gives probabilities instead of logits.
        resize: With ``preprocess``, the images have any size, and the file resizes and crops them.
        opset: Version of ONNX's operators, from 18 to 22.
        int8: Quantise the file to eight-bit integers, by these photos. The comparison is then that
            of the float file before, and the loss of accuracy is measured and limited.
        photos: Images for the comparison, as for ``predict``; by default parts of two photographs.
        license: The licence of the weights, such as ``"apache-2.0"``, for the file's metadata.
        force: Replace a file that exists.

    Returns:
        The file, and how near its outputs are.

    Raises:
        UserError: The classifier is random, the file exists or its folder does not, an option does
            not go with the format, or the outputs differ.
    """
    path = locate(output)
    format = _format_of(path, format)
    given = {"preprocess": preprocess, "resize": resize, "opset": opset != OPSETS[0]}
    given |= {"int8": int8 is not None, "license": license is not None}
    for option, is_given in given.items():
        if is_given and option not in _OPTIONS[format]:
            raise UserError(f"--{option} does not go with the format {format}.", exit_code=2)
    if resize and not preprocess:
        raise UserError("--resize needs --preprocess.", exit_code=2)
    if resize and int8:
        raise UserError("--int8 does not go with --resize: leave one of them out.", exit_code=2)
    if opset not in OPSETS:
        raise UserError(
            f"--opset is {opset}; it must be from {OPSETS[0]} to {OPSETS[-1]}.", exit_code=2
        )
    _check_output(path, force)
    classifier._logits_program()  # refuses a random classifier
    classifier = _in_float32(classifier)
    takes = PHOTOS if resize else PIXELS if preprocess else NORMALIZED
    request = _Request(classifier, takes, opset, license, photos, int8)
    with _staged(path) as fresh:
        written = _WRITERS[format](fresh, request)
        pixels = real_pixels(classifier.transform, photos)
        expected = logits_of(classifier, pixels)
        if written.gives == "probabilities":
            expected = to_probabilities(classifier, expected)
        done = compare(expected, written.compute(pixels))
        size = sum(file.stat().st_size for file in fresh.parent.iterdir())
    return Exported(path, format, done, {"size": f"{size / 2**20:.1f} MiB"} | written.facts)


def _in_float32(classifier: Classifier) -> Classifier:
    """Return the classifier as exported models compute it, also where it computes in bfloat16."""
    if classifier.model.dtype == jnp.float32:
        return classifier
    from ..classifier import Classifier

    model = classifier.model.clone(dtype=jnp.float32)
    return Classifier(model, classifier.variables, classifier.info)


def _write_onnx(path: Path, request: _Request) -> _Written:
    from ..onnx_classifier import load_onnx

    classifier = request.classifier
    target, path = path, path if request.int8 is None else path.with_name("float32.onnx")
    nodes = write_onnx(
        path, classifier, opset=request.opset, takes=request.takes, licence=request.licence
    )
    facts = {"operators": f"opset {request.opset}, {nodes} nodes"}
    read = load_onnx(path, classifier.info)
    if request.takes == PIXELS:
        session = open_session(path)
        check_same(classifier, lambda x: session.run(None, {"images": x})[0], request.photos)
    elif request.takes == PHOTOS:
        facts |= resize_difference(classifier, path, request.photos)
    if request.int8 is not None:
        facts |= quantize(path, target, classifier, request.int8)
        path.unlink()
    return _Written(lambda pixels: logits_of(read, pixels), facts)


def _write_openvino(path: Path, request: _Request) -> _Written:
    from .openvino import read_openvino, write_openvino

    classifier = request.classifier
    source = path.with_name("source.onnx")
    write_onnx(source, classifier, opset=request.opset, takes=request.takes, licence=None)
    write_openvino(path, source, description(classifier, request.takes, request.licence))
    source.unlink()
    compute = read_openvino(path)
    if request.takes == PIXELS:
        return _Written(compute, {}, "probabilities")
    normalize = Preprocessing.from_transform(classifier.transform)
    return _Written(
        lambda pixels: compute(np.asarray(normalize(jnp.asarray(pixels))).transpose(0, 3, 1, 2)), {}
    )


def _write_stablehlo(path: Path, request: _Request) -> _Written:
    from .stablehlo import PLATFORMS, read_stablehlo, write_stablehlo

    classifier = request.classifier
    size = write_stablehlo(path, classifier, takes=request.takes, licence=request.licence)
    program, weights = read_stablehlo(path)
    call = jax.jit(program.call)
    facts = {"program": f"{size / 2**10:.0f} KiB for {', '.join(PLATFORMS)}"}
    if request.takes == PIXELS:
        return _Written(lambda pixels: np.asarray(call(weights, pixels)), facts, "probabilities")
    normalize = Preprocessing.from_transform(classifier.transform)
    return _Written(lambda pixels: np.asarray(call(weights, normalize(jnp.asarray(pixels)))), facts)


def _write_weights(path: Path, request: _Request) -> _Written:
    from ..classifier import Classifier

    classifier = request.classifier
    classifier.save(path)
    model = classifier.model
    read = Classifier(model, load_weights(path, model), classifier.info)
    return _Written(lambda pixels: logits_of(read, pixels), {})


_WRITERS: dict[str, Callable[[Path, _Request], _Written]] = {
    "onnx": _write_onnx,
    "openvino": _write_openvino,
    "stablehlo": _write_stablehlo,
    "safetensors": _write_weights,
    "pth": _write_weights,
}


def _format_of(path: Path, format: Format | None) -> Format:
    known = FORMATS.get(path.suffix.lower())
    if known is None:
        raise UserError(
            f"The name of {path} must end in {' or '.join(FORMATS)}, which is its format.",
            exit_code=2,
        )
    if format not in (None, known):
        ending = next(ending for ending, other in FORMATS.items() if other == format)
        raise UserError(f"{path} must end in {ending} for --format {format}.", exit_code=2)
    return known


def _check_output(path: Path, force: bool) -> None:
    if not path.parent.is_dir():
        raise UserError(f"The folder {path.parent} does not exist: make it, or name another.")
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a file.")
    others = [path.with_suffix(".bin")] if path.suffix.lower() == ".xml" else []
    for file in [path, *others]:
        if file.exists() and not force:
            raise UserError(f"{file} is there already: name another file, or give --force.")


@contextmanager
def _staged(path: Path) -> Iterator[Path]:
    """Give a path to write to; what is in its folder takes its place where the body succeeds.

    Raises:
        UserError: A file cannot be written.
    """
    if is_remote(path):
        with tempfile.TemporaryDirectory(prefix="flax_resnet-") as scratch:
            yield Path(scratch) / path.name
            for file in Path(scratch).iterdir():
                upload(file, path.with_name(file.name))
        return
    try:
        folder = Path(tempfile.mkdtemp(prefix=".part-", dir=path.parent))
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): name another.") from error
    try:
        yield folder / path.name
        for file in folder.iterdir():
            os.replace(file, path.with_name(file.name))
    except OSError as error:
        if str(folder) not in (str(error.filename), os.path.dirname(str(error.filename))):
            raise
        raise UserError(f"{path} cannot be written ({error.strerror}): name another.") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
