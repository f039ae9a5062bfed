"""Prediction on files and arrays: what evaluation saw, every image once, bad files named."""

import csv
import dataclasses
import io
import json
import shutil
import sys
import threading
from functools import partial

import jax
import numpy as np
import pytest
from PIL import Image

import flax_resnet as fr
from flax_resnet.cli import main
from flax_resnet.inference import outputs, read_classes
from flax_resnet.models import pack_kernels
from flax_resnet.transform import EvalTransform
from tests.inference.conftest import CLASSES, photo


@pytest.fixture(scope="module")
def run(run_folder):
    return fr.load(run_folder)


@pytest.fixture
def folder(tmp_path):
    """Nine photos in subfolders, other files next to them, and a hidden one."""
    for number, color in enumerate(CLASSES * 3):
        where = tmp_path / "in" / color / "deeper" / f"{number}.jpg"
        where.parent.mkdir(parents=True, exist_ok=True)
        photo(color, 7 + number, (40, 50)).save(where, quality=95)
    (tmp_path / "in" / "notes.txt").touch()
    (tmp_path / "in" / ".hidden.jpg").touch()
    return tmp_path / "in"


def test_probabilities_are_those_of_the_unfolded_model(run, folder):
    paths = sorted(map(str, folder.rglob("deeper/*.jpg")))
    done = run.predict(paths, batch_size=4)
    # 256/224 of 16 is 18: the shorter side is resized to 18, then 16x16 is cut from the middle.
    pixels = []
    for path in paths:
        small = Image.open(path).resize((18, 22), Image.Resampling.BILINEAR)
        pixels.append(np.asarray(small.crop((1, 3, 17, 19)), np.float32))
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    inputs = ((np.stack(pixels) / 255 - mean) / std).astype(np.float32)
    logits = jax.jit(partial(run.model.apply, train=False))(run.variables, inputs)
    expected = jax.nn.softmax(logits)
    np.testing.assert_allclose(done.probabilities, expected, atol=0.02)  # a level of 255 apart
    assert done.names == tuple(paths)
    assert list(done.labels) == [path.split("/")[-3] for path in paths]


def recorded_packing(monkeypatch):
    """Batch sizes for which kernels are packed: where oneDNN computes; elsewhere nothing is added
    to the variables."""
    packed_for = []

    def recorded(model, variables, images):
        packed_for.append(images.shape[0])
        return pack_kernels(model, variables, images)

    monkeypatch.setattr(outputs, "pack_kernels", recorded)
    return packed_for


@pytest.mark.parametrize("tta", [None, "flip"])
def test_shapes_that_recur_pack_their_kernels_once_and_change_no_bit(run, folder, tta, monkeypatch):
    packed_for = recorded_packing(monkeypatch)
    fresh = dataclasses.replace(run)
    paths = sorted(map(str, folder.rglob("deeper/*.jpg")))[:4]
    for batch_size in (1, 4):
        results = [
            fresh.predict(paths, batch_size=batch_size, tta=tta).probabilities
            for _ in range(outputs.CALLS_BEFORE_PACKING + 2)
        ]
        for result in results[1:]:
            np.testing.assert_array_equal(result, results[0])
    views = 1 if tta is None else 2
    assert packed_for == [views, 4 * views]


def test_a_server_packs_its_kernels_before_the_first_batch_and_changes_no_bit(run, monkeypatch):
    function, variables = dataclasses.replace(run)._logits_program()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    expected = {size: np.asarray(function(variables, pixels[:size])) for size in (1, 4)}
    packed_for = recorded_packing(monkeypatch)
    compute = outputs.batch_function(dataclasses.replace(run)._logits_program())
    for size in (1, 4, 4, 1):
        np.testing.assert_array_equal(compute(pixels[:size]), expected[size])
    assert packed_for == [1, 4]


def test_top_is_sorted_and_names_classes(run, folder):
    path = str(folder / "red" / "deeper" / "2.jpg")
    (best,) = run.predict(path).top(2)
    assert best[0].label == "red"
    assert best[0].probability > best[1].probability
    assert run.classes[best[1].index] == best[1].label
    assert len(run.predict(path).top(99)[0]) == 3


