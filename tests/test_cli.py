"""The command line: what it prints and its exit codes."""

import subprocess
import sys

import pytest

from flax_resnet import list_configs
from flax_resnet.cli import main
from flax_resnet.config import FREE_ON_RESUME, Config, flatten, load_config


def test_list_matches_a_pattern(capsys):
    assert main(["list", "resnext29*"]) == 0
    assert capsys.readouterr().out.split() == ["resnext29_32x4d", "resnext29_8x64d"]


def test_summary_tells_parameters_and_macs(capsys):
    assert main(["summary", "resnet50"]) == 0
    out = capsys.readouterr().out
    assert "25,557,032" in out
    assert "4.089" in out
    assert "7×7×2048" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tran"], "no command 'tran'"),
        (["train", "--config", "resnet50_cifr"], "did you mean resnet50_cifar"),
        (["train", "--config", "digits", "--model.name", "resnt20"], "did you mean resnet20"),
        (["summary", "resnext50"], "did you mean resnext50_32x4d"),
        (["list", "vgg*"], "No model matches"),
        (["train", "--config", "digits", "--epochs", "-1"], "must be above 0"),
    ],
)
def test_wrong_usage_is_told_in_one_sentence(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) in (1, 2)
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_a_mistyped_field_names_the_nearest_and_exits_2(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["train", "--config", "digits", "--optimizer.learnig-rate", "0.1"])
    assert caught.value.code == 2
    out = capsys.readouterr()
    assert "--optimizer.learning-rate" in out.out + out.err


def test_missing_data_without_download_says_where_it_goes(capsys, tmp_path):
    arguments = ["train", "--config", "resnet20_cifar", "--data.dir", str(tmp_path / "data")]
    arguments += ["--data.no-download", "--workdir", str(tmp_path / "run")]
    assert main(arguments) == 1
    err = capsys.readouterr().err
    assert "cifar-10-binary.tar.gz" in err
    assert str(tmp_path / "data") in err
    assert "--config digits" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["train", "list", "summary"])
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert command in capsys.readouterr().out


def test_every_config_loads_and_its_command_names_it(repository):
    assert len(list_configs()) >= 9
    for path in sorted((repository / "configs").glob("*.py")):
        config = load_config(path.stem)
        assert config.workdir == f"runs/{path.stem}"
        text = path.read_text()
        assert f"python train.py --config {path.stem}" in text
        for heading in ("Source:", "Command:", "Expected:", "Cost:"):
            assert heading in text, (path, heading)


def test_a_config_may_be_a_path(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from flax_resnet import Config\nconfig = Config(epochs=3)\n")
    assert load_config(str(path)).epochs == 3


def test_what_is_free_on_resume_are_fields():
    assert set(FREE_ON_RESUME) <= set(flatten(Config()))


def test_train_py_is_the_train_command(repository):
    done = subprocess.run(
        [sys.executable, "train.py", "--config", "no_such_config"],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "no config 'no_such_config'" in done.stderr


def test_help_does_not_wait_for_jax():
    code = "import sys; from flax_resnet.cli import main; main(['--help'])\n"
    code += "try: main(['predict', '--help'])\nexcept SystemExit: print('jax' in sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_public_names_are_there():
    import flax_resnet

    for name in flax_resnet.__all__:
        assert getattr(flax_resnet, name) is not None
        assert name in dir(flax_resnet)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = flax_resnet.nothing
