"""Files of a run whose settings somebody damaged or made absurd: one sentence, at once."""

import json
import shutil
from pathlib import Path

import pytest

import flax_resnet as fr
from flax_resnet.cli import main
from flax_resnet.report import read_history

EARLIER_RUN = Path(__file__).parents[1] / "compatibility" / "0.1.0.zip"


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("config.json", {"model.stage_sizes": [2**70]}),
        ("config.json", {"model.stage_sizes": [10_000]}),
        ("config.json", {"model.stage_sizes": 3}),
        ("config.json", {"model.widths": [-1]}),
        ("config.json", {"model.name": 5}),
        ("config.json", {"model.dtype": []}),
        ("config.json", {"loss": "huber"}),
        ("config.json", {"loss": None}),
        ("preprocessing.json", {"mean": ["a"]}),
        ("preprocessing.json", {"std": [0.0]}),
        ("preprocessing.json", {"height": -8}),
        ("preprocessing.json", {"interpolation": None}),
    ],
)
def test_settings_of_another_type_or_range_are_refused(file, changes, tmp_path):
    shutil.unpack_archive(EARLIER_RUN, tmp_path)
    held = json.loads((tmp_path / file).read_text())
    (tmp_path / file).write_text(json.dumps(held | changes))
    with pytest.raises(fr.UserError) as caught:
        fr.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_json_nested_beyond_the_stack_is_refused(tmp_path):
    shutil.unpack_archive(EARLIER_RUN, tmp_path)
    (tmp_path / "classes.json").write_text("[" * 10**5)
    with pytest.raises(fr.UserError, match="cannot be read"):
        fr.load(tmp_path)


def test_a_history_that_is_not_text_is_refused_by_its_line(tmp_path):
    path = tmp_path / "history.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2, "x": "\xff"}\n{"step": 3}\n')
    with pytest.raises(fr.UserError, match="Line 2 of"):
        read_history(path)


def test_names_in_messages_do_not_reach_the_terminal_as_codes(tmp_path, capsys):
    listed = tmp_path / "list.csv"
    listed.write_text('path,label\n"no\nsuch\x1b[31m.jpg",cat\n')
    assert main(["check", str(listed)]) == 1
    (message,) = capsys.readouterr().err.splitlines()
    assert "\x1b" not in message and r"no\nsuch\x1b[31m.jpg" in message
