"""Every named variant: its depth, a forward and a backward pass, and the errors of the names."""

import re
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flax_resnet.models import create_model, default_image_shape, list_models

# One of each kind, cut short enough to compile: name -> options.
SHORT = {
    "resnet8": {"stage_sizes": (1, 1), "widths": (16, 32)},
    "plain8": {"stage_sizes": (1, 1), "widths": (16, 32)},
    "resnet_mnist": {},
    "resnet11_v2": {"stage_sizes": (1, 1), "widths": (16, 32)},
    "wrn10_1": {"stage_sizes": (1, 1), "widths": (16, 32)},
    "resnext29_32x4d": {"stage_sizes": (1,), "widths": (64,)},
}


def small_images(model, batch=4):
    """The smallest that leave batch norm enough values: 2x2 or 1x1 in the last stage."""
    height, width, channels = default_image_shape(model)
    if height == 224:
        height = width = 32
    elif height == 32:
        height = width = 8
    return jnp.asarray(
        np.random.default_rng(0).normal(size=(batch, height, width, channels)), jnp.float32
    )


def statistics_of(variables):
    return {name: tree for name, tree in variables.items() if name != "params"}


def loss_and_gradients(model, variables, images):
    """Cross-entropy in training, logits, updated variables, and gradients."""
    labels = jnp.arange(len(images)) % model.num_classes

    def loss(params):
        logits, updated = model.apply(
            {"params": params, **statistics_of(variables)},
            images,
            train=True,
            mutable=["batch_stats"],
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), (logits, updated)

    return jax.value_and_grad(loss, has_aux=True)(variables["params"])


def train_once(model, key, images):
    variables = model.init(key, images, train=True)
    return variables, *loss_and_gradients(model, variables, images)


@cache  # modules compare by value, and several variants differ only in depth
def check_abstractly(model):
    images = small_images(model)
    variables, (loss, (logits, updated)), gradients = jax.eval_shape(
        lambda key: train_once(model, key, images), jax.random.key(0)
    )
    assert loss.shape == () and logits.shape == (len(images), model.num_classes)
    assert loss.dtype == logits.dtype == jnp.float32
    for new, old in ((gradients, variables["params"]), (updated, statistics_of(variables))):
        assert jax.tree.structure(new) == jax.tree.structure(old)
        assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, old)


def check_numerically(model):
    key = jax.random.key(0, impl="rbg")  # a kind that is quick to compile
    train = jax.jit(train_once, static_argnums=0)
    _, (loss, (logits, updated)), gradients = train(model, key, small_images(model))
    assert np.isfinite(loss) and loss > 0
    assert np.isfinite(logits).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(updated))
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(leaf).all(), f"gradient of {jax.tree_util.keystr(path)}"
        assert np.any(leaf), f"no gradient of {jax.tree_util.keystr(path)}"


# One of each family; the slow tests take all.
QUICK = ("resnet50", "resnet20", "resnet29_v2", "resnetv2_50", "resnext50_32x4d", "wrn16_8")
QUICK += ("plain18", "seresnet50", "ecaresnet50d", "resnetrs50", "resnet9", "resnet_mnist")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in list_models()],
)
def test_variant_trains_abstractly(name):
    """Two blocks in the first stage and one in the second hold every kind of block there is."""
    model = create_model(name)
    check_abstractly(model.clone(stage_sizes=(2, 1), widths=model.widths[:2]))


@pytest.mark.parametrize(
    "name",
    [name if name == "resnet8" else pytest.param(name, marks=pytest.mark.slow) for name in SHORT],
)
def test_short_variant_has_finite_gradients_everywhere(name):
    check_numerically(create_model(name, **SHORT[name]))


# A deep model of each kind of block, with fewer channels: the signal passes through the same depth.
DEEP = {
    "resnet50": (16, 32, 64, 128),
    "plain34": (8, 16, 32, 64),
    "resnet56": (4, 8, 16),
    "resnet56_v2": (4, 8, 16),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DEEP)
def test_deep_variant_has_finite_gradients_everywhere(name):
    check_numerically(create_model(name, widths=DEEP[name]))


# timm counts as Bello et al. 2021 and its own authors do, and one name has no number.
UNCOUNTED = ("resnet_mnist", "ecaresnetlight", "seresnextaa201d_32x8d", "resnetrs")


@pytest.mark.parametrize("name", [name for name in list_models() if not name.startswith(UNCOUNTED)])
def test_depth_is_the_one_in_the_name(name):
    """The convolutions outside of shortcuts and the classifier count, those of a stem as one.

    Wide ResNets count their three projections too (Zagoruyko & Komodakis 2016), and ResNet-9 the
    convolutions before its max-pools.
    """
    model = create_model(name)
    layers = {"basic": 2, "bottleneck": 3}[model.block] * sum(model.stage_sizes) + 2
    depth = int(re.search(r"\d+", name.removeprefix("resnetv2_"))[0])
    layers += len(model.stage_sizes) - 1 if model.downsampling == "conv_pool" else 0
    assert layers + (2 if name.startswith("wrn") else 0) == depth


