"""Features computed once and kept: the same training, and nothing computed twice."""

import dataclasses
import errno
import json
import os
import re
import shutil

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from PIL import Image
from sklearn.linear_model import LogisticRegression

import flax_resnet as fr
from flax_resnet.cli import main
from flax_resnet.config import Config, DataConfig, ModelConfig, TransferConfig
from flax_resnet.results.records import is_finished
from flax_resnet.training.plan import print_plan
from flax_resnet.training.resolve import resolve
from flax_resnet.training.transfer import features
from flax_resnet.training.transfer.feature_store import FeatureStore
from flax_resnet.training.transfer.features import keep_features
from flax_resnet.training.transfer.head import fit_strengths
from flax_resnet.training.transfer.start import choose_solver, choose_views
from flax_resnet.weights.formats.checkpoint import read_checkpoint
from tests.tiny_net import TINY

CLASSES = ("blue", "green", "red")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        for split, count in (("train", 16), ("val", 6), ("test", 5)):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 130, (20, 24, 3), dtype=np.uint8)
                pixels[..., 2 - label] += 60
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    model = fr.create_model("resnet8")
    sample = np.zeros((1, 16, 16, 3), np.float32)
    path = tmp_path_factory.mktemp("weights") / "resnet8.safetensors"
    init = jax.jit(lambda: model.init(jax.random.key(1), sample, train=False))
    fr.save_weights(path, init(), model)
    return path


@pytest.fixture(scope="module")
def finetune(weights, tmp_path_factory):
    """Runs the command; returns its folder, its history and what it said."""
    cache = tmp_path_factory.mktemp("cache")
    base = tmp_path_factory.mktemp("runs")

    def run(photos, name, *options, capfd, cache=cache):
        workdir = base / name
        places = (str(photos), "--weights", str(weights), "--workdir", str(workdir))
        sizes = ("--image-size", "16", "--batch-size", "16", "--compile-cache", "None")
        kept = ("--transfer.feature-cache", str(cache))
        assert main(["finetune", *places, *sizes, *kept, *options]) == 0
        lines = (workdir / "history.jsonl").read_text().splitlines()
        return workdir, [json.loads(line) for line in lines], capfd.readouterr().out

    return run


def counts(said):
    """How many rows were computed and how many found."""
    return tuple(map(int, re.search(r"(\d+) computed, (\d+) found", said).groups()))


@pytest.mark.slow
@pytest.mark.usefixtures("no_page")
def test_a_head_by_lbfgs_is_a_classifier(finetune, photos, weights, capfd):
    workdir, history, said = finetune(photos, "lbfgs", capfd=capfd)
    assert history[-1]["test_top1"] > 0.9  # colours
    assert is_finished(workdir)  # whose epochs are iterations, fewer than it was given
    assert history[-2]["val_loss"] == min(
        line["val_loss"] for line in history[:-1] if line["val_top1"] == history[-2]["val_top1"]
    )
    run = fr.load(workdir)
    image = np.full((16, 16, 3), 60, np.uint8)
    image[..., 0] = 130
    preprocess = fr.data.Preprocessing.from_transform(run.transform)
    logits = run.model.apply(run.variables, preprocess(image[None]), train=False)
    assert run.classes[int(np.argmax(logits))] == "red"
    before = flatten_dict(fr.load_weights(weights, fr.create_model("resnet8")))
    _, after = read_checkpoint(workdir / "checkpoints")
    for path, leaf in flatten_dict(after).items():
        if path[1] != "fc":
            assert np.asarray(leaf).tobytes() == np.asarray(before[path]).tobytes(), path
    _, again, said = finetune(photos, "lbfgs", capfd=capfd)
    assert again == history
    assert counts(said)[0] == 0


@pytest.mark.slow
@pytest.mark.usefixtures("no_page")
@pytest.mark.parametrize(
    "mode", [("head",), ("partial", "--freeze-before", "layer3")], ids=["head", "partial"]
)
def test_kept_features_train_as_forward_passes_do(finetune, photos, mode, capfd):
    plain = ("--augment.no-random-resized-crop", "--augment.no-flip", "--epochs", "2")
    options = ("--mode", *mode, "--solver", "sgd", *plain)
    losses = {}
    for views in ("0", "1"):
        _, history, _ = finetune(
            photos, f"{mode[0]}-{views}", *options, "--views", views, capfd=capfd
        )
        losses[views] = [
            line[name] for line in history[:-1] for name in ("train_loss", "val_loss")
        ] + [history[-1]["test_loss"]]
    np.testing.assert_allclose(losses["0"], losses["1"], rtol=2e-3)


