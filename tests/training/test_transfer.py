"""Fine-tuning from weights: what trains when, what stays, and what is wrong with a folder."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from PIL import Image
from safetensors.numpy import save_file

import flax_resnet as fr
from flax_resnet.cli import main
from flax_resnet.config import Config, DataConfig, ModelConfig, TransferConfig
from flax_resnet.training.resolve import resolve
from flax_resnet.training.segments import plan_phases
from flax_resnet.training.transfer.start import check_unseen_options, rate_factors
from flax_resnet.transform import EvalTransform
from flax_resnet.weights import WeightsInfo, build_model, describe, load_source, write_model
from flax_resnet.weights.formats.checkpoint import read_checkpoint

STAGES = ("stem", "layer1", "layer2", "layer3", "fc")
QUICK = ("--image-size", "16", "--batch-size", "16", "--compile-cache", "None")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for label, name in enumerate(("blue", "green", "red")):
        for split, count in (("train", 16), ("val", 6), ("test", 5)):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 60, (20, 24, 3), dtype=np.uint8)
                pixels[..., 2 - label] += 180
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of weights of resnet8 for ten classes, with statistics unlike a fresh net's."""
    model = fr.create_model("resnet8")
    sample = np.zeros((1, 16, 16, 3), np.float32)
    fresh = jax.jit(lambda: model.init(jax.random.key(1), sample, train=False))()
    statistics = jax.tree.map(lambda leaf: leaf + 0.25, fresh["batch_stats"])
    path = tmp_path_factory.mktemp("weights") / "resnet8.safetensors"
    fr.save_weights(path, {"params": fresh["params"], "batch_stats": statistics}, model)
    return path


def finetune(photos, weights, workdir, *options):
    places = (str(photos), "--weights", str(weights), "--workdir", str(workdir))
    return main(["finetune", *places, *QUICK, *options])


def changed_arrays(workdir, weights):
    """Parts of the best checkpoint whose parameters, and whose statistics, are not the weights'."""
    _, after = read_checkpoint(workdir / "checkpoints")
    before = fr.load_weights(weights, fr.create_model("resnet8"))
    found = {}
    for collection in ("params", "batch_stats"):
        old = flatten_dict(jax.tree.map(np.asarray, before[collection]))
        new = flatten_dict(jax.tree.map(np.asarray, after[collection]))
        found[collection] = {
            path[0].partition("_")[0]
            for path in new
            if not path[0].startswith("fc") and old[path].tobytes() != new[path].tobytes()
        }
    return found["params"], found["batch_stats"]


UPPER = {"layer2", "layer3"}
ALL = {"conv1", "bn1", "layer1", "layer2", "layer3"}


@pytest.mark.slow
@pytest.mark.usefixtures("no_page")
@pytest.mark.parametrize(
    ("options", "params", "statistics"),
    [
        (("--mode", "partial", "--freeze-before", "layer2"), UPPER, UPPER),
        (("--mode", "head", "--views", "0", "--transfer.statistics", "updated"), set(), ALL),
        (("--mode", "head", "--views", "0", "--head", "hidden:8"), set(), set()),
        (("--mode", "full"), ALL, ALL - {"conv1"}),
    ],
    ids=["partial", "head with moving statistics", "hidden head", "full"],
)
def test_what_is_frozen_keeps_its_bits(photos, weights, tmp_path, options, params, statistics):
    assert finetune(photos, weights, tmp_path / "run", "--epochs", "1", *options) == 0
    assert changed_arrays(tmp_path / "run", weights) == (params, statistics - {"conv1"})


