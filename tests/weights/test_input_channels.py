"""Weights for images with another number of channels than they were trained on."""

import jax
import numpy as np
import pytest
from PIL import Image

import flax_resnet as fr
from flax_resnet import UserError
from flax_resnet.cli import main
from flax_resnet.config import Config, DataConfig, ModelConfig, TransferConfig
from flax_resnet.data.images import fit_image
from flax_resnet.training.resolve import resolve
from flax_resnet.transform import EvalTransform
from flax_resnet.weights import with_input_channels, write_weights

from .conftest import seeded_images, seeded_state_dict, torch_shapes

IMAGES = seeded_images(16, 16)  # [1, 16, 16, 3]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A resnet8 for colour images."""
    path = tmp_path_factory.mktemp("weights") / "resnet8.safetensors"
    write_weights(path, seeded_state_dict(torch_shapes(fr.create_model("resnet8"))))
    return path


def logits(classifier, images):
    apply = jax.jit(lambda v, x: classifier.model.apply(v, x, train=False))
    return np.asarray(apply(classifier.variables, images))


def test_one_channel_sees_what_three_equal_ones_saw(file):
    grey = IMAGES[..., :1]
    expected = logits(fr.load(file), grey.repeat(3, 3))
    found = logits(fr.load(file, in_channels=1), grey)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_six_channels_see_what_three_saw_twice(file):
    expected = logits(fr.load(file), IMAGES)
    found = logits(fr.load(file, in_channels=6), np.concatenate([IMAGES, IMAGES], 3))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 8, 13])
def test_kernel(file, channels):
    """The values of timm's ``adapt_input_conv``, by NumPy."""
    kernel = np.asarray(fr.load(file).variables["params"]["conv1"]["kernel"], np.float64)
    if channels == 1:
        expected = kernel.sum(2, keepdims=True)
    else:
        expected = np.concatenate([kernel] * 5, 2)[:, :, :channels] * (3 / channels)
    found = fr.load(file, in_channels=channels).variables["params"]["conv1"]["kernel"]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("base", [1, 3, 4])
@pytest.mark.parametrize("channels", [1, 2, 4, 8])
def test_next_to_timm(base, channels):
    torch = pytest.importorskip("torch")
    pytest.importorskip("tests.weights.torchvision_import")
    manipulate = pytest.importorskip("timm.models._manipulate")
    kernel = np.random.default_rng(0).standard_normal((3, 3, base, 5)).astype(np.float32)
    theirs = manipulate.adapt_input_conv(
        channels, torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy()), base_chans=base
    )
    ours = with_input_channels({"params": {"conv1": {"kernel": kernel}}}, channels)
    found = np.asarray(ours["params"]["conv1"]["kernel"])
    np.testing.assert_allclose(found, theirs.numpy().transpose(2, 3, 1, 0), rtol=1e-6, atol=1e-6)


def test_a_fresh_kernel_is_drawn_as_for_a_new_model(file):
    variables = fr.load(file, in_channels=64, in_channels_init="fresh").variables
    kernel = np.asarray(variables["params"]["conv1"]["kernel"])
    assert kernel.shape == (3, 3, 64, 16)
    fan_out = 9 * 16  # He et al. 2015, as torchvision initialises
    assert kernel.std() == pytest.approx(np.sqrt(2 / fan_out), rel=0.05)
    assert abs(kernel.mean()) < 0.01
    np.testing.assert_array_equal(
        variables["params"]["layer1_0"]["conv1"]["kernel"],
        fr.load(file).variables["params"]["layer1_0"]["conv1"]["kernel"],
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_channels": 0}, "in_channels=0"),
        ({"in_channels": 4, "in_channels_init": "zero"}, "in_channels_init='zero'"),
    ],
)
def test_wrong_options(file, options, message):
    with pytest.raises(UserError, match=message):
        fr.load(file, **options)


def test_the_transform_has_the_channels(file):
    colour = fr.load(file).transform
    assert fr.load(file, in_channels=1).transform.mean == (pytest.approx(sum(colour.mean) / 3),)
    assert fr.load(file, in_channels=4).transform.mean == (*colour.mean, colour.mean[0])
    assert fr.load(file, in_channels=3).transform == colour


@pytest.mark.parametrize("target", ["adapted.safetensors", "run"])
def test_saved_and_loaded(file, tmp_path, target):
    classifier = fr.load(file, in_channels=4)
    classifier.save(tmp_path / target)
    again = fr.load(tmp_path / target)
    assert again.model == classifier.model
    assert again.transform == classifier.transform
    np.testing.assert_array_equal(
        again.variables["params"]["conv1"]["kernel"],
        classifier.variables["params"]["conv1"]["kernel"],
    )


def test_on_the_command_line(file, tmp_path, capsys):
    target = tmp_path / "adapted.safetensors"
    assert main(["convert", str(file), str(target), "--in-channels", "4", "--verify"]) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "The first convolution takes 4 channels: 3 channels of the weights, repeated" in output
    assert fr.load(target).model.in_channels == 4


