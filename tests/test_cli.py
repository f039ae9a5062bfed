"""The command line: its output and exit codes."""

import subprocess
import sys

import pytest

from flax_resnet import cli, list_configs
from flax_resnet.cli import COMMANDS, main
from flax_resnet.commands import models
from flax_resnet.config import EFFECTS, Config, flatten, load_config


def test_list_matches_a_pattern(capsys):
    assert main(["list", "resnext29*"]) == 0
    assert capsys.readouterr().out.split() == ["resnext29_32x4d", "resnext29_8x64d"]


@pytest.mark.slow
def test_summary_prints_parameters_and_macs(capsys):
    assert main(["summary", "resnet50"]) == 0
    out = capsys.readouterr().out
    assert "25,557,032" in out
    assert "4.089" in out
    assert "7×7×2048" in out


WRONG_USAGE = {
    "push runs/photos": "NAME is missing",
    "export runs/photos": "--output is missing",
    "export runs/photos --output a.onnx --format onx": "it must be onnx,",
    "tran": "no command 'tran'",
    "train": "--config NAME is missing; configs: cifar_fast, digits",
    "train --config": "--config needs a value",
    "train --config resnet50_cifr": "did you mean resnet50_cifar",
    "train --config digits --model.name resnt20": "did you mean resnet20",
    "train --config digits --epochs -1": "must be above 0",
    "train --config digits --epochs few": "--epochs is 'few'; it must be an integer",
    "train --config digits --optimizer.learnig-rate 0.1": "did you mean --optimizer.learning-rate?",
    "train --config digits --optimizer.learning-rate fast": "it must be a number",
    "train --config digits --augment.crop-scale 0.1": "--augment.crop-scale needs 2 values",
    "train --config digits --optimizer.name sdg": "it must be adam, adamw, lamb, muon, sgd or",
    "train --config digits --parallel.mode pmap": "it must be auto, jit or shard_map",
    "train --config digits more": "'more' is one argument too many",
    "finetune": "IMAGES is missing",
    "finetune --mode hed photos": "--mode is 'hed'; it must be full, gradual, head or partial",
    "finetune --mod head photos": "did you mean --mode?",
    "finetune photos --epoch 3": "did you mean --epochs?",
    "finetune photos --optimizer.weight-deca 3": "did you mean --optimizer.weight-decay?",
    "finetune --optimizer.weight-decay 0.1 photos": "Name the photos first",
    "finetune photos more": "'more' is one argument too many",
    "predict": "MODEL is missing",
    "predict resnet50": "PATHS is missing",
    "predict resnet50 a.jpg --topk 3": "did you mean --top-k?",
    "predict resnet50 a.jpg --top-k": "--top-k needs a value",
    "predict resnet50 a.jpg --top-k many": "--top-k is 'many'; it must be an integer",
    "predict resnet50 a.jpg --top-k 0": "--top-k is 0; it must be 1 or more",
    "predict resnet50 a.jpg --temperature hot": "it must be a number",
    "predict resnet50 a.jpg --tta spin": "--tta is 'spin'; it must be flip",
    "predict resnet50 a.jpg --format xml": "it must be csv, json, jsonl or table",
    "predict resnet50 a.jpg -k 3": "There is no option -k",
    "serve": "MODEL is missing",
    "evaluate": "MODEL is missing",
    "evaluate run photos more": "'more' is one argument too many",
    "evaluate run --splt test": "did you mean --split?",
    "embed run": "--output is missing",
    "embed run a.jpg --outptu e.npz": "did you mean --output?",
    "explain": "MODEL is missing",
    "explain run a.jpg --method lime": "--method is 'lime'; it must be grad-cam",
    "explain run a.jpg --arrays maps.npy": "--arrays is maps.npy; it must end in .npz",
    "launch": "--processes is missing",
    "launch --processes 2": "launch takes the command to start, train or finetune",
    "launch --processes 2 predict a.jpg": "launch takes the command to start, train or finetune",
    "launch --processes 0 train --config digits": "--processes is 0; it must be 1 or more",
    "lr-find": "--config NAME is missing",
    "lr-find --config digits --steps 3": "--steps is 3; it must be 10 or more",
    "report": "RUN is missing",
    "reproduce resnet21_cifar": "did you mean resnet32_cifar or resnet20_cifar",
    "reproduce digits --seeds 0": "--seeds is 0; it must be 1 or more",
    "reproduce flowers64_head": "flowers64_head needs --data-dir: a folder",
    "reproduce resnet50_imagenet": "--data-dir: a folder with the folders train and val",
    "study": "STUDY is missing",
    "study degradations": "choose degradation, shortcuts",
    "study depth --budget 0": "--budget is 0; it must be 1 or more",
    "verify": "RUN is missing",
    "verify run --replay many": "--replay is 'many'; it must be an integer.",
    "checkpoints": "RUN is missing",
    "debug-step": "FOLDER is missing",
    "compare run": "Name two runs or more",
    "report run more": "'more' is one argument too many",
    "list a b": "'b' is one argument too many",
    "summary": "NAME is missing",
    "summary resnext50": "did you mean resnext50_32x4d",
    "summary resnet50 --conv-impl best": "it must be auto, jax, onednn or reference",
    "convert a.pth": "TARGET is missing",
    "convert a.pth b.npz --verfy": "did you mean --verify?",
    "inspect": "FILE is missing",
    "check": "SOURCE is missing",
    "check photos --most x": "it must be an integer",
    "prepare": "NAME is missing",
    "prepare cifar10 --form x": "did you mean --from?",
    "augment-preview": "--config NAME is missing",
    "augment-preview --config digits --outpt a.png": "did you mean --output?",
}


