"""Heat maps of photos: fr.explain and the command explain."""

import numpy as np
import pytest
from PIL import Image

import flax_resnet as fr
from flax_resnet.cli import main


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
