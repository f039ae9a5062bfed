"""An evaluation written to a file and read again."""

import json

import numpy as np

from flax_resnet.metrics import evaluate_logits, evaluate_multi_label
from flax_resnet.report.evaluation import read_evaluation, write_evaluation


def test_an_evaluation_is_written_and_read(tmp_path):
    logits, labels = np.eye(3) * 4, np.array([0, 1, 1])
    made = evaluate_logits("three", logits, labels, ("a", "b", "ç"), (logits, labels))
    write_evaluation(tmp_path / "e.json", made)
    assert read_evaluation(tmp_path / "e.json") == made
    assert read_evaluation(tmp_path / "none.json") is None


def test_a_precision_that_does_not_exist_is_null(tmp_path):
    found = evaluate_multi_label("zoo", np.ones((2, 2)), np.array([[1, 0], [0, 0]]), ("cat", "emu"))
    write_evaluation(tmp_path / "new" / "zoo.json", found)
    held = json.loads((tmp_path / "new" / "zoo.json").read_text())
    assert held["average_precision"][1] is None
    assert read_evaluation(tmp_path / "new" / "zoo.json") == found