def test_models_are_listed_sorted_and_by_pattern():
    names = list_models()
    assert names == sorted(set(names))
    assert {"resnet50", "resnet1202", "resnet1001_v2", "resnet_mnist"} <= set(names)
    assert list_models("resnext*") == [name for name in names if name.startswith("resnext")]
    assert list_models("vgg*") == []


def test_options_replace_the_variants_own():
    model = create_model("resnet20", num_classes=7, shortcut="B", widths=(8, 8, 8))
    assert (model.num_classes, model.shortcut, model.widths) == (7, "B", (8, 8, 8))
    assert model.stage_sizes == (3, 3, 3)


def test_options_may_be_lists():
    """With lists as they are, a module could not be hashed."""
    sizes = {"stage_sizes": [1, 1], "widths": [8, 16], "hidden": [4]}
    model = create_model("resnet", block="basic", **sizes)
    tuples = {option: tuple(value) for option, value in sizes.items()}
    assert model == create_model("resnet", block="basic", **tuples)
    assert hash(model) == hash(model.clone())


@pytest.mark.parametrize(
    ("name", "stage_size", "options"),
    [
        ("resnet38", 6, {"shortcut": "A", "block": "basic", "widths": (16, 32, 64)}),
        ("plain26", 4, {"residual": False}),
        ("resnet29_v2", 3, {"version": "v2", "block": "bottleneck"}),
        ("wrn22_8", 3, {"version": "v2", "widths": (128, 256, 512), "stem_width": 16}),
    ],
)
def test_families_take_any_depth(name, stage_size, options):
    model = create_model(name)
    assert model.stage_sizes == (stage_size,) * 3 and model.stem == "cifar"
    assert {option: getattr(model, option) for option in options} == options


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnt50", {}, "resnet50"),
        ("resnext50", {}, "resnext50_32x4d"),
        ("resnet21", {}, r"6n\+2.* 20 or 32"),  # resnet26 is ImageNet's
        ("resnet45", {}, r"6n\+2.* 44 or 56"),
        ("plain21", {}, r"6n\+2.* 20 or 26"),
        ("resnet2", {}, r"6n\+2.* 8 or 14"),
        ("resnet12_v2", {}, r"9n\+2.* 11 or 20"),
        ("wrn11_2", {}, r"6n\+4.* 10 or 16"),
        ("resnet50", {"num_clases": 10}, "num_clases.*num_classes"),
        ("resnet_mnist", {"shortcuts": "A"}, "shortcuts.*shortcut"),
        ("resnet_mnist", {"pooling": "max"}, "flatten"),
        ("resnet_mnist", {"downsampling": "pool"}, "conv_pool"),
        ("resnet50", {"shortcut": "D"}, r"shortcut='D'.*'A', 'B', 'C'"),
        ("resnet50", {"version": "v3"}, "v1.5"),
        ("resnet50", {"stem": "tiny"}, "cifar"),
        ("resnet50", {"norm": "layer"}, "group"),
        ("resnet50", {"block": "wide"}, "bottleneck"),
        ("resnet50", {"widths": (64, 128)}, "4 stages but 2 widths"),
        ("resnet18", {"groups": 2}, "bottleneck"),
        ("resnet18", {"attention": "cbam"}, "eca"),
        ("resnetv2_50", {"anti_alias": "blur"}, "version='v1.5'"),
        ("resnetrs50", {"anti_alias": "mean"}, "stem_pool='conv'"),
        ("resnet18", {"num_classes": 0}, "num_classes=0 is not 1 or more"),
        ("resnet18", {"num_classes": -3}, "num_classes=-3 is not 1 or more"),
        ("resnet", {"block": "basic", "stage_sizes": (), "widths": ()}, "has no stage"),
        ("resnext50_32x4d", {"widths": (8, 16, 32, 64)}, "no channel to a bottleneck of 8 planes"),
        ("resnet18", {"stem": "tiered", "stem_width": 2}, "2 channels .*give a larger stem_width"),
        ("resnet9", {"anti_alias": "blur"}, "anti_alias needs downsampling='stride'"),
        ("resnet18", {"stochastic_depth": 1.0}, "stochastic_depth=1.0 is not 0 or more and below"),
        ("resnet18", {"dropout": 20}, "dropout=20 is not 0 or more and below 1"),
        ("wrn16_8", {"block_dropout": -0.1}, "block_dropout=-0.1 is not 0 or more and below 1"),
        ("resnet18", {"momentum": 1.1}, "momentum=1.1 is not from 0 to 1"),
    ],
)
def test_mistakes_raise_an_error(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_model(name, **options)
