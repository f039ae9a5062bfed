"""ResNets of transformers: written by it, read here, and written for it again."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import flax_resnet as fr
from flax_resnet import UserError
from flax_resnet.cli import main
from flax_resnet.data.images import load_image
from flax_resnet.weights import read_weights

FOLDERS = Path(__file__).parent / "files" / "transformers"
NAMES = ("bottleneck", "bottleneck_v1", "basic")
NAME = "org/resnet-tiny"


def photo():
    """The image of ``make_transformers_files.py``, as a PNG file."""
    pixels = np.random.default_rng(0).integers(0, 256, (46, 61, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def prepared(transform):
    """What a transform makes of the photo: ``[1, 3, H, W]``, as transformers has it."""
    pixels = load_image(photo(), transform).astype(np.float64) / 255
    normalised = (pixels - transform.mean) / transform.std
    return normalised.transpose(2, 0, 1)[np.newaxis].astype(np.float32)


@pytest.fixture
def folder(tmp_path):
    """A copy whose files a test may change."""
    return shutil.copytree(FOLDERS / "basic", tmp_path / "basic")


@pytest.fixture
def hub(server, at, own_folders):
    """A hub with the small bottleneck model."""
    at(server.url)
    for file in (FOLDERS / "bottleneck").iterdir():
        server.files[f"/{NAME}/resolve/main/{file.name}"] = file.read_bytes()
    return server


@pytest.mark.parametrize("name", NAMES)
def test_logits_and_preprocessing_are_those_of_transformers(name):
    classifier = fr.load(FOLDERS / name)
    expected = np.load(FOLDERS / name / "expected.npz")
    images = expected["pixels"].transpose(0, 2, 3, 1)
    logits = classifier.model.apply(classifier.variables, images, train=False)
    scale = np.abs(expected["logits"]).max()
    np.testing.assert_allclose(logits, expected["logits"], rtol=0, atol=1e-5 * scale)
    level = 1.01 / 255 / min(classifier.transform.std)  # resizing rounds to whole levels
    ours = prepared(classifier.transform)
    np.testing.assert_allclose(ours, expected["pixels"], rtol=0, atol=level)
    assert np.mean(np.abs(ours - expected["pixels"]) > 1e-5) < 0.01
    assert classifier.classes == ("cat", "dog", "eel")
    assert classifier.info.kind == "transformers"


@pytest.mark.parametrize("name", NAMES)
def test_round_trip_is_exact(name):
    theirs = read_weights(FOLDERS / name / "model.safetensors")
    classifier = fr.load(FOLDERS / name)
    state_dict = fr.to_transformers(classifier.variables, classifier.model)
    assert set(state_dict) == set(theirs)
    for key, array in theirs.items():
        assert state_dict[key].dtype == array.dtype, key
        if not key.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(state_dict[key], array, err_msg=key)


def test_source_on_the_hub(hub):
    classifier = fr.load(f"hf:{NAME}")
    local = fr.load(FOLDERS / "bottleneck")
    assert classifier.transform == local.transform
    assert classifier.classes == local.classes
    assert classifier.info.source == f"hf:{NAME}"
    np.testing.assert_array_equal(
        classifier.variables["params"]["fc"]["kernel"], local.variables["params"]["fc"]["kernel"]
    )
    requests = len(hub.requests)
    fr.load(f"hf:{NAME}")
    assert len(hub.requests) == requests  # all of it is in the cache


def test_weights_as_a_pickle_on_the_hub(hub):
    """Older repositories have no .safetensors."""
    del hub.files[f"/{NAME}/resolve/main/model.safetensors"]
    hub.files[f"/{NAME}/resolve/main/pytorch_model.bin"] = b"damaged"
    with pytest.raises(UserError, match=r"pytorch_model\.bin"):
        fr.load(f"hf:{NAME}")


def test_on_the_command_line(hub, tmp_path, capsys):
    target = tmp_path / "tiny.safetensors"
    assert main(["convert", f"hf:{NAME}", str(target)]) == 0
    assert "3 classes" in capsys.readouterr().out
    assert "layer1.0.conv1.weight" in read_weights(target)


def test_a_repository_that_does_not_exist(hub):
    with pytest.raises(UserError, match=r"no repository at .*org/none"):
        fr.load("hf:org/none")


def test_another_name_than_the_model_asked_for():
    with pytest.raises(UserError, match="not of resnet101"):
        fr.load(FOLDERS / "basic", model="resnet101")


def test_a_backbone_without_a_classifier(folder):
    tensors = read_weights(folder / "model.safetensors")
    bare = {key.removeprefix("resnet."): tensors[key] for key in tensors if "classifier" not in key}
    fr.weights.write_weights(folder / "model.safetensors", bare)
    classifier = fr.load(folder)
    assert not classifier.info.has_classifier


@pytest.mark.parametrize("name", NAMES)
def test_the_file_alone_does_not_tell_what_the_config_does(name):
    """``downsample_in_bottleneck`` moves a stride, which no array shows."""
    with pytest.raises(UserError, match="give the folder"):
        fr.load(FOLDERS / name / "model.safetensors")


def test_options_of_files_hold_for_a_folder_too():
    assert fr.load(FOLDERS / "basic").info.has_classifier
    dropped = fr.load(FOLDERS / "basic", head="drop")
    assert not dropped.info.has_classifier
    with pytest.raises(UserError, match="is not a file: give no key"):
        fr.load(FOLDERS / "basic", key="model")


def change(folder, file, **entries):
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("hidden_act", "gelu"),
        ("downsample_in_first_stage", True),
        ("layer_type", "inverted"),
        ("depths", [2]),
        ("hidden_sizes", [8, "12"]),
        ("model_type", "vit"),
        ("id2label", {"0": "cat"}),
        ("id2label", ["cat", "dog", "eel"]),
    ],
)
def test_config_that_is_not_supported_is_named(folder, entry, value):
    change(folder, "config.json", **{entry: value})
    with pytest.raises(UserError, match=entry.replace("model_type", "vit")) as caught:
        fr.load(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("image_processor_type", "SegformerImageProcessor"),
        ("do_resize", False),
        ("do_rescale", False),
        ("rescale_factor", 1.0),
        ("resample", 0),
        ("size", {"longest_edge": 32}),
        ("image_mean", [0.5]),
        ("do_pad", True),
    ],
)
def test_processor_that_is_not_supported_is_named(folder, entry, value):
    change(folder, "preprocessor_config.json", **{entry: value})
    with pytest.raises(UserError, match=entry) as caught:
        fr.load(folder)
    assert str(folder) in str(caught.value)


def of_class(kind):
    return {"image_processor_type": f"{kind}ImageProcessor"}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # As in microsoft/resnet-50, which an early version wrote.
        ({"size": 224, "image_processor_type": None}, (224, 224, 256)),
        ({"size": {"shortest_edge": 384}}, (384, 384, None)),
        ({"size": {"height": 20, "width": 30}} | of_class("ViT"), (20, 30, None)),
        ({"size": {"shortest_edge": 32}, "crop_size": 24} | of_class("Bit"), (24, 24, 32)),
    ],
)
def test_processors(folder, settings, expected):
    change(folder, "preprocessor_config.json", **settings)
    transform = fr.load(folder).transform
    assert (transform.height, transform.width, transform.resize) == expected


ODD = (None, True, -1, 0, 1e400, "x", [], {}, [None], {"a": 1}, {"shortest_edge": 0})


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
def test_odd_values_are_never_a_traceback(folder, file):
    """Each entry in turn; what is read in spite of it has the preprocessing of some image."""
    usual = json.loads((folder / file).read_text())
    for entry in usual:
        for value in ODD:
            change(folder, file, **usual | {entry: value})
            try:
                transform = fr.weights.load_source(folder).info.transform
            except UserError as error:
                assert str(folder) in str(error), (entry, value)
            else:
                assert transform.height > 0 and all(s > 0 for s in transform.std), (entry, value)


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff"])
@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
def test_damaged_description(folder, file, content):
    (folder / file).write_bytes(content)
    with pytest.raises(UserError, match=file):
        fr.load(folder)


@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
        ("resnext50_32x4d", {}, "groups=32"),
        ("resnet18", {"stem": "cifar"}, "stem='cifar'"),
        ("resnet164_v2", {}, "version='v2'"),
        ("resnet18", {"hidden": (8,)}, "hidden"),
        ("resnetblur50", {}, "anti_alias='blur'"),
        ("seresnet50", {}, "attention='se'"),
    ],
)
def test_models_that_transformers_lacks(name, options, named):
    model = fr.create_model(name, **options)
    with pytest.raises(UserError, match=named):
        fr.to_transformers({}, model)


# --- next to transformers itself, where it is installed ----------------------


@pytest.fixture
def transformers():
    pytest.importorskip("torch")
    pytest.importorskip("tests.weights.torchvision_import")
    return pytest.importorskip("transformers")


@pytest.mark.parametrize(
    "options",
    [
        {"layer_type": "bottleneck", "hidden_sizes": [64, 96, 128], "depths": [2, 1, 3]},
        {"layer_type": "basic", "hidden_sizes": [8, 8], "depths": [1, 1], "num_channels": 1},
    ],
)
def test_next_to_its_own_model(transformers, tmp_path, options):
    import torch

    from .make_transformers_files import make_model

    theirs = make_model(**options)
    theirs.save_pretrained(tmp_path)
    classifier = fr.load(tmp_path)
    channels = options.get("num_channels", 3)
    images = np.random.default_rng(1).standard_normal((2, 65, 70, channels)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).logits.numpy()
    logits = classifier.model.apply(classifier.variables, images, train=False)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    state_dict = fr.to_transformers(classifier.variables, classifier.model)
    theirs.load_state_dict({name: torch.from_numpy(array) for name, array in state_dict.items()})
    for name, tensor in theirs.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), state_dict[name], err_msg=name)


@pytest.mark.parametrize("backend", ["", "Pil"])
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("ConvNext", {"size": {"shortest_edge": 30}}),
        ("ConvNext", {"size": {"shortest_edge": 30}, "resample": 2, "crop_pct": 0.95}),
        ("ConvNext", {"size": {"shortest_edge": 384}}),
        ("ViT", {"size": {"height": 20, "width": 24}}),
        ("Bit", {"size": {"shortest_edge": 32}, "crop_size": {"height": 25, "width": 25}}),
        ("CLIP", {"size": {"shortest_edge": 32}, "crop_size": {"height": 25, "width": 25}}),
    ],
)
def test_next_to_its_own_processors(transformers, folder, kind, settings, backend):
    processor = getattr(transformers, f"{kind}ImageProcessor{backend}")(**settings)
    processor.save_pretrained(folder)
    pixels = Image.open(io.BytesIO(photo()))
    expected = np.asarray(processor(pixels, return_tensors="np")["pixel_values"])
    transform = fr.load(folder).transform
    ours = prepared(transform)
    assert ours.shape == expected.shape
    # torchvision's resizing of tensors, the default backend, is up to two levels from Pillow's.
    levels = (1.01 if backend else 2.01) / 255 / min(transform.std)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=levels)
    assert np.mean(np.abs(ours - expected) > 1e-4) < 0.02
