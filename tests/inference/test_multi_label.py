"""Figures of images with any number of classes."""

import json
import math

import numpy as np
import optax
import pytest
from rich.console import Console

from flax_resnet.inference.multi_label import evaluate_multi_label, multi_label_tables
from flax_resnet.report.evaluation import write_evaluation

# Images by score for "cat": right, wrong, right; "dog": all wrong but the last; no "emu".
LOGITS = np.array([[3, 0, -1], [2, 1, -2], [1, -5, -3]], np.float32)
LABELS = np.array([[1, 0, 0], [0, 0, 0], [1, 1, 0]], np.float32)
CLASSES = ("cat", "dog", "emu")


def test_figures_are_those_counted_by_hand(tmp_path):
    found = evaluate_multi_label("zoo", LOGITS, LABELS, CLASSES)
    assert found.count == 3 and found.support == (2, 1, 0)
    assert found.average_precision == (pytest.approx((1 + 2 / 3) / 2), pytest.approx(1 / 3), None)
    assert found.mean_average_precision == pytest.approx((5 / 6 + 1 / 3) / 2)
    expected = optax.sigmoid_binary_cross_entropy(LOGITS, LABELS).mean()
    assert found.loss == pytest.approx(float(expected), rel=1e-6)
    write_evaluation(tmp_path / "zoo.json", found)
    assert json.loads((tmp_path / "zoo.json").read_text())["average_precision"][2] is None


def test_no_class_shown_has_no_precision():
    found = evaluate_multi_label("zoo", LOGITS, np.zeros_like(LABELS), CLASSES)
    assert found.mean_average_precision is None and not math.isnan(found.loss)


@pytest.mark.parametrize(("most", "left"), [(50, "cat dog emu"), (1, "dog")])
def test_tables_name_the_classes_that_are_ranked_worst(most, left, capsys):
    for table in multi_label_tables(evaluate_multi_label("zoo", LOGITS, LABELS, CLASSES), most):
        Console(highlight=False).print(table)
    shown = capsys.readouterr().out
    assert "58.33%" in shown
    assert [name for name in CLASSES if f" {name} " in shown] == left.split()
