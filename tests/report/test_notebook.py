"""What a notebook shows: small tables in which every name is text, and a bar."""

import io
import sys
import types
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import flax_resnet as fr
from flax_resnet.config import ModelConfig
from flax_resnet.inference import Classifier, EvalResult, Predictions
from flax_resnet.metrics import evaluate_logits, evaluate_multi_label
from flax_resnet.models import ModelSummary, StageSummary
from flax_resnet.report import Progress
from flax_resnet.training import TrainResult
from flax_resnet.transform import EvalTransform
from flax_resnet.weights import WeightsInfo

HOSTILE = "<script>alert(1)</script> &amp; {body} 日本 caf\udce9"
ESCAPED = "&lt;script&gt;alert(1)&lt;/script&gt; &amp;amp; {body} 日本 caf\\udce9"
CLASSES = (HOSTILE, "[red]dog[/red]")
LOGITS = np.array([[2, 0], [0, 1], [1, 0]], np.float32)


def predictions(count=3):
    rows = np.resize(np.array([[0.75, 0.25], [0.1, 0.9], [np.nan, np.nan]], np.float32), (count, 2))
    names = tuple(f"{HOSTILE}{n}.jpg" for n in range(count))
    return Predictions(names, CLASSES, rows, {names[2]: "is <b>broken</b>"})


def shown():
    transform = EvalTransform.center_crop(224)
    info = WeightsInfo(
        HOSTILE, "file", None, ModelConfig(name="resnet18"), CLASSES, transform,
        metrics={"acc@1": 69.758}, step=1200,
    )  # fmt: skip
    model = fr.create_model("resnet18", num_classes=2)
    single = evaluate_logits(HOSTILE, LOGITS, np.array([0, 1, 1]), CLASSES)
    several = evaluate_multi_label(HOSTILE, LOGITS, np.array([[1, 0], [1, 1], [0, 1]]), CLASSES)
    variables = {"params": {"a": jnp.zeros((30, 41))}}
    labels = np.array([0, 1, 1])
    stage = StageSummary(HOSTILE[:-1], (7, 7, 9), 1234, 0)
    return {
        "classifier": (Classifier(model, variables, info), ["1,230", "69.758%", "224×224×3"]),
        "predictions": (predictions(), ["75.0%", "is &lt;b&gt;broken&lt;/b&gt;", "[red]dog"]),
        "evaluation": (EvalResult(single, predictions(), labels, (HOSTILE,)), ["66.67%", "F1"]),
        "several": (EvalResult(several, predictions(), labels), ["average precision", "66.67%"]),
        "summary": (
            ModelSummary(1234, 5_000_000, (stage,), 1, 1, {}),
            ["7×7×9", "1,234", "0.005"],
        ),
        "result": (TrainResult(Path(HOSTILE), 7, True, 7, {"top1": 0.5}), ["0.5000", "step 7"]),
    }  # fmt: skip


@pytest.mark.parametrize("name", list(shown()))
def test_tables_escape_names_and_ask_for_nothing(name):
    value, expected = shown()[name]
    html = value._repr_html_()
    html.encode()
    assert ESCAPED[:40] in html and "<script" not in html and "<b>" not in html
    assert not any(word in html for word in ("src=", "href=", "url(", "http"))
    for text in expected:
        assert text in html
    assert html.count("<tr>") == html.count("</tr>") and html.startswith("<table")


def test_a_thousand_predictions_are_a_small_table():
    html = predictions(1000)._repr_html_()
    assert "the first 20 of 1,000 images" in html and len(html) < 10_000


def test_a_notebook_without_widgets_shows_a_bar(monkeypatch):
    drawn = []
    display = types.SimpleNamespace(update=drawn.append)
    module = types.ModuleType("IPython.display")
    module.HTML, module.display = str, lambda value, display_id: display
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    console = Console(file=io.StringIO(), force_jupyter=True, width=80)
    with Progress(console, 10, 0) as progress:
        progress.update(4, epoch=0.5, loss=1.25, top1=0.5, rate=100, wait=0.01)
    assert '<progress value="4" max="10"' in drawn[0] and "1.250" in drawn[0]
    assert drawn[-1] == ""
