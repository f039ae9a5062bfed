"""The table of results, training over seeds, and the page that is written from records."""

import dataclasses
import json
import re
import statistics
from pathlib import Path

import numpy as np
import pytest

from benchmarks import results, results_page
from benchmarks.comparisons import COMPARISONS
from flax_resnet import cli
from flax_resnet.config import check_config, list_configs
from flax_resnet.data import open_dataset
from flax_resnet.data.fingerprint import fingerprint
from flax_resnet.errors import UserError
from flax_resnet.results import records, runs
from flax_resnet.results.rows import ROWS, find_row, options_of, with_settings
from flax_resnet.results.scores import mean_of
from flax_resnet.results.studies import STUDIES, with_budget

DIGITS = with_settings(ROWS["digits"], "digits", {"epochs": 3})


def test_every_row_trains_a_recipe_that_is_possible():
    assert {row.recipe for row in ROWS.values()} - {None} <= set(list_configs())
    for name, row in results.all_rows().items():
        if row.recipe is not None:
            assert check_config(row.config(0, "folder")) == [], name


def test_a_command_of_a_row_gives_its_settings():
    """The page prints it, so it must mean the same as the row."""
    from flax_resnet.commands.training import _parse, _train

    rows = results.all_rows()
    names = ["cifar_fast/small_images", "resnet9_cifar/small_images", "resnet9_cifar/sgd"]
    for name in [*names, "cardinality/32x4d"]:
        words = [*rows[name].command(4).split()[2:], "--data.dir", "folder"]
        parsed, _ = _parse("train", _train, words, "")
        wanted = rows[name].config(4, "folder")
        assert dataclasses.replace(parsed, workdir=wanted.workdir) == wanted


def test_options_are_written_as_they_are_typed():
    settings = {"a.b_c": True, "d": False, "e.f": False, "g": [[0, 24], [6, 32]], "h": 0.1}
    assert options_of(settings) == "--a.b-c --no-d --e.no-f --g 0 24 6 32 --h 0.1"


def test_a_mean_has_the_standard_error_of_its_seeds_or_of_one_binomial():
    values = (0.91, 0.92, 0.90)
    mean = mean_of(values)
    np.testing.assert_allclose(mean[:2], (0.91, statistics.stdev(values) / 3**0.5))
    assert str(mean) == "91.00 ± 0.58%"
    np.testing.assert_allclose(mean_of([0.9], 1000).error, (0.9 * 0.1 / 1000) ** 0.5)
    assert str(mean_of([0.9])) == "90.00%"


def test_seeds_are_trained_once_and_other_settings_are_refused(fake_train, tmp_path):
    for _ in range(2):
        assert runs.train_row(DIGITS, range(3), tmp_path, train=fake_train)
    assert [config.seed for config in fake_train.runs] == [0, 1, 2]
    other = with_settings(DIGITS, "digits", {"label_smoothing": 0.1})
    with pytest.raises(UserError, match=r"other settings .*label_smoothing"):
        runs.train_row(other, [0], tmp_path, train=fake_train)


def test_a_finished_run_does_not_answer_for_other_data(fake_train, tmp_path):
    """Its accuracy was reported as that of the folder that ``--data-dir`` named."""
    for _ in range(2):
        runs.train_row(DIGITS, [0], tmp_path, data_dir="a", train=fake_train)
    with pytest.raises(UserError, match=r"trained on other data than those of --data-dir"):
        runs.train_row(DIGITS, [0], tmp_path, data_dir="b", train=fake_train)
    config = DIGITS.config(0)
    digits = fingerprint(open_dataset(config.data, config.augment)).to_json()
    (tmp_path / "0" / "data.json").write_text(json.dumps(digits))  # the same in another folder
    assert runs.train_row(DIGITS, [0], tmp_path, data_dir="b", train=fake_train)
    assert len(fake_train.runs) == 1


