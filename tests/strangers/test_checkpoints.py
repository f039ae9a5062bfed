"""Checkpoints as other programs write them: each was refused, or read as something else.

The files and their logits are those of ``tests/weights/make_checkpoints.py``.
"""

import json
import pickle
import subprocess
import sys
from functools import cache

import jax
import numpy as np
import pytest

import flax_resnet as fr
from flax_resnet.cli import main
from flax_resnet.commands.grammar import parse_config
from flax_resnet.config import Config, ModelConfig
from flax_resnet.weights import build_model, read_file, read_weights, write_weights
from tests.weights.conftest import seeded_state_dict, torch_shapes
from tests.weights.make_checkpoints import CLASSES, FILES, image

LOGITS = np.load(FILES / "logits.npz")


@cache  # models compare by value, and most files hold the same one
def compiled(model):
    return jax.jit(lambda variables, x: model.apply(variables, x, train=False))


def difference(classifier, name):
    """The largest difference of a logit from the writer's, relative to the largest logit."""
    ours = np.asarray(compiled(classifier.model)(classifier.variables, image()))
    return np.abs(ours - LOGITS[name]).max() / np.abs(LOGITS[name]).max()


USED = {  # file -> key of the arrays, and what was left
    "state_dict.pth": ("", ""),
    "torchvision_references.pth": (
        "model",
        "optimizer, lr_scheduler, epoch, args (argparse.Namespace, not built)",
    ),
    "timm_train.pth.tar": (
        "state_dict",
        "epoch, arch, optimizer, version, args (argparse.Namespace, not built), "
        "metric (numpy._core.multiarray.scalar, not built)",
    ),
    "lightning.ckpt": (
        "state_dict.model",
        "loss (1 array), epoch, pytorch-lightning_version, callbacks, hyper_parameters",
    ),
    "imagenet_example.pth.tar": (
        "state_dict.module",
        "epoch, arch, best_acc1, optimizer, scheduler",
    ),
    "whole_model.model": ("", ""),
    "whole_parallel": ("net.module", "acc"),
    "scripted.pt": ("", ""),
    "numpy.pkl": ("weights", ""),
    "tensors.pkl": ("", ""),
    "head_dropout.pth": ("", ""),
    "mmpretrain.pth": ("state_dict.backbone", "meta"),
    "classifier.pth": ("state_dict.backbone", "meta"),
    "children.pth": ("0", ""),
    "kuangliu.pth": ("net", "acc, epoch"),
    "weiaicunzai.pth": ("net", "acc, epoch"),
    "stem_3x3_whole.pth": ("", ""),
    "stem_3x3_unpooled_whole.pth": ("", ""),
    "transformers.bin": ("resnet", ""),
}


@pytest.mark.parametrize("name", USED)
def test_logits_are_those_of_the_writer(name):
    classifier = fr.load(FILES / name)
    assert classifier.classes == tuple(map(str, range(CLASSES)))
    assert difference(classifier, name) < 1e-5
    used, left = USED[name]
    origin = classifier.info.origin
    assert (origin.get("used", ""), origin.get("left", "")) == (used, left)


def test_moving_averages_are_reported_and_chosen_by_their_key():
    averages = {"torchvision_references.pth": "model_ema", "timm_train.pth.tar": "state_dict_ema"}
    chosen = []
    for name, key in averages.items():
        assert key in fr.load(FILES / name).info.origin["averages"]
        chosen.append(fr.load(FILES / name, key=key))
        assert difference(chosen[-1], name) > 0.01
    first, second = (classifier.variables for classifier in chosen)
    assert jax.tree.all(jax.tree.map(np.array_equal, first, second))


