"""A run's page: complete, self-contained, and safe with any name."""

import dataclasses
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from flax_resnet.cli import main
from flax_resnet.data import Split
from flax_resnet.errors import UserError
from flax_resnet.metrics import evaluate_logits, evaluate_multi_label
from flax_resnet.report import page as pages
from flax_resnet.report import write_page
from flax_resnet.report.outcomes import outcomes_of, read_outcomes
from flax_resnet.report.page_tables import with_error

STRANGE = ("<script>alert(1)</script>", "a & b", "$x^2$", "日本", "{{ 7*7 }}", "{body}", "\"'>")


@pytest.fixture(autouse=True)
def quick(request, monkeypatch):
    """Plots and the model's summary take a second each; one test has both."""
    if "whole" not in request.fixturenames:
        monkeypatch.setattr(pages, "write_plots", lambda *_: None)
        monkeypatch.setattr(pages, "run_model", lambda *_: (None, None))


@pytest.fixture
def whole():
    """For the test that writes all of a page."""


@pytest.fixture
def workdir(tmp_path):
    folder = tmp_path / "my run"
    folder.mkdir()
    config = {"model.name": "resnet20", "data.name": "folder", "data.dir": "photos", "epochs": 3}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "classes.json").write_text(json.dumps(STRANGE))
    (folder / "preprocessing.json").write_text(json.dumps({"height": 32, "width": 32}))
    lines = [
        {"step": 10 * n, "epoch": n, "time": 60.0 * n, "train_loss": 1 / n, "train_top1": 0.5,
         "val_loss": 1.1 / n, "val_top1": (0.5, 0.75, 0.6)[n - 1], "val_top5": 1.0,
         "learning_rate": 0.1, "images_per_second": 100.0, "data_wait": 0.01}
        for n in (1, 2, 3)
    ]  # fmt: skip
    for name in ("host", "device"):  # of a run of several processes
        lines[1] |= {f"{name}_seconds": 0.01, f"slowest_{name}_seconds": 0.03, f"slowest_{name}": 5}
    lines.append({"step": 30, "epoch": 3, "time": 180.0, "best_step": 20, "test_loss": 0.6,
                  "test_top1": 0.8125, "test_top5": 1.0})  # fmt: skip
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def evaluated(count=60, classes=STRANGE, split="test"):
    """An evaluation and the outcomes of its images, which are of one colour each."""
    rng = np.random.default_rng(0)
    size = len(classes)
    labels = rng.integers(0, size, count)
    logits = rng.normal(0, 1, (count, size)) + 2 * np.eye(size)[labels]
    images = np.broadcast_to(rng.integers(0, 256, (count, 1, 1, 3), np.uint8), (count, 8, 8, 3))
    source = Split(images, labels.astype(np.int32))
    names = [f"test/{n}" for n in range(count)]
    made = evaluate_logits("photos (test)", logits, labels, classes)
    return made, outcomes_of(logits, labels, names, split=split, images=source)