@pytest.mark.slow
def test_only_what_is_new_is_computed(finetune, photos, tmp_path, capfd, request):
    folder, cache = tmp_path / "photos", tmp_path / "cache"
    shutil.copytree(photos, folder)
    (folder / "train" / "red" / "bad.png").write_bytes(b"<html>")
    _, _, said = finetune(folder, "first", capfd=capfd, cache=cache)
    assert counts(said) == (81, 0)
    assert "bad.png" in said
    request.getfixturevalue("no_page")  # one page without a photo is enough
    Image.new("RGB", (20, 20), (200, 0, 0)).save(folder / "train" / "red" / "new.png")
    shutil.copy(folder / "train" / "red" / "0.png", folder / "train" / "red" / "copy.png")
    _, _, said = finetune(folder, "second", capfd=capfd, cache=cache)
    assert counts(said)[0] == 1
    kept = max(cache.rglob("*.npy"), key=lambda path: path.stat().st_size)
    content = bytearray(kept.read_bytes())
    content[-1] ^= 1
    kept.write_bytes(content)
    _, _, said = finetune(folder, "third", capfd=capfd, cache=cache)
    assert "1 damaged file" in said
    assert 0 < counts(said)[0] < 83


@pytest.mark.slow
def test_views_are_augmented_and_each_its_own(finetune, photos, capfd):
    workdir, _, said = finetune(photos, "views", "--views", "2", capfd=capfd)
    assert "2 augmented views" in said
    sheet = json.loads((workdir / "report" / "data.json").read_text())
    assert sheet["image_shape"] == [16, 16, 3]  # the page shows photos, which training has not seen
    assert all(len(versions) == 3 for _, _, versions in sheet["samples"])
    assert "test/red/0.png" in (workdir / "report" / "index.html").read_text()
    computed, found = counts(said)
    assert (computed, found) in ((81 + 2 * 48, 0), (2 * 48, 81))


def test_a_store_never_reads_what_is_half_written(tmp_path):
    store = FeatureStore(tmp_path)
    store.add(["a", "b"], np.arange(6.0).reshape(2, 3))
    store.add(["c"], np.full((1, 3), 9.0))
    next(tmp_path.glob("*.json")).with_suffix(".npy").with_name("x.npy").write_bytes(b"half")
    again = FeatureStore(tmp_path)
    rows = again.rows(["c", "a"])
    np.testing.assert_array_equal(rows[np.array([0, 1])], [[9, 9, 9], [0, 1, 2]])
    assert "x" not in again
    assert again.damaged == 0


def test_a_store_keeps_files_that_cannot_be_opened_now(tmp_path, monkeypatch):
    """With too many open files it deleted them, and took new rows for unreadable images."""
    FeatureStore(tmp_path).add(["a", "b"], np.arange(6.0).reshape(2, 3))

    def fail(*_, **__):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(np, "load", fail)
        store = FeatureStore(tmp_path)
        assert (store.damaged, "a" in store) == (0, False)
        store.add(["c"], np.full((1, 3), 9.0))
        assert store.unwritable == "Too many open files"
        np.testing.assert_array_equal(store.rows(["c"])[np.array([0])], [[9, 9, 9]])
    again = FeatureStore(tmp_path)
    assert again.damaged == 0
    assert all(one in again for one in "abc")


def head_of(**changes):
    return Config(transfer=TransferConfig(mode="head"), **changes)


def test_features_of_a_bfloat16_model_are_kept_in_float32(tmp_path, console):
    """NumPy read them back as bytes, and the head was standardised in bfloat16."""
    config = dataclasses.replace(
        head_of(data=DataConfig(name="digits"), compile_cache=None),
        model=dataclasses.replace(TINY, dtype="bfloat16"),
        transfer=TransferConfig(mode="head", feature_cache=str(tmp_path)),
    )
    run = resolve(config)
    print_plan(run, console)
    assert run.solver == "lbfgs"
    assert "Learning rate" not in console.text()
    state = run.init()
    computed, found = (keep_features(run, state, console) for _ in range(2))
    rows, labels = found.dataset.train.everything()
    assert (rows.dtype, rows.shape) == (np.float32, (len(labels), 8))
    np.testing.assert_array_equal(rows, computed.dataset.train.everything()[0])
    assert "1,797 found" in console.text()