@pytest.mark.parametrize("batch_size", [2, 64])
def test_the_batch_does_not_matter(run, folder, batch_size):
    paths = sorted(map(str, folder.rglob("deeper/*.jpg")))
    expected = np.stack([run.predict(path).probabilities[0] for path in paths])
    got = run.predict(paths, batch_size=batch_size).probabilities
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_a_photo_waits_for_no_other_thread(run, folder, monkeypatch):
    """To start and end threads takes as long as a small model needs for an image."""
    files = sorted(folder.rglob("deeper/*.jpg"))[:2]
    expected = run.predict(files)

    def start(thread):
        raise AssertionError(f"{thread.name} was started for one photo")

    monkeypatch.setattr(threading.Thread, "start", start)
    for file, row in zip(files, expected.probabilities, strict=True):
        alone = run.predict(file.read_bytes()).probabilities[0]
        np.testing.assert_allclose(alone, row, rtol=0, atol=1e-5)


def test_flipping_averages_the_logits(run):
    image = np.asarray(photo("red", 1, (16, 16)))
    both = np.log(run.predict(np.stack([image, image[:, ::-1]])).probabilities.astype(np.float64))
    expected = np.exp(both.mean(0)) / np.exp(both.mean(0)).sum()
    got = run.predict(image, tta="flip").probabilities[0]
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_a_temperature_softens(run):
    image = np.asarray(photo("red", 1, (16, 16)))
    logits = np.log(run.predict(image).probabilities[0].astype(np.float64))
    expected = np.exp(logits / 3) / np.exp(logits / 3).sum()
    got = run.predict(image, temperature=3.0).probabilities[0]
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_images_in_memory_are_what_their_files_are(run, tmp_path):
    image = photo("green", 3, (31, 47))
    image.save(tmp_path / "a.png")
    from_file = run.predict(tmp_path / "a.png").probabilities
    for held in (image, np.asarray(image), [np.asarray(image)], np.asarray(image)[None]):
        np.testing.assert_array_equal(run.predict(held).probabilities, from_file)


def test_no_images_no_predictions(run):
    assert run.predict([]).probabilities.shape == (0, 3)


def test_a_path_that_is_no_image_is_named(run):
    assert "cannot be read" in run.predict("xxx").failed["xxx"]


def samples(folder):
    """One photo in every way that files hold them."""
    red = photo("red", 5, (48, 40))
    grey = Image.fromarray(np.asarray(red)[..., 0])
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    red.save(folder / "rgb.png")
    grey.save(folder / "grey.png")
    deep.save(folder / "deep.png")
    red.convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    red.convert("RGBA").save(folder / "rgba.png")
    red.convert("LA").save(folder / "la.png")
    red.convert("P", palette=Image.Palette.ADAPTIVE).save(folder / "palette.gif")
    red.convert("1").save(folder / "bits.tif")
    red.rotate(90, expand=True).save(folder / "turned.jpg", exif=exif, quality=95)
    red.save(folder / "named.jpg", "PNG")
    red.save(folder / "web.webp", lossless=True)
    red.resize((1, 1)).save(folder / "pixel.png")
    return red


def test_every_mode_and_format_predicts(run, tmp_path):
    red = samples(tmp_path)
    paths = sorted(map(str, tmp_path.iterdir()))
    done = run.predict(paths)
    assert len(paths) == 12 and not done.failed
    by_name = dict(zip((p.rsplit("/", 1)[1] for p in done.names), done.labels, strict=True))
    for name in ("rgb.png", "rgba.png", "cmyk.jpg", "palette.gif", "turned.jpg", "web.webp"):
        assert by_name[name] == "red", name
    upright, turned = run.predict([red]), run.predict([str(tmp_path / "turned.jpg")])
    np.testing.assert_allclose(turned.probabilities, upright.probabilities, atol=0.05)


