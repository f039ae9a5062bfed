"""A run's page in a real browser: it is used, and neither fails nor asks for anything outside."""

import json
import shutil

import numpy as np
import pytest

from flax_resnet.data import Split
from flax_resnet.metrics import evaluate_logits
from flax_resnet.report import page as pages
from flax_resnet.report import write_page
from flax_resnet.report.outcomes import outcomes_of

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium"),
]

CLASSES = ("<b>cat</b>", "{body}", "日本")


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
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(3), 20).astype(np.int32)
    logits = rng.normal(0, 1, (60, 3)) + 1.5 * np.eye(3)[labels]
    images = Split(rng.integers(0, 255, (60, 16, 16, 3), np.uint8), labels)
    outcomes = outcomes_of(logits, labels, [f"{n}.jpg" for n in range(60)], images=images)
    made = evaluate_logits("sixty", logits, labels, CLASSES)
    return write_page(tmp_path, made, outcomes), made


@pytest.mark.parametrize("width", [1280, 390])
def test_a_page_is_used(page_file, width):
    file, evaluation = page_file
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 800})
        found = []
        page.on("console", lambda message: found.append(message.text))
        page.on("pageerror", lambda error: found.append(str(error)))
        page.on("request", lambda one: found.append(one.url[:60]) if one.url[:5] == "http:" else 0)
        page.on("request", lambda one: found.append(one.url[:60]) if one.url[:6] == "https:" else 0)
        page.goto(file.as_uri())
        true, predicted = next(
            (t, p) for t in range(3) for p in range(3) if t != p and evaluation.confusion[t][p]
        )
        page.click(f'.matrix button[data-t="{true}"][data-p="{predicted}"]')
        shown = page.inner_text("#cell-photos h3")
        assert CLASSES[true] in shown and CLASSES[predicted] in shown
        photos = page.locator("#cell-photos img")
        assert photos.count() == min(evaluation.confusion[true][predicted], 12)
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

        page.click("#curves button:has-text('Top-1 accuracy')")
        page.hover("#curves svg")
        assert "validation" in page.inner_text(".tip")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.click("#theme")
        browser.close()
    assert found == []