@pytest.mark.slow
@pytest.mark.usefixtures("no_page")
def test_affine_alone_of_the_frozen_stages_can_train(photos, weights, tmp_path):
    more = ("--mode", "head", "--views", "0", "--transfer.affine", "trained", "--epochs", "1")
    assert finetune(photos, weights, tmp_path / "run", *more) == 0
    _, after = read_checkpoint(tmp_path / "run" / "checkpoints")
    before = fr.load_weights(weights, fr.create_model("resnet8"))
    old = flatten_dict(jax.tree.map(np.asarray, before["params"]))
    for path, leaf in flatten_dict(after["params"]).items():
        if path[0] != "fc":
            is_norm = any("bn" in name for name in path)
            assert (np.asarray(leaf).tobytes() != old[path].tobytes()) == is_norm, path


@pytest.mark.slow
@pytest.mark.usefixtures("no_page")
def test_gradual_unfreezing_resumes_to_the_bit(photos, weights, tmp_path):
    options = ("--mode", "gradual", "--epochs", "5", "--data.batch-size", "24")
    assert finetune(photos, weights, tmp_path / "whole", *options) == 0
    # Two steps an epoch, phases from 0, 1, 2, 4 and 5: stops inside a phase, and between two.
    for stop in ("3", "4", "10"):
        more = ("--max-steps", stop)
        assert finetune(photos, weights, tmp_path / "resumed", *options, *more) == 0
    whole, resumed = (
        [json.loads(line) for line in (tmp_path / name / "history.jsonl").read_text().splitlines()]
        for name in ("whole", "resumed")
    )
    assert len(whole) == 6
    for one, other in zip(whole, [line for line in resumed if line["epoch"] % 1 == 0], strict=True):
        for name in ("train_loss", "val_loss", "test_loss"):
            assert one.get(name) == other.get(name), (one["epoch"], name)


def test_phases_free_one_part_after_the_other():
    def phases(**options):
        return [
            (phase.first_step, phase.freeze_before)
            for phase in plan_phases(TransferConfig(**options), STAGES, 100, 10)
        ]

    assert phases() == [(0, None)]
    assert phases(mode="head") == [(0, "fc")]
    assert phases(mode="partial") == [(0, "layer3")]
    downwards = ["fc", "layer3", "layer2", "layer1", None]
    assert phases(mode="gradual") == list(zip((0, 10, 20, 30, 40), downwards, strict=True))
    assert phases(mode="gradual", freeze_before="layer2", unfreeze_epochs=2) == [
        (0, "fc"),
        (20, "layer3"),
        (40, "layer2"),
    ]
    # Not so many epochs: the whole model trains for half of them.
    assert phases(mode="gradual", unfreeze_epochs=50) == list(
        zip((0, 12, 25, 38, 50), downwards, strict=True)
    )
    assert phases(mode="gradual", freeze_before="fc") == [(0, "fc")]


def test_batch_norms_move_from_the_start_of_gradual(photos, weights):
    for mode in ("head", "partial", "gradual"):
        found = fr.finetune_config(photos, weights=weights, mode=mode).transfer.statistics
        assert found == ("updated" if mode == "gradual" else "frozen")


def test_a_narrow_net_trains_at_higher_rates(photos, weights, tmp_path):
    def rate(weights, mode):
        return fr.finetune_config(photos, weights=weights, mode=mode).optimizer.learning_rate

    wide = fr.create_model("resnet10t", widths=(64, 8, 8, 8), num_classes=2)
    images = np.zeros((1, 32, 32, 3), np.float32)
    shapes = jax.eval_shape(lambda: wide.init(jax.random.key(0), images, train=False))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    fr.save_weights(tmp_path / "wide.safetensors", zeros, wide)
    narrow, modes = weights, ("head", "partial", "full", "gradual")
    assert [rate(narrow, mode) for mode in modes] == [1e-3, 3e-4, 1e-3, 3e-3]
    assert [rate(tmp_path / "wide.safetensors", mode) for mode in modes] == [1e-3, 3e-4, 3e-4, 1e-3]


def test_rates_decay_downwards():
    halved = rate_factors(TransferConfig(layer_decay=0.5), STAGES)
    assert halved == {"fc": 1, "layer3": 0.5, "layer2": 0.25, "layer1": 0.125, "stem": 0.0625}
    # Howard & Ruder 2018, section 3.2.
    assert rate_factors(TransferConfig(mode="gradual"), STAGES)["layer3"] == pytest.approx(1 / 2.6)
    assert set(rate_factors(TransferConfig(), STAGES).values()) == {1}


