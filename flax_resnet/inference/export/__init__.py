"""Trained classifiers in the formats of other programs: ``classifier.export``.

``export.py`` is the entry point: it writes a file, reads it again and compares it with its source.
``onnx_graph.py`` builds ONNX graphs, ``onnx_model.py`` writes a ResNet's, ``onnx_pixels.py`` the
preprocessing before it, and ``onnx_file.py`` the file with its description. ``int8.py`` quantises
one, ``stablehlo.py`` and ``openvino.py`` write the other formats, and ``comparison.py`` compares.
"""

from .export import FORMATS, Exported, export
from .int8 import Calibration

__all__ = ["FORMATS", "Calibration", "Exported", "export"]
