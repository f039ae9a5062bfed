"""A run's page: complete, self-contained, and safe with any name."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from flax_resnet.cli import main
from flax_resnet.errors import UserError
from flax_resnet.metrics import evaluate_logits
from flax_resnet.report import write_page

STRANGE = ("<script>alert(1)</script>", "a & b", "$x^2$", "日本", "{{ 7*7 }}", "{body}", "\"'>")


@pytest.fixture
def workdir(tmp_path):
    folder = tmp_path / "my run"
    folder.mkdir()
    config = {"model.name": "resnet20", "data.name": "folder", "data.dir": "photos", "epochs": 3}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "classes.json").write_text(json.dumps(STRANGE))
    lines = [
        {"step": 10 * n, "epoch": n, "time": 60.0 * n, "train_loss": 1 / n, "train_top1": 0.5,
         "val_loss": 1.1 / n, "val_top1": (0.5, 0.75, 0.6)[n - 1], "val_top5": 1.0,
         "learning_rate": 0.1, "images_per_second": 100.0, "data_wait": 0.01}
        for n in (1, 2, 3)
    ]  # fmt: skip
    lines.append({"step": 30, "epoch": 3, "time": 180.0, "best_step": 20, "test_loss": 0.6,
                  "test_top1": 0.8125, "test_top5": 1.0})  # fmt: skip
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def evaluation():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 7, 60)
    logits = rng.normal(0, 1, (60, 7)) + 2 * np.eye(7)[labels]
    return evaluate_logits("photos (test)", logits, labels, STRANGE)


class Page(HTMLParser):
    """Tags, links and text of a page; fails at tags that are not closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.words, self._open = set(), [], [], []
        self.feed(text)
        assert not self._open, self._open

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "xlink:href")]
        if tag not in ("meta", "br"):
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.links += [value for name, value in attributes if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_a_page_is_complete_and_needs_no_other_file(workdir):
    page = write_page(workdir, evaluation())
    assert page == workdir / "report" / "index.html"
    text = page.read_text(encoding="utf-8")
    found = Page(text)
    words = " ".join(found.words)
    for expected in ("my run", "resnet20 on photos, 7 classes", "81.25%", "75.00%", "3 min 00 s",
                     "Learning curves", "Confusion matrix", "precision", "expected calibration",
                     "data.dir"):  # fmt: skip
        assert expected in words, expected
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in found.links)
    assert not re.search(r"@import|url\((?!#)", text)


def test_strange_names_are_text(workdir):
    text = write_page(workdir, evaluation()).read_text(encoding="utf-8")
    found = Page(text)
    assert "script" not in found.tags
    for name in STRANGE:
        assert any(name in word for word in found.words), name


@pytest.mark.parametrize("name", [*STRANGE[1:], "{title}", "{% include 'x' %}", "<blink>", "&amp;"])
def test_a_strange_folder_and_settings_are_text(workdir, name):
    (workdir / "history.jsonl").unlink()  # no plots, to save time
    folder = workdir.rename(workdir.parent / name)
    config = {"model.name": name, "data.name": "folder", "data.dir": f"photos/{name}", name: name}
    (folder / "config.json").write_text(json.dumps(config))
    found = Page(write_page(folder).read_text(encoding="utf-8"))
    assert "blink" not in found.tags and "49" not in found.words
    assert found.words.count(name) == 3  # title, heading, setting
    assert any(word.startswith(f"{name} on photos/{name}, 7 classes") for word in found.words)
    assert json.dumps(name) in found.words


def test_names_that_are_not_utf_8_are_shown_by_their_bytes(workdir):
    (workdir / "classes.json").write_text(json.dumps(["caf\udce9", "tea"]))
    logits = np.eye(2)
    text = write_page(workdir, evaluate_logits("x", logits, np.arange(2), ("caf\udce9", "tea")))
    assert "caf\\udce9" in text.read_text(encoding="utf-8")


def test_the_command_writes_it_again_with_the_evaluation_kept(workdir, capsys):
    page = write_page(workdir, evaluation())
    before = page.read_bytes()
    page.unlink()
    assert main(["report", str(workdir)]) == 0
    assert str(page) in capsys.readouterr().out
    assert page.read_bytes() == before


def test_an_unfinished_run_has_a_page(workdir):
    history = workdir / "history.jsonl"
    history.write_text("".join(history.read_text().splitlines(keepends=True)[:1]) + '{"step": ')
    text = write_page(workdir).read_text(encoding="utf-8")
    assert "has not finished yet" in text
    history.unlink()
    assert "has not finished yet" in write_page(workdir).read_text(encoding="utf-8")


@pytest.mark.parametrize("damage", ["folder", "config.json", "report/evaluation.json"])
def test_damage_is_one_sentence(workdir, damage):
    write_page(workdir, evaluation())
    if damage == "folder":
        with pytest.raises(UserError, match="is not a run's folder"):
            write_page(workdir / "report")
    else:
        (workdir / damage).write_text('{"a":')
        with pytest.raises(UserError, match="cannot be read"):
            write_page(workdir)


def test_a_run_of_any_number_of_classes_shows_mean_average_precision(workdir):
    path = workdir / "history.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for at, line in enumerate(lines[:-1]):
        line["val_map"] = 0.4321 + at / 10
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = write_page(workdir).read_text()
    assert "validation mAP, best" in text and "val mAP" in text and "Mean average precision" in text
    assert "val top-1" not in text
