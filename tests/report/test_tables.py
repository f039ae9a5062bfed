"""Tables for the terminal: rows, chosen classes, and names that are shown whole."""

import io

import numpy as np
import pytest
from rich.console import Console

from flax_resnet.metrics import evaluate_logits, evaluate_multi_label
from flax_resnet.models import create_model, summarize
from flax_resnet.report import arrays_table, evaluation_tables, results_table, summary_table

# Images by score for "cat": right, wrong, right; "dog": all wrong but the last; no "emu".
LOGITS = np.array([[3, 0, -1], [2, 1, -2], [1, -5, -3]], np.float32)
LABELS = np.array([[1, 0, 0], [0, 0, 0], [1, 1, 0]], np.float32)
CLASSES = ("cat", "dog", "emu")
HOSTILE = ("[new] cats", "[/]", "[red]x[/red]", "a\\", ":cat:", "{body}", "[link=http://x]y")


def shown(*tables, width=200):
    console = Console(file=io.StringIO(), width=width, highlight=False)
    for table in tables:
        console.print(table)
    return console.file.getvalue()


@pytest.mark.parametrize(("most", "left"), [(50, "cat dog emu"), (1, "dog")])
def test_tables_name_the_classes_that_are_ranked_worst(most, left):
    text = shown(*evaluation_tables(evaluate_multi_label("zoo", LOGITS, LABELS, CLASSES), most))
    assert "58.33%" in text
    assert [name for name in CLASSES if f" {name} " in text] == left.split()


def test_tables_name_the_classes_with_the_lowest_f1():
    evaluation = evaluate_logits("zoo", np.eye(3)[[0, 0, 2]], np.arange(3), CLASSES)
    first, second = evaluation_tables(evaluation, max_classes=1)
    assert "66.67%" in shown(first)
    assert "the 1 classes with the lowest F1" in shown(second)
    assert [name for name in CLASSES if f" {name} " in shown(second)] == ["dog"]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_shown_whole(name):
    scores = {"top1": 0.5, "top5": 1.0}
    one = evaluate_logits(name, np.eye(2), np.arange(2), (name, "other"))
    several = evaluate_multi_label(name, np.eye(2), np.eye(2), (name, "other"))
    for tables in (
        evaluation_tables(one),
        evaluation_tables(several),
        [arrays_table(name, {name: ((3, 4), "float32")})],
        [results_table(name, {name: (1, scores, scores)})],
    ):
        assert shown(*tables).count(name) == 2


def test_a_summary_shows_its_title_whole():
    summary = summarize(create_model("resnet20"), (32, 32, 3))
    assert "[new] resnet" in shown(summary_table("[new] resnet", summary))


def test_a_long_name_is_folded_not_cut():
    name = "x" * 100
    assert shown(arrays_table("", {name: ((), "int8")}), width=60).count("x") == 100


def test_columns_of_test_scores_are_left_out_without_any():
    scores = {"top1": 0.25, "top5": 1.0, "map": 0.125}
    text = shown(results_table("run", {"best": (10, scores, scores), "last": (20, None, {})}))
    assert "test mAP" in text and text.count("12.50%") == 2 and "–" in text
    assert "test" not in shown(results_table("run", {"best": (10, scores, {})}))
