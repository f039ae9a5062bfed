"""Evaluation compared with the run's own record, scikit-learn's figures and true labels."""

import csv
import io
import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import precision_recall_fscore_support

import flax_resnet as fr
from flax_resnet.cli import main
from flax_resnet.config import Config, DataConfig, TransferConfig
from flax_resnet.inference.evaluate import select_images
from flax_resnet.report.explain import overlay
from flax_resnet.report.outcomes import read_outcomes, write_outcomes
from flax_resnet.report.pictures import to_webp
from flax_resnet.transform import EvalTransform
from flax_resnet.weights import WeightsInfo, build_model, describe, write_model
from tests.data.tfds.test_dataset import write as write_prepared
from tests.inference.conftest import CLASSES, photo
from tests.strangers.shards import samples, tar
from tests.tiny_net import TINY


@pytest.fixture(scope="module")
def run(run_folder):
    return fr.load(run_folder)


def last_line(run_folder):
    return json.loads((run_folder / "history.jsonl").read_text().splitlines()[-1])


@pytest.mark.slow
def test_its_own_test_images_give_what_training_found(run, run_folder):
    done = run.evaluate()
    found = last_line(run_folder)
    assert done.result.count == 14  # one of the 15 files is no image
    assert done.result.top1 == pytest.approx(found["test_top1"])
    assert done.result.loss == pytest.approx(found["test_loss"], rel=1e-4)
    assert done.result.temperature_from == "validation"
    assert len(done.predictions.failed) == 1


@pytest.mark.slow
def test_a_run_evaluated_with_mirror_images_says_so(tmp_path):
    """Its history has figures that evaluation without mirror images does not repeat."""
    fr.train(
        Config(
            model=TINY,
            data=DataConfig(name="digits", batch_size=256),
            epochs=1,
            evaluate_flipped=True,
            workdir=str(tmp_path),
            compile_cache=None,
        )
    )
    run, found = fr.load(tmp_path), last_line(tmp_path)
    flipped, alone = run.evaluate(tta="flip"), run.evaluate()
    assert flipped.result.loss == pytest.approx(found["test_loss"], rel=1e-5)
    assert alone.result.loss != pytest.approx(found["test_loss"], rel=1e-4)
    assert not flipped.notes and "add --tta flip for the same" in alone.notes[0]
    assert main(["report", str(tmp_path), "--evaluate"]) == 0
    kept = json.loads((tmp_path / "report" / "evaluation.json").read_text())
    assert kept["loss"] == pytest.approx(found["test_loss"], rel=1e-5)


def test_figures_are_those_of_scikit_learn(run, photos):
    done = run.evaluate(photos, split="all")
    result, predictions, labels = done.result, done.predictions, done.labels
    seen = "87 of the 102 images are among those that the run was trained on"
    assert any(note.startswith(seen) for note in done.notes)  # 24 of train and 5 of val each
    assert len(labels) == 3 * 34
    read = np.array([name not in predictions.failed for name in predictions.names])
    predicted = predictions.probabilities[read].argmax(1)
    expected = precision_recall_fscore_support(labels[read], predicted, zero_division=0)
    got = (result.precision, result.recall, result.f1, result.support)
    np.testing.assert_allclose(got, expected)
    assert result.top1 == pytest.approx((labels[read] == predicted).mean())


def test_a_folder_without_splits_is_evaluated_whole(run, tmp_path):
    for color in ("blue", "red"):  # no green: the classes are the run's
        (tmp_path / color).mkdir()
        for number in range(3):
            photo(color, number, (20, 20)).save(tmp_path / color / f"{number}.png")
    done = run.evaluate(tmp_path)
    assert done.result.count == 6
    assert done.result.support == (3, 0, 3)
    assert done.result.temperature_from == "the same images"


def test_the_command_writes_files_and_names_the_bad_one(run_folder, photos, tmp_path, capsys):
    names = {"--output": "files.csv", "--json": "e.json", "--confusion": "c.png"}
    arguments = [word for key, name in names.items() for word in (key, str(tmp_path / name))]
    assert main(["evaluate", str(run_folder), *arguments]) == 1
    shown = capsys.readouterr()
    assert "1 of 15 could not be read" in shown.err
    assert "calibration error" in shown.out
    rows = list(csv.DictReader((tmp_path / "files.csv").open()))
    assert len(rows) == len({row["file"] for row in rows}) == 15
    assert all(row["true"] == row["file"].split("/")[-2] for row in rows)
    held = json.loads((tmp_path / "e.json").read_text())
    right = sum(row["true"] == row["label"] for row in rows)
    assert np.trace(held["confusion"]) == right
    assert Image.open(tmp_path / "c.png").size[0] > 500


def pixels_of(picture):
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"), int)