@pytest.mark.slow
def test_grey_runs_take_photos(run, tmp_path):
    """A run on 8x8 grey digits: a photo becomes grey and small."""
    model = fr.create_model("resnet8", stem="cifar", num_classes=3)
    sample = np.zeros((1, 8, 8, 1), np.float32)
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(0), sample)

    stored = EvalTransform.stored_like((8, 8, 1))
    transform = dataclasses.replace(stored, mean=(0.5,), std=(0.25,))
    info = dataclasses.replace(run.info, transform=transform)
    dataclasses.replace(run, variables=variables, info=info).save(tmp_path / "grey")
    grey = fr.load(tmp_path / "grey")
    samples(tmp_path)
    done = grey.predict([str(tmp_path / "rgb.png"), str(tmp_path / "grey.png")])
    assert np.isfinite(done.probabilities).all()
    image = np.arange(64, dtype=np.uint8).reshape(8, 8)
    inputs = ((image / 255 - 0.5) / 0.25)[None, ..., None].astype("f4")
    logits = jax.jit(model.apply)(variables, inputs)
    got = grey.predict(image).probabilities
    np.testing.assert_allclose(got, jax.nn.softmax(logits), atol=1e-5)


# The command line.


def test_csv_has_every_file_once(run_folder, folder, tmp_path, capsys):
    output = tmp_path / "out.csv"
    words = [str(folder), str(folder / "red"), str(folder / "**" / "*.jpg")]
    assert main(["predict", str(run_folder), *words, "--top-k", "2", "--output", str(output)]) == 0
    rows = list(csv.DictReader(output.open()))
    assert [row["file"] for row in rows] == sorted(map(str, folder.rglob("deeper/*.jpg")))
    assert [row["label"] for row in rows] == [row["file"].split("/")[-3] for row in rows]
    assert all(float(row["probability"]) > float(row["probability_2"]) for row in rows)
    assert "1 files without an image's extension were skipped" in capsys.readouterr().err


