"""Published weights fetched, against servers on the loopback interface only."""

import hashlib
import json
import sys
import time
from dataclasses import replace

import pytest

from flax_resnet.errors import UserError
from flax_resnet.weights import hub, published
from flax_resnet.weights.hub import fetch_published, fetch_timm
from flax_resnet.weights.published import find_published

from .loopback import place

CONTENT = hashlib.shake_256(b"weights").digest(100_000)
ENTRY = replace(
    find_published("resnet18", "DEFAULT"), sha256=hashlib.sha256(CONTENT).hexdigest()[:8]
)
CFG = {"mean": [0.5, 0.5, 0.5], "crop_pct": 0.95}
NAME = "timm/resnet50.a1_in1k"


@pytest.fixture(autouse=True)
def no_user_folders(own_folders):
    """No cache of the user's, and no proxy, in any test."""


def fails_with(call, *facts):
    """The call fails soon, in one sentence that has the facts and the ways on."""
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        call()
    assert time.monotonic() - start < 5
    for fact in (*facts, "path of a file", "--weights none"):
        assert fact in str(caught.value)
    assert "\n" not in str(caught.value)


# --- torchvision's files -----------------------------------------------------


@pytest.fixture
def torch_server(server, monkeypatch):
    server.files[f"/models/{ENTRY.file}"] = CONTENT
    monkeypatch.setattr(published, "TORCH_URL", f"{server.url}/models/")
    return server


def test_published_file_is_fetched_once(torch_server, tmp_path):
    for _ in range(2):
        path = fetch_published(ENTRY, tmp_path / "cache")
        assert path == tmp_path / "cache" / ENTRY.file
        assert path.read_bytes() == CONTENT
        assert torch_server.requests == [f"GET /models/{ENTRY.file}"]


def test_default_cache_is_in_the_home_folder(torch_server, tmp_path):
    home = tmp_path / "home"
    assert fetch_published(ENTRY) == home / ".cache" / "flax_resnet" / "weights" / ENTRY.file


def test_cache_of_the_environment(torch_server, tmp_path, monkeypatch):
    monkeypatch.setenv("FLAX_RESNET_CACHE", str(tmp_path / "big disk"))
    assert fetch_published(ENTRY) == tmp_path / "big disk" / "weights" / ENTRY.file


def test_damaged_file_in_the_cache_is_replaced(torch_server, tmp_path):
    (tmp_path / ENTRY.file).write_bytes(CONTENT[:-1])
    assert fetch_published(ENTRY, tmp_path).read_bytes() == CONTENT


TORCH_HOMES = {"HOME": ".cache/torch", "XDG_CACHE_HOME": "torch", "TORCH_HOME": ""}


@pytest.mark.parametrize("variable", TORCH_HOMES)
def test_file_of_torch_hub_is_used(torch_server, tmp_path, monkeypatch, variable):
    monkeypatch.setenv(variable, str(tmp_path / "own"))
    torch_home = tmp_path / "own" / TORCH_HOMES[variable]
    theirs = torch_home / "hub" / "checkpoints" / ENTRY.file
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(CONTENT)
    assert fetch_published(ENTRY, tmp_path / "cache") == theirs
    assert torch_server.requests == []
    theirs.write_bytes(b"damaged")
    assert fetch_published(ENTRY, tmp_path / "cache") == tmp_path / "cache" / ENTRY.file
    assert theirs.read_bytes() == b"damaged"


def test_published_without_a_connection(refusing, tmp_path, monkeypatch):
    monkeypatch.setattr(published, "TORCH_URL", f"{refusing}/")
    fails_with(lambda: fetch_published(ENTRY, tmp_path), ENTRY.file, "refused", str(tmp_path))


# --- timm's repositories -----------------------------------------------------


@pytest.fixture
def hf_server(server, at):
    at(server.url)
    config = {"architecture": "resnet50", "pretrained_cfg": CFG}
    place(server, NAME, model=CONTENT, config=json.dumps(config).encode())
    return server


def test_timm_repository(hf_server):
    path, cfg = fetch_timm(NAME)
    assert path.name == "model.safetensors"
    assert path.read_bytes() == CONTENT
    assert cfg == {"architecture": "resnet50", "pretrained_cfg": CFG}
    assert f"GET /{NAME}/resolve/main/model.safetensors" in hf_server.requests


def test_timm_repository_in_the_cache_needs_no_hub(hf_server, at, refusing):
    first = fetch_timm(NAME)
    at(refusing)
    assert fetch_timm(NAME) == first


def test_timm_repository_in_the_cache_while_offline(hf_server, monkeypatch):
    first = fetch_timm(NAME)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hf_server.requests.clear()
    assert fetch_timm(NAME) == first
    assert hf_server.requests == []


def test_early_config_without_a_pretrained_cfg(hf_server):
    place(hf_server, NAME, config=json.dumps(CFG).encode())
    assert fetch_timm(NAME)[1] == CFG


@pytest.mark.parametrize("config", [b"{", b"[]", b'{"pretrained_cfg": 1}', b"\xff"])
def test_damaged_config(hf_server, tmp_path, config):
    place(hf_server, NAME, config=config)
    with pytest.raises(UserError, match=r"config\.json cannot be read") as caught:
        fetch_timm(NAME)
    folder = tmp_path / "hub" / "models--timm--resnet50.a1_in1k"
    assert folder.is_dir()
    assert f"delete the folder {folder} and run again" in str(caught.value)


@pytest.mark.parametrize("status", [401, 404])
def test_unknown_repository(hf_server, status):
    place(hf_server, "timm/resnet51", model=(status, "RepoNotFound"))
    fails_with(
        lambda: fetch_timm("timm/resnet51"), "no repository", f"{hf_server.url}/timm/resnet51"
    )


def test_repository_for_which_one_must_ask(hf_server):
    place(hf_server, NAME, model=(403, "GatedRepo"))
    fails_with(lambda: fetch_timm(NAME), NAME, "not open to everyone")


@pytest.mark.parametrize("missing", ["model", "config"])
def test_repository_that_is_not_of_weights(hf_server, missing):
    place(hf_server, NAME, **{missing: (404, "EntryNotFound")})
    fails_with(lambda: fetch_timm(NAME), NAME, "lacks model.safetensors or config.json")


@pytest.mark.parametrize("name", ["timm/a/b", "timm/../b", "", "timm/res net"])
def test_name_that_cannot_be_one(hf_server, name):
    fails_with(lambda: fetch_timm(name), repr(name), "timm/resnet50.a1_in1k")


def test_hub_that_is_down(hf_server):
    place(hf_server, NAME, model=(503, None))
    fails_with(lambda: fetch_timm(NAME), NAME, "model.safetensors", "503")


def test_timm_without_a_connection(at, refusing, tmp_path):
    at(refusing)
    address = f"{refusing}/{NAME}/resolve/main/model.safetensors"
    fails_with(lambda: fetch_timm(NAME), address, "no connection", "refused", str(tmp_path / "hub"))


def test_timm_where_nothing_answers(at, silent, monkeypatch):
    at(silent)
    monkeypatch.setattr(hub, "OPEN_SECONDS", 0.3)
    fails_with(lambda: fetch_timm(NAME), NAME, "no connection", "no answer within 0.3 seconds")


def test_timm_while_offline(hf_server, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    fails_with(lambda: fetch_timm(NAME), NAME, "HF_HUB_OFFLINE is set")
    assert hf_server.requests == []


def test_timm_without_the_hubs_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    fails_with(lambda: fetch_timm(NAME), NAME, "pip install huggingface_hub")