class Page(HTMLParser):
    """Tags, links and text of a page; fails at tags that are not closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.words, self._open = [], [], [], []
        self.feed(text)
        assert not self._open, self._open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "xlink:href")]
        if tag not in ("meta", "br", "img", "input"):
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.links += [value for name, value in attributes if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def data_of(text):
    """What the scripts of a page read."""
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_a_page_is_complete_and_needs_no_other_file(workdir, whole):
    page = write_page(workdir, *evaluated())
    assert page == workdir / "report" / "index.html"
    text = page.read_text(encoding="utf-8")
    found = Page(text)
    words = " ".join(found.words)
    for expected in ("my run", "resnet20 on photos, 7 classes", "81.25%", "75.00%", "3 min 00 s",
                     "Learning curves", "Confusion matrix", "precision", "expected calibration",
                     "data.dir", "± 5.04", "269,", "0.0406", "fr.train(fr.Config(",
                     "slowest host", "process 5: 30.0 ms (median 10.0 ms)"):  # fmt: skip
        assert expected in words, expected
    assert all(link.startswith(("#", "data:image/")) for link in found.links)
    assert not re.search(r"@import|url\((?!#)|default-src (?!'none')", text)
    plots = {file.name for file in page.parent.glob("*.png")}
    assert plots == {"learning_curves.png", "confusion.png", "calibration.png"}


def test_strange_names_are_text(workdir):
    plain = Page(write_page(workdir, *evaluated(classes="abcdefg")).read_text(encoding="utf-8"))
    text = write_page(workdir, *evaluated()).read_text(encoding="utf-8")
    found = Page(text)
    assert found.tags.count("script") == plain.tags.count("script") == 2
    for name in STRANGE:
        assert any(name in word for word in found.words), name
    assert data_of(text)["classes"] == list(STRANGE)


@pytest.mark.parametrize("name", [*STRANGE[1:], "{title}", "{% include 'x' %}", "<blink>", "&amp;"])
def test_a_strange_folder_and_settings_are_text(workdir, name):
    folder = workdir.rename(workdir.parent / name)
    config = {"model.name": name, "data.name": "folder", "data.dir": f"photos/{name}", name: name}
    (folder / "config.json").write_text(json.dumps(config))
    found = Page(write_page(folder).read_text(encoding="utf-8"))
    assert "blink" not in found.tags and "49" not in found.words
    assert found.words.count(name) == 3 + (name in STRANGE)  # title, heading, setting; class
    assert any(word.startswith(f"{name} on photos/{name}, 7 classes") for word in found.words)
    assert json.dumps(name) in found.words


def test_names_that_are_not_utf_8_are_shown_by_their_bytes(workdir):
    (workdir / "classes.json").write_text(json.dumps(["caf\udce9", "tea"]))
    logits = np.eye(2)
    text = write_page(workdir, evaluate_logits("x", logits, np.arange(2), ("caf\udce9", "tea")))
    text = text.read_text(encoding="utf-8")
    assert "caf\\udce9</bdi>" in text and data_of(text)["classes"] == ["caf\\udce9", "tea"]


def test_the_command_writes_it_again_with_the_evaluation_kept(workdir, capsys):
    page = write_page(workdir, *evaluated())
    before = page.read_bytes()
    page.unlink()
    assert main(["report", str(workdir)]) == 0
    assert str(page) in capsys.readouterr().out
    assert page.read_bytes() == before


def test_the_scripts_get_the_matrix_as_it_is_and_photos_of_its_cells(workdir):
    """Rows are true classes: image 0 is of class 0 and predicted as 1."""
    logits = np.array([[0, 2, 0], [3, 0, 0], [0, 5, 1.0]])
    images = Split(np.zeros((3, 40, 40, 1), np.uint8), np.array([0, 0, 1], np.int32))
    names = ("a.jpg", "b.jpg", "c.jpg")
    made = evaluate_logits("three", logits, images.labels, STRANGE[:3])
    outcomes = outcomes_of(logits, images.labels, names, images=images)
    data = data_of(write_page(workdir, made, outcomes).read_text(encoding="utf-8"))
    assert data["cells"] == [[0, 0, 1], [0, 1, 1], [1, 1, 1]]
    photos = {photo["n"]: (photo["t"], photo["top"][0][0]) for photo in data["photos"]}
    assert photos == {"a.jpg": (0, 1), "b.jpg": (0, 0), "c.jpg": (1, 1)}
    assert [data["photos"][index]["n"] for index in data["mistakes"]] == ["a.jpg"]
    assert [data["photos"][index]["n"] for index in data["hits"]] == ["c.jpg", "b.jpg"]
    assert sum(data["confidence"]["counts"]) == 3 and sum(data["confidence"]["hits"]) == 2


def test_outcomes_are_kept_next_to_the_page(workdir):
    _, outcomes = evaluated()
    write_page(workdir, *evaluated())
    kept = read_outcomes(workdir / "report" / "images.npz")
    assert kept.names == outcomes.names and kept.pictures == outcomes.pictures
    for field in ("labels", "top", "probabilities", "label_probabilities", "reliability", "losses"):
        np.testing.assert_array_equal(getattr(kept, field), getattr(outcomes, field), field)


@pytest.mark.parametrize("split", ["test", "validation"])
def test_one_image_of_one_class(workdir, split):
    (workdir / "classes.json").write_text('["only"]')
    text = write_page(workdir, *evaluated(1, ("only",), split)).read_text(encoding="utf-8")
    assert "figures are of 1 image only" in text
    # Wilson's interval of 1 of 1, by scipy.stats.binomtest(1, 1).proportion_ci(method="wilson").
    assert with_error(1.0, 1) == ("100.00%", "95%: 20.7% to 100.0%")
    assert ("no test images" in text) == (split == "validation")


def test_images_that_could_not_be_read_are_named(workdir):
    made, outcomes = evaluated()
    unreadable = {"test/<b>.jpg": "is cut off", "test/2.jpg": "is no image"}
    outcomes = dataclasses.replace(outcomes, unreadable=unreadable)
    found = Page(write_page(workdir, made, outcomes).read_text(encoding="utf-8"))
    assert "2 images could not be read and count nowhere." in found.words
    for words in unreadable.items():
        assert all(word in found.words for word in words)


def test_the_last_checkpoint_has_its_own_test_scores(workdir):
    path = workdir / "history.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[-1] |= {"last_test_loss": 0.7, "last_test_top1": 0.7654, "last_test_top5": 1.0}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = Page(write_page(workdir).read_text(encoding="utf-8")).words
    assert "81.25%" in found and "76.54%" in found


def test_a_killed_run_shows_the_accuracy_of_its_evaluation(workdir):
    history = workdir / "history.jsonl"
    history.write_text("".join(history.read_text().splitlines(keepends=True)[:1]))
    made, outcomes = evaluated()
    words = Page(write_page(workdir, made, outcomes).read_text(encoding="utf-8")).words
    assert words[words.index("evaluated top-1") - 2] == f"{made.top1:.2%} "


def test_an_unfinished_run_has_a_page(workdir):
    history = workdir / "history.jsonl"
    history.write_text("".join(history.read_text().splitlines(keepends=True)[:1]) + '{"step": ')
    text = write_page(workdir).read_text(encoding="utf-8")
    assert "has not finished yet; its last evaluation is of step 10" in text
    assert "not evaluated on test images" in text
    history.unlink()
    assert "has not finished yet." in write_page(workdir).read_text(encoding="utf-8")


@pytest.mark.parametrize("damage", ["folder", "config.json", "evaluation.json", "images.npz"])
def test_damage_is_one_sentence(workdir, damage):
    write_page(workdir, *evaluated())
    if damage == "folder":
        with pytest.raises(UserError, match="is not a run's folder"):
            write_page(workdir / "report")
    else:
        folder = workdir if damage == "config.json" else workdir / "report"
        (folder / damage).write_text('{"a":')
        with pytest.raises(UserError, match="cannot be read"):
            write_page(workdir)


def test_a_run_of_any_number_of_classes_shows_mean_average_precision(workdir):
    path = workdir / "history.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for at, line in enumerate(lines[:-1]):
        line["val_map"] = 0.4321 + at / 10
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = write_page(workdir).read_text()
    assert "validation mAP, best" in text and "val mAP" in text and "val top-1" not in text


def test_the_page_of_images_with_any_number_of_classes_has_a_table_of_them(workdir):
    """Class 0 is shown by image 0 and predicted for it only; no image shows class 1."""
    logits = np.array([[2.0, 1, -1], [-1, -2, 3]])
    labels = np.array([[1, 0, 1], [0, 0, 1]])
    made = evaluate_multi_label("zoo (test)", logits, labels, STRANGE[:3])
    (workdir / "classes.json").write_text(json.dumps(STRANGE[:3]))
    text = write_page(workdir, made).read_text(encoding="utf-8")
    assert text == write_page(workdir).read_text(encoding="utf-8")  # from evaluation.json
    rows = re.search(r'id="classes-table"(.*?)</table>', text, re.DOTALL)[1]
    names = re.findall(r"<th>(.*?)</th>", rows)
    assert names == ["class", "images", "precision", "recall", "F1", "average precision"]
    cells = re.findall(r"<td[^>]*>(?:<bdi>)?(.*?)(?:</bdi>)?</td>", rows)
    assert cells[1:6] == ["1", "100.0%", "100.0%", "100.0%", "100.0%"]
    assert cells[7:12] == ["0", "0.0%", "0.0%", "0.0%", "–"]
    assert cells[13:18] == ["2", "100.0%", "50.0%", "66.7%", "100.0%"]
    assert "sortable" in rows and "&lt;script&gt;" in rows
    assert 'id="confusion"' not in text and 'id="temperature"' not in text
    Page(text)