@pytest.mark.parametrize("line", WRONG_USAGE)
def test_wrong_usage_is_reported_in_one_sentence(line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ") and WRONG_USAGE[line] in err
    assert not out
    assert err.count("\n") == 1 or line == "tran"  # which is followed by the list of commands
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("terminal", ["30", "200"])
def test_sentences_do_not_depend_on_the_terminal(terminal, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", terminal)
    for line in ("finetune --mode hed photos", "embed run", "train --config digits --epochs few"):
        assert main(line.split()) == 2
        assert WRONG_USAGE[line] in capsys.readouterr().err


def test_every_command_has_tests_of_wrong_usage():
    assert {line.split()[0] for line in WRONG_USAGE} >= COMMANDS.keys() - {"list"}


def test_a_pattern_that_matches_nothing_fails(capsys):
    assert main(["list", "vgg*"]) == 1
    assert "No model matches" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("train --config digits --ops jax", "`--ops` is now `--model.conv-impl`."),
        ("train --config digits --model.ops=jax", "`--model.ops` is now `--model.conv-impl`."),
        (
            "train --config digits --save-every-steps 5",
            "`--save-every-steps` is now `--save-every`.",
        ),
        (
            "train --config digits --save_every_steps 5",
            "`--save-every-steps` is now `--save-every`.",
        ),
        (
            "train --config digits --transfer.freeze-until layer3",
            "`--transfer.freeze-until` is now `--transfer.freeze-before`.",
        ),
        ("finetune photos --freeze-until layer3", "`--freeze-until` is now `--freeze-before`."),
        (
            "finetune photos --transfer.freeze-until layer3",
            "`--transfer.freeze-until` is now `--transfer.freeze-before`.",
        ),
        ("finetune photos --ops jax", "`--ops` is now `--model.conv-impl`."),
        ("augment-preview --config digits --ops jax", "`--ops` is now `--model.conv-impl`."),
        ("summary resnet20 --ops jax", "`--ops` is now `--conv-impl`."),
    ],
)
def test_the_old_name_of_an_option_is_answered_with_the_new_one(line, sentence, capsys):
    assert main(line.split()) == 2
    assert capsys.readouterr().err == f"error: {sentence}\n"


def test_missing_data_without_download_says_where_it_goes(capsys, tmp_path):
    arguments = ["train", "--config", "resnet20_cifar", "--data.dir", str(tmp_path / "data")]
    arguments += ["--data.no-download", "--workdir", str(tmp_path / "run")]
    assert main(arguments) == 1
    err = capsys.readouterr().err
    assert "cifar-10-binary.tar.gz" in err
    assert str(tmp_path / "data") in err
    assert "--config digits" in err
    assert not (tmp_path / "run").exists()


PRINT_HELP = """
import sys
from flax_resnet.cli import main
for command in sys.argv[1:]:
    code = main([*command.split(), "--help"])
    print(code, "jax" in sys.modules, end="\\f")
"""