def test_a_model_refuses_images_of_other_channels():
    model = fr.create_model("resnet8", in_channels=4)
    assert fr.summarize(model).parameters == fr.summarize(fr.create_model("resnet8")).parameters + (
        9 * 16
    )
    with pytest.raises(ValueError, match="have 3 channels, in_channels=4"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), IMAGES))
    with pytest.raises(ValueError, match="in_channels=0"):
        fr.create_model("resnet8", in_channels=0)
    with pytest.raises(UserError, match=r"conv1\.weight is \[16, 3, 3, 3\], not \[16, 4, 3, 3\]"):
        fr.from_torchvision(seeded_state_dict(torch_shapes(fr.create_model("resnet8"))), model)


def test_random_values_for_more_channels():
    _, variables, info = fr.load_pretrained("resnet8", "none", in_channels=4)
    assert variables["params"]["conv1"]["kernel"].shape == (3, 3, 4, 16)
    assert info.transform.channels == 4


# --- images ------------------------------------------------------------------


def test_arrays_of_any_channels_are_fitted():
    """Each channel as Pillow resizes a grey image."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 31, 5), dtype=np.uint8)
    transform = EvalTransform.center_crop(16, 18).with_channels(5)
    grey = transform.with_channels(1)
    expected = np.concatenate([fit_image(pixels[..., i], grey) for i in range(5)], 2)
    np.testing.assert_array_equal(fit_image(pixels, transform), expected)
    same = pixels[:16, :16]
    np.testing.assert_array_equal(fit_image(same, transform), same)


def test_image_files_do_not_have_four_channels(file, tmp_path, capsys):
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "a.png")
    fr.load(file, in_channels=4).save(tmp_path / "four.safetensors")
    assert main(["predict", str(tmp_path / "four.safetensors"), str(tmp_path / "a.png")]) == 1
    error = capsys.readouterr().err
    assert "takes images of 4 channels, which image files do not have" in error
    assert error.count("\n") == 1


# --- runs --------------------------------------------------------------------


def arrays(path, channels, count=24):
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 2
    images = rng.integers(0, 100, (count, 16, 16, channels), dtype=np.uint8)
    images[labels == 1] += 100
    np.savez(path, image=images, label=labels)
    return path


def config(file, data, workdir, *, in_channels=None, **transfer):
    return Config(
        model=ModelConfig(name="resnet8", in_channels=in_channels),
        data=DataConfig(name="folder", dir=str(data), batch_size=8, image_size=16),
        transfer=TransferConfig(weights=str(file), **transfer),
        epochs=1,
        workdir=str(workdir),
        compile_cache=None,
    )


def test_a_constant_channel_is_not_divided_by_zero(tmp_path):
    """As an unused alpha has: its standard deviation of 0 made the loss NaN."""
    data = np.load(arrays(tmp_path / "set.npz", 4))
    images = np.array(data["image"])
    images[..., 3] = 255
    np.savez(tmp_path / "alpha.npz", image=images, label=data["label"])
    run = resolve(config("none", tmp_path / "alpha.npz", tmp_path / "run"))
    assert (run.transform.mean[3], run.transform.std[3]) == (1, 1)
    assert EvalTransform.from_json(run.transform.to_json()) == run.transform


@pytest.mark.slow
@pytest.mark.parametrize(
    ("channels", "wanted", "shape", "sentence"),
    [
        (4, None, 4, "takes 4 channels: 3 channels of the weights, repeated"),
        # Grey images as a model of colour photos sees them.
        (1, None, 3, None),
        (1, 1, 1, "takes 1 channel: the sum over 3 channels"),
    ],
)
def test_fine_tuning_on_arrays(file, tmp_path, console, channels, wanted, shape, sentence):
    data = arrays(tmp_path / "set.npz", channels)
    settings = config(file, data, tmp_path / "run", in_channels=wanted, mode="head", solver="sgd")
    fr.train(settings, console)
    if sentence:
        assert sentence in console.text()
    assert ("The first convolution" in console.text()) is bool(sentence)
    classifier = fr.load(tmp_path / "run")
    assert classifier.variables["params"]["conv1"]["kernel"].shape[2] == shape
    image = np.load(data)["image"][0]
    assert classifier.predict([image]).probabilities.shape == (1, 2)


@pytest.mark.parametrize(
    ("channels", "options", "message"),
    [
        (3, {"in_channels": 1}, "--model.in-channels 1: the images have 3 channels"),
        (4, {"mode": "head", "in_channels_init": "fresh"}, "--mode head does not train it"),
    ],
)
def test_runs_that_are_refused(file, tmp_path, console, channels, options, message):
    data = arrays(tmp_path / "set.npz", channels)
    with pytest.raises(UserError, match=message):
        fr.train(config(file, data, tmp_path / "run", **options), console)


def test_arrays_with_the_channels_first_are_refused(tmp_path, file, console):
    images = np.zeros((8, 3, 16, 16), np.uint8)
    np.savez(tmp_path / "set.npz", image=images, label=np.arange(8) % 2)
    with pytest.raises(UserError, match="with the channels last"):
        fr.train(config(file, tmp_path / "set.npz", tmp_path / "run"), console)
