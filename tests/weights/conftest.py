"""State dicts and images filled from seeds: torch's side and ours make the same ones."""

import importlib
import json
import socket
import threading
import zlib
from functools import cache
from http.server import ThreadingHTTPServer
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flax_resnet as fr

from .loopback import Handler

GOLDEN = Path(__file__).parent / "golden"
SIZES = {"224x224": (224, 224), "193x161": (193, 161)}
SAMPLES = 128  # values kept of each stage's features


def seeded_state_dict(shapes):
    """A state dict of these shapes; each array depends on its name alone, and no batch norm is
    trivial. ``RandomState`` promises the same numbers in every version of NumPy."""
    return {name: _seeded(name, tuple(shape)) for name, shape in shapes.items()}


def _seeded(name, shape):
    module, _, kind = name.rpartition(".")
    if kind == "num_batches_tracked":
        return np.array(7, np.int64)
    unit = np.random.RandomState(zlib.crc32(name.encode())).random_sample(shape)
    if kind == "running_var":
        array = 0.5 + unit
    elif kind == "weight" and len(shape) == 1:
        # The last norm of a bottleneck is small, or fifty of them would overflow.
        array = (0.5 + unit) * (0.3 if module.endswith("bn3") else 1.0)
    elif len(shape) > 1:
        array = (2 * unit - 1) * np.sqrt(6 / np.prod(shape[1:]))  # variance 2 / fan in
    else:
        array = 0.4 * unit - 0.2
    return array.astype(np.float32)


@cache  # models compare by value
def torch_shapes(model, channels=3):
    """The shapes of a model's state dict by name, without computing a value."""
    model = model.clone(conv_impl="reference")  # quickly traced
    side = 28 if model.stem == "mnist" else 32
    variables = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, side, side, channels)), train=False)
    )
    zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), variables)
    return {name: array.shape for name, array in fr.to_torchvision(zeros, model).items()}


def seeded_images(height, width):
    """One image ``[1, H, W, 3]``."""
    random = np.random.RandomState(height * 1000 + width)
    return random.standard_normal((1, height, width, 3)).astype(np.float32)


def sampled(features):
    """``SAMPLES`` values of features ``[N, H, W, C]`` at seeded places."""
    flat = np.ascontiguousarray(features).reshape(-1)
    return flat[np.random.RandomState(1).randint(flat.size, size=SAMPLES)]


@pytest.fixture(scope="session")
def torchvision_shapes():
    """By model, the shapes of torchvision's state dict by name."""
    return json.loads((GOLDEN / "torchvision_shapes.json").read_text())


@pytest.fixture
def own_folders(monkeypatch, tmp_path):
    """No cache of the user's, and no proxy."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for variable in ("FLAX_RESNET_CACHE", "TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.files, httpd.requests = {}, []
        httpd.url = f"http://127.0.0.1:{httpd.server_port}"
        # A short poll, because shutdown() waits for one.
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield httpd
        httpd.shutdown()
        thread.join()


@pytest.fixture
def refusing():
    """An address that refuses connections."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening
        yield f"http://127.0.0.1:{unused.getsockname()[1]}"


@pytest.fixture
def silent():
    """An address that takes connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def at(monkeypatch, tmp_path):
    """``at(url)``: the hub is there, and its cache is empty."""
    constants = pytest.importorskip("huggingface_hub.constants")
    # Its client keeps the proxies of the environment in which it was made, perhaps another test's.
    close_session = importlib.import_module("huggingface_hub").close_session
    close_session()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)

    def use(url):
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + template)

    yield use
    close_session()
