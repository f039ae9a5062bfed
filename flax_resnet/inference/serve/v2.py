"""The Open Inference Protocol (KServe v2) in JSON: tensors in, tensors out."""

import math
from typing import Any, NamedTuple

import numpy as np

from ...file_names import escape
from ...transform import EvalTransform
from ..predict import Predictions
from .bodies import Refusal, Upload, check_count, decode_base64, parse_json

INPUT = "image"
OUTPUTS = ("probabilities", "label")


class InferRequest(NamedTuple):
    """A request for inference.

    Attributes:
        images: Encoded photos, or images uint8 ``[N, H, W, C]``.
        outputs: Names of the outputs to answer with.
        id: The request's own name, which its answer repeats.
    """

    images: list[Upload] | np.ndarray
    outputs: tuple[str, ...]
    id: str | None


def model_metadata(name: str, transform: EvalTransform, classes: int) -> dict[str, Any]:
    """Return the description of the model's tensors."""
    return {
        "name": name,
        "platform": "flax_resnet",
        "inputs": [
            {"name": INPUT, "datatype": "BYTES", "shape": [-1]},
            {"name": INPUT, "datatype": "UINT8", "shape": [-1, -1, -1, transform.channels]},
        ],
        "outputs": [
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, classes]},
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
        ],
    }


def parse_infer(body: bytes, max_photos: int) -> InferRequest:
    """Return a request for inference from its JSON.

    Raises:
        Refusal: A tensor or an output that the model does not have, or wrong values.
    """
    value = parse_json(body)
    inputs = value.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise Refusal(400, f'"inputs" must be a list of one tensor, {INPUT!r}.')
    (tensor,) = inputs
    if tensor.get("name") != INPUT:
        raise Refusal(400, f"The input's name must be {INPUT!r}.")
    shape, data = tensor.get("shape"), tensor.get("data")
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise Refusal(400, f"The shape of {INPUT!r} must be a list of integers.")
    if not isinstance(data, list):
        raise Refusal(400, f'The "data" of {INPUT!r} must be a list; binary data are not read.')
    wanted = value.get("outputs")
    if wanted is None:
        wanted = [{"name": name} for name in OUTPUTS]
    if not isinstance(wanted, list) or not all(isinstance(output, dict) for output in wanted):
        raise Refusal(400, '"outputs" must be a list of objects with a name.')
    outputs = tuple(str(output.get("name")) for output in wanted)
    if unknown := set(outputs) - set(OUTPUTS):
        raise Refusal(
            400, f"There is no output {min(unknown)[:80]!r}: the outputs are {', '.join(OUTPUTS)}."
        )
    request_id = value.get("id")
    if request_id is not None and not _is_text(request_id):
        raise Refusal(400, 'The "id" must be a string of whole Unicode characters.')
    images = _tensor(tensor.get("datatype"), shape, data, max_photos)
    return InferRequest(images, outputs, request_id)


def _is_text(value: Any) -> bool:
    r"""Return whether a value is a string that UTF-8 holds; JSON's ``"\ud800"`` is half of one."""
    return isinstance(value, str) and value.encode(errors="replace").decode() == value


def _tensor(
    datatype: Any, shape: list[int], data: list[Any], max_photos: int
) -> list[Upload] | np.ndarray:
    if not shape or not shape[0]:
        raise Refusal(400, "The request holds no photo: send at least one.")
    check_count(shape[0], max_photos)
    if datatype == "BYTES":
        if shape != [len(data)]:
            raise Refusal(400, f"There are {len(data)} photos, but the shape is {shape[:8]}.")
        return [
            Upload(str(number), decode_base64(text, f"Photo {number}"))
            for number, text in enumerate(data)
        ]
    if datatype != "UINT8":
        raise Refusal(
            400,
            f"The datatype of {INPUT!r} is {str(datatype)[:40]!r}: send BYTES, photo files in "
            "base64, or UINT8, pixels [N, H, W, C].",
        )
    try:
        pixels = np.asarray(data)
    except (ValueError, RecursionError):
        raise Refusal(400, "The rows of the data have different lengths.") from None
    if pixels.dtype.kind not in "iu" or not np.isin(pixels, np.arange(256)).all():
        raise Refusal(400, "The data of UINT8 must be integers from 0 to 255.")
    fits = len(shape) == 4 and pixels.size == math.prod(shape)
    if not fits or pixels.shape not in ((pixels.size,), tuple(shape)):
        raise Refusal(
            400, f"The shape {shape[:8]} does not fit {pixels.size:,} numbers as [N, H, W, C]."
        )
    return pixels.astype(np.uint8).reshape(shape)


def infer_response(name: str, predictions: Predictions, request: InferRequest) -> dict[str, Any]:
    """Return the answer to a request."""
    count, classes = predictions.probabilities.shape
    tensors = {
        "probabilities": lambda: {
            "datatype": "FP32",
            "shape": [count, classes],
            "data": predictions.probabilities.ravel().tolist(),
        },
        "label": lambda: {
            "datatype": "BYTES",
            "shape": [count],
            "data": [escape(label or "") for label in predictions.labels],
        },
    }
    answer: dict[str, Any] = {"model_name": name}
    if request.id is not None:
        answer["id"] = request.id
    return answer | {"outputs": [{"name": n} | tensors[n]() for n in request.outputs]}