def test_the_summary_says_what_was_asked_and_what_came_out(fake_train, tmp_path):
    runs.train_row(DIGITS, range(3), tmp_path, train=fake_train)
    columns, rows, sentences = runs.summarize_row(DIGITS, tmp_path, range(3))
    assert columns[-2:] == ["test, best", "test, last"]
    assert [row[3] for row in rows] == ["90.00%", "91.00%", "92.00%", "91.00 ± 0.58%"]
    assert sentences == ["91.00 ± 0.58%: missed (at least 98.00%, test, best)"]
    easy = dataclasses.replace(DIGITS, target=0.9)
    assert "met (at least 90.00%" in runs.summarize_row(easy, tmp_path, range(3))[2][-1]


def test_a_run_that_was_stopped_early_is_no_result(fake_train, tmp_path):
    runs.train_row(DIGITS, [0], tmp_path, train=fake_train, max_steps=10)
    assert "nothing to compare" in runs.summarize_row(DIGITS, tmp_path, [0])[2][0]
    with pytest.raises(UserError, match="not a finished run"):
        records.record_of(tmp_path / "0", "")


def test_a_record_is_the_runs_history_without_paths_of_a_machine(fake_train, tmp_path, monkeypatch):
    monkeypatch.setitem(results.ROWS, "digits", DIGITS)
    runs.train_row(DIGITS, range(2), tmp_path / "runs", data_dir=str(tmp_path), train=fake_train)
    folders = results.record(tmp_path / "runs", "digits", records=tmp_path / "records")
    assert [folder.name for folder in folders] == ["0", "1"]
    for folder, seed in zip(folders, "01", strict=True):
        written = {path.name: path.read_bytes() for path in folder.iterdir()}
        history = tmp_path / "runs" / seed / "history.jsonl"
        assert written["history.jsonl"] == history.read_bytes()
        assert not any(str(tmp_path).encode() in content for content in written.values())
    found = records.read_records(tmp_path / "records" / "digits")
    # resnet20 on 8x8 grey images, by its table: 3 stages of 6 convolutions.
    stem = 8 * 8 * 9 * 16
    macs = stem + 64 * 9 * (6 * 16 * 16) + 16 * 9 * (16 * 32 + 5 * 32 * 32)
    macs += 4 * 9 * (32 * 64 + 5 * 64 * 64) + 640
    assert found[0].about["macs"] == {"usual": macs}
    np.testing.assert_allclose(found[0].pflop, 6 * macs * 30 * 64 / 1e15)
    assert found[0].images_per_second == 102
    page = results.render(tmp_path / "records")
    assert "| `digits` |" in page and "90.50 ± 0.50%" in page and "`c0ffee`" in page


def test_a_record_of_other_settings_is_refused(fake_train, tmp_path, monkeypatch):
    monkeypatch.setitem(results.ROWS, "digits", DIGITS)
    other = with_settings(DIGITS, "digits", {"optimizer.momentum": 0.8})
    runs.train_row(other, [0], tmp_path, train=fake_train)
    with pytest.raises(UserError, match=r"differs from digits in optimizer\.momentum"):
        results.record(tmp_path, "digits", records=tmp_path / "records")


def test_a_row_that_needs_a_folder_of_data_is_recorded(fake_train, tmp_path, monkeypatch):
    name = "resnet50_imagenet"
    row = with_settings(ROWS[name], name, {"epochs": 3, "model.name": "resnet18"})
    monkeypatch.setitem(results.ROWS, name, row)
    runs.train_row(row, [0], tmp_path / "runs", data_dir=str(tmp_path), train=fake_train)
    (folder,) = results.record(tmp_path / "runs", name, records=tmp_path / "records")
    assert (folder / "history.jsonl").exists()


def test_a_folder_in_object_storage_keeps_its_address(monkeypatch):
    monkeypatch.setattr("flax_resnet.training.finetune_config", lambda images, **_: images)
    assert ROWS["flowers64_head"].config(0, "s3://bucket/flowers") == "s3://bucket/flowers"


@pytest.mark.slow
def test_records_of_two_budgets_are_refused(fake_train, tmp_path):
    """Their accuracies are no comparison, and the page names one budget."""
    for row, budget in zip(STUDIES["degradation"].rows[:2], (2, 4), strict=True):
        folder = tmp_path / row.name
        runs.train_row(with_budget(row, budget), [0], folder, train=fake_train)
        results.record(folder, f"degradation/{row.name}", records=tmp_path / "records")
    with pytest.raises(UserError, match="of degradation are of 2 and 4 epochs"):
        results.render(tmp_path / "records")


