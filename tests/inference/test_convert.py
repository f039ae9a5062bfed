"""`flax-resnet convert` and `inspect`: from file to file to a run's folder, bit-equal."""

import itertools
import json

import jax
import numpy as np
import pytest

import flax_resnet as fr
from flax_resnet.cli import main
from flax_resnet.config import ModelConfig
from flax_resnet.inference import Classifier
from flax_resnet.transform import EvalTransform
from flax_resnet.weights import WeightsInfo, read_weights, write_weights
from tests.weights.conftest import seeded_state_dict, torch_shapes


@pytest.fixture(scope="module")
def resnet20(tmp_path_factory):
    """A file of weights with another project's names, and its state dict with torchvision's."""
    model = fr.create_model("resnet20")
    state_dict = seeded_state_dict(torch_shapes(model))
    named = {f"module.{name}".replace("fc.", "linear."): a for name, a in state_dict.items()}
    path = tmp_path_factory.mktemp("weights") / "resnet20.safetensors"
    write_weights(path, named)
    return path, state_dict


def bits(path):
    return {
        name: array.tobytes()
        for name, array in read_weights(path).items()
        if "num_batches_tracked" not in name
    }


def test_round_trip_through_every_kind_is_bit_equal(resnet20, tmp_path, capsys):
    path, state_dict = resnet20
    steps = [
        path,
        tmp_path / "a.npz",
        tmp_path / "run",
        tmp_path / "b.npz",
        tmp_path / "c.safetensors",
    ]
    for source, target in itertools.pairwise(steps):
        assert main(["convert", str(source), str(target)]) == 0
    expected = {name: a.tobytes() for name, a in state_dict.items() if a.dtype == np.float32}
    assert bits(steps[1]) == bits(steps[-1]) == expected
    assert "resnet20, 10 classes, 97 arrays" in capsys.readouterr().out


def test_run_folder_is_complete(resnet20, tmp_path):
    path, state_dict = resnet20
    assert main(["convert", str(path), str(tmp_path / "run")]) == 0
    names = {"config", "classes", "class_indices", "preprocessing"}
    files = {"model.safetensors", *(f"{name}.json" for name in names)}
    assert {path.name for path in (tmp_path / "run").iterdir()} == files
    run = fr.load(tmp_path / "run")
    assert run.model == fr.create_model("resnet20")
    assert run.classes == tuple(map(str, range(10)))
    assert run.transform.mean == (0.485, 0.456, 0.406)
    expected = fr.from_torchvision(state_dict, run.model)
    assert jax.tree.all(jax.tree.map(np.array_equal, dict(run.variables), expected))


def test_verify_prints_the_difference(resnet20, tmp_path, capsys):
    assert main(["convert", str(resnet20[0]), str(tmp_path / "a.npz"), "--verify"]) == 0
    assert "written and read again: 0 (largest logit" in capsys.readouterr().out


@pytest.mark.slow
def test_a_head_that_sees_every_pixel_of_larger_images(tmp_path, capsys):
    """A run of resnet_mnist on 32x32 pixels could be neither written nor read."""
    model = fr.create_model("resnet_mnist", conv_impl="reference")
    image = np.zeros((1, 32, 32, 1), np.float32)
    variables = jax.jit(lambda key: model.init(key, image))(jax.random.key(0))
    config = ModelConfig(name="resnet_mnist", conv_impl="reference")
    transform = EvalTransform.stored_like(image.shape[1:])
    info = WeightsInfo("test", "file", None, config, tuple("0123456789"), transform)
    Classifier(model, variables, info).save(tmp_path / "run")
    target = tmp_path / "a.safetensors"
    assert main(["convert", str(tmp_path / "run"), str(target), "--verify"]) == 0
    assert "written and read again: 0 (largest logit" in capsys.readouterr().out
    again = fr.load(target)
    assert again.model.apply(again.variables, image).shape == (1, 10)


def test_fresh_classifier(resnet20, tmp_path):
    target = tmp_path / "a.npz"
    assert main(["convert", str(resnet20[0]), str(target), "--num-classes", "3"]) == 0
    assert read_weights(target)["fc.weight"].shape == (3, 64)
    assert np.array_equal(read_weights(target)["conv1.weight"], resnet20[1]["conv1.weight"])


def test_inspect(resnet20, capsys):
    assert main(["inspect", str(resnet20[0])]) == 0
    shown = capsys.readouterr().out
    assert "module.layer3.2.conv2.weight" in shown
    assert "64×64×3×3" in shown
    assert "parameters  269,722" in shown
    assert "model       resnet20" in shown


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["convert", "{file}", "{new}.npz", "--model", "resnet56"],
            "holds weights of resnet20, not of resnet56",
        ),
        (["convert", "{file}", "{new}.npz", "--model", "resnt56"], "did you mean"),
        (["convert", "nowhere.pth", "{new}.npz"], "nowhere.pth is not there"),
        (["convert", "{file}", "{new}.onnx"], "must end in one of"),
        (["convert", "{folder}", "{new}.npz"], "is not a run's folder"),
        (["convert", "{file}", "{folder}"], "is there already"),
        (["inspect", "{folder}"], "is a folder"),
    ],
)
def test_bad_input_is_one_sentence(resnet20, tmp_path, capsys, arguments, sentence):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "note.txt").touch()
    places = {"file": resnet20[0], "new": tmp_path / "new", "folder": tmp_path / "folder"}
    assert main([argument.format(**places) for argument in arguments]) in (1, 2)
    shown = capsys.readouterr().err
    assert sentence in shown
    assert shown.count("\n") == 1
    assert not list(tmp_path.glob("new*"))


@pytest.mark.parametrize("name", ["config.json", "classes.json", "model.safetensors"])
def test_damaged_run_folders_are_refused(resnet20, tmp_path, capsys, name):
    run = tmp_path / "run"
    assert main(["convert", str(resnet20[0]), str(run)]) == 0
    (run / name).write_text("{")
    assert main(["convert", str(run), str(tmp_path / "a.npz")]) == 1
    assert "run" in capsys.readouterr().err
    (run / "config.json").write_text(json.dumps({"model.name": "resnet20", "model.color": 3}))
    assert main(["convert", str(run), str(tmp_path / "a.npz")]) == 1


@pytest.mark.slow
def test_pth_round_trip_where_torch_is_installed(tmp_path, capsys):
    """.pth → .safetensors → .npz → run folder → .pth, and torch's own reader at the end."""
    torch = pytest.importorskip("torch")
    torchvision = pytest.importorskip("tests.weights.torchvision_import").torchvision
    reference = torchvision.models.resnet18(num_classes=12)
    torch.save(reference.state_dict(), tmp_path / "a.pth")
    names = ("a.pth", "b.safetensors", "c.npz", "run", "d.pth")
    for source, target in itertools.pairwise(tmp_path / name for name in names):
        assert main(["convert", str(source), str(target)]) == 0
    again = torch.load(tmp_path / "d.pth", weights_only=True)
    torchvision.models.resnet18(num_classes=12).load_state_dict(again)
    for name, tensor in reference.state_dict().items():
        assert torch.equal(again[name], tensor), name
    assert main(["convert", str(tmp_path / "d.pth"), str(tmp_path / "e.pth"), "--verify"]) == 0
    shown = capsys.readouterr().out
    assert "written and read again: 0 " in shown
    difference = float(shown.split("torchvision: ")[1].split()[0])
    assert difference < 1e-4