def test_an_image_that_another_process_cannot_read_is_left_out(tmp_path, console, monkeypatch):
    """Each process decided alone, so that their splits had different lengths."""
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "set.npz", image=images, label=np.arange(40) % 2)
    config = head_of(
        model=TINY,
        data=DataConfig(name="folder", dir=str(tmp_path / "set.npz"), batch_size=8),
        compile_cache=None,
    )
    cache = dataclasses.replace(config.transfer, feature_cache=str(tmp_path / "cache"))
    run = resolve(dataclasses.replace(config, transfer=cache))
    monkeypatch.setattr(features, "true_in_all", lambda here: here & (np.arange(len(here)) != 1))
    kept = keep_features(run, run.init(), console).dataset.train
    count = len(run.dataset.train)
    assert kept.readable.tolist() == [0, *range(2, count)] and len(kept) == count - 1
    np.testing.assert_array_equal(kept.labels, np.delete(run.dataset.train.labels, 1))
    assert "train: images that another process cannot read are left out: 1." in console.text()


def test_features_are_not_kept_where_other_images_are_needed():
    assert choose_views(head_of(), mixes=False) == 1
    assert choose_views(head_of(evaluate_flipped=True), mixes=False) == 0
    sizes = DataConfig(train_sizes=((0, 8),))
    assert choose_views(head_of(data=sizes), mixes=False) == 0


def test_a_head_with_dropout_or_smooth_labels_is_trained_by_steps():
    """L-BFGS fitted it without either."""
    assert choose_solver(head_of(), 1) == "lbfgs"
    assert choose_solver(head_of(label_smoothing=0.1), 1) == "sgd"
    assert choose_solver(head_of(model=ModelConfig(dropout=0.2)), 1) == "sgd"


def test_the_head_is_scikit_learns():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 200)
    features = (rng.normal(size=(200, 5)) * [1, 2, 3, 4, 5] + labels[:, None]).astype(np.float32)
    fits = fit_strengths((features, labels), (features[:0], labels[:0]), 3)
    assert len(fits) == 1  # nothing to choose by
    standard = (features - features.mean(0)) / features.std(0)
    theirs = LogisticRegression(C=1 / (fits[0].strength * 200), tol=1e-8, max_iter=1000)
    expected = theirs.fit(standard, labels).predict_log_proba(standard)
    logits = features @ fits[0].kernel + fits[0].bias
    got = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    np.testing.assert_allclose(got, expected, atol=5e-3)


def test_the_strength_is_chosen_on_validation():
    """With more features than examples the least regularised head is not the best."""
    rng = np.random.default_rng(1)
    center = rng.normal(size=(2, 60))

    def draw(count):
        labels = rng.integers(0, 2, count)
        features = center[labels] * 0.3 + rng.normal(size=(count, 60))
        return features.astype(np.float32), labels

    fits = fit_strengths(draw(40), draw(400), 2)
    losses = [fit.val["loss"] for fit in fits]
    assert losses[0] != min(losses) != losses[-1]
    assert max(fits, key=lambda fit: fit.rank).val["top1"] == max(fit.val["top1"] for fit in fits)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--mode", "full", "--views", "1"), "no stage is frozen throughout"),
        (
            ("--views", "1", "--transfer.statistics", "updated"),
            "batch norm of the frozen stages changes",
        ),
        (("--views", "1", "--evaluate-flipped"), "--evaluate-flipped needs the images"),
        (("--views", "1", "--data.train-sizes", "0", "8"), "--data.train-sizes changes the size"),
        (("--solver", "lbfgs", "--head", "hidden:8"), "lbfgs needs --mode head"),
        (("--solver", "lbfgs", "--dropout", "0.2"), "and no --dropout, --label-smoothing"),
    ],
    ids=["mode", "statistics", "flipped", "sizes", "hidden", "dropout"],
)
def test_features_that_change_are_refused(photos, weights, tmp_path, capfd, options, sentence):
    places = (str(photos), "--weights", str(weights), "--workdir", str(tmp_path / "run"))
    assert main(["finetune", *places, "--image-size", "16", *options]) == 2
    assert sentence in " ".join(capfd.readouterr().err.split())
    assert not (tmp_path / "run").exists()