@pytest.mark.slow
def test_progressive_sizes_cost_less(fake_train, tmp_path):
    small = with_settings(DIGITS, "digits", {"data.train_sizes": [[0, 4], [1, 8]]})
    runs.train_row(small, [0], tmp_path, train=fake_train)
    found = records.record_of(tmp_path / "0", "")
    macs = found.about["macs"]
    assert macs["4"] < macs["8"] == macs["usual"]
    expected = 6 * 64 * (10 * macs["4"] + 20 * macs["8"]) / 1e15
    np.testing.assert_allclose(found.pflop, expected)


def test_the_page_is_what_its_records_say():
    text = results.PAGE.read_text(encoding="utf-8")
    assert results.page(text) == text, "run python -m benchmarks.results render"


def test_every_accuracy_of_the_page_comes_from_a_history():
    """Computed here from the lines of the histories alone."""
    text = results.PAGE.read_text(encoding="utf-8")
    written = text[text.index(results.BEGIN) : text.index("### Without mirror images")]
    rows = dict(re.findall(r"^\| `(\w+)` \|(.*%.*)\|$", written, re.M))
    kept = {path.parent.parent.name for path in results.RECORDS.glob("*/*/history.jsonl")}
    assert set(rows) == kept & set(ROWS)
    for name, cells in rows.items():
        paths = (results.RECORDS / name).glob("*/history.jsonl")
        lines = [[json.loads(line) for line in path.read_text().splitlines()] for path in paths]
        ends = [history[-1] for history in lines]
        last = [history[-2]["val_top1"] for history in lines]
        shown = [cell.strip() for cell in cells.split("|")]
        for column, values in ((1, last), (2, [end["test_top1"] for end in ends])):
            number = f"{100 * statistics.fmean(values):.2f}"
            assert shown[column].startswith(number), (name, column)
            if len(values) > 1:
                error = 100 * statistics.stdev(values) / len(values) ** 0.5
                assert shown[column] == f"{number} ± {error:.2f}%"


def test_every_accuracy_of_a_study_comes_from_a_history():
    text = results.PAGE.read_text(encoding="utf-8")
    seen = 0
    for name in STUDIES:
        for folder in (results.RECORDS / name).glob("*"):
            (cells,) = re.findall(rf"^\| {folder.name} \|(.*)\|$", text, re.M)
            ends = [
                [json.loads(line) for line in path.read_text().splitlines()][-2:]
                for path in folder.glob("*/history.jsonl")
            ]
            for cell, (line, key) in zip(
                cells.split("|"),
                ((0, "train_top1"), (0, "val_top1"), (1, "test_top1")),
                strict=False,
            ):
                number = statistics.fmean(end[line][key] for end in ends)
                assert cell.strip().startswith(f"{100 * number:.2f}"), (folder.name, key)
                seen += 1
    assert seen == 3 * len(list(results.RECORDS.glob("degradation/*"))) > 0


def test_every_accuracy_of_a_comparison_comes_from_a_history():
    text = results.PAGE.read_text(encoding="utf-8")
    seen = 0
    for name, comparison in COMPARISONS.items():
        for row in comparison.rows:
            paths = list((results.RECORDS / name / row.name).glob("*/history.jsonl"))
            if not paths:
                continue
            lines = [[json.loads(line) for line in path.read_text().splitlines()] for path in paths]
            section = text[text.index(f"### Comparison: {comparison.title}\n") :]
            cells = re.search(rf"^\| {re.escape(row.name)} \|(.*)\|$", section, re.M)[1].split("|")
            test_cell = 2 + bool(comparison.bases)  # after the gain
            for column, line, key in ((1, -2, "val_top1"), (test_cell, -1, "test_top1")):
                number = statistics.fmean(history[line][key] for history in lines)
                assert cells[column].strip().startswith(f"{100 * number:.2f}"), (row.name, key)
            seen += len(paths)
    assert seen >= 14


