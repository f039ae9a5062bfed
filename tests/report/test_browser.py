"""A run's page in a real browser: it is used, and neither fails nor asks for anything outside."""

import dataclasses
import json
import re
import shutil
from contextlib import contextmanager

import numpy as np
import pytest

from flax_resnet.data import Split
from flax_resnet.metrics import evaluate_logits, evaluate_multi_label
from flax_resnet.report import page as pages
from flax_resnet.report import write_page
from flax_resnet.report.outcomes import outcomes_of
from flax_resnet.report.page import write_evaluation_page

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium"),
]

CLASSES = ("<b>cat</b>", "{body}", "日本")


def images_of(classes, count):
    """Images of classes in turn, most of them predicted correctly, with pictures and heat maps."""
    rng = np.random.default_rng(1)
    size = len(classes)
    labels = np.arange(count, dtype=np.int32) % size
    logits = rng.normal(0, 1, (count, size)) + (1.5 + size / 300) * np.eye(size)[labels]
    images = Split(rng.integers(0, 255, (count, 16, 16, 3), np.uint8), labels)
    outcomes = outcomes_of(logits, labels, [f"{n}.jpg" for n in range(count)], images=images)
    mistakes, hits = outcomes.extremes()
    heat = {row: outcomes.pictures[row] for row in (*mistakes[:2], *hits[:2])}
    made = evaluate_logits("images", logits, labels, classes)
    return made, dataclasses.replace(outcomes, heat_maps=heat)


@pytest.fixture
def page_file(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "write_plots", lambda *_: None)
    monkeypatch.setattr(pages, "run_model", lambda *_: (None, None))
    (tmp_path / "config.json").write_text('{"model.name": "resnet20"}')
    (tmp_path / "classes.json").write_text(json.dumps(CLASSES))
    lines = [
        {"step": n, "epoch": n, "time": n, "train_loss": 1 / n, "val_loss": 1.5 / n,
         "train_top1": 0.5, "val_top1": 0.5, "learning_rate": 0.1, "images_per_second": 9.0,
         "data_wait": 0.0}
        for n in range(1, 6)
    ]  # fmt: skip
    (tmp_path / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    made, outcomes = images_of(CLASSES, 60)
    return write_page(tmp_path, made, outcomes), made


@contextmanager
def opened(file, **options):
    """A page in a browser; at the end it has printed nothing and asked for nothing outside."""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(**options)
        found = []
        page.on("console", lambda message: found.append(message.text))
        page.on("pageerror", lambda error: found.append(str(error)))
        page.on(
            "request",
            lambda one: None if one.url[:5] in ("file:", "data:") else found.append(one.url[:60]),
        )
        page.goto(file.as_uri())
        yield page
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        browser.close()
    assert found == []


@pytest.mark.parametrize("width", [1280, 390])
def test_a_page_is_used(page_file, width):
    file, evaluation = page_file
    with opened(file, viewport={"width": width, "height": 800}) as page:
        true, predicted = next(
            (t, p) for t in range(3) for p in range(3) if t != p and evaluation.confusion[t][p]
        )
        page.click(f'.matrix button[data-t="{true}"][data-p="{predicted}"]')
        shown = page.inner_text("#cell-photos h3")
        assert CLASSES[true] in shown and CLASSES[predicted] in shown
        photos = page.locator("#cell-photos img")
        assert photos.count() >= min(evaluation.confusion[true][predicted], 12)
        assert photos.first.evaluate("image => image.naturalWidth") == 16

        recalls = sorted(f"{recall:.1%}" for recall in evaluation.recall)
        page.click("#classes-table th:nth-child(4) button")
        cells = page.locator("#classes-table td:nth-child(4)").all_inner_texts()
        assert cells == sorted(recalls, key=lambda text: float(text[:-1]))

        before = page.inner_text("#temperature-text")
        assert f"{evaluation.calibration_error:.2%}" in before
        page.locator("#temperature").fill("30")
        assert page.inner_text("#temperature-text") != before
        page.locator("#threshold").fill("0")
        assert "60 of 60 images (100.0%)" in page.inner_text("#threshold-text")

        page.check("#heat")
        page.click("#curves button:has-text('Top-1 accuracy')")
        page.hover("#curves svg")
        assert "validation" in page.inner_text(".tip")
        page.click("#theme")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_a_page_of_a_thousand_classes_is_used(tmp_path, width, scheme):
    names = tuple(f"class {n}" for n in range(1000))
    evaluation, outcomes = images_of(names, 3000)
    file = tmp_path / "page.html"
    write_evaluation_page(file, "a thousand", evaluation, outcomes)
    assert file.stat().st_size < 10_000_000
    view = {"width": width, "height": 800}
    with opened(file, viewport=view, color_scheme=scheme) as page:
        box = page.locator("#confusion canvas").bounding_box()
        true = next(t for t in range(300, 600) if evaluation.confusion[t][t] == 3)
        at = (true + 0.5) / 1000 * box["width"]
        page.locator("#confusion canvas").click(position={"x": at, "y": at})
        shown = int(re.search(r"class (\d+)", page.inner_text("#cell-photos h3"))[1])
        assert abs(shown - true) <= 6 * 1000 / box["width"]  # the nearest cell, in pixels
        page.fill("#filter", "class 77")
        rows = page.locator("#classes-table tbody tr:visible td:first-child").all_inner_texts()
        assert set(rows) == {"class 77", *(f"class 77{n}" for n in range(10))}
        page.fill("#filter", "")
        page.click("#classes-table th:nth-child(5) button")
        first, *_, last = page.locator("#classes-table td:nth-child(5)").all_inner_texts()
        assert (first, last) == (f"{min(evaluation.f1):.1%}", f"{max(evaluation.f1):.1%}")
        page.locator("#threshold").fill("0")
        assert "3,000 of 3,000 images (100.0%)" in page.inner_text("#threshold-text")


def test_the_table_of_images_with_any_number_of_classes_sorts(tmp_path):
    rng = np.random.default_rng(0)
    labels = rng.random((50, 3)) < 0.4
    made = evaluate_multi_label("zoo", rng.normal(0, 1, (50, 3)) + labels, labels, CLASSES)
    write_evaluation_page(tmp_path / "page.html", "zoo", made, None)
    with opened(tmp_path / "page.html", viewport={"width": 390, "height": 800}) as page:
        page.click("#classes-table th:nth-child(6) button")
        cells = page.locator("#classes-table td:nth-child(6)").all_inner_texts()
        assert cells == [f"{value:.1%}" for value in sorted(made.average_precision)]
