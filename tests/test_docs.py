"""README and the guides: commands parse, Python blocks run, links lead to files."""

import csv
import dataclasses
import importlib.util
import inspect
import json
import re
import shlex
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import flax_resnet
from flax_resnet import cli, create_model, training
from flax_resnet.config import ModelConfig
from flax_resnet.errors import UserError
from flax_resnet.models.resnet import CHOICES
from flax_resnet.training import launch
from flax_resnet.weights import (
    WeightsInfo,
    describe,
    imagenet_classes,
    load,
    published_weights,
    write_model,
)
from tests.inference.export.models import classifier_of
from tests.weights.conftest import seeded_state_dict, torch_shapes

REPOSITORY = Path(__file__).resolve().parent.parent
DOCS = sorted(path for path in (REPOSITORY / "docs").rglob("*.md") if "_build" not in path.parts)
PAGES = {
    str(path.relative_to(REPOSITORY)): path.read_text(encoding="utf-8")
    for path in [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *DOCS]
}
ALL_PAGES = pytest.mark.parametrize("page", PAGES)

# A resnet50 of 4 blocks in place of 16, which is sooner traced, compiled and run.
SHALLOW = {"stage_sizes": (1, 1, 1, 1)}
# The pages whose Python blocks a test below runs.
PYTHON_PAGES = {
    "README.md",
    "docs/guides/photos.md",
    "docs/guides/finetuning.md",
    "docs/guides/library.md",
    "docs/guides/nnx.md",
    "docs/guides/features.md",
    "docs/guides/weights.md",
    "docs/guides/devices.md",
    "docs/guides/export.md",
}


def blocks(text):
    """Language and code of each fenced block, in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def inline_code(text):
    """The code in single backticks outside fenced blocks, with line breaks as spaces."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]


def commands(script):
    """Each command of a bash block as words, without comments."""
    for line in script.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        for _, command in groupby(words, lambda word: word != "&&"):
            yield list(command)


def our_command(words):
    """The words of ``flax-resnet`` if this is a command of ours, else None.

    Schedulers such as ``srun`` may start it, and ``gcloud`` gets it as one quoted word.
    """
    for word in words:
        if "python train.py" in word:
            words = word.split()
    if "train.py" in words:
        return ["train", *words[words.index("train.py") + 1 :]]
    return words[1:] if words[0] == "flax-resnet" else None


def all_commands(text):
    """Commands of the bash blocks, and those in single backticks that have arguments."""
    for language, code in blocks(text):
        if language == "bash":
            yield from commands(code)
    for code in inline_code(text):
        if re.match(r"(python train\.py|flax-resnet|python -m benchmarks\S*) ", code):
            yield shlex.split(code)


def test_readme_is_short():
    assert PAGES["README.md"].count("\n") <= 150


def refuse(*arguments, **options):
    """Take the place of what would compute for long."""
    raise UserError("not in this test")


@ALL_PAGES
def test_commands_exist_and_parse(page, tmp_path, monkeypatch, capsys):
    """No command is wrong usage, which exits with code 2; without photos many fail with code 1."""
    trained = []

    def train(config, *console):
        trained.append(config)
        if console:  # reproduce and study go on with the result
            refuse()

    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr(launch, "launch", lambda words, _: cli.main(words))
    monkeypatch.setattr(training, "find_learning_rate", refuse)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy"):  # nothing is downloaded
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for words in filter(None, map(our_command, all_commands(PAGES[page]))):
        assert words[0] in cli.COMMANDS, words
        if len(words) == 1:  # the command's name in prose
            continue
        if words[0] in ("train", "launch") and "--help" not in words:
            assert cli.main([word.replace("NAME", "digits") for word in words]) == 0, words
            assert trained.pop(), words
        else:
            code, message = exit_code(words), capsys.readouterr().err
            assert code == 0 or (code == 1 and "--debug" not in message), (words, message)


def exit_code(words):
    try:
        return cli.main(words)
    except SystemExit as end:
        return end.code or 0


@ALL_PAGES
def test_benchmarks_exist_and_have_the_options(page):
    for words in all_commands(PAGES[page]):
        if words[:2] == ["python", "-m"]:
            name = words[2]
            spec = importlib.util.find_spec(name)
            if spec.submodule_search_locations:
                spec = importlib.util.find_spec(f"{name}.__main__")
            source = Path(spec.origin).read_text(encoding="utf-8")
            for word in words[3:]:
                assert not word.startswith("--") or f'"{word}"' in source, words