def test_accuracies_without_mirror_images_stand_beside_those_with_them():
    text = results.PAGE.read_text(encoding="utf-8")
    section = text[text.index("### Without mirror images") :]
    pattern = r"^\| `(\w+)` \| (\d+\.\d+) ± \S+ \| (\d+\.\d+) ± \S+ \|$"
    shown = {name: values for name, *values in re.findall(pattern, section, re.M)}
    for name, values in shown.items():
        found = records.read_records(results.RECORDS / name)
        for split, value in zip(("validation", "test"), values, strict=True):
            alone = [one.about["without_mirror_images"][split] for one in found]
            assert value == f"{100 * statistics.fmean(alone):.2f}"
    flipped = [
        n
        for n in ROWS
        for one in records.read_records(results.RECORDS / n)[:1]
        if one.settings["evaluate_flipped"]
    ]
    assert list(shown) == flipped


def test_no_accuracy_is_written_by_hand():
    """Below the part that is written from records, what they show is said without numbers."""
    _, _, notes = results.PAGE.read_text(encoding="utf-8").partition(results.END)
    assert "What the tables show" in notes
    assert not re.findall(r"\d+(?:\.\d+)?%", notes)


def test_the_options_of_a_comparison_lead_from_its_base_to_a_row():
    for comparison in COMPARISONS.values():
        options = results_page.options_by_row(comparison)
        rows = {row.name: row for row in comparison.rows}
        first, *others = rows
        for name in others:
            base = rows[comparison.bases.get(name, first)]
            assert options[name] and not set(base.settings) - set(rows[name].settings), name


def test_the_gain_of_a_row_is_over_the_last_row_that_was_kept():
    pages = results.PAGE.read_text(encoding="utf-8").split("\n### ")
    ladders = [page for page in pages if page.startswith("Comparison: the ladder to")]
    row = r"^\| (\w+) \| `.*` \| ([\d.]+) ± \S+ \| (?:–|([-+\d.]+) over (\w+)) \|"
    for page in ladders:
        found = {name: cells for name, *cells in re.findall(row, page, re.M)}
        for name, (mean, gain, base) in list(found.items())[1:]:
            assert abs(float(mean) - float(found[base][0]) - float(gain)) < 0.02, name
    assert ladders and found["small_images"][2] == "whitened_stem"  # of the last, resnet9_cifar


def test_reproduce_lists_its_rows(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.main(["reproduce"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ROWS) and "91.25%" in out


def test_find_row_returns_a_row():
    assert find_row("digits").seeds == 10


def test_a_mistyped_row_of_a_comparison_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(UserError, match=r"did you mean resnet9_cifar/muon"):
        results.record(tmp_path, "resnet9_cifar/mouon", records=tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("no_page")
def test_reproduce_trains_and_resumes(tmp_path, capsys, monkeypatch):
    """A real run of two epochs that ended after three steps is resumed by the same command."""
    monkeypatch.setenv("COLUMNS", "200")  # no cell is wrapped
    monkeypatch.setenv("FLAX_RESNET_TUNE", "0")
    tiny = {"model.name": "resnet8", "model.stage_sizes": [1], "model.widths": [8]}
    row = with_settings(ROWS["digits"], "digits", {"epochs": 2, **tiny})
    monkeypatch.setitem(ROWS, "digits", row)
    words = ["reproduce", "digits", "--seeds", "2", "--workdir", str(tmp_path)]
    assert cli.main([*words, "--max-steps", "3"]) == 0
    assert "nothing to compare" in capsys.readouterr().out
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert "Resuming" in out and "mean ± standard error" in out and "98.00%, test" in out
    results.record(tmp_path / "digits", "digits", records=tmp_path / "records")
    found = records.read_records(tmp_path / "records" / "digits")
    assert [one.about["images"] for one in found] == [
        {"train": 1293, "validation": 144, "test": 360}
    ] * 2
    assert Path(tmp_path / "records" / "digits" / "0" / "record.json").stat().st_size < 3000
