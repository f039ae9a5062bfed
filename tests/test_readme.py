"""README's commands exist and its options parse; its Python runs."""

import re
import shlex

import pytest

from flax_resnet import cli, training


@pytest.fixture(scope="module")
def readme(repository):
    return (repository / "README.md").read_text(encoding="utf-8")


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(text):
    """Every command of ours in a bash block or in the code of a table, as words."""
    lines = "\n".join(blocks(text, "bash")).replace("\\\n", " ").splitlines()
    lines += re.findall(r"^\| `(python train\.py [^`]*)`", text, re.MULTILINE)
    for line in lines:
        for command in line.split("#")[0].split("&&"):
            words = shlex.split(command)
            if words[:2] == ["python", "train.py"]:
                yield ["train", *words[2:]]
            elif words[:1] == ["flax-resnet"]:
                yield words[1:]


def test_commands_exist_and_parse(readme, monkeypatch):
    taken = []
    monkeypatch.setattr(training, "train", taken.append)
    found = list(commands(readme))
    assert len(found) > 8
    for words in found:
        assert words[0] in cli.COMMANDS, words
        if words[0] == "train":
            assert cli.main(words) == 0, words
    assert len(taken) == sum(words[0] == "train" for words in found)


@pytest.mark.slow
def test_the_librarys_example_runs(readme, capsys):
    (example,) = (block for block in blocks(readme, "python") if "train_step" in block)
    names = {}
    exec(example, names)
    assert names["logits"].shape == (2, 10)
    assert float(names["metrics"]["count"]) == 2
    assert "'layer4': (2, 4, 4, 2048)" in capsys.readouterr().out