def test_options_in_the_text_exist(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for name in cli.COMMANDS:
        exit_code([name, "--help"])
    known = set(re.findall(r"--[\w.-]+", capsys.readouterr().out)) | {"--debug", "--help"}
    for page in PAGES.keys() - {"docs/changelog.md"}:
        for code in inline_code(PAGES[page]):
            if not code.startswith(("python -m", "pip", "pytest", "ruff", "sphinx", "mpirun")):
                assert set(re.findall(r"--[a-z][\w.-]*", code)) <= known, (page, code)


@ALL_PAGES
def test_links_lead_to_files_and_headings(page):
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", PAGES[page]):
        file = (REPOSITORY / page).parent / target if target else REPOSITORY / page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text(encoding="utf-8")), (target, anchor)


def anchors(text):
    """The anchors that GitHub, and MyST after it, makes of the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}


def test_the_reference_has_every_public_name():
    documented = set()
    for page in PAGES:
        documented |= set(re.findall(r"^\.\. auto\w+:: flax_resnet\.(\w+)$", PAGES[page], re.M))
    public = {
        name for name in flax_resnet.__all__ if not inspect.ismodule(getattr(flax_resnet, name))
    }
    assert public == documented


def test_the_page_of_models_has_every_option():
    """Without those that the training step and ``fold_batch_norm`` set."""
    rows = re.findall(r"^\| (`.*) \|$", PAGES["docs/models.md"], re.M)
    options = {field.name for field in dataclasses.fields(flax_resnet.ResNet)}
    options -= {"parent", "name", "axis_name", "batch_norm_groups"}
    assert {name for name in options if not any(f"`{name}" in row for row in rows)} == set()
    for name, choices in CHOICES.items():
        (row,) = (row for row in rows if row.split("|")[0].count(f"`{name}`"))
        assert all(f'"{choice}"' in row for choice in choices if choice not in (None, "folded"))


def test_readme_lists_the_recipes():
    names = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", PAGES["README.md"], re.M)
    listed = {name for row in names for name in re.findall(r"\w+", row)}
    assert set(flax_resnet.list_configs()) <= listed


def test_every_page_with_python_is_run():
    pages = {name for name, text in PAGES.items() if "python" in dict(blocks(text))}
    assert pages == PYTHON_PAGES


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with photos and a file of random weights, where the pages' runs are kept.

    The file describes its model, as published ones do not, so that a shallow resnet50 is read.
    """
    folder = tmp_path_factory.mktemp("home")
    model = create_model("resnet50", **SHALLOW)
    config = ModelConfig(name="resnet50", **SHALLOW)
    transform = published_weights("resnet50")[-1].transform
    info = WeightsInfo("", "torchvision", None, config, imagenet_classes(), transform)
    arrays = seeded_state_dict(torch_shapes(model))
    write_model(folder / "published.safetensors", arrays, model, describe(info))
    rng = np.random.default_rng(2)  # every split has images of both classes
    for name in ("photos/red", "photos/blue", "new_photos"):
        (folder / name).mkdir(parents=True)
        for number in range(16):
            pixels = rng.integers(0, 60, (40, 60, 3), dtype=np.uint8)
            pixels[..., 2 if "blue" in name else 0] += 180
            Image.fromarray(pixels).save(folder / name / f"{number}.jpg")
    for name in ("a.jpg", "b.png"):
        Image.fromarray(pixels).save(folder / name)
    return folder


@pytest.fixture
def photos(home, monkeypatch):
    """The working directory of the pages; the weights are as if downloaded before."""
    weights = home / "published.safetensors"
    monkeypatch.setattr(load, "fetch_published", lambda entry, cache: weights)
    monkeypatch.chdir(home)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("FLAX_RESNET_TUNE", "0")
    for name in ("labels.csv", "labels.png", "confusion.png", "sheet.png"):
        (home / name).unlink(missing_ok=True)
    return home


@pytest.fixture
def shallow(monkeypatch):
    """Make the models that the pages create by ``fr.create_model`` shallow."""
    monkeypatch.setattr(flax_resnet, "create_model", partial(create_model, **SHALLOW))


def run_page(page, run=()):
    """Run a page's Python blocks, and of its commands those in ``run``, in order.

    Returns:
        The names that the Python blocks defined, and the commands that ran.
    """
    names, ran = {}, []
    for language, code in blocks(PAGES[page]):
        if language == "python":
            exec(compile(code, page, "exec"), names)
        for words in commands(code) if language == "bash" else ():
            ours = our_command(words)
            if ours and ours[0] in run:
                assert cli.main(ours) == 0, ours
                ran.append(ours[0])
    return names, ran


