"""Exported files beside the models they come from, and beside those of torch's exporters.

    python -m benchmarks.export parity --models "resnet50 resnext*" --sizes 224x224 160x128
    python -m benchmarks.export parity --models "*" --depth 2 --sizes 64x64
    python -m benchmarks.export speed ours.onnx resnet50-torchscript.onnx resnet50-dynamo.onnx

``parity`` compares ONNX in onnxruntime, and StableHLO that is read again, with JAX on random
weights whose batch norms are not trivial, for batches of 5 and 1 images; beside the nodes are those
of torch's exporters, where ``benchmarks.export_torch`` wrote them (``--nodes``). ``speed`` times
files in turns, each round in another random order, and gives the ratio of the first file's median
to each of the others' with a 95% interval (bootstrap over rounds). ``--fixed`` names the sizes that
a file leaves free to onnxruntime, by ``add_free_dimension_override_by_name``.
"""

import argparse
import dataclasses
import json
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

NODES = Path(__file__).parents[1] / "tests/inference/export/torch_nodes.json"
QUICK = {"xla_backend_optimization_level": 1}  # compiles faster; sums stay in the same order


def random_classifier(name: str, depth: int | None = None):
    """A classifier whose batch norms are far from the identity."""
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


def onnx_logits(classifier, folder: Path):
    """Write ONNX; return a function of images ``[N, H, W, C]``, and the nodes."""
    import onnx

    from flax_resnet.inference.export.onnx_file import NORMALIZED, write_onnx
    from flax_resnet.inference.export.onnx_graph import open_session

    path = folder / "model.onnx"
    write_onnx(path, classifier, opset=18, takes=NORMALIZED, licence=None)
    graph = onnx.load(path, load_external_data=False).graph
    session = open_session(path)

    def logits(images):
        planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        return session.run(None, {"images": planes})[0]

    return logits, Counter(node.op_type for node in graph.node)


def stablehlo_logits(classifier, folder: Path, size: tuple[int, int]):
    """Write StableHLO for one size and read it again; return a function of images."""
    import jax

    from flax_resnet.inference import Classifier
    from flax_resnet.inference.export.onnx_file import NORMALIZED
    from flax_resnet.inference.export.stablehlo import read_stablehlo, write_stablehlo
    from flax_resnet.transform import EvalTransform

    path, transform = folder / "model.stablehlo", EvalTransform(*size, resize=None)
    info = dataclasses.replace(classifier.info, transform=transform)
    sized = Classifier(classifier.model, classifier.variables, info)
    write_stablehlo(path, sized, takes=NORMALIZED, licence=None)
    program, weights = read_stablehlo(path)
    call = jax.jit(program.call, compiler_options=QUICK)
    return lambda images: np.asarray(call(weights, images))


def parity(
    patterns: list[str],
    sizes: list[tuple[int, int]],
    depth: int | None,
    formats: list[str],
    nodes: Path,
) -> None:
    """Print, for each model, its nodes and the largest differences of a logit."""
    import jax

    from flax_resnet.models import list_models

    of_torch = json.loads(nodes.read_text()) if nodes.exists() else {}
    for name in dict.fromkeys(name for pattern in patterns for name in list_models(pattern)):
        classifier, line = random_classifier(name, depth), f"{name:18}"
        model = classifier.model
        worst, same = dict.fromkeys(formats, 0.0), dict.fromkeys(formats, True)
        apply = jax.jit(model.apply, compiler_options=QUICK)
        with tempfile.TemporaryDirectory() as folder:
            functions, counts = {}, Counter()
            if "onnx" in formats:
                try:
                    functions["onnx"], counts = onnx_logits(classifier, Path(folder))
                except Exception as error:
                    line += f" ONNX is refused: {error}"
            for size in [(28, 28)] if model.pooling == "flatten" else sizes:
                images = np.random.default_rng(0).standard_normal((5, *size, 3), np.float32)
                expected = np.asarray(apply(classifier.variables, images))
                if "stablehlo" in formats:
                    functions["stablehlo"] = stablehlo_logits(classifier, Path(folder), size)
                for format, function in functions.items():
                    for batch in (slice(None), slice(1)):
                        computed = function(images[batch])
                        apart = np.abs(computed - expected[batch]).max() / np.abs(expected).max()
                        worst[format] = max(worst[format], float(apart))
                        equal = computed.argmax(1) == expected[batch].argmax(1)
                        same[format] &= bool(equal.all())
        if counts:
            line += f" {counts.total():4} nodes"
            for exporter, found in of_torch.get(name, {}).items() if depth is None else ():
                line += f", {exporter} {sum(found.values()) - found.get('Identity', 0)}"
            line += f"; {counts['Transpose']} Transpose"
        for format in functions:
            top = "the same class" if same[format] else "ANOTHER CLASS"
            line += f"; {format} differs by {worst[format]:.1e}, {top}"
        print(line, flush=True)


def speed(files: list[Path], batch: int, size: int, rounds: int, threads: int, fixed: bool) -> None:
    """Time files in turns, and print the medians of their times and ratios to the first."""
    import onnx
    import onnxruntime

    sessions = {}
    for file in files:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        (images,) = onnx.load(file, load_external_data=False).graph.input
        dims = images.type.tensor_type.shape.dim
        for dim, length in zip(dims, (batch, 3, size, size), strict=True):
            if fixed and dim.dim_param:
                options.add_free_dimension_override_by_name(dim.dim_param, length)
        sessions[file] = onnxruntime.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"]
        )
    x = np.random.default_rng(0).standard_normal((batch, 3, size, size), np.float32)
    clocks = {"elapsed": time.perf_counter, "processor": time.process_time}
    times = {clock: np.empty((rounds, len(files))) for clock in clocks}
    for number in range(-3, rounds):
        for i in random.sample(range(len(files)), len(files)):
            session = sessions[files[i]]
            started = {clock: now() for clock, now in clocks.items()}
            session.run(None, {session.get_inputs()[0].name: x})
            for clock, now in clocks.items():
                if number >= 0:
                    times[clock][number, i] = now() - started[clock]
    rows = np.random.default_rng(0).integers(0, rounds, (2000, rounds))
    for clock, taken in times.items():
        medians = np.median(taken, 0) * 1e3
        resampled = np.median(taken[rows], 1)
        for i, file in enumerate(files):
            line = f"{clock:9} {file.name:36} median {medians[i]:7.2f} ms"
            if i:
                low, high = np.percentile(resampled[:, 0] / resampled[:, i], (2.5, 97.5))
                ratio = medians[0] / medians[i]
                line += f"; {files[0].name} takes {ratio:.3f} of it ({low:.3f} to {high:.3f})"
            print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("task", choices=("parity", "speed"))
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--models", nargs="+", default=["resnet50"])
    parser.add_argument("--sizes", nargs="+", default=["224x224"])
    parser.add_argument("--depth", type=int)
    parser.add_argument("--formats", nargs="+", default=["onnx", "stablehlo"])
    parser.add_argument("--nodes", type=Path, default=NODES)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--fixed", action="store_true")
    chosen = parser.parse_args()
    patterns = " ".join(chosen.models).split()
    if chosen.task == "parity":
        sizes = [tuple(map(int, size.split("x"))) for size in chosen.sizes]
        parity(patterns, sizes, chosen.depth, chosen.formats, chosen.nodes)
    else:
        sizes = chosen.batch, chosen.size
        speed(chosen.files, *sizes, chosen.rounds, chosen.threads, chosen.fixed)


if __name__ == "__main__":
    main()
