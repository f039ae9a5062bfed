"""Folders and lists whose classes are matched to those of a model of ImageNet."""

import dataclasses
import importlib.util
from pathlib import Path

import pytest

import flax_resnet as fr
from flax_resnet.data.tfds import imagenet_synsets
from flax_resnet.weights import imagenet_classes
from tests.strangers.pictures import in_classes, write

WNIDS = ("n01440764", "n01443537", "n01484850")  # tench, goldfish, great white shark


@pytest.fixture(scope="module")
def imagenet_model(classifier):
    """``imagenet_model(classes)``: a model of 1,000 classes with these names."""
    model = classifier(classes=tuple(map(str, range(1000))))

    def named(classes):
        info = dataclasses.replace(model.info, classes=tuple(classes))
        return dataclasses.replace(model, info=info)

    return named


def as_transformers_has_them():
    """transformers has all synonyms of a class."""
    return [f"{name}, synonym" for name in imagenet_classes()]


def numbers():
    return [str(number) for number in range(1000)]


def labels_of(classifier, root):
    """Return the label of each class folder by an evaluation, and its notes."""
    done = classifier.evaluate(root)
    folders = [Path(name).parent.name for name in done.predictions.names]
    return dict(zip(folders, done.labels.tolist(), strict=True)), done.notes


@pytest.mark.parametrize("classes", [imagenet_classes, as_transformers_has_them, numbers])
@pytest.mark.parametrize(
    ("folders", "expected", "naming"),
    [
        (WNIDS, (0, 1, 2), "WordNet IDs"),
        (("n02504458", "n15075141", "n01440764"), (386, 999, 0), "WordNet IDs"),
        (("0", "1", "10", "100", "2"), (0, 1, 10, 100, 2), "numbers"),
        (("000", "007", "999"), (0, 7, 999), "numbers"),
    ],
)
def test_folders_of_imagenet_are_matched_by_id_or_number(
    imagenet_model, tmp_path, classes, folders, expected, naming
):
    """They were refused; by their order, ``10`` would have been class 2."""
    write(tmp_path, *in_classes(".", folders))
    labels, notes = labels_of(imagenet_model(classes()), tmp_path)
    assert labels == dict(zip(folders, expected, strict=True))
    if not (naming == "numbers" and classes is numbers and folders[0] == "0"):
        assert any(f"matched by the {naming}" in note for note in notes)


def test_every_wordnet_id_has_the_label_of_timm():
    """timm's list, of the same order as torchvision's classes; it is not imported."""
    timm = importlib.util.find_spec("timm")
    if timm is None:
        pytest.skip("timm is not installed")
    path = Path(timm.origin).parent / "data/_info/imagenet_synsets.txt"
    assert list(imagenet_synsets()) == path.read_text().split()


def test_the_imagenet_classes_are_those_of_its_wordnet_ids():
    """A few, by WordNet itself."""
    names = dict(zip(imagenet_synsets(), imagenet_classes(), strict=True))
    assert len(names) == 1000
    known = {"n01440764": "tench", "n02123045": "tabby", "n07753592": "banana"}
    known |= {"n15075141": "toilet tissue", "n02504458": "African elephant"}
    assert known.items() <= names.items()


@pytest.mark.parametrize(
    ("folders", "sentences"),
    [
        (("1", "2", "3"), ("count from 0", "class 0 (tench)", "class 1 (goldfish)")),
        (
            ("n01440764", "1"),
            ("n01440764 is one of their WordNet IDs", "1 is one of their numbers"),
        ),
        (("tench", "n01443537"), ("names", "WordNet IDs")),
        (("1", "01"), ("not among those expected",)),
        (("1000", "0"), ("not among those expected: 0, 1000",)),
        (("n00000000", "n01440764"), ("not among those expected",)),
    ],
)
def test_folders_with_two_readings_are_not_matched(imagenet_model, tmp_path, folders, sentences):
    write(tmp_path, *in_classes(".", folders))
    with pytest.raises(fr.UserError) as caught:
        imagenet_model(imagenet_classes()).evaluate(tmp_path)
    assert all(sentence in str(caught.value) for sentence in sentences), str(caught.value)


def test_labels_of_a_list_may_be_wordnet_ids(imagenet_model, tmp_path):
    write(tmp_path, "1.png", "2.png")
    (tmp_path / "list.csv").write_text("path,label\n1.png,n01484850\n2.png,n01440764\n")
    done = imagenet_model(imagenet_classes()).evaluate(tmp_path / "list.csv")
    assert done.labels.tolist() == [2, 0]


def test_a_name_of_two_classes_is_refused(imagenet_model, tmp_path):
    """Some lists of ImageNet's names have two cranes: the bird and the machine."""
    classes = ["crane" if "crane" in name else name for name in imagenet_classes()]
    write(tmp_path, *in_classes(".", ("crane", "tench")))
    with pytest.raises(fr.UserError, match="crane may be any of the classes 134, 517"):
        imagenet_model(classes).evaluate(tmp_path)


def test_names_of_the_own_classes_come_before_numbers(imagenet_model, tmp_path):
    """A run on folders ``0`` to ``999`` has sorted them by name: ``10`` is its class 2."""
    classes = sorted(numbers())
    write(tmp_path, *in_classes(".", ("0", "10", "2")))
    labels, notes = labels_of(imagenet_model(classes), tmp_path)
    assert labels == {name: classes.index(name) for name in ("0", "10", "2")}
    assert notes == ()


def test_numbers_do_not_name_the_classes_of_a_model_with_other_names(imagenet_model, tmp_path):
    write(tmp_path, *in_classes(".", ("0", "1")))
    with pytest.raises(fr.UserError, match="not among those expected"):
        imagenet_model(f"kind {n}" for n in range(1000)).evaluate(tmp_path)


def test_a_test_split_needs_no_train_in_evaluation(imagenet_model, tmp_path):
    write(tmp_path, *in_classes("val", WNIDS), *in_classes("test", WNIDS[:2]))
    labels, _ = labels_of(imagenet_model(imagenet_classes()), tmp_path)
    assert labels == {"n01440764": 0, "n01443537": 1}
