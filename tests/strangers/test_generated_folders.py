"""Generated folders through ``check`` and ``predict``: each image once, and nothing unexpected.

What is expected is known to ``folders.draw`` when it writes them; it imports nothing of ours.
"""

import json
import os
from collections import Counter

import jax
import numpy as np
import pytest

import flax_resnet as fr
from flax_resnet import inference
from flax_resnet.cli import main
from flax_resnet.data.audit import check_folder
from tests.strangers.folders import draw
from tests.strangers.generate import Generator


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of two classes for images of 8x8, and the file that holds it."""
    module = fr.create_model("resnet8", num_classes=2)
    variables = module.init(jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32), train=False)
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    fr.save_weights(path, variables, module)
    return path, fr.load(path)


def check(case, capsys):
    """Compare ``check`` with what is expected; return the number of images."""
    code = main(["check", str(case.root), "--most", "1000000"])
    shown = capsys.readouterr()
    assert "Traceback" not in shown.out + shown.err
    if case.refused:
        assert code == 1 and shown.err.startswith("error: ") and not shown.out
        return 0
    assert code == 0, shown.err
    report = check_folder(case.root)
    unreadable = {path for path in case.images if not case.files[path].readable}
    assert set(report.unreadable) == unreadable
    assert set(report.left_out) == case.left_out
    assert set(report.headers) == set(case.images) - unreadable
    assert set(report.classes) == {name for _, name in case.images.values()}
    expected = Counter(case.images.values())
    for index, name in enumerate(report.classes):
        counts = {split: numbers[index] for split, numbers in report.counts.items()}
        assert sum(counts.values()) == sum(n for (_, its), n in expected.items() if its == name)
        for split, count in counts.items():
            # Images without a split of their own are in any; the others are where they belong.
            assert count >= expected[split, name]
            assert count == expected[split, name] or expected[None, name]
    for path in case.left_out | unreadable:  # each is named in the report, in one line
        name = os.path.relpath(path, case.root)
        assert "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name) in shown.out, name
    return len(case.images)


def predict(case, model, capsys, tmp_path):
    """Compare the rows of ``predict`` with all files of the folder."""
    rows = tmp_path / "rows.jsonl"
    arguments = [str(model), str(case.root), "--format", "jsonl", "--output", str(rows)]
    code = main(["predict", *arguments])
    shown = capsys.readouterr()
    assert "Traceback" not in shown.out + shown.err
    bad = {path for path, file in case.files.items() if not file.readable}
    if len(bad) == len(case.files):
        assert code == 1
        return
    assert code == bool(bad), shown.err
    found = [json.loads(line) for line in rows.read_text(encoding="utf-8").split("\n") if line]
    names = Counter(row["file"] for row in found)
    # A byte that is not UTF-8 is written as \\udcNN.
    files = {p.encode("utf-8", "backslashreplace").decode(): f for p, f in case.files.items()}
    assert names == dict.fromkeys(files, 1)
    for row in found:
        readable = files[row["file"]].readable
        assert bool(row["predictions"]) == readable and (row["error"] is None) == readable, row


def run(seed, tmp_path, model, capsys, monkeypatch):
    path, classifier = model
    monkeypatch.setattr(inference, "load", lambda *_, **__: classifier)
    generator = Generator(seed)
    case = draw(tmp_path / "drawn" / "photos", generator)
    number = check(case, capsys)
    predict(case, path, capsys, tmp_path)
    generator.met["images", "in classes"] += number
    return generator.met


@pytest.mark.parametrize("seed", range(15))
def test_each_image_is_in_one_row_or_named(seed, tmp_path, model, capsys, monkeypatch):
    run(seed, tmp_path, model, capsys, monkeypatch)


@pytest.mark.slow
def test_hundreds_of_folders(tmp_path, model, capsys, monkeypatch):
    met = Counter()
    for seed in range(1000, 1250):
        met += run(seed, tmp_path / str(seed), model, capsys, monkeypatch)
    with capsys.disabled():
        print()
        for (what, kind), number in sorted(met.items()):
            print(f"{what}: {kind}: {number:,}")
