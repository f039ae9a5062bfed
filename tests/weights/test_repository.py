"""Folders for the Hugging Face hub: read back by us and by timm, with a card, and uploaded."""

import base64
import json
import re

import jax
import numpy as np
import pytest
from PIL import Image

import flax_resnet as fr
from flax_resnet import UserError
from flax_resnet.cli import main
from flax_resnet.config import ModelConfig
from flax_resnet.inference import Classifier
from flax_resnet.transform import EvalTransform
from flax_resnet.weights import WeightsInfo
from flax_resnet.weights.timm import timm_architecture

CLASSES = ("daisy", "rose", "sea | holly")
NAME = "org/flowers"
TOKEN = "hf_0123"


def make(name="resnet18", options=None, *, channels=3, classes=CLASSES, transform=None, **info):
    """A classifier with random variables: seeded, no batch norm trivial."""
    options = options or {}
    model = fr.create_model(name, num_classes=len(classes) or 10, **options)
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), np.zeros((1, 64, 64, channels), np.float32))
    )
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: rng.uniform(0.02, 0.05, leaf.shape).astype("f4"), shapes)
    described = {field: options.get(field) for field in ("stem", "hidden") if field in options}
    more = {field: value for field, value in options.items() if field not in described}
    return Classifier(
        model,
        variables,
        WeightsInfo(
            source="test",
            kind="file",
            path=None,
            config=ModelConfig(name=name, **described),
            classes=tuple(classes),
            transform=transform or EvalTransform.center_crop(64, 73).with_channels(channels),
            has_classifier=bool(classes),
            model_options=more,
            **info,
        ),
    )


SHALLOW = {"stage_sizes": (1, 1, 1, 1), "widths": (64, 72, 80, 96)}
MODELS = {
    "basic": ("resnet18", SHALLOW),
    "bottleneck": ("resnet50", SHALLOW),
    "groups": ("resnext50_32x4d", SHALLOW),
    "resnet-d": ("resnet50d", SHALLOW | {"stem_width": 48}),
    "dilated": ("resnet50", SHALLOW | {"output_stride": 8}),
    "attention": ("seresnet50", SHALLOW),
    "v2": ("resnetv2_50", {}),
}


def same_variables(first, second):
    jax.tree.map(np.testing.assert_array_equal, dict(first), dict(second))


@pytest.mark.parametrize("name", MODELS)
def test_a_folder_is_read_back(name, tmp_path):
    classifier = make(*MODELS[name])
    written = classifier.save_pretrained(tmp_path / "flowers")
    assert written.format == "timm", written.reason
    again = fr.load(tmp_path / "flowers")
    assert again.classes == CLASSES
    assert again.transform == classifier.transform
    assert again.model == classifier.model
    same_variables(again.variables, classifier.variables)