@pytest.mark.slow
def test_a_page_lays_the_evidence_over_its_photos(run, run_folder, photos, tmp_path):
    """The heat maps are those of ``explain``."""
    page = tmp_path / "page.html"
    assert main(["evaluate", str(run_folder), "--page", str(page)]) == 1  # one file is no image
    text = page.read_text(encoding="utf-8")
    assert 'id="heat"' in text

    outcomes = run.evaluate(keep_outcomes=True).outcomes
    assert len(outcomes.heat_maps) == len(outcomes.labels) == 14
    write_outcomes(tmp_path / "images.npz", outcomes)
    assert read_outcomes(tmp_path / "images.npz").heat_maps == outcomes.heat_maps
    row = outcomes.names.index("test/red/0.png")
    explained = run.explain(photos / "test" / "red" / "0.png")
    expected = pixels_of(to_webp(overlay(explained.images[0], explained.maps[0])))
    plain = pixels_of(outcomes.pictures[row])
    assert np.abs(pixels_of(outcomes.heat_maps[row]) - expected).mean() < 1
    assert np.abs(plain - expected).mean() > 10


@pytest.mark.slow
def test_the_page_of_a_run_whose_images_have_moved_stays(run_folder, tmp_path, capsys):
    """It is written again from what the run's folder holds; a new evaluation needs the images."""
    run, moved = tmp_path / "run", tmp_path / "moved"
    shutil.copytree(run_folder, run)
    settings = json.loads((run / "config.json").read_text()) | {"data.dir": str(moved)}
    (run / "config.json").write_text(json.dumps(settings))
    (run / "checksums.json").unlink()
    assert main(["report", str(run)]) == 0
    before = {path.name: path.read_bytes() for path in (run / "report").iterdir()}
    capsys.readouterr()
    assert main(["report", str(run), "--evaluate"]) == 1
    (sentence,) = capsys.readouterr().err.splitlines()
    assert str(moved) in sentence
    assert {path.name: path.read_bytes() for path in (run / "report").iterdir()} == before


@pytest.fixture
def run_elsewhere(run_folder, photos, tmp_path, monkeypatch):
    """The run as if it had been started beside its folder "photos", and a working folder with
    another "photos"."""
    run = shutil.copytree(run_folder, tmp_path / "run")
    settings = json.loads((run / "config.json").read_text()) | {"data.dir": "photos"}
    (run / "config.json").write_text(json.dumps(settings))
    (run / "checksums.json").unlink()
    for color in CLASSES:
        (tmp_path / "photos" / color).mkdir(parents=True)
        for number in range(10):
            photo(color, 7000 + number).save(tmp_path / "photos" / color / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    return run


def test_a_folder_of_the_same_name_elsewhere_is_not_the_runs_own(run_elsewhere):
    """A tenth of it was scored, as the test images of the run."""
    classifier = fr.load(run_elsewhere)
    assert classifier.evaluate("photos").result.count == 30
    with pytest.raises(fr.UserError, match="photos has none of the run's images"):
        classifier.evaluate()


def test_images_that_are_new_in_the_runs_own_folder_are_counted(run_elsewhere, photos):
    shutil.rmtree("photos")
    shutil.copytree(photos, "photos")
    for number in range(2):
        photo("blue", 7000 + number).save(f"photos/test/blue/new-{number}.png")
    done = fr.load(run_elsewhere).evaluate()
    assert done.result.count == 16
    assert "2 of the 17 images are new since the run started" in done.notes


def test_the_folder_of_a_run_is_not_read_to_compare_its_name(run_elsewhere):
    """To evaluate on a local folder, a set in a store was copied, or asked for in vain."""
    settings = json.loads((run_elsewhere / "config.json").read_text())
    settings["data.dir"] = "gs://bucket/photos"
    (run_elsewhere / "config.json").write_text(json.dumps(settings))
    assert fr.load(run_elsewhere).evaluate("photos").result.count == 30


@pytest.mark.slow
def test_other_arrays_than_the_runs_are_noted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (40, 8, 8, 3), np.uint8), np.arange(40) % 2
    np.savez("set.NPZ.npz", x=pixels, y=labels)
    (tmp_path / "set.NPZ.npz").rename("set.NPZ")
    data = DataConfig(name="folder", dir="set.NPZ", batch_size=8)
    fr.train(Config(model=TINY, data=data, max_steps=1, workdir="run", compile_cache=None))
    assert not fr.load("run").evaluate().notes
    np.savez("other.npz", x=pixels[::-1], y=labels)
    (tmp_path / "other.npz").rename("set.NPZ")
    (note,) = fr.load("run").evaluate().notes
    assert note.startswith("folder is not as it was when the run was started: ")


@pytest.mark.slow
@pytest.mark.usefixtures("no_page")
def test_a_prepared_set_is_seen_as_the_run_saw_it(tmp_path):
    """Size and interpolation came with the starting weights, which the settings do not have."""
    model = build_model(TINY, 3)
    images = np.zeros((1, 12, 12, 3), np.float32)
    variables = jax.jit(lambda: model.init(jax.random.key(0), images, train=False))()
    seen = EvalTransform.center_crop(12, interpolation="bicubic")
    info = WeightsInfo("none", "random", None, TINY, ("a", "b", "c"), seen)
    path = tmp_path / "start.safetensors"
    write_model(path, fr.to_torchvision(variables, model), model, describe(info))
    write_prepared(tmp_path, "photos", {"train": 16, "validation": 6, "test": 6})
    config = Config(
        model=TINY,
        data=DataConfig(name="photos", dir=str(tmp_path), batch_size=8),
        transfer=TransferConfig(weights=str(path)),
        epochs=1,
        workdir=str(tmp_path / "run"),
        compile_cache=None,
    )
    fr.train(config)
    run = fr.load(tmp_path / "run")
    assert (run.transform.height, run.transform.interpolation) == (12, "bicubic")
    assert run.evaluate().result.loss == pytest.approx(
        last_line(tmp_path / "run")["test_loss"], rel=1e-4
    )
    images, _ = select_images(run, "train")
    assert images.image_shape == (12, 12, 3)


