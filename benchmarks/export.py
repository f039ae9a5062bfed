"""Exported ONNX files beside the models they come from, and beside those of torch's exporters.

    python -m benchmarks.export parity --models "resnet50 resnext*" --sizes 224x224 160x128
    python -m benchmarks.export parity --models "*" --depth 2 --sizes 64x64
    python -m benchmarks.export torch --models resnet50 --folder scratch
    python -m benchmarks.export speed scratch/ours.onnx scratch/*.onnx

``parity`` compares onnxruntime with JAX on random weights whose batch norms are not trivial, for
batches of 1 and 5 images. ``torch`` needs torch, torchvision and onnxscript: it exports the same
architectures by both of torch's exporters, and counts nodes. ``speed`` times files in turns.
"""

import argparse
import fnmatch
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median

import numpy as np


def _random_classifier(name: str, depth: int | None):
    import jax
    import jax.numpy as jnp

    import flax_resnet as fr
    from flax_resnet.config import ModelConfig
    from flax_resnet.inference import Classifier
    from flax_resnet.models.variants import variant_options
    from flax_resnet.transform import EvalTransform
    from flax_resnet.weights import WeightsInfo

    options = {}
    if depth is not None:
        stages = variant_options(name)["stage_sizes"]
        options["stage_sizes"] = tuple(min(depth, blocks) for blocks in stages)
    model = fr.create_model(name, conv_impl="reference", **options)
    side = 28 if model.pooling == "flatten" else 32
    shapes = jax.eval_shape(
        lambda key: model.init(key, jnp.zeros((1, side, side, 3))), jax.random.key(0)
    )
    rng = np.random.default_rng(1)

    def fill(path, leaf):
        if path[-1].key in ("scale", "var"):
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        spread = 1 / np.sqrt(np.prod(leaf.shape[:-1]))
        return rng.standard_normal(leaf.shape, np.float32) * np.float32(spread)

    info = WeightsInfo(
        source=name,
        kind="random",
        path=None,
        config=ModelConfig(name=name),
        classes=tuple(map(str, range(model.num_classes))),
        transform=EvalTransform.center_crop(side),
    )
    return Classifier(model, jax.tree_util.tree_map_with_path(fill, shapes), info)


def parity(patterns: list[str], sizes: list[tuple[int, int]], depth: int | None) -> None:
    """Print, for each model, its nodes and the largest difference of a logit."""
    import jax
    import onnx

    from flax_resnet.inference.export.onnx_file import NORMALIZED, write_onnx
    from flax_resnet.inference.export.onnx_graph import open_session
    from flax_resnet.models import list_models

    names = [name for name in list_models() if any(fnmatch.fnmatch(name, p) for p in patterns)]
    for name in names:
        classifier = _random_classifier(name, depth)
        model, worst, same = classifier.model, 0.0, True
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            try:
                write_onnx(path, classifier, opset=18, takes=NORMALIZED, licence=None)
            except Exception as error:
                print(f"{name:24} refused: {error}", flush=True)
                continue
            counts = Counter(
                n.op_type for n in onnx.load(path, load_external_data=False).graph.node
            )
            session = open_session(path)
        quick = {"xla_backend_optimization_level": 1}
        apply = jax.jit(model.apply, compiler_options=quick)
        for height, width in [(28, 28)] if model.pooling == "flatten" else sizes:
            images = np.random.default_rng(0).standard_normal((5, height, width, 3), np.float32)
            expected = np.asarray(apply(classifier.variables, images))
            for batch in (slice(None), slice(1)):
                feed = {"images": np.ascontiguousarray(images[batch].transpose(0, 3, 1, 2))}
                (computed,) = session.run(None, feed)
                apart = np.abs(computed - expected[batch]).max() / np.abs(expected).max()
                worst = max(worst, float(apart))
                same &= bool((computed.argmax(1) == expected[batch].argmax(1)).all())
        print(
            f"{name:24} {counts.total():5} nodes, {counts['Transpose']} Transpose, "
            f"{counts['BatchNormalization']} BatchNormalization, differs by {worst:.1e}, "
            f"top-1 {'the same' if same else 'DIFFERENT'}",
            flush=True,
        )


def export_by_torch(patterns: list[str], folder: Path) -> None:
    """Export torchvision's models by torch's two exporters, and print their nodes."""
    import onnx
    import torch

    from tests.weights.torchvision_import import torchvision

    for name in torchvision.models.list_models():
        if not any(fnmatch.fnmatch(name, pattern) for pattern in patterns):
            continue
        model = torchvision.models.get_model(name).eval()
        x = torch.zeros(1, 3, 224, 224)
        for exporter in ("torchscript", "dynamo"):
            path = folder / f"{name}-{exporter}.onnx"
            axes = {"images": {0: "batch", 2: "height", 3: "width"}}
            options = {"dynamic_axes": axes} if exporter == "torchscript" else {}
            torch.onnx.export(
                model,
                (x,),
                str(path),
                input_names=["images"],
                output_names=["logits"],
                opset_version=18,
                dynamo=exporter == "dynamo",
                external_data=False,
                **options,
            )
            counts = Counter(node.op_type for node in onnx.load(path).graph.node)
            identities = counts.pop("Identity", 0)
            print(
                f"{name:24} {exporter:12} {counts.total():5} nodes and {identities} Identity: "
                f"{dict(counts)}",
                flush=True,
            )


def speed(files: list[Path], batch: int, size: int, rounds: int, threads: int) -> None:
    """Time files in turns, by the median and least processor time of all rounds."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    sessions = {
        file: onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        for file in files
    }
    x = np.random.default_rng(0).standard_normal((batch, 3, size, size), np.float32)
    times: dict[Path, list[float]] = {file: [] for file in files}
    for i in range(rounds + 2):
        order = files if i % 2 else files[::-1]
        for file in order:
            session = sessions[file]
            start = time.process_time()
            session.run(None, {session.get_inputs()[0].name: x})
            if i > 1:
                times[file].append(time.process_time() - start)
    for file, taken in times.items():
        print(f"{file.name:32} median {median(taken) * 1e3:8.1f} ms, best {min(taken) * 1e3:8.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("task", choices=("parity", "torch", "speed"))
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--models", nargs="+", default=["resnet50"])
    parser.add_argument("--sizes", nargs="+", default=["224x224"])
    parser.add_argument("--depth", type=int)
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=0)
    chosen = parser.parse_args()
    patterns = " ".join(chosen.models).split()
    if chosen.task == "parity":
        sizes = [tuple(map(int, size.split("x"))) for size in chosen.sizes]
        parity(patterns, sizes, chosen.depth)
    elif chosen.task == "torch":
        export_by_torch(patterns, chosen.folder)
    else:
        speed(chosen.files, chosen.batch, chosen.size, chosen.rounds, chosen.threads)


if __name__ == "__main__":
    main()