@pytest.mark.parametrize(
    "commands",
    [[""], ["train"], ["predict"], pytest.param([*COMMANDS], marks=pytest.mark.slow)],
    ids=["none", "train", "predict", "each"],
)
def test_help_fits_on_a_screen_and_does_not_wait_for_jax(commands):
    done = subprocess.run(
        [sys.executable, "-c", PRINT_HELP, *commands], capture_output=True, text=True, check=True
    )
    for command, page in zip(commands, done.stdout.split("\f")[:-1], strict=True):
        *lines, last = page.splitlines()
        assert last == "0 False", command
        assert lines[0].startswith(f"usage: flax-resnet {command}".rstrip())
        if not command:
            assert all(any(name in line for line in lines) for name in COMMANDS)
        if command not in ("train", "augment-preview", "lr-find"):  # all fields of a config
            assert len(lines) <= 60, command


def test_prepare_names_every_data_set_in_its_help(capsys):
    from flax_resnet.data.tfds.prepare import preparable_names

    assert main(["prepare", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in preparable_names())


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


BROKEN_RECIPES = {
    "unknown field": (
        "from flax_resnet.config import ModelConfig\n\nModelConfig(nam='resnet18')\n",
        "line 3, fails (TypeError: ModelConfig.__init__() got an unexpected keyword argument 'nam'",
    ),
    "syntax": ("x = 1\nconfig = (\n", "line 2, fails (SyntaxError: '(' was never closed"),
    "import": ("import no_such_package\n", "line 1, fails (ModuleNotFoundError: No module named"),
}


@pytest.mark.parametrize("fault", BROKEN_RECIPES)
def test_an_error_in_a_recipe_is_reported_with_its_line(fault, tmp_path, capsys, monkeypatch):
    """Also by the process's own command, which reads the recipe before its arguments."""
    path = tmp_path / "mine.py"
    text, message = BROKEN_RECIPES[fault]
    path.write_text(text)
    monkeypatch.setattr(cli, "tune_cpu", lambda **_: None)
    monkeypatch.setattr(sys, "argv", ["flax-resnet", "train", "--config", str(path)])
    assert main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {path}, {message}") and line.endswith("correct the recipe.")


def test_a_run_that_cannot_be_read_does_not_stop_the_tuning(tmp_path, capsys, monkeypatch):
    """JSON nested beyond the stack raised a RecursionError before the command began."""
    (tmp_path / "config.json").write_text("[" * 10**5)
    monkeypatch.setattr(cli, "tune_cpu", lambda **_: None)
    monkeypatch.setattr(sys, "argv", ["flax-resnet", "report", str(tmp_path), "more"])
    assert main() == 2
    assert "one argument too many" in capsys.readouterr().err


def test_the_effect_of_each_setting_is_known():
    assert list(EFFECTS) == list(flatten(Config()))


@pytest.mark.parametrize("program", [["train.py"], ["-m", "flax_resnet", "train"]])
def test_other_forms_of_the_train_command(program, repository):
    done = subprocess.run(
        [sys.executable, *program, "--config", "no_such_config"],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "no config 'no_such_config'" in done.stderr


@pytest.mark.parametrize("line", ["train --debug", "--debug train", "train"])
def test_the_process_is_tuned_for_its_command(line, capsys, monkeypatch):
    calls = []
    monkeypatch.setattr(cli, "tune_cpu", lambda restart, **_: calls.append(restart))
    monkeypatch.setattr(sys, "argv", ["flax-resnet", *line.split()])
    assert main() == 2
    assert calls == [True]
    assert main(line.split()) == 2
    assert calls == [True]  # only the process's own arguments
    assert main(["train", "--help"]) == 0


@pytest.mark.parametrize(("code", "expected"), [(None, 0), (3, 3), ("stopped", 1)])
def test_the_exit_code_of_a_command_that_exits(code, expected, capsys, monkeypatch):
    def exits(rest):
        raise SystemExit(code)

    monkeypatch.setattr(models, "list_command", exits)
    assert main(["list"]) == expected
    assert ("stopped" in capsys.readouterr().err) == (code == "stopped")


def test_public_names_are_there():
    import flax_resnet

    for name in flax_resnet.__all__:
        assert getattr(flax_resnet, name) is not None
        assert name in dir(flax_resnet)
    with pytest.raises(AttributeError, match="attribute nothing"):
        _ = flax_resnet.nothing