@pytest.mark.slow
@pytest.mark.usefixtures("no_page")
def test_layer_decay_slows_the_lower_stages(photos, weights, tmp_path):
    """At a decay of nothing only the head moves."""
    more = ("--mode", "full", "--layer-decay", "0", "--epochs", "1")
    assert finetune(photos, weights, tmp_path / "run", *more) == 0
    assert changed_arrays(tmp_path / "run", weights)[0] == set()


@pytest.mark.slow
def test_a_run_is_self_sufficient_and_can_be_started_from(photos, weights, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    options = ("--mode", "head", "--views", "0", "--head", "hidden:8", "--epochs", "1")
    assert finetune(photos, weights, first, *options) == 0
    run = fr.load(first)
    assert run.classes == ("blue", "green", "red")
    assert (run.transform.height, run.transform.resize) == (16, 18)  # 16 · 256/224
    assert json.loads((first / "class_indices.json").read_text())["2"] == "red"
    assert run.info.config.name == "resnet8"
    assert finetune(photos, first, second, "--mode", "full", "--epochs", "1") == 0
    assert fr.load(second).info.config.hidden is None


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (
            ("--mode", "partial", "--freeze-before", "layer4"),
            2,
            "no such stage; its stages are stem",
        ),
        (("--mode", "full", "--freeze-before", "layer2"), 2, "no effect in mode full"),
        (("--head", "deep"), 2, "is not a head"),
        (("--model", "resnet20"), 1, "holds weights of resnet8, not of resnet20"),
        (("--weights", "none", "--mode", "head"), 2, "there are none"),
        (("--weights", "nowhere.safetensors"), 1, "nowhere.safetensors"),
    ],
    ids=str,
)
def test_wrong_choices_are_reported(photos, weights, tmp_path, capfd, options, code, sentence):
    assert finetune(photos, weights, tmp_path / "run", *options) == code
    assert sentence in " ".join(capfd.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def zeros_of(model):
    images = np.zeros((1, 8, 8, 1), np.float32)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


def test_options_of_the_weights_that_arrays_do_not_show_are_not_dropped(photos, tmp_path, capfd):
    """They trained with the usual epsilon, and v1.5 from weights of v1."""
    path = tmp_path / "epsilon.safetensors"
    model = fr.create_model("resnet8", epsilon=1e-3)
    fr.save_weights(path, zeros_of(model), model)
    assert finetune(photos, path, tmp_path / "run") == 1
    shown = " ".join(capfd.readouterr().err.split())
    assert "a model with epsilon=0.001 (this run's has 1e-05): no setting of a run says" in shown
    net = {"stage_sizes": (1, 1), "widths": (4, 4), "block": "bottleneck", "stem": "cifar"}
    path, model = tmp_path / "v1.safetensors", fr.create_model("resnet", version="v1", **net)
    fr.save_weights(path, zeros_of(model), model)

    def run_of(**options):
        return resolve(
            Config(
                model=ModelConfig(name="resnet", **net, **options),
                data=DataConfig(name="digits"),
                transfer=TransferConfig(weights=str(path)),
            )
        )

    with pytest.raises(fr.UserError, match=r"version='v1' \(.*'v1.5'\): add --model.version v1\."):
        run_of()
    assert run_of(version="v1").model.version == "v1"
    assert run_of(version="v1", stem_pool="none").start is not None  # what a stem of 3x3 has


def test_a_file_of_another_program_leaves_the_choice(tmp_path):
    """Its arrays have v1.5 by custom only."""
    net = {"stage_sizes": (1, 1), "widths": (4, 4), "block": "bottleneck", "stem": "deep"}
    model = fr.create_model("resnet", **net)
    path = tmp_path / "other.safetensors"
    save_file(fr.to_torchvision(zeros_of(model), model), path)
    config = ModelConfig(name="resnet", version="v1", **net)
    check_unseen_options(load_source(path), config)


def test_photos_get_the_size_that_the_starting_model_saw(noise_photos, tmp_path):
    """They were decoded in that of the stored images, which its run resized."""
    net = ModelConfig(name="resnet", stage_sizes=(1,), widths=(4,), block="basic", stem="deep")
    model = build_model(net, 2)
    seen = dataclasses.replace(EvalTransform.stored_like((8, 8, 3)), model_size=32)
    info = WeightsInfo("none", "random", None, net, ("a", "b"), seen)
    path, images = tmp_path / "resized.safetensors", np.zeros((1, 32, 32, 3), np.float32)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    write_model(path, fr.to_torchvision(zeros, model), model, describe(info))
    run = resolve(
        Config(
            model=net,
            data=DataConfig(name="folder", dir=str(noise_photos), batch_size=8),
            transfer=TransferConfig(weights=str(path)),
        )
    )
    assert run.dataset.image_shape == (32, 32, 3)


def test_arrays_get_the_size_that_the_weights_expect(weights, tmp_path):
    """They were seen as they are stored, which the help of ``finetune`` denies."""
    images = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "set.npz", image=images, label=np.arange(24) % 2)
    config = fr.finetune_config(tmp_path / "set.npz", weights=weights)
    assert config.data.image_size == load_source(weights).info.transform.height == 32
    run = resolve(config)
    assert (run.dataset.image_shape, run.transform.model_size) == ((8, 8, 3), 32)
    chosen = fr.finetune_config(tmp_path / "set.npz", weights=weights, image_size=16)
    assert chosen.data.image_size == 16


