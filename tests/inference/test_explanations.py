"""Heat maps of photos: fr.explain and the command explain."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

import flax_resnet as fr
from flax_resnet.cli import main
from flax_resnet.data import Preprocessing, Split
from flax_resnet.report.explain import overlay
from flax_resnet.report.outcomes import outcomes_of
from flax_resnet.report.pictures import to_webp
from flax_resnet.training.heat_maps import with_heat_maps


@pytest.fixture(scope="module")
def classifier(run_folder):
    return fr.load(run_folder)


def test_maps_overlays_and_failed_files(classifier, photos, tmp_path):
    files = [str(photos / "test" / color / f"{i}.png") for color, i in
             (("blue", 0), ("red", 4), ("green", 0), ("red", 1))]  # fmt: skip
    found = fr.explain(classifier, files, batch_size=2)
    assert found.names == (files[0], files[2], files[3])
    assert list(found.failed) == [files[1]]
    predicted = classifier.predict(list(found.names))
    assert found.labels == predicted.labels
    np.testing.assert_allclose(found.probabilities, predicted.probabilities.max(1), rtol=1e-5)
    assert found.maps.shape == (3, 16, 16) and found.images.shape == (3, 16, 16, 3)
    saved = found.save(tmp_path / "out")
    assert [path.name for path in saved] == ["0.heat.png", "0-2.heat.png", "1.heat.png"]
    for path, drawn in zip(saved, found.overlays(), strict=True):
        np.testing.assert_array_equal(Image.open(path), drawn)


def test_names_that_a_file_system_cannot_tell_apart_or_hold(classifier, tmp_path):
    """The first picture was lost on a file system that ignores case; a long name ended it all."""
    split = Split(np.zeros((5, 16, 16, 3), np.uint8), np.zeros(5, np.int32))
    names = ("a/Cat.jpg", "b/cat.jpg", "\u732b" * 84 + ".jpg", "caf\u00e9.jpg", "cafe\u0301.jpg")
    found = dataclasses.replace(classifier.explain(split), names=names)
    saved = [path.name for path in found.save(tmp_path)]
    assert saved[:2] == ["Cat.heat.png", "cat-2.heat.png"]
    assert saved[2] == "\u732b" * 82 + ".heat.png"
    assert saved[3:] == ["caf\u00e9.heat.png", "cafe\u0301-2.heat.png"]
    found.save_arrays(tmp_path / "maps.NPZ")
    assert len(np.load(tmp_path / "maps.NPZ")["maps"]) == 5


def test_a_page_explains_the_class_that_was_predicted(classifier):
    """Which is that of a photo and its mirror image, where these are averaged."""
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (4, 16, 16, 3), np.uint8), np.zeros(4, np.int32)
    images = Split(pixels, labels)
    alone = classifier.predict(pixels).probabilities.argmax(1)
    other = np.eye(3)[(alone + 1) % 3] * 5
    outcomes = outcomes_of(other, labels, list("abcd"), images=images)
    preprocess = Preprocessing.from_transform(classifier.transform)
    drawn = with_heat_maps(
        classifier.model, classifier.variables, preprocess, outcomes, images, np.arange(4)
    ).heat_maps
    for row in range(4):
        found = classifier.explain(pixels[row], target=int(other[row].argmax()))
        expected = to_webp(overlay(found.images[0], found.maps[0]))
        first, second = (
            np.asarray(Image.open(io.BytesIO(file)).convert("RGB"), int)
            for file in (drawn[row], expected)
        )
        assert np.abs(first - second).mean() < 1


def test_a_target_by_name_and_by_index(classifier, photos):
    file = str(photos / "test" / "blue" / "0.png")
    named = fr.explain(classifier, file, target="red", method="grad-cam++")
    indexed = classifier.explain(file, target=2, method="grad-cam++")
    assert named.labels == indexed.labels == ("red",)
    assert named.probabilities[0] < 0.5
    np.testing.assert_array_equal(named.maps, indexed.maps)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"target": "rad"}, "No class is called 'rad': did you mean 'red'"),
        ({"target": 3}, "The target is 3; there are classes from 0 to 2"),
        ({"method": "lime"}, "There is no method 'lime': use grad-cam"),
        ({"layer": "layer9"}, "The layer is 'layer9'; it must be one of stem, layer1"),
        ({"layer": "layer1", "method": "occlusion"}, "The method occlusion uses no layer"),
    ],
)
def test_wrong_options_are_refused(options, sentence, classifier):
    with pytest.raises(fr.UserError, match=sentence):
        fr.explain(classifier, np.zeros((16, 16, 3), np.uint8), **options)


def test_the_command_writes_pictures_arrays_and_a_sheet(
    run_folder, photos, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    line = ["explain", str(run_folder), str(photos / "test"), "--output", "out",
            "--arrays", "maps.npz", "--sheet", "sheet.png", "--batch-size", "8"]  # fmt: skip
    assert main(line) == 1  # one file is no image
    out, err = capsys.readouterr()
    assert "Look at out: 14 heat maps by grad-cam." in out
    assert "1 of 15 could not be read" in err
    arrays = np.load(tmp_path / "maps.npz")
    assert arrays["maps"].shape == (14, 16, 16) and len(arrays["files"]) == 14
    assert len(list((tmp_path / "out").iterdir())) == 14
    assert Image.open(tmp_path / "sheet.png").width > 300