@pytest.mark.slow
def test_nothing_of_a_whole_model_is_imported():
    program = (
        "import sys, flax_resnet as fr; from pathlib import Path; before = set(sys.modules)\n"
        f"fr.load(Path({str(FILES / 'torchvision_references.pth')!r}))\n"
        "assert not {'torch', 'torchvision'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("name", ["whole_model.model", "whole_parallel", "scripted.pt"])
def test_a_whole_model_becomes_safetensors_bit_by_bit(name, tmp_path):
    target = tmp_path / "model.safetensors"
    assert main(["convert", str(FILES / name), str(target)]) == 0
    written, expected = read_weights(target), read_weights(FILES / "state_dict.pth")
    for key, array in expected.items():
        if not key.endswith("num_batches_tracked"):
            assert written[key].tobytes() == array.tobytes(), key


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "ending"),
    [("moco.pth.tar", ".npz"), ("swav.pth", ".safetensors"), ("swav.pth", ".pth")],
)
def test_without_a_classifier_none_is_written(name, ending, tmp_path, capsys):
    """``convert`` wrote a random one, and ``predict`` answered with ImageNet's names."""
    from PIL import Image

    target = tmp_path / f"backbone{ending}"
    assert main(["convert", str(FILES / name), str(target), "--verify"]) == 0
    shown = capsys.readouterr().out
    assert "no classifier, 60 arrays" in shown and "written and read again: 0 " in shown
    arrays = read_weights(target)
    assert "conv1.weight" in arrays and not [key for key in arrays if key.startswith("fc")]
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert main(["predict", str(target), str(tmp_path / "a.png")]) == 1
    assert "hold no classifier" in capsys.readouterr().err
    assert main(["convert", str(target), str(tmp_path / "run")]) == 1
    assert "which a run's folder needs" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_head_of_two_layers_is_refused_or_dropped(tmp_path, capsys):
    source, target = str(FILES / "head_two_layers.pth"), tmp_path / "a.npz"
    assert main(["convert", source, str(target)]) == 1
    message = capsys.readouterr().err
    assert "fc.0, fc.2" in message and "--head drop" in message
    assert not target.exists()
    assert main(["convert", source, str(target), "--head", "drop"]) == 0
    assert not [key for key in read_weights(target) if key.startswith("fc")]


def test_a_frozen_script_has_no_names(capsys):
    assert main(["inspect", str(FILES / "frozen.pt")]) == 1
    assert "is a frozen TorchScript archive, whose arrays have no names" in capsys.readouterr().err


def test_a_stem_that_files_do_not_tell_is_chosen(tmp_path, capsys):
    """A 3x3 stem followed by a max-pool was taken for one without."""
    name = "stem_3x3.pth"
    source, target = str(FILES / name), tmp_path / "a.safetensors"
    assert main(["convert", source, str(target)]) == 1
    message = capsys.readouterr().err
    assert "--stem-pool none" in message and "max" in message
    assert main(["convert", source, str(target), "--stem-pool", "max"]) == 0
    assert difference(fr.load(target), name) < 1e-5  # the file holds the choice
    assert difference(fr.load(source, stem_pool="none"), name) > 0.01
    fr.load(target).save(tmp_path / "run")
    assert difference(fr.load(tmp_path / "run"), name) < 1e-5


class Identity:
    """A module without arrays."""


class Module:
    """A module as torch.nn.Module pickles itself."""

    def __init__(self, arrays, strides, prefix=""):
        own = {name: array for name, array in arrays.items() if "." not in name}
        inner = dict.fromkeys(name.partition(".")[0] for name in arrays if "." in name)
        self._parameters, self._buffers = own, {}
        self.stride = strides.get(prefix.rstrip("."), (1, 1))
        self._modules = {
            child: Module(
                {
                    name.removeprefix(f"{child}."): array
                    for name, array in arrays.items()
                    if name.startswith(f"{child}.")
                },
                strides,
                f"{prefix}{child}.",
            )
            for child in inner
        }


@pytest.mark.parametrize(
    ("stem", "strides", "version"),
    [
        ("imagenet", {"conv1": (2, 2), "layer2.0.conv2": (2, 2)}, "v1.5"),
        ("imagenet", {"conv1": (2, 2), "layer2.0.conv1": (2, 2)}, "v1"),
        ("imagenet", {}, "7x7 convolution of stride 1"),
        ("deep", {}, "3x3 convolution of stride 1"),
        ("cifar", {"conv1": (2, 2)}, "3x3 convolution of stride 2"),
    ],
)
def test_a_whole_model_tells_its_strides(tmp_path, stem, strides, version):
    model = fr.create_model(
        "resnet", stage_sizes=(1, 1), block="bottleneck", widths=(2, 4), stem=stem
    )
    arrays = seeded_state_dict(torch_shapes(model))
    with (tmp_path / "model.pkl").open("wb") as file:
        pickle.dump({"model": Module(arrays, strides)}, file)
    if "stride" in version:
        with pytest.raises(fr.UserError, match=version):
            fr.load(tmp_path / "model.pkl", stem_pool="max")
    else:
        assert fr.load(tmp_path / "model.pkl").model.version == version


