"""The engines onnxruntime and OpenVINO, which run an ONNX file of our exporter."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.cpu.photo import photo, probabilities, to_input

# In a process of its own: JAX's threads and memory do not stay beside the engine.
WRITER = """
import sys
from functools import partial
import jax, numpy as np
import flax_resnet as fr
from flax_resnet.models import QUICK_COMPILATION
name, weights, output = sys.argv[1:]
model = fr.create_model(name)
init = jax.jit(partial(model.init, train=False), compiler_options=QUICK_COMPILATION)
key = jax.random.key(0, impl="rbg")
fr.save_weights(weights, init(key, np.zeros((1, 224, 224, 3), np.float32)), model)
fr.load(weights, model=name).export(output, force=True)
"""


def write_model(name):
    """Writes a model with random weights, once, and returns the path of the ONNX file."""
    folder = Path(tempfile.gettempdir()) / "flax_resnet_benchmarks"
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.onnx"
    if not path.exists():
        fresh, weights = (folder / f"{os.getpid()}.{ending}" for ending in ("onnx", "safetensors"))
        subprocess.run([sys.executable, "-c", WRITER, name, weights, fresh], check=True)
        weights.unlink()
        fresh.rename(path)
    return path


def build(workload, engine):
    """Returns a function that computes one batch of logits.

    Args:
        workload: A ``Workload`` of inference.
        engine: ``"onnxruntime"`` or ``"openvino"``.
    """
    if workload.train:
        raise ValueError(f"{engine} does not train")
    shape = (workload.batch, 3, workload.size, workload.size)
    run = {"onnxruntime": _onnxruntime, "openvino": _openvino}[engine]
    logits_of = run(write_model(workload.model), shape, workload.dtype)
    if workload.photo:
        encoded = photo()
        return lambda: probabilities(logits_of(to_input(encoded)))
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return lambda: logits_of(images)


def _onnxruntime(path, shape, dtype):
    import onnxruntime

    if dtype != "float32":
        raise ValueError("onnxruntime has no convolutions in bfloat16 on x86")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def _openvino(path, shape, dtype):
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    model.reshape(list(shape))
    # On processors with AMX OpenVINO would compute in bfloat16 unless another dtype is named.
    precision = {"float32": "f32", "bfloat16": "bf16"}[dtype]
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
    request = core.compile_model(model, "CPU", options).create_infer_request()

    def infer(images):
        tensor = openvino.Tensor(images, shared_memory=True)
        return request.infer([tensor], share_outputs=True)[0]

    return infer