@pytest.mark.slow
def test_shards_are_evaluated_as_they_were_trained_on(tmp_path):
    """Beside them image files may lie, which ``--data.name webdataset`` leaves out."""
    folder = tmp_path / "set"
    tar(folder / "a.tar", samples(n % 3 for n in range(60)))
    for color in "012":
        (folder / "test" / color).mkdir(parents=True)
        photo(CLASSES[0], 9).save(folder / "test" / color / "other.png")
    data = DataConfig(name="webdataset", dir=str(folder), batch_size=8, image_size=16)
    config = Config(
        model=TINY, data=data, max_steps=1, workdir=str(tmp_path / "run"), compile_cache=None
    )
    fr.train(config)
    run = fr.load(tmp_path / "run")
    assert not any("other.png" in name for name in run.evaluate().predictions.names)
    sheet = tmp_path / "m.png"
    assert main(["evaluate", str(tmp_path / "run"), "--mistakes", str(sheet)]) == 0
    assert Image.open(sheet).size[0] > 200


def test_mistakes_are_shown(run_folder, tmp_path, capsys):
    """Photos in the folders of other colours."""
    for color, other in zip(CLASSES, CLASSES[1:] + CLASSES[:1], strict=True):
        (tmp_path / "in" / other).mkdir(parents=True)
        photo(color, 3, (20, 20)).save(tmp_path / "in" / other / "a.png")
    sheet = tmp_path / "m.png"
    arguments = [str(run_folder), str(tmp_path / "in"), "--mistakes", str(sheet)]
    assert main(["evaluate", *arguments]) == 0
    assert "3 of 3 mistakes" in capsys.readouterr().out
    assert Image.open(sheet).size[0] > 400


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["{run}", "{new}"], "does not exist"),
        (["{run}", "{strange}"], "has 1 class that is not among those expected"),
        (["{file}"], "There is no data to evaluate on"),
    ],
)
def test_bad_input_is_one_sentence(run, run_folder, photos, tmp_path, capsys, arguments, sentence):
    (tmp_path / "strange" / "purple").mkdir(parents=True)
    photo("red", 1).save(tmp_path / "strange" / "purple" / "a.png")
    fr.save_weights(tmp_path / "w.npz", run.variables, run.model)
    places = {"run": run_folder, "photos": photos, "new": tmp_path / "new"}
    places |= {"strange": tmp_path / "strange", "file": tmp_path / "w.npz"}
    assert main(["evaluate", *(word.format(**places) for word in arguments)]) == 1
    assert sentence in capsys.readouterr().err


def embed(run_folder, photos, output):
    folder = photos / "test" / "blue"
    assert main(["embed", str(run_folder), str(folder), "--output", str(output)]) == 0


def test_embeddings_feed_the_classifier(run, run_folder, photos, tmp_path, capsys):
    """The features times the classifier's weights are the logits."""
    for name in ("e.npz", "e.NPZ"):
        embed(run_folder, photos, tmp_path / name)
        assert "64 features of 5 images" in capsys.readouterr().out
    held = np.load(tmp_path / "e.npz")
    fc = run.variables["params"]["fc"]
    logits = held["features"] @ np.asarray(fc["kernel"]) + np.asarray(fc["bias"])
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = run.predict(held["files"].tolist()).probabilities
    np.testing.assert_allclose(probabilities, expected, atol=1e-4)


def test_embeddings_in_parquet_are_those_of_npz(run_folder, photos, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    for name in ("e.npz", "e.parquet"):
        embed(run_folder, photos, tmp_path / name)
    held = np.load(tmp_path / "e.npz")
    table = parquet.read_table(tmp_path / "e.parquet")
    assert table["file"].to_pylist() == held["files"].tolist()
    np.testing.assert_array_equal(np.stack(table["features"].to_pylist()), held["features"])


def test_embed_names_what_is_bad(run_folder, photos, tmp_path, capsys):
    output = str(tmp_path / "e.npz")
    arguments = [str(run_folder), str(photos / "test" / "red"), "--output"]
    assert main(["embed", *arguments, output]) == 1
    assert "1 of 5 could not be read" in capsys.readouterr().err
    assert np.load(output)["features"].shape == (4, 64)
    missing = ["embed", "nowhere", "no.png", "--output", str(tmp_path / "e.txt")]
    assert main(missing) == 2  # before the model is read, let alone the images
    assert "must end in .npz or .parquet" in capsys.readouterr().err