def test_a_whole_model_tells_that_its_max_pool_was_taken_out(tmp_path):
    """As people adapt torchvision's models to small images: it was loaded with one."""
    model = fr.create_model("resnet", stage_sizes=(1, 1), block="basic", widths=(2, 4))
    whole = Module(seeded_state_dict(torch_shapes(model)), {"conv1": (2, 2)})
    whole._modules["maxpool"] = Identity()
    with (tmp_path / "model.pkl").open("wb") as file:
        pickle.dump(whole, file)
    assert fr.load(tmp_path / "model.pkl").model == model.clone(stem_pool="none")
    assert fr.load(tmp_path / "model.pkl", stem_pool="max").model == model


def test_several_networks_are_listed(tmp_path, capsys):
    one = read_weights(FILES / "state_dict.pth")
    both = {f"{net}.{key}": array for net in ("student", "teacher") for key, array in one.items()}
    write_weights(tmp_path / "both.pth", both)
    assert main(["inspect", str(tmp_path / "both.pth")]) == 1
    message = capsys.readouterr().err
    assert "holds 2 ResNets, student, teacher: choose with flax-resnet convert" in message
    assert "--key KEY" in message
    assert fr.load(tmp_path / "both.pth", key="teacher").info.origin["used"] == "teacher"
    with pytest.raises(fr.UserError, match="none under the key net"):
        fr.load(tmp_path / "both.pth", key="net")


def test_a_thousand_classes_are_not_imagenets_by_their_number(tmp_path):
    arrays = dict(read_weights(FILES / "state_dict.pth"))
    arrays |= {"fc.weight": np.ones((1000, 4), np.float32), "fc.bias": np.ones(1000, np.float32)}
    write_weights(tmp_path / "a.pth", arrays)
    assert fr.load(tmp_path / "a.pth").classes[:2] == ("0", "1")


def test_a_file_of_ours_keeps_classes_and_transform(tmp_path):
    names = [f"kind {number}" for number in range(CLASSES)]
    classifier = fr.load(FILES / "state_dict.pth", classes=names)
    classifier.save(tmp_path / "a.safetensors")
    again = fr.load(tmp_path / "a.safetensors")
    assert again.classes == tuple(names)
    assert (again.model, again.transform) == (classifier.model, classifier.transform)


@pytest.mark.slow
def test_any_architecture_is_expressible_in_a_config(tmp_path):
    """A bottleneck network for CIFAR, of which "no name stands for" was said."""
    options = {"stage_sizes": (1, 1, 1), "block": "bottleneck", "widths": (4, 8, 8)}
    config = ModelConfig(name="resnet", stem="cifar", **options)
    model = build_model(config, num_classes=3)
    assert model == fr.create_model("resnet", stem="cifar", num_classes=3, **options)
    variables = model.init(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32), train=False)
    fr.save_weights(tmp_path / "a.npz", variables, model)
    fr.load(tmp_path / "a.npz").save(tmp_path / "run")
    assert fr.load(tmp_path / "run").model == model
    settings = json.loads((tmp_path / "run" / "config.json").read_text())
    assert settings["model.stage_sizes"] == [1, 1, 1]


def test_the_command_line_takes_any_architecture():
    words = "--model.name resnet --model.stage-sizes 1 1 --model.widths 4 8 --model.block basic"
    config = parse_config("train", Config(), words.split())
    assert build_model(config.model, 3).widths == (4, 8)
    with pytest.raises(fr.UserError, match="resnet needs stage_sizes and block"):
        build_model(ModelConfig(name="resnet"), 3)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64", "int64"])
def test_pth_is_written_without_torch_and_read_by_it(tmp_path, dtype):
    import ml_dtypes

    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    arrays = {
        "a": np.arange(6).reshape(2, 3).astype(kind),
        "b.c": np.array(3).astype(kind),
        "empty": np.zeros((0, 2), kind),
        "turned": np.arange(6).reshape(2, 3).astype(kind).T,
    }
    write_weights(tmp_path / "a.pth", arrays)
    ours = read_file(tmp_path / "a.pth")
    assert {key: array.tolist() for key, array in ours.items()} == {
        key: array.tolist() for key, array in arrays.items()
    }
    assert all(array.dtype == kind for array in ours.values())
    torch = pytest.importorskip("torch")
    for options in ({}, {"mmap": True}):
        theirs = torch.load(tmp_path / "a.pth", weights_only=True, **options)
        assert list(theirs) == list(arrays)
        for key, tensor in theirs.items():
            assert str(tensor.dtype) == f"torch.{dtype}"
            assert tensor.to(torch.float64).tolist() == arrays[key].astype(np.float64).tolist()
