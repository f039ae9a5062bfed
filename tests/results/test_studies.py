"""Studies: equal training, and a page with curves beside the paper's errors."""

import dataclasses
import re
import statistics
from functools import partial

import pytest

from flax_resnet import cli
from flax_resnet.models import create_model, summarize
from flax_resnet.report import read_history
from flax_resnet.results import runs, studies
from flax_resnet.results.studies import STUDIES, train_study, with_budget, write_study


@pytest.mark.parametrize("name", STUDIES)
def test_the_nets_of_a_study_differ_in_nothing_else(name):
    configs = [row.config(0) for row in STUDIES[name].rows]
    same = {dataclasses.replace(config, model=configs[0].model) for config in configs}
    assert len(same) == 1
    assert len({config.model for config in configs}) == len(configs)


@pytest.mark.slow
def test_groups_are_compared_at_equal_cost():
    """Xie et al. 2017, table 3: the widths are chosen so that the operations are the same."""
    macs = []
    for row in STUDIES["cardinality"].rows[::4]:
        options = {n.removeprefix("model."): v for n, v in row.settings.items()}
        macs.append(summarize(create_model(**options, num_classes=10), (32, 32, 3)).macs)
    assert max(macs) < 1.06 * min(macs)


def test_a_budget_scales_the_milestones():
    config = with_budget(STUDIES["depth"].rows[0], 91).config(0)
    assert (config.epochs, config.optimizer.milestones) == (91, (45.5, 68.5))
    whole = with_budget(STUDIES["depth"].rows[0], 182).config(0)
    assert whole.optimizer.milestones == (91, 137)


def test_the_page_shows_what_the_histories_say(fake_train, tmp_path, monkeypatch):
    monkeypatch.setattr(studies, "train_row", partial(runs.train_row, train=fake_train))
    study = STUDIES["degradation"]
    for _ in range(2):
        assert train_study(study, range(2), tmp_path, budget=4)
    order = [(config.seed, config.model.name) for config in fake_train.runs]
    assert order == [(seed, row.name) for seed in range(2) for row in study.rows]
    page = write_study(study, range(2), tmp_path, 4).read_text()
    assert "4 of the 182 epochs of resnet20_cifar, on CIFAR-10; 2 seeds" in page
    assert study.finding in page and "data:image/png;base64" in page
    assert (tmp_path / "index.png").stat().st_size > 5000
    for row in study.rows:
        values = [
            read_history(tmp_path / row.name / str(seed) / "history.jsonl")[-2]["val_top1"]
            for seed in range(2)
        ]
        error = 100 * statistics.stdev(values) / 2**0.5
        text = f"{100 * statistics.fmean(values):.2f} ± {error:.2f}%"
        cells = re.search(f"<tr><td><bdi>{row.name}</bdi>.*", page)[0]
        assert text in cells and f"{row.paper.accuracy:.2%}" in cells


@pytest.mark.slow
@pytest.mark.usefixtures("no_page")
def test_a_study_trains(tmp_path, capsys, monkeypatch):
    """On digits, with short nets."""
    monkeypatch.setenv("FLAX_RESNET_TUNE", "0")
    tiny = {"model.stage_sizes": [1], "model.widths": [8]}
    rows = tuple(
        dataclasses.replace(row, recipe="digits", settings={"model.name": name, **tiny}, name=name)
        for row, name in zip(STUDIES["degradation"].rows, ("plain8", "resnet8"), strict=False)
    )
    study = dataclasses.replace(STUDIES["degradation"], rows=rows)
    monkeypatch.setitem(STUDIES, "degradation", study)
    words = ["study", "degradation", "--budget", "2", "--workdir", str(tmp_path)]
    assert cli.main([*words, "--max-steps", "3"]) == 0
    assert "there is no page yet" in capsys.readouterr().out
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert out.count("Resuming") == 2 and "degradation_2/index.html" in out