def test_json_and_json_lines_agree(run_folder, folder, capsys):
    path = str(folder / "blue")
    assert main(["predict", str(run_folder), path, "--format", "json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert main(["predict", str(run_folder), path, "--format", "jsonl"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert listed == lines
    assert lines[0]["predictions"][0]["label"] == "blue"
    assert lines[0]["predictions"][0]["index"] == 0
    assert sum(
        prediction["probability"] for prediction in lines[0]["predictions"]
    ) == pytest.approx(1)


def test_table_is_the_default(run_folder, folder, capsys):
    assert main(["predict", str(run_folder), str(folder / "red"), "--top-k", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all("% red" in line for line in lines)


@pytest.mark.parametrize("between", ["\n", "\0"])
def test_a_list_on_stdin(run_folder, folder, capsys, monkeypatch, between):
    paths = sorted(map(str, folder.rglob("deeper/*.jpg")))[:2]
    monkeypatch.setattr(sys, "stdin", io.StringIO(between.join(paths) + between))
    assert main(["predict", str(run_folder), "-", "--format", "csv"]) == 0
    assert [line.split(",")[0] for line in capsys.readouterr().out.splitlines()[1:]] == paths


def test_bad_files_are_named_and_counted_and_the_good_ones_predicted(
    run_folder, folder, tmp_path, capsys
):
    (folder / "page.jpg").write_bytes(b"<!DOCTYPE html><html></html>")
    (folder / "cut.jpg").write_bytes((folder / "red" / "deeper" / "2.jpg").read_bytes()[:300])
    (folder / "empty.png").touch()
    Image.new("1", (20_000, 20_000)).save(folder / "huge.png")
    photo("red", 1).save(folder / "moving.jpg", "GIF")
    words = [str(folder), str(tmp_path / "nope.jpg"), "https://example.org/a.jpg"]
    output, sheet = tmp_path / "out.csv", tmp_path / "sheet.png"
    arguments = ["--output", str(output), "--sheet", str(sheet)]
    assert main(["predict", str(run_folder), *words, *arguments]) == 1
    shown = capsys.readouterr().err
    for name, why in {
        "page.jpg": "is text and not an image",
        "cut.jpg": "cannot be decoded",
        "empty.png": "is empty",
        "huge.png": "more pixels than the 100,000,000 that are allowed",
        "nope.jpg": "does not exist",
        "a.jpg": "is an address: download",
    }.items():
        (line,) = [line for line in shown.splitlines() if name in line]
        assert why in line
    assert "6 of 16 could not be read" in shown
    rows = {row["file"].rsplit("/", 1)[1]: row for row in csv.DictReader(output.open())}
    assert len(rows) == 16
    assert rows["moving.jpg"]["label"] == "red"
    assert rows["nope.jpg"]["label"] == "" and rows["nope.jpg"]["error"] == "does not exist"
    assert Image.open(sheet).size[0] > 600


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["{run}", "{empty}"], "holds no images"),
        (["{run}", "{empty}/*.jpg"], "matches no files"),
        (["{run}", "{empty}/none.jpg"], "does not exist"),
        (["{empty}", "{photo}"], "is not a run's folder"),
        (["{bare}", "{photo}"], "There are no checkpoints in"),
        (["{cut}", "{photo}"], "cannot be read"),
        (["{bit}", "{photo}"], "model.safetensors is damaged"),
        (["resnet5O", "{photo}"], "or resnet50"),
        (["none.pth", "{photo}"], "none.pth is not there"),
        (["{empty}/run", "{photo}"], "run does not exist: give a run's folder"),
        (["{other}", "{photo}"], "These are not the weights of a ResNet"),
        (["{backbone}", "{photo}"], "hold no classifier"),
        (["{run}", "{photo}", "--classes", "{two}"], "2 names of classes, but"),
        (["{run}", "{photo}", "--output", "{photo}/a.csv"], "cannot be written"),
        (["{run}", "{photo}", "--sheet", "{empty}/a.nothing"], "cannot be written"),
    ],
)
def test_bad_input_is_one_sentence(run_folder, folder, tmp_path, capsys, words, sentence):
    places = {"run": run_folder, "photo": folder / "red" / "deeper" / "2.jpg"}
    names = ("empty", "bare", "cut", "bit", "other.npz", "backbone.npz", "two.txt")
    places |= {name.split(".")[0]: tmp_path / name for name in names}
    places["empty"].mkdir()
    shutil.copytree(run_folder, places["bare"])
    shutil.copytree(run_folder, places["cut"])
    shutil.copytree(run_folder, places["bit"])
    for name in ("bare", "cut"):  # as if the run had not finished
        (places[name] / "model.safetensors").unlink()
    content = bytearray((places["bit"] / "model.safetensors").read_bytes())
    content[-100] ^= 1
    (places["bit"] / "model.safetensors").write_bytes(content)
    shutil.rmtree(places["bare"] / "checkpoints")
    for file in (places["cut"] / "checkpoints").rglob("d/*"):
        file.write_bytes(file.read_bytes()[:20])
    np.savez(places["other"], **{"features.0.weight": np.zeros((3, 3), np.float32)})
    run = fr.load(run_folder)
    state_dict = fr.to_torchvision(run.variables, run.model)
    np.savez(places["backbone"], **{k: v for k, v in state_dict.items() if "fc" not in k})
    places["two"].write_text("a\nb\n")
    assert main(["predict", *(word.format(**places) for word in words)]) == 1
    shown = capsys.readouterr().err
    assert sentence in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize("arguments", [["--top-k", "0"], ["--batch-size", "x"], ["--tta", "spin"]])
def test_wrong_usage_exits_2(run_folder, arguments):
    assert main(["predict", str(run_folder), "a.jpg", *arguments]) == 2


# What a model is loaded from.


def test_a_file_of_weights_with_class_indices(run, run_folder, tmp_path, capsys):
    fr.save_weights(tmp_path / "w.npz", run.variables, run.model)
    photo("red", 5, (32, 32)).save(tmp_path / "a.png")
    indices = str(run_folder / "class_indices.json")
    arguments = [str(tmp_path / "w.npz"), str(tmp_path / "a.png"), "--classes", indices]
    assert main(["predict", *arguments, "--format", "json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert {prediction["label"] for prediction in entry["predictions"]} == set(CLASSES)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("class_indices.json", '{"0": "daisy", "2": "rose", "1": "lily"}'),
        ("reverse.json", '{"rose": 2, "daisy": 0, "lily": 1}'),
        ("list.json", '["daisy", "lily", "rose"]'),
        ("list.txt", "daisy\nlily\n\nrose\n"),
    ],
)
def test_class_names_are_read_in_every_usual_form(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_classes(tmp_path / name) == ("daisy", "lily", "rose")


@pytest.mark.parametrize("text", ['{"1": "daisy", "2": "rose"}', '{"a": "b"}', "3", "{"])
def test_class_names_that_are_none(tmp_path, text):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(fr.UserError, match=r"c\.json"):
        read_classes(tmp_path / "c.json")