def test_without_weights_and_network_the_ways_on_are_reported(photos, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("FLAX_RESNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("flax_resnet.weights.published.TORCH_URL", "http://127.0.0.1:9/")
    assert main(["finetune", str(photos), "--workdir", str(tmp_path / "run")]) == 1
    shown = " ".join(capfd.readouterr().err.split())
    for way in ("the path of a file of weights", "--weights none", "yourself"):
        assert way in shown


def test_no_weights_are_fetched_for_images_that_are_not_there(tmp_path, capfd):
    assert main(["finetune", str(tmp_path / "none")]) == 1
    assert "none does not exist: name a folder" in " ".join(capfd.readouterr().err.split())


def small_folder(folder, counts):
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (16, 16), (number, 2 * number, len(name))).save(
                folder / name / f"{number}.png"
            )
    return folder


def test_one_class_is_reported(weights, tmp_path, capfd):
    folder = small_folder(tmp_path / "photos", {"cat": 20})
    assert finetune(folder, weights, tmp_path / "run") == 1
    assert "one class only" in capfd.readouterr().err


def test_a_class_without_training_images_is_reported(weights, tmp_path, capfd):
    rows = [f"{place}.png,{name},train" for place, name in enumerate(("cat", "cat"))]
    rows += ["2.png,dog,val", "3.png,cat,val"]
    for place in range(4):
        Image.new("RGB", (16, 16), (place, 0, 0)).save(tmp_path / f"{place}.png")
    table = tmp_path / "photos.csv"
    table.write_text("\n".join(["path,label,split", *rows]))
    assert finetune(table, weights, tmp_path / "run") == 1
    assert "no training image of dog" in " ".join(capfd.readouterr().err.split())


@pytest.mark.slow
def test_a_class_with_one_image_and_images_beside_the_classes(weights, tmp_path, capfd):
    folder = small_folder(tmp_path / "photos", {"cat": 20, "mouse": 1})
    Image.new("RGB", (16, 16)).save(folder / "stray.png")
    # The one image of a class trains.
    assert finetune(folder, weights, tmp_path / "run", "--mode", "full", "--epochs", "1") == 0
    shown = "".join(capfd.readouterr())
    assert "(few)" in shown
    assert "stray.png" in shown
