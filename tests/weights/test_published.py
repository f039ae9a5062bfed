"""The table of torchvision's published weights against our models, and against torchvision."""

import math
import re

import jax
import jax.numpy as jnp
import pytest

from flax_resnet.errors import UserError
from flax_resnet.models import create_model, list_models
from flax_resnet.weights.published import find_published, imagenet_classes, published_weights

SETS = published_weights()
V1, V2 = "IMAGENET1K_V1", "IMAGENET1K_V2"


def name_of(entry):
    return f"{entry.model}-{entry.name}"


def test_seventeen_sets_of_ten_models():
    assert len({name_of(entry) for entry in SETS}) == len(SETS) == 17
    models = {entry.model for entry in SETS}
    assert len(models) == 10
    assert models <= set(list_models())


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d"])
def test_parameters_are_those_of_our_model(name):
    model = create_model(name)
    image = jnp.zeros((1, 224, 224, 3))
    variables = jax.eval_shape(lambda key: model.init(key, image), jax.random.key(0))
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
    assert {entry.parameters for entry in published_weights(name)} == {count}


def test_resnet50_as_torchvision_documents_it():
    first, second = published_weights("resnet50")
    assert (first.name, first.acc1, first.acc5) == (V1, 76.130, 92.862)
    assert first.url == "https://download.pytorch.org/models/resnet50-0676ba61.pth"
    assert first.timm == "timm/resnet50.tv_in1k"
    assert (first.transform.resize, first.transform.height) == (256, 224)
    assert (second.name, second.acc1, second.acc5) == (V2, 80.858, 95.434)
    assert second.url == "https://download.pytorch.org/models/resnet50-11ad3fa6.pth"
    assert second.timm == "timm/resnet50.tv2_in1k"
    assert (second.transform.resize, second.transform.height) == (232, 224)


def test_only_set_of_resnext101_64x4d():
    (entry,) = published_weights("resnext101_64x4d")
    assert (entry.name, entry.transform.resize) == (V1, 232)
    assert entry.timm == "timm/resnext101_64x4d.tv_in1k"


def test_model_without_published_weights():
    assert published_weights("resnet20") == []


@pytest.mark.parametrize(
    ("model", "newest"), [("resnet18", V1), ("resnet152", V2), ("resnext101_64x4d", V1)]
)
def test_default_is_the_newest(model, newest):
    assert find_published(model, "DEFAULT") == find_published(model, newest)
    assert find_published(model, "DEFAULT").name == newest


@pytest.mark.parametrize("entry", SETS, ids=name_of)
def test_found_by_name(entry):
    assert find_published(entry.model, entry.name) == entry


def test_an_unknown_set_names_the_models_own():
    with pytest.raises(UserError, match="resnet18 has no published weights 'IMAGENET1K_V2'") as e:
        find_published("resnet18", V2)
    assert str(e.value).endswith("choose one of DEFAULT, IMAGENET1K_V1")


@pytest.mark.parametrize("weights", ["DEFAULT", V1])
def test_an_unknown_model_names_those_with_weights(weights):
    with pytest.raises(UserError, match="published for the model 'resnet20'") as e:
        find_published("resnet20", weights)
    for entry in SETS:
        assert re.search(rf"\b{entry.model}\b", str(e.value))


def test_imagenet_classes():
    classes = imagenet_classes()
    assert len(set(classes)) == len(classes) == 1000
    assert (classes[0], classes[207], classes[-1]) == ("tench", "golden retriever", "toilet tissue")
    assert all(name == name.strip() for name in classes)


def test_all_facts_are_torchvisions():
    try:
        # RuntimeError: its compiled operators do not fit the torch that is here.
        from torchvision.models import get_model_weights
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"no torchvision: {error}")
    theirs = {
        (model, weights.name): weights
        for model in dict.fromkeys(entry.model for entry in SETS)
        for weights in get_model_weights(model)
    }
    assert {(entry.model, entry.name) for entry in SETS} == set(theirs)
    for entry in SETS:
        weights = theirs[entry.model, entry.name]
        preset, accuracy = weights.transforms(), weights.meta["_metrics"]["ImageNet-1K"]
        assert entry.url == weights.url
        assert entry.parameters == weights.meta["num_params"]
        assert (entry.acc1, entry.acc5) == (accuracy["acc@1"], accuracy["acc@5"])
        assert entry.recipe == weights.meta["recipe"]
        ours = entry.transform
        assert ([ours.resize], [ours.height]) == (preset.resize_size, preset.crop_size)
        assert ours.width == ours.height
        assert ours.interpolation == preset.interpolation.value
        assert (list(ours.mean), list(ours.std)) == (preset.mean, preset.std)
        assert imagenet_classes() == tuple(weights.meta["categories"])
        newest = get_model_weights(entry.model).DEFAULT
        assert find_published(entry.model, "DEFAULT").name == newest.name