def check_labels(folder):
    with open(folder / "labels.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16
    assert {row["label"] for row in rows} <= {"red", "blue"}
    for made in ("labels.png", "confusion.png", "runs/photos/report/index.html"):
        assert (folder / made).stat().st_size > 1000, made


@pytest.mark.slow
def test_readme_runs_as_written(photos, shallow):
    """Its photo commands as written, its library example on a shallower model."""
    names, ran = run_page("README.md", run=("finetune", "evaluate", "predict"))
    assert ran == ["finetune", "evaluate", "predict"]
    check_labels(photos)
    assert names["logits"].shape == (2, 10)
    assert float(names["metrics"]["count"]) == 2


@pytest.mark.slow
def test_the_photo_guide_runs_as_written(photos):
    ran = ["check", "finetune", "predict", "evaluate", "check", "embed"]
    names, found = run_page("docs/guides/photos.md", run=ran)
    assert found == ran
    check_labels(photos)
    assert (photos / "sheet.png").stat().st_size > 1000
    assert set(names["predictions"].labels) <= {"red", "blue"}
    assert names["features"].shape == (1, 2048)


@pytest.mark.slow
def test_the_library_guide_runs(capsys, shallow):
    """As written, on a shallower model."""
    names, _ = run_page("docs/guides/library.md")
    assert names["logits"].shape == (2, 10)
    assert float(names["metrics"]["count"]) == 2
    assert int(names["state"].step) == 2
    assert "'layer4': (2, 4, 4, 2048)" in capsys.readouterr().out


@pytest.mark.slow
def test_the_guide_to_features_runs(monkeypatch):
    """As written, on a shallower model that is quickly traced."""
    quick = partial(create_model, **SHALLOW, conv_impl="reference")
    monkeypatch.setattr(flax_resnet, "create_model", quick)
    names, _ = run_page("docs/guides/features.md")
    shapes = {stage: level.shape for stage, level in names["pyramid"].items()}
    assert shapes == {
        "layer4": (1, 3, 4, 256),
        "layer3": (1, 6, 8, 256),
        "layer2": (1, 12, 16, 256),
    }
    assert names["features"]["layer4"].shape == (1, 12, 16, 512)
    held = names["variables"]["params"]["backbone"]["conv1"]["kernel"]
    assert held is names["pretrained"]["params"]["conv1"]["kernel"]


@pytest.mark.slow
def test_the_fine_tuning_guide_runs(photos, monkeypatch):
    """For one epoch, on small images."""
    quick = partial(flax_resnet.finetune, epochs=1, image_size=64)
    monkeypatch.setattr(flax_resnet, "finetune", quick)
    names, _ = run_page("docs/guides/finetuning.md")
    assert names["result"].workdir.joinpath("report/index.html").exists()


@pytest.mark.slow
def test_the_guide_to_weights_runs(photos, capsys):
    names, _ = run_page("docs/guides/weights.md")
    assert (photos / "resnet50.npz").stat().st_size > 10**7
    assert names["state_dict"]["fc.weight"].shape == (1000, 2048)
    assert "tench" in capsys.readouterr().out


@pytest.mark.slow
def test_the_guide_to_devices_runs(photos, shallow, capsys):
    """Its summary of the whole resnet50, its Python on a shallower model."""
    names, ran = run_page("docs/guides/devices.md", run=("summary",))
    assert ran == ["summary"]
    assert names["model"].conv_impl == "reference"
    assert "25,557,032" in capsys.readouterr().out


@pytest.mark.slow
def test_the_guide_to_nnx_runs(photos, shallow, optimised):
    names, _ = run_page("docs/guides/nnx.md")
    print(f"accuracy on the test images of digits: {names['accuracy']:.4f}")
    assert names["accuracy"] >= 0.97
    assert (photos / "weights.safetensors").stat().st_size > 10**7


def test_the_guide_to_export_runs(monkeypatch, tmp_path):
    """Its program that reads a StableHLO file."""
    pytest.importorskip("flatbuffers")
    monkeypatch.chdir(tmp_path)
    classifier = classifier_of(create_model("resnet8", num_classes=5), name="resnet8")
    classifier.export("flowers.stablehlo")
    names, _ = run_page("docs/guides/export.md")
    assert names["logits"].shape == (2, 5)
    assert json.loads(names["about"]["classes"]) == ["a", "b", "c", "d", "e"]
