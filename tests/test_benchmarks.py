"""The comparison on the CPU compares the same nets, and its page says what was measured."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import flax_resnet as fr
from benchmarks import gpu, predictions
from benchmarks.cpu import report
from benchmarks.cpu.plain_flax import MODELS, PlainResNet
from benchmarks.cpu.workloads import CONTENDERS, WORKLOADS, contenders_of


@pytest.mark.parametrize("name", ["resnet50", "resnext50_32x4d", "resnet18"])
def test_plain_flax_is_the_same_net(name):
    plain = PlainResNet(**MODELS[name])
    ours = fr.create_model(name)
    counts = [
        sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
        for variables in (
            jax.eval_shape(lambda: plain.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), False)),
            jax.eval_shape(lambda: ours.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))),
        )
    ]
    assert counts[0] == counts[1]


def test_the_page_divides_the_best_of_pytorch_by_ours():
    def row(*seconds):
        measured = {"seconds": list(seconds), "processor": [0.1]}
        return measured | {"first": 2.0, "compile": None, "bytes": 10**9}

    contenders = {
        "ours, jax only": row(0.1, 0.2, 0.3),
        "ours, with oneDNN": row(0.1),
        "plain Flax": row(0.8),
        "PyTorch NCHW, as installed": row(0.5),
        "PyTorch channels_last, as installed": row(0.4),
        "PyTorch channels_last, tuned": row(0.3),
        "OpenVINO, tuned": row(0.15),
        "onnxruntime, as installed": row(0.01),  # with other settings of the allocator
        "torch.compile, tuned": {"seconds": [], "error": "no compiler"},
    }
    # 2 * 4.089e9 * 8 * 3 operations in 0.2 s are 981 GFLOP/s.
    peaks = {"gemm": 2 * 981.36e9, "convolution": 900e9}
    about = {"date": "2026-01-01", "jax": "0.12.0", "load": 9.0}
    page = report.page(
        {"A1, 2 cores": {"resnet50_train": about | peaks | {"contenders": contenders}}}
    )
    assert "## A1, 2 cores" in page and "JAX 0.12.0" in page
    assert "load average was 9. The least processor time of a peer" in page
    expected = (
        "resnet50_train | 1 | OpenVINO | 0.75 | 1.50 | 2.00 | 1.50 | 4.00 | 3.00 | 4.00 | 50%"
    )
    assert f"| {expected} | 100% |" in page
    assert "peak 1963 GFLOP/s, PyTorch's 3x3 convolution 900." in page
    assert "| torch.compile, tuned | no compiler |" in page


def test_every_workload_can_be_reported():
    assert {(w.model, w.size) for w in WORKLOADS.values()} <= set(report.GMACS)
    assert {c.framework for c in CONTENDERS.values()} == {"ours", "flax", "torch", "onnx"}
    assert {w.model for w in WORKLOADS.values()} <= set(MODELS)


def test_engines_of_onnx_do_not_train():
    names = ["ours, jax only", "OpenVINO, tuned"]
    assert contenders_of(WORKLOADS["resnet50_train"], names) == names[:1]
    assert contenders_of(WORKLOADS["resnet50_infer_16"], names) == names


@pytest.mark.slow
def test_the_script_for_a_gpu_runs_as_a_toy(tmp_path):
    """On the CPU, whose logits are then the reference of themselves."""
    output = tmp_path / "gpu.json"
    gpu.main(["--toy", "--parts", "parity", "grouped", "--output", str(output)])
    results = json.loads(output.read_text())
    assert set(results) == {"device", "parity", "grouped"}
    for label, found in results["parity"].items():
        assert found["difference"] < (0.05 if label.endswith("bfloat16") else 1e-4), label
    assert results["grouped"]["float32"]["32 groups"] > 0


def test_the_page_has_the_table_of_predictions():
    page = Path(__file__).parents[1] / "docs" / "pods.md"
    assert predictions.table() in page.read_text(encoding="utf-8")
