"""NaN and infinity in weights, activations, losses and settings are named and never passed on."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flax_resnet as fr
from flax_resnet.cli import main
from flax_resnet.config import Config, DataConfig, OptimizerConfig
from flax_resnet.output_files import to_json, write_json
from flax_resnet.report import append_history, read_history, write_page
from flax_resnet.training.divergence import check_state
from flax_resnet.weights import write_weights
from tests.changed_steps import change_steps
from tests.tiny_net import TINY
from tests.weights.conftest import seeded_state_dict, torch_shapes

VALUES = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf}
ARRAYS = ("conv1.weight", "bn1.running_mean", "layer1.0.bn2.running_var", "fc.bias")


@pytest.fixture(scope="module")
def model():
    return fr.create_model("resnet8")


@pytest.fixture(scope="module")
def state_dict(model):
    return seeded_state_dict(torch_shapes(model))


def broken(state_dict, name, value):
    arrays = {key: array.copy() for key, array in state_dict.items()}
    arrays[name].flat[-1] = value
    return arrays


def no_constant(word):
    raise AssertionError(f"{word} is no JSON")


def strict_json(text):
    return json.loads(text, parse_constant=no_constant)


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("name", ARRAYS)
def test_weights_are_refused_by_name_when_read(name, value, model, state_dict, tmp_path):
    arrays = broken(state_dict, name, VALUES[value])
    paths = [tmp_path / "weights.safetensors", tmp_path / "weights.npz"]
    for path in paths:
        write_weights(path, arrays)
    readers = [
        lambda: fr.from_torchvision(arrays, model),
        lambda: fr.from_torchvision(arrays, model, strict=False),
        lambda: fr.load_weights(paths[0], model),
        lambda: fr.load(paths[0]),
        lambda: fr.load(paths[1]),
        lambda: fr.load_pretrained("resnet8", paths[1], dtype=jnp.bfloat16),
    ]
    for read in readers:
        with pytest.raises(fr.UserError, match=f"NaN or infinity.* in {name}: use") as raised:
            read()
        assert "\n" not in str(raised.value)


def test_the_array_that_is_dropped_may_be_broken(model, state_dict):
    arrays = broken(state_dict, "fc.weight", np.nan)
    variables = fr.from_torchvision(arrays, model, head="drop")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables))


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("name", ["weights.safetensors", "weights.npz", "run"])
def test_weights_are_refused_by_name_when_written(name, value, model, state_dict, tmp_path):
    path = tmp_path / "sound.safetensors"
    write_weights(path, state_dict)
    classifier = fr.load(path)
    kernel = classifier.variables["params"]["layer2_0"]["conv1"]["kernel"]
    classifier.variables["params"]["layer2_0"]["conv1"]["kernel"] = kernel.at[0, 0, 0, 0].set(
        VALUES[value]
    )
    refused = pytest.raises(fr.UserError, match=r"NaN or infinity.* in layer2\.0\.conv1\.weight")
    with refused:
        classifier.save(tmp_path / name)
    with refused:
        fr.to_torchvision(classifier.variables, model)
    assert not (tmp_path / name).is_file()
    assert not (tmp_path / name / "model.safetensors").exists()


def test_many_broken_arrays_are_counted(model, state_dict):
    arrays = {name: array * np.float32(np.nan) for name, array in state_dict.items()}
    with pytest.raises(fr.UserError, match=r"in conv1\.weight, bn1.* and 32 other arrays: use"):
        fr.from_torchvision(arrays, model)


@pytest.fixture(scope="module")
def overflowing(state_dict, tmp_path_factory):
    """A file of finite weights whose sums of products overflow, and one of usual weights."""
    folder = tmp_path_factory.mktemp("weights")
    arrays = {name: array.copy() for name, array in state_dict.items()}
    arrays["layer1.0.conv2.weight"] *= np.float32(1e38)
    write_weights(folder / "overflowing.safetensors", arrays)
    write_weights(folder / "usual.safetensors", state_dict)
    return folder


def test_a_conversion_of_broken_weights_fails(state_dict, overflowing, tmp_path, capsys):
    source, target = str(tmp_path / "nan.npz"), str(tmp_path / "out.safetensors")
    write_weights(source, broken(state_dict, "fc.weight", np.nan))
    assert main(["convert", source, target]) == 1
    assert "NaN or infinity, as after training that diverged, in fc.weight" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "out.safetensors").exists()
    assert main(["convert", str(overflowing / "overflowing.safetensors"), target, "--verify"]) == 1
    captured = capsys.readouterr()
    assert "the logits of a random image are not finite" in captured.err
    assert "largest difference" not in captured.out


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)


def test_images_whose_logits_overflow_have_no_prediction(overflowing, images, tmp_path):
    classifier = fr.load(overflowing / "overflowing.safetensors")
    predictions = classifier.predict(images)
    assert predictions.labels == (None, None, None)
    assert set(predictions.failed.values()) == {"gives NaN or infinity: the weights are broken"}
    embeddings = classifier.embed(images)
    assert len(embeddings.features) == 0 and len(embeddings.failed) == 3
    assert fr.load(overflowing / "usual.safetensors").predict(images).failed == {}


@pytest.mark.parametrize("form", ["json", "jsonl", "csv"])
def test_predictions_that_overflow_are_written_with_a_reason(
    form, overflowing, images, tmp_path, capsys
):
    from PIL import Image

    photo, output = tmp_path / "a.png", tmp_path / f"out.{form}"
    Image.fromarray(images[0]).save(photo)
    weights = str(overflowing / "overflowing.safetensors")
    assert main(["predict", weights, str(photo), "--output", str(output)]) == 1
    text = output.read_text()
    assert "gives NaN or infinity" in text and "gives NaN or infinity" in capsys.readouterr().err
    if form == "json":
        (entry,) = strict_json(text)
    elif form == "jsonl":
        entry = strict_json(text)
    if form != "csv":
        assert entry["predictions"] == []


def test_evaluating_weights_that_overflow_fails(overflowing, images, tmp_path, capsys):
    from PIL import Image

    for number in range(2):
        (tmp_path / "photos" / str(number)).mkdir(parents=True)
        Image.fromarray(images[number]).save(tmp_path / "photos" / str(number) / "a.png")
    weights = str(overflowing / "overflowing.safetensors")
    assert main(["evaluate", weights, str(tmp_path / "photos")]) == 1
    assert "gives NaN or infinity: the weights are broken" in capsys.readouterr().err


def test_a_temperature_that_overflows_is_refused(overflowing, images):
    classifier = fr.load(overflowing / "usual.safetensors")
    for temperature in (1e-40, math.inf, math.nan, 0):
        with pytest.raises(fr.UserError, match="temperature"):
            classifier.predict(images, temperature=temperature)


def test_json_holds_null_for_a_number_that_is_not_finite(tmp_path):
    value = {"loss": math.nan, "each": [1.0, -math.inf, (math.inf, 2)], "name": "NaN", "count": 3}
    wanted = {"loss": None, "each": [1.0, None, [None, 2]], "name": "NaN", "count": 3}
    assert strict_json(to_json(value)) == wanted
    write_json(tmp_path / "metrics.json", value)
    assert strict_json((tmp_path / "metrics.json").read_text()) == wanted


def test_a_history_with_losses_that_are_not_finite_is_json_and_a_page(tmp_path):
    common = {"epoch": 1.0, "time": 1.0, "train_top1": 0.5, "val_top1": 0.5, "val_top5": 1.0}
    common |= {"learning_rate": 0.1, "images_per_second": 1.0, "data_wait": 0.0}
    path = tmp_path / "history.jsonl"
    for step, loss in enumerate((0.5, math.nan, math.inf), 1):
        append_history(path, common | {"step": step, "train_loss": 1.0, "val_loss": loss})
    lines = [strict_json(line) for line in path.read_text().splitlines()]
    assert [line["val_loss"] for line in lines] == [0.5, None, None]
    assert all(len(line.pop("checksum")) == 8 for line in lines)
    assert read_history(path) == lines
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "classes.json").write_text('["a", "b"]')
    assert "0.5000" in write_page(tmp_path, None).read_text()


@pytest.mark.parametrize("option", ["learning_rate", "weight_decay", "momentum"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_settings_that_are_not_finite_are_refused(option, value):
    config = Config(optimizer=OptimizerConfig(**{option: value}))
    with pytest.raises(fr.UserError, match=rf"--optimizer\.{option.replace('_', '-')} is .*finite"):
        fr.check_config(config)


OPTIMIZERS = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.1, 0.9),
    "nesterov": optax.sgd(0.1, 0.9, nesterov=True),
    "adam": optax.adam(0.1),
    "adamw": optax.adamw(0.1),
}


def spiked(value):
    """A loss as usual, whose gradient is not: d/dx of x times ``value`` where x is zero."""

    @jax.custom_vjp
    def identity(logits):
        return logits

    identity.defvjp(lambda logits: (logits, None), lambda _, g: (g.at[0, 0].set(value),))
    return lambda logits, targets: optax.softmax_cross_entropy(identity(logits), targets)


@pytest.mark.parametrize(
    ("optimizer", "value"),
    [
        ("sgd", "nan"),
        ("adam", "inf"),
        pytest.param("sgd", "inf", marks=pytest.mark.slow),
        *(
            pytest.param(name, "nan", marks=pytest.mark.slow)
            for name in OPTIMIZERS
            if name != "sgd"
        ),
    ],
)
def test_a_gradient_that_is_not_finite_is_seen_in_the_state(optimizer, value):
    """The loss of the step is finite; the state after it is refused by the name of an array."""
    model = fr.ResNet((1,), "basic", (4,), num_classes=3, stem="cifar")
    step = fr.TrainStep(model, OPTIMIZERS[optimizer], loss=spiked(VALUES[value]))
    images = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 3)), jnp.float32)
    state = step.init(jax.random.key(0), images)
    check_state(state, 0, Config())
    state, sums = jax.jit(step)(state, {"image": images, "label": jnp.arange(4) % 3})
    assert np.isfinite(sums["loss"])
    with pytest.raises(
        fr.UserError, match=r"^(params|opt_state)/\S+ and .* not finite at step 1: "
    ):
        check_state(state, 1, Config())


def small_run(workdir, **changes):
    return Config(
        model=TINY,
        data=DataConfig(name="digits", batch_size=128),
        optimizer=OptimizerConfig(**{"learning_rate": 0.05} | changes),
        epochs=2,
        workdir=str(workdir),
        compile_cache=None,
        save_every=1,
    )


@pytest.mark.slow
def test_a_state_that_is_not_finite_does_not_replace_the_checkpoint(tmp_path, console, monkeypatch):
    """The loss is finite all the time, because training does not use the running statistics."""

    def break_state(number, state, sums):
        if number == 3:
            with jax.transfer_guard("allow"):
                stats = dict(state.batch_stats)
                stats["bn1"] = stats["bn1"] | {"var": stats["bn1"]["var"].at[0].set(jnp.inf)}
                state = state.replace(batch_stats=stats)
        return state, sums

    change_steps(monkeypatch, break_state)
    with pytest.raises(fr.UserError, match=r"^batch_stats/bn1/var is not finite at step 3"):
        fr.train(small_run(tmp_path), console)
    assert max(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == 2


@pytest.mark.slow
def test_a_run_that_diverges_fails_in_a_sentence(tmp_path, console, optimised):
    """As users compile: XLA's optimisations, which the other tests do without, lose NaN."""
    with pytest.raises(fr.UserError, match=r"not finite at step \d+: training diverged"):
        fr.train(small_run(tmp_path, learning_rate=1e3), console)
    for path in tmp_path.glob("checkpoints/*"):
        assert all(np.isfinite(array).all() for array in read_weights_of(path))


def read_weights_of(checkpoint):
    import orbax.checkpoint as ocp

    tree = ocp.StandardCheckpointer().restore(checkpoint / "default")
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
