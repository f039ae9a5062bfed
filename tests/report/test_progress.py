"""Progress of a run: the course of values in a terminal, plain lines elsewhere."""

import io

import pytest
from rich.console import Console

from flax_resnet.report import Progress
from flax_resnet.report.progress import sparkline


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], ""),
        ([3.0], "▁"),
        ([2, 2, 2], "▁▁▁"),
        ([0, 7, float("nan"), 3], "▁█▄"),
        ([*range(8)], "▁▂▃▄▅▆▇█"),
    ],
)
def test_sparklines(values, expected):
    assert sparkline(values) == expected
    assert sparkline([0, 2, 6, 8], 2) == "▁█"  # means of two


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_shows_the_course_and_a_file_plain_lines(terminal, monkeypatch):
    monkeypatch.setattr("flax_resnet.report.progress.PLAIN_SECONDS", 0.0)
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=160, _environ={"TERM": "xterm"})
    with Progress(console, 10, 0) as progress:
        for step, loss in enumerate((2.0, 1.0), start=1):
            progress.update(step, epoch=step, loss=loss, top1=0.5, rate=100, wait=0.01)
    shown = text.getvalue()
    assert ("█▁ 1.000" in shown) == terminal
    assert ("loss 1.000  top-1 50.0%  100 images/s  data wait 1%" in shown) == (not terminal)
