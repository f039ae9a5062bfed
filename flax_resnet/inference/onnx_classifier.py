"""A classifier in an ONNX file of ours, run by onnxruntime: for prediction and evaluation."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..data import Preprocessing
from ..errors import UserError
from ..models import ResNet
from ..report.notebook import classifier_table, to_html
from ..storage import local_copy, locate
from ..weights import ENTRY, WeightsInfo, build_model, parse_description
from .classifier import Classifier
from .export.onnx_file import INPUT_ENTRY, NORMALIZED, PHOTOS
from .export.onnx_graph import import_onnx, open_session
from .export.onnx_pixels import LEVELS
from .outputs import Program, TestTimeAugmentation


class OnnxClassifier(Classifier):
    """A classifier without weights of its own: a session of onnxruntime computes its logits.

    ``predict``, ``predict_batches`` and ``evaluate`` work; what needs the weights does not.

    Attributes:
        session: The ``onnxruntime.InferenceSession``.
        takes: What the file takes, see ``export.onnx_file``.
    """

    session: Any
    takes: str

    def __init__(self, session: Any, info: WeightsInfo, takes: str) -> None:
        model: ResNet = build_model(info.config, len(info.classes), **info.model_options)
        held = {"session": session, "info": info, "model": model, "takes": takes}
        for name, value in held.items():
            object.__setattr__(self, name, value)

    @property
    def variables(self) -> Mapping[str, Any]:  # type: ignore[override]
        """Not there.

        Raises:
            UserError: Always.
        """
        raise UserError(
            f"{self.info.source} is for predict and evaluate; this needs the model that it was "
            "exported from."
        )

    def _repr_html_(self) -> str:
        return to_html(classifier_table(self.info))

    def feed(self, pixels: Any) -> dict[str, np.ndarray]:
        """Return the input of the session for stored pixels, uint8 ``[N, H, W, C]``."""
        if self.takes == NORMALIZED:
            normalize = Preprocessing.from_transform(self.transform)
            pixels = np.asarray(normalize(pixels)).transpose(0, 3, 1, 2)
        elif self.takes == PHOTOS:  # the session starts behind the resizing
            pixels = np.asarray(pixels, np.float32).transpose(0, 3, 1, 2)
        return {self.session.get_inputs()[0].name: np.ascontiguousarray(pixels)}

    def _logits_program(self, tta: TestTimeAugmentation | None = None) -> Program:
        def logits(_: Any, images: Any) -> np.ndarray:
            return self.session.run(["logits"], self.feed(images))[0]

        def averaged(_: Any, images: Any) -> np.ndarray:
            return (logits(_, images) + logits(_, images[:, :, ::-1])) / 2

        return (logits if tta is None else averaged), {}


def load_onnx(source: str | Path, info: WeightsInfo | None = None) -> OnnxClassifier:
    """Load a file that ``classifier.export`` wrote.

    Args:
        source: The file.
        info: What to take for its description.

    Raises:
        UserError: The file is missing, damaged, or not ours, or onnxruntime is not installed.
    """
    path = local_copy(locate(source))
    if not path.is_file():
        raise UserError(f"{path} does not exist.")
    import_onnx()
    session = open_session(path)
    try:
        metadata = session.get_modelmeta().custom_metadata_map
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is damaged: its description is not UTF-8.") from error
    if ENTRY not in metadata:
        raise UserError(
            f"{path} does not describe its classes and preprocessing: give a file that flax-resnet "
            "export wrote."
        )
    takes = metadata.get(INPUT_ENTRY, NORMALIZED)
    if takes != NORMALIZED:
        session = open_session(_giving_logits(path, cut=takes == PHOTOS))
    if info is None:
        found = parse_description(metadata, path)
        info = WeightsInfo(
            source=str(source),
            kind="onnx",
            path=path,
            config=found.config,
            classes=found.classes,
            transform=found.transform,
            settings={"loss": found.loss} if found.loss else {},
            model_options=found.model_options,
        )
    return OnnxClassifier(session, info, takes)


def with_onnxruntime(classifier: Classifier) -> OnnxClassifier:
    """Return the same classifier, computed by onnxruntime and compared with the source.

    Raises:
        UserError: onnx or onnxruntime is not installed, or the outputs differ.
    """
    if isinstance(classifier, OnnxClassifier):
        return classifier
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        classifier.export(path, preprocess=True)
        return load_onnx(path, classifier.info)


def _giving_logits(path: Path, *, cut: bool) -> bytes:
    """Return a model that gives the logits too; ``cut`` makes it start at ``LEVELS``."""
    onnx = import_onnx()
    proto = onnx.load(path)
    graph = proto.graph
    classes = graph.output[0].type.tensor_type.shape.dim[1].dim_value
    info, float32 = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    graph.output.append(info("logits", float32, ("batch", classes)))
    if cut:
        names = [node.name for node in graph.node]
        del graph.node[: names.index(LEVELS) + 1]
        shape = ("batch", graph.input[0].type.tensor_type.shape.dim[3].dim_value, "h", "w")
        graph.input[0].CopyFrom(info(LEVELS, float32, shape))
    return proto.SerializeToString()