@pytest.mark.parametrize("name", MODELS)
def test_timm_computes_the_same_logits(name, tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("tests.weights.torchvision_import")
    timm = pytest.importorskip("timm")
    classifier = make(*MODELS[name])
    classifier.save_pretrained(tmp_path / "flowers")
    theirs = timm.create_model(f"local-dir:{tmp_path / 'flowers'}", pretrained=True).eval()
    images = np.random.default_rng(1).standard_normal((2, 64, 64, 3)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    logits = np.asarray(classifier.model.apply(classifier.variables, images, train=False))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert theirs.pretrained_cfg["label_names"] == list(CLASSES)


@pytest.mark.parametrize(
    "transform",
    [
        EvalTransform.center_crop(224, 232),
        EvalTransform.center_crop(176, 232, "bicubic"),
        EvalTransform.center_crop(30),
        EvalTransform(30, 30, None, "bicubic", mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3)),
    ],
)
def test_timm_prepares_images_in_the_same_way(transform, tmp_path):
    pytest.importorskip("tests.weights.torchvision_import")
    data = pytest.importorskip("timm.data")
    from flax_resnet.data.images import fit_image

    make(options=SHALLOW, transform=transform).save_pretrained(tmp_path / "flowers")
    config = json.loads((tmp_path / "flowers" / "config.json").read_text())
    theirs = data.create_transform(
        **data.resolve_data_config(pretrained_cfg=config["pretrained_cfg"])
    )
    pixels = np.random.default_rng(0).integers(0, 256, (300, 411, 3), dtype=np.uint8)
    expected = theirs(Image.fromarray(pixels)).numpy().transpose(1, 2, 0)
    ours = (fit_image(pixels, transform) / 255.0 - transform.mean) / transform.std
    np.testing.assert_allclose(ours, expected, atol=1.01 / 255 / min(transform.std))
    assert np.mean(np.abs(ours - expected) > 1e-4) < 0.01


def test_one_channel_and_no_classifier(tmp_path):
    classifier = make(options=SHALLOW, channels=1, classes=())
    written = classifier.save_pretrained(tmp_path / "grey")
    config = json.loads((tmp_path / "grey" / "config.json").read_text())
    assert (written.format, config["num_classes"], config["model_args"]["in_chans"]) == (
        "timm",
        0,
        1,
    )
    again = fr.load(tmp_path / "grey")
    assert not again.classes
    assert again.transform.channels == 1


@pytest.mark.parametrize(
    ("name", "options", "transform", "named"),
    [
        ("resnet20", {}, None, "stem='cifar'"),
        ("resnet18", {"hidden": (8,)}, None, "hidden=(8,)"),
        ("resnet50", {"version": "v1"}, None, "version='v1'"),
        ("resnet50", SHALLOW | {"output_stride": 4}, None, "output_stride=4"),
        ("resnet18", {"shortcut": "A"}, None, "shortcut='A'"),
        ("resnet18", {"stage_sizes": (1, 1), "widths": (64, 64)}, None, "stage_sizes=(1, 1)"),
        ("resnet18", SHALLOW, EvalTransform(28, 28, 28, channels=1), "grey images"),
        ("resnet18", SHALLOW, EvalTransform(28, 28, 28, model_size=56), "resizes the pixels"),
    ],
)
def test_what_timm_cannot_express_is_in_our_own_format(name, options, transform, named, tmp_path):
    classifier = make(name, options, transform=transform)
    written = classifier.save_pretrained(tmp_path / "own")
    assert written.format == "flax_resnet"
    assert named in written.reason
    assert f"own format, because {written.reason}" in (tmp_path / "own" / "README.md").read_text()
    assert "architecture" not in json.loads((tmp_path / "own" / "config.json").read_text())
    again = fr.load(tmp_path / "own")
    assert again.model == classifier.model
    assert again.transform == classifier.transform
    same_variables(again.variables, classifier.variables)


def test_every_named_model_of_timm_has_its_own_architecture():
    from flax_resnet.weights.timm import ARCHITECTURES

    for name in sorted(ARCHITECTURES):
        architecture, arguments = timm_architecture(fr.create_model(name, dropout=0.5))
        assert not arguments
        options = fr.models.variants.variant_options
        assert options(architecture) == options(name), (name, architecture)


def test_the_loss_is_kept(tmp_path):
    """Sigmoid probabilities do not sum to one."""
    classifier = make(options=SHALLOW, settings={"loss": "sigmoid"})
    classifier.save_pretrained(tmp_path / "labels")
    classifier.save(tmp_path / "labels.safetensors")
    image = [np.zeros((64, 64, 3), np.uint8)]
    expected = classifier.predict(image).probabilities
    assert abs(expected.sum() - 1) > 0.1
    for source in ("labels", "labels.safetensors"):
        again = fr.load(tmp_path / source).predict(image).probabilities
        np.testing.assert_allclose(again, expected, rtol=1e-5)


def test_a_folder_that_holds_something_is_kept(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is there already"):
        make(options=SHALLOW).save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_crop_mode_of_timm_that_is_not_supported(tmp_path):
    make(options=SHALLOW).save_pretrained(tmp_path / "a")
    path = tmp_path / "a" / "config.json"
    config = json.loads(path.read_text())
    del config["flax_resnet"]
    config["pretrained_cfg"]["crop_mode"] = "border"
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match="crop_mode='border'"):
        fr.load(tmp_path / "a")


# --- the model card ----------------------------------------------------------


def test_card(tmp_path):
    settings = {
        "data.name": "folder",
        "data.dir": "/home/someone/flowers",
        "transfer.weights": "timm/resnet18.a1_in1k",
        "epochs": 3,
        "optimizer.learning_rate": 0.01,
    }
    classifier = make(options=SHALLOW, settings=settings, metrics={"acc@1": 75.5})
    classifier.save_pretrained(tmp_path / "flowers", name=NAME, license="mit")
    card = (tmp_path / "flowers" / "README.md").read_text()
    header, body = re.fullmatch(r"---\n(.*?)---\n(.*)", card, re.DOTALL).groups()
    for line in (
        'license: "mit"',
        'library_name: "timm"',
        'base_model: "timm/resnet18.a1_in1k"',
        '"flax_resnet"',
    ):
        assert line in header
    for text in (
        f'fr.load("hf:{NAME}")',
        f'timm.create_model("hf-hub:{NAME}", pretrained=True)',
        "`daisy`, `rose`, `sea | holly`.",
        "| size | shorter side to 73, then the middle 64×64 |",
        "| folder or file | flowers |",
        "| epochs | 3 |",
        "| learning rate | 0.01 |",
        "| acc@1 | 75.5% |",
    ):
        assert text in body
    assert "/home/someone" not in card


def test_card_without_a_licence(tmp_path):
    make(options=SHALLOW).save_pretrained(tmp_path / "flowers")
    card = (tmp_path / "flowers" / "README.md").read_text()
    assert 'license: "unknown"' in card


# --- uploads -----------------------------------------------------------------


@pytest.fixture
def hub(server, at, own_folders, monkeypatch):
    """A hub on the loopback interface that takes uploads; ``hub.created`` are its repositories."""
    at(server.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    server.created = {}
    server.answers = {"/api/whoami-v2": (200, {"name": "someone", "type": "user"})}
    server.post = lambda path, body: answer_post(server, path, body)
    return server


def answer_post(server, path, body):
    if path == "/api/repos/create":
        wanted = json.loads(body)
        name = f"{wanted['organization']}/{wanted['name']}"
        url = {"url": f"{server.url}/{name}"}
        if name in server.created:
            return 409, url
        server.created[name] = wanted
        return 200, url
    if path == "/api/validate-yaml":
        assert json.loads(body)["content"].startswith("---")
        return 200, {"errors": [], "warnings": []}
    if path.endswith("/preupload/main"):
        files = [
            {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
            for file in json.loads(body)["files"]
        ]
        return 200, {"files": files}
    if path.endswith("/commit/main"):
        name = path.removeprefix("/api/models/").removesuffix("/commit/main")
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                content = base64.b64decode(line["value"]["content"])
                server.files[f"/{name}/resolve/main/{line['value']['path']}"] = content
        answer = {"commitUrl": f"{server.url}/{name}/commit/1", "commitOid": "1" * 40}
        return 200, answer | {"hookOutput": ""}
    return 404, {}


def test_push_and_load(hub):
    classifier = make(options=SHALLOW)
    url, written = fr.push_to_hub(classifier, NAME, private=True, license="mit")
    assert url == f"{hub.url}/{NAME}"
    assert written.format == "timm"
    # huggingface_hub renamed the field in a version after 1.0.
    assert hub.created[NAME].get("visibility") == "private" or hub.created[NAME]["private"]
    assert b'license: "mit"' in hub.files[f"/{NAME}/resolve/main/README.md"]
    again = fr.load(f"hf:{NAME}")
    assert again.classes == CLASSES
    assert again.transform == classifier.transform
    same_variables(again.variables, classifier.variables)


def test_push_to_a_repository_that_exists(hub):
    classifier = make(options=SHALLOW)
    hub.created[NAME] = {}
    with pytest.raises(UserError, match=rf"{NAME} exists already: .*--update") as caught:
        fr.push_to_hub(classifier, NAME)
    assert "\n" not in str(caught.value)
    assert not hub.files
    fr.push_to_hub(classifier, NAME, update=True)
    assert f"/{NAME}/resolve/main/model.safetensors" in hub.files


def test_push_without_a_token(hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "/nowhere")
    with pytest.raises(UserError, match=r"no access token .* hf auth login"):
        fr.push_to_hub(make(options=SHALLOW), NAME)
    assert not hub.requests


@pytest.mark.parametrize("status", [401, 403])
def test_push_with_a_token_that_is_refused(hub, status):
    hub.answers["/api/whoami-v2"] = status, {}
    with pytest.raises(
        UserError, match=f"refuses to write {NAME} with this access token"
    ) as caught:
        fr.push_to_hub(make(options=SHALLOW), NAME)
    assert "\n" not in str(caught.value)


def test_push_without_a_connection(at, refusing, own_folders, monkeypatch):
    at(refusing)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(UserError, match=f"no connection to {refusing}") as caught:
        fr.push_to_hub(make(options=SHALLOW), NAME)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["flowers", "a/b/c", "org/flo wers"])
def test_push_to_a_name_that_cannot_be_one(hub, name):
    with pytest.raises(UserError, match="write it as org/name"):
        fr.push_to_hub(make(options=SHALLOW), name)


def test_push_on_the_command_line(hub, tmp_path, capsys):
    make("resnet20").save(tmp_path / "net.safetensors")
    assert main(["push", str(tmp_path / "net.safetensors"), NAME]) == 0
    assert f"{hub.url}/{NAME}: in the format of flax_resnet, because timm has no" in (
        capsys.readouterr().out
    )
    assert main(["push", str(tmp_path / "net.safetensors"), NAME]) == 1
    assert "exists already" in capsys.readouterr().err
    folder = tmp_path / "out"
    assert main(["push", str(tmp_path / "net.safetensors"), NAME, "--folder", str(folder)]) == 0
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
    }
