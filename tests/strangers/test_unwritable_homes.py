"""Homes that cannot be written, as in containers: nothing that is only kept for later may fail."""

import contextlib
import hashlib
import io

import jax
import numpy as np
import pytest
from PIL import Image

import flax_resnet as fr
from flax_resnet.cli import main
from flax_resnet.download import PublishedFile, fetch
from flax_resnet.errors import UserError
from flax_resnet.paths import process_folder
from flax_resnet.runtime import keep_programs
from flax_resnet.training.transfer import feature_store


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home that is a file: neither root nor anyone else can write in it."""
    (tmp_path / "home").write_text("")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("FLAX_RESNET_CACHE", raising=False)
    return tmp_path / "home"


@pytest.fixture
def compile_cache():
    """Restores the folder of compiled programs."""
    name = "jax_compilation_cache_dir"
    before = jax.config.values[name]
    yield lambda: jax.config.values[name]
    jax.config.update(name, before)


@pytest.mark.slow
def test_finetune_keeps_features_in_memory(home, tmp_path, compile_cache, monkeypatch):
    monkeypatch.setattr(
        "flax_resnet.training.recording.write_run_page", lambda workdir, *_: workdir
    )
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(12):
            pixels = np.random.default_rng([number, len(name), ord(name[0])]).integers(
                0, 256, (9, 9, 3)
            )
            Image.fromarray(pixels.astype(np.uint8)).save(
                tmp_path / "photos" / name / f"{number}.png"
            )
    model = fr.create_model("resnet8", num_classes=10)
    sample = np.zeros((1, 16, 16, 3), np.float32)
    variables = jax.jit(lambda: model.init(jax.random.key(1), sample, train=False))()
    fr.save_weights(tmp_path / "resnet8.safetensors", variables, model)
    words = ("finetune", tmp_path / "photos", "--weights", tmp_path / "resnet8.safetensors")
    more = ("--image-size", 16, "--workdir", tmp_path / "run")
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        assert main([str(word) for word in (*words, *more)]) == 0
    printed = " ".join(shown.getvalue().split())
    for note in (
        "~/.cache/flax_resnet/xla cannot be written, so compiled programs are not kept.",
        "/features cannot be written (Not a directory), so features are kept in memory",
        "24 computed, 0 found",
    ):
        assert printed.count(note) == 1, printed
    assert fr.load(tmp_path / "run").classes == ("cat", "dog")


def test_features_that_are_too_many_for_the_memory_are_refused(home, monkeypatch):
    monkeypatch.setattr(feature_store, "BYTES_IN_MEMORY", 100)
    store = feature_store.FeatureStore(home / "features")
    store.add(["a", "b"], np.ones((2, 8), np.float32))
    assert "a" in store and store.rows(["b"])[np.array([0])].shape == (1, 8)
    with pytest.raises(UserError, match=r"too many for the memory: .*--transfer.feature-cache"):
        store.add(["c", "d"], np.ones((2, 8), np.float32))


def test_downloads_are_for_this_process_only(home, monkeypatch, capsys):
    content = b"weights"
    file = PublishedFile("a.pth", "http://host/a.pth", 7, hashlib.sha256(content).hexdigest())
    monkeypatch.setattr("flax_resnet.download._complete", lambda _, part: part.write_bytes(content))
    path = fetch(file, home / "weights" / "a.pth", "give a file")
    assert path.is_relative_to(process_folder()) and path.read_bytes() == content
    assert capsys.readouterr().err == (
        f"note: {home / 'weights'} cannot be written, so a.pth is downloaded for this process "
        "only.\n"
    )
    assert fetch(file, home / "weights" / "a.pth", "give a file") == path
    assert capsys.readouterr().err == ""


def test_compiled_programs_are_not_kept(home, tmp_path, compile_cache):
    assert "cannot be written" in keep_programs("~/.cache/flax_resnet/xla")
    assert keep_programs(tmp_path / "xla") is None and compile_cache() == str(tmp_path / "xla")
    assert keep_programs(None) is None
