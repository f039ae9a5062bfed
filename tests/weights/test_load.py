"""One resolver for every source of weights: what each form loads, and what is refused."""

import json

import numpy as np
import pytest

import flax_resnet as fr
from flax_resnet import UserError
from flax_resnet.transform import EvalTransform
from flax_resnet.weights import (
    build_model,
    load,
    load_file,
    load_source,
    write_model,
    write_weights,
)

from .conftest import seeded_state_dict, torch_shapes

MODEL = fr.create_model("resnet18")


@pytest.fixture(scope="module")
def state_dict():
    return seeded_state_dict(torch_shapes(MODEL))


@pytest.fixture(scope="module")
def file(state_dict, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    write_weights(path, state_dict)
    return path


@pytest.fixture
def published(file, monkeypatch, tmp_path):
    """Fetches ``file`` for every published set; returns the sets that were fetched."""
    fetched = []

    def fetch_published(entry, cache):
        fetched.append(entry.name)
        return file

    def fetch_timm(name):
        fetched.append(name)
        config = {"crop_pct": 1.0, "input_size": [3, 288, 288], "interpolation": "bicubic"}
        return file, {"architecture": "resnet18", "pretrained_cfg": config}

    monkeypatch.setattr(load, "fetch_published", fetch_published)
    monkeypatch.setattr(load, "fetch_timm", fetch_timm)
    monkeypatch.chdir(tmp_path)
    return fetched


@pytest.mark.parametrize(
    ("source", "model", "kind", "fetched"),
    [
        ("resnet18", None, "torchvision", "IMAGENET1K_V1"),
        ("resnet18/DEFAULT", None, "torchvision", "IMAGENET1K_V1"),
        ("resnet18/IMAGENET1K_V1", "resnet18", "torchvision", "IMAGENET1K_V1"),
        ("DEFAULT", "resnet18", "torchvision", "IMAGENET1K_V1"),
        ("IMAGENET1K_V1", "resnet18", "torchvision", "IMAGENET1K_V1"),
        ("timm/resnet18.a1_in1k", None, "timm", "timm/resnet18.a1_in1k"),
    ],
)
def test_published_forms(published, file, source, model, kind, fetched):
    info = load_source(source, model=model).info
    assert published == [fetched]
    assert (info.source, info.kind, info.path) == (source, kind, file)
    assert (info.config.name, info.classes[0], info.has_classifier) == ("resnet18", "tench", True)
    if kind == "timm":
        assert info.transform == EvalTransform(288, 288, 288, "bicubic")
    else:
        assert info.transform == EvalTransform.center_crop(224, 256)
        assert info.metrics == {"acc@1": 69.758, "acc@5": 89.078}


@pytest.mark.parametrize(
    ("word", "instead"),
    [
        ("resnet18", "write resnet18/DEFAULT"),
        ("resnet18/IMAGENET1K_V1", "move or rename it"),
        ("timm/resnet18.a1_in1k", "move or rename it"),
    ],
)
@pytest.mark.parametrize("what", ["folder", "file"])
def test_two_readings_are_refused_and_both_are_named(
    published, file, tmp_path, word, instead, what
):
    here = tmp_path / word
    here.parent.mkdir(exist_ok=True)
    here.mkdir() if what == "folder" else here.write_bytes(file.read_bytes())
    with pytest.raises(UserError) as caught:
        load_source(word)
    sentence = f"names both a {what} here and published weights: write ./{word} for the former"
    assert sentence in str(caught.value) and instead in str(caught.value)
    assert published == []
    # Each reading can be written so that there is only one.
    if what == "folder":
        with pytest.raises(UserError, match="is not a run's folder"):
            load_source(f"./{word}")
    assert load_source("timm/resnet18").info.kind == "timm"


def test_a_path_object_is_always_a_path(published, tmp_path):
    (tmp_path / "resnet18").mkdir()
    with pytest.raises(UserError, match="is not a run's folder"):
        load_source(tmp_path / "resnet18")
    with pytest.raises(UserError, match="does not exist"):
        load_source((tmp_path / "resnet34").relative_to(tmp_path))
    assert published == []


@pytest.mark.parametrize(
    ("source", "model", "sentence"),
    [
        ("resnet18:IMAGENET1K_V1", None, "is now written resnet18/IMAGENET1K_V1"),
        ("resnet18/IMAGENET1K_V2", None, "has no published weights 'IMAGENET1K_V2': choose one of"),
        ("IMAGENET1K_V2", "resnet18", "has no published weights 'IMAGENET1K_V2': choose one of"),
        ("IMAGENET1K_V2", None, "write resnet50/IMAGENET1K_V2"),
        ("resnet32", None, "no weights are published for the model 'resnet32'"),
        ("resnet20", None, "of resnet20 this package holds resnet20/cifar10"),
        ("resnet5O", None, "or resnet50"),
        ("nonsense", "resnet18", "no published weights 'nonsense'"),
        ("hdfs://bucket/run", None, "hdfs:// addresses are not supported here"),
        ("https://example.org/a.pth", None, "https:// addresses are not supported here"),
        ("hf:a/b/c", None, "'a/b/c' cannot be the name of a repository"),
        ("runs/none", None, "does not exist: give a run's folder"),
        ("./resnet18", None, "does not exist"),
        ("none.pth", None, "none.pth is not there"),
        ("resnet50/IMAGENET1K_V1", "resnet18", "holds weights of resnet50, not of resnet18"),
        ("timm/resnet18.a1_in1k", "resnet50", "holds weights of resnet18, not of resnet50"),
    ],
)
def test_what_cannot_be_loaded_is_said_in_one_sentence(published, source, model, sentence):
    with pytest.raises(UserError) as caught:
        load_source(source, model=model)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_finetune_keeps_a_path_object_apart_from_a_published_name(published, tmp_path):
    (tmp_path / "resnet18").mkdir()
    with pytest.raises(UserError, match="names both a folder here and published weights"):
        fr.finetune_config(tmp_path, weights="resnet18")
    with pytest.raises(UserError, match=r"is not a run's folder: it has no config\.json"):
        fr.finetune_config(tmp_path, weights=(tmp_path / "resnet18").relative_to(tmp_path))
    assert published == []


def test_a_file_is_read_by_its_path(published, file):
    loaded = load_source(str(file))
    assert (loaded.info.kind, loaded.info.path) == ("file", file)
    assert loaded.info.transform == EvalTransform.center_crop(224)
    assert published == []


def test_a_model_with_the_same_arrays_can_be_named(tmp_path):
    """plain20 is resnet20 without shortcuts; its arrays have the same names and shapes."""
    path = tmp_path / "plain20.npz"
    write_weights(path, seeded_state_dict(torch_shapes(fr.create_model("plain20"))))
    assert load_source(path).info.config.name == "resnet20"
    assert fr.load(path, model="plain20").model == fr.create_model("plain20")
    with pytest.raises(UserError, match="holds weights of resnet20, not of resnet32"):
        load_source(path, model="resnet32")


@pytest.mark.parametrize(
    ("name", "options"),
    [("resnext29_32x4d", {"version": "v1"}), ("resnet9", {}), ("resnet_mnist", {"epsilon": 1e-3})],
)
def test_a_named_model_of_a_file_keeps_what_the_file_says(tmp_path, name, options):
    """v1 became v1.5, and the models that begin stages with a convolution were refused."""
    model = fr.create_model(name, **options)
    path = tmp_path / "bare.safetensors"
    write_model(path, seeded_state_dict(torch_shapes(model)), model)
    info = load_source(path, model=name).info
    assert info.config.name == name
    assert build_model(info.config, 10, **info.model_options) == model


def test_a_max_pool_can_be_left_out(published, tmp_path):
    """The option was heard after a 3x3 stem only."""
    options = {"stage_sizes": (1, 1), "block": "basic", "widths": (4, 8)}
    path = tmp_path / "small.npz"
    write_weights(path, seeded_state_dict(torch_shapes(fr.create_model("resnet", **options))))
    pools = {given: load_source(path, stem_pool=given).info for given in (None, "max", "none")}
    found = {given: info.config.stem_pool for given, info in pools.items()}
    assert found == {None: None, "max": None, "none": "none"}
    for source in ("resnet18", "resnet20/cifar10", "hf:org/name"):
        with pytest.raises(UserError, match=f"{source} is not a file: give no stem_pool"):
            load_source(source, stem_pool="none")
    # There it is an option of the model.
    model, _, _ = fr.load_pretrained("resnet20", "resnet20/cifar10", stem_pool="max")
    assert model.stem_pool == "max"


def test_a_published_file_without_its_classifier(file, monkeypatch, tmp_path):
    path = tmp_path / "resnet18-f37072fd.pth"
    path.write_bytes(file.read_bytes())
    monkeypatch.setattr(load_file, "is_published", lambda *_: True)
    assert load_source(path).info.classes[0] == "tench"
    info = load_source(path, head="drop").info
    assert (info.classes, info.has_classifier, info.metrics["acc@1"]) == ((), False, 69.758)


@pytest.mark.parametrize("count", [0, -1])
def test_a_classifier_has_a_class(file, count):
    """0 gave the classifier of the weights."""
    for load_it in (
        lambda: load_source(file).create(count),
        lambda: fr.load_pretrained("resnet18", "none", num_classes=count),
    ):
        with pytest.raises(UserError, match=rf"num_classes={count}: .* --head drop"):
            load_it()


def test_a_backbone_has_no_classifier(state_dict, tmp_path):
    path = tmp_path / "backbone.npz"
    write_weights(path, {name: a for name, a in state_dict.items() if not name.startswith("fc")})
    loaded = load_source(path)
    assert not loaded.info.has_classifier
    model, variables, info = loaded.create(num_classes=3)
    assert (model.num_classes, info.classes, info.has_classifier) == (3, ("0", "1", "2"), False)
    assert np.array_equal(variables["batch_stats"]["bn1"]["mean"], state_dict["bn1.running_mean"])


def test_a_flipped_bit_in_a_file_of_ours_is_found(file, tmp_path):
    content = bytearray(file.read_bytes())
    content[-1000] ^= 1
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(content)
    with pytest.raises(UserError, match=r"is damaged: the checksum of .* differs"):
        load_source(damaged).create()


def test_a_stem_of_another_width_is_kept(tmp_path):
    """Any option of the architecture reaches the model, and a run's folder."""
    model = fr.create_model("resnet18", stem_width=32, num_classes=10)
    path = tmp_path / "narrow.npz"
    write_weights(path, seeded_state_dict(torch_shapes(model)))
    classifier = fr.load(path)
    assert classifier.model == model
    classifier.save(tmp_path / "run")
    assert fr.load(tmp_path / "run").model == model


@pytest.mark.slow
def test_each_use_takes_the_same_forms(published, file, tmp_path, capsys):
    """Three sources through predict, convert, finetune and load_pretrained."""
    from PIL import Image

    from flax_resnet.cli import main

    Image.new("RGB", (64, 64), (200, 30, 30)).save(tmp_path / "a.png")
    answers = []
    for number, source in enumerate(("resnet18", "timm/resnet18.a1_in1k", str(file))):
        assert main(["predict", source, "a.png", "--format", "json", "--top-k", "1"]) == 0
        answers.append(json.loads(capsys.readouterr().out)[0]["predictions"][0]["index"])
        assert main(["convert", source, str(tmp_path / f"run{number}")]) == 0
        capsys.readouterr()
        config = fr.finetune_config(tmp_path, weights=source)
        assert (config.model.name, config.transfer.weights) == ("resnet18", source)
        _, variables, info = fr.load_pretrained("resnet18", weights=source)
        assert info.classes[0] == ("0" if number == 2 else "tench")  # a file does not name them
        again = fr.load(tmp_path / f"run{number}")
        bias = np.asarray(again.variables["params"]["fc"]["bias"])
        assert np.array_equal(bias, variables["params"]["fc"]["bias"])
        assert again.transform == info.transform
    assert answers[0] == answers[2]
