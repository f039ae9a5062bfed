"""The HTTP server: its answers are those of `predict`, and what it refuses changes nothing."""

import asyncio
import base64
import dataclasses
import io
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from PIL import Image

import flax_resnet as fr
from flax_resnet.cli import main
from flax_resnet.inference import Classifier
from tests.inference.conftest import photo

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("python_multipart")
pytest.importorskip("prometheus_client")
pytestmark = pytest.mark.filterwarnings("ignore:Using `httpx` with")

INFER = "/v2/models/resnet8/infer"
LIMITS = {"batch_size": 4, "queue": 8, "max_upload": 100_000, "max_pixels": 10_000}


def encoded(image, form="JPEG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def classifier(random_run):
    return fr.load(random_run)


@pytest.fixture(scope="module")
def client(classifier):
    with serving(classifier, **LIMITS) as client:
        yield client


def serving(classifier, engine="jax", tta=None, **settings):
    """A client of a server; as a context it runs and is ready."""
    from starlette.testclient import TestClient

    from flax_resnet.inference.serve import ServeSettings, create_app

    class Ready(TestClient):
        def __enter__(self):
            super().__enter__()
            app.state.service.batcher.ready.result(timeout=60)
            return self

    app = create_app(classifier, ServeSettings(**settings), name="resnet8", engine=engine, tta=tta)
    return Ready(app, raise_server_exceptions=False)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Photos whose pixels depend on how they are decoded: turned by EXIF, with alpha, grey."""
    exif = Image.Exif()
    exif[0x0112] = 6
    made = {
        "turned.jpg": encoded(photo("red", 1), exif=exif),
        "alpha.png": encoded(photo("green", 2).convert("RGBA"), "PNG"),
        "grey.jpg": encoded(photo("blue", 3).convert("L")),
        "é ü.webp": encoded(photo("blue", 4, (70, 50)), "WEBP"),
        "5.png": encoded(photo("red", 5), "PNG"),
    }
    folder = tmp_path_factory.mktemp("photos")
    for name, content in made.items():
        (folder / name).write_bytes(content)
    return folder, made


def form(made):
    return [("photos", item) for item in made.items()]


def in_base64(content):
    return base64.b64encode(content).decode()


def check_equal(answers, expected):
    """The same photos, classes and order; probabilities to the last digit that is written."""
    for answer, other in zip(answers, expected, strict=True):
        assert answer["error"] == other["error"] is None
        found, right = answer["predictions"], other["predictions"]
        assert [p["label"] for p in found] == [p["label"] for p in right]
        assert [p["index"] for p in found] == [p["index"] for p in right]
        np.testing.assert_allclose(
            [p["probability"] for p in found], [p["probability"] for p in right], atol=2e-6
        )


def test_answers_are_those_of_the_command_predict(client, random_run, files, capsys):
    folder, made = files
    paths = [str(folder / name) for name in made]
    assert main(["predict", str(random_run), *paths, "--format", "json", "--top-k", "2"]) == 0
    expected = json.loads(capsys.readouterr().out)
    answers = client.post("/predict?top_k=2", files=form(made)).json()
    assert [answer["file"] for answer in answers] == list(made)
    check_equal(answers, expected)
    images = {"images": [in_base64(content) for content in made.values()]}
    check_equal(client.post("/predict?top_k=2", json=images).json(), expected)


@pytest.mark.parametrize("datatype", ["BYTES", "UINT8", "UINT8 flat"])
def test_the_open_inference_protocol(client, classifier, files, datatype):
    if datatype == "BYTES":
        images = list(files[1].values())
        data, shape = [in_base64(content) for content in images], [len(images)]
    else:  # of another size than the model's, so they are resized
        images = np.stack([np.asarray(photo("red", n)) for n in range(3)])
        data, shape = images.tolist(), list(images.shape)
        if "flat" in datatype:
            data = images.ravel().tolist()
    tensor = {"name": "image", "datatype": datatype.split()[0], "shape": shape, "data": data}
    answer = client.post(INFER, json={"id": "7", "inputs": [tensor]}).json()
    expected = classifier.predict(images)
    probabilities, labels = answer["outputs"]
    assert (answer["model_name"], answer["id"]) == ("resnet8", "7")
    assert (probabilities["name"], probabilities["datatype"]) == ("probabilities", "FP32")
    np.testing.assert_allclose(
        np.reshape(probabilities["data"], probabilities["shape"]),
        expected.probabilities,
        atol=1e-6,
    )
    assert labels["data"] == list(expected.labels)
    assert client.get("/v2/models/resnet8").json()["outputs"][0]["shape"] == [-1, 3]
    assert client.get("/v2/models/resnet8/ready").json()["ready"] is True


JPEG = encoded(photo("red", 1))
TENSOR = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [in_base64(JPEG)]}
CUT_FORM = b'--b\r\nContent-Disposition: form-data; name="a"; filename="a.jpg"\r\n\r\n' + JPEG
AS_FORM = {"content-type": "multipart/form-data; boundary=b"}
AS_JSON = {"content-type": "application/json"}
REFUSED = {
    "cut off": ("/predict", {"files": {"a": ("a.jpg", JPEG[:200])}}, 422, "'a.jpg' cannot be"),
    "empty": ("/predict", {"files": {"a": ("a.jpg", b"")}}, 422, "'a.jpg' is empty"),
    "text": ("/predict", {"files": {"a": ("a.jpg", b"<script>")}}, 422, "is text and not an image"),
    "one of two": (
        "/predict",
        {"files": [("a", ("1", JPEG)), ("a", ("2", b"GIF89a"))]},
        422,
        "1 of 2 cannot be classified: '2'",
    ),
    "pixels": (
        "/predict",
        {"files": {"a": ("a.png", encoded(Image.new("1", (101, 100)), "PNG"))}},
        422,
        "more than the 10,000",
    ),
    "bytes": ("/predict", {"files": {"a": ("a.jpg", bytes(10**5))}}, 413, "MiB that are allowed"),
    "stream": ("/predict", {"content": iter([bytes(60_000)] * 2)}, 413, "MiB that are allowed"),
    "photos": ("/predict", {"files": [("a", ("a", JPEG))] * 9}, 413, "more than the 8 photos"),
    "images": ("/predict", {"json": {"images": ["AA=="] * 9}}, 413, "more than the 8 photos"),
    "no photo": ("/predict", {"json": {"images": []}}, 400, "holds no photo"),
    "no type": ("/predict", {"content": JPEG}, 415, "multipart/form-data"),
    "no file": ("/predict", {"data": {"a": "1"}, "files": {"b": JPEG}}, 400, "'a' of the form"),
    "cut form": ("/predict", {"content": CUT_FORM, "headers": AS_FORM}, 400, "is cut off"),
    "no boundary": (
        "/predict",
        {"content": CUT_FORM, "headers": {"content-type": "multipart/form-data"}},
        400,
        "form cannot be read",
    ),
    "bad base64": ("/predict", {"json": {"images": ["a-b"]}}, 400, "Image 0 is not valid base64"),
    "not text": ("/predict", {"json": {"images": [1]}}, 400, "Image 0 must be a string"),
    "no JSON": ("/predict", {"content": b"{", "headers": AS_JSON}, 400, "is not JSON"),
    "deep JSON": (
        "/predict",
        {"content": b"[" * 99_999, "headers": AS_JSON},
        400,
        "",
    ),
    "top_k": ("/predict?top_k=0", {"files": {"a": JPEG}}, 400, "top_k is '0'"),
    "heat_map": ("/predict?heat_map=1", {"files": {"a": JPEG}}, 400, "heat_map is '1'"),
    "no model": ("/v2/models/other/infer", {"json": {}}, 404, "There is no model 'other'"),
    "no route": ("/other", {}, 404, "There is no POST /other"),
    "no inputs": (INFER, {"json": {}}, 400, '"inputs" must be'),
    "id": (
        INFER,
        {
            "content": b'{"id": "\\ud800", "inputs": [%s]}' % json.dumps(TENSOR).encode(),
            "headers": AS_JSON,
        },
        400,
        "whole Unicode characters",
    ),
    "count": (INFER, {"json": {"inputs": [TENSOR | {"shape": [2]}]}}, 400, "the shape is [2]"),
    "no output": (
        INFER,
        {"json": {"inputs": [TENSOR], "outputs": [{"name": "x"}]}},
        400,
        "no output 'x'",
    ),
    "datatype": (INFER, {"json": {"inputs": [TENSOR | {"datatype": "FP32"}]}}, 400, "'FP32'"),
    "values": (
        INFER,
        {
            "json": {
                "inputs": [
                    TENSOR | {"datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [1, 256, 0]}
                ]
            }
        },
        400,
        "integers from 0 to 255",
    ),
    "channels": (
        INFER,
        {
            "json": {
                "inputs": [TENSOR | {"datatype": "UINT8", "shape": [1, 3, 9, 9], "data": [0] * 243}]
            }
        },
        422,
        "with the channels first",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_said_in_one_sentence_and_changes_nothing(
    client, classifier, case, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    path, request, status, sentence = REFUSED[case]
    refused = client.post(path, **request)
    assert refused.status_code == status, refused.text
    assert sentence in refused.json()["error"]
    assert refused.json()["error"].endswith(".") and refused.json().keys() == {"error"}
    (answer,) = client.post("/predict", files={"a": JPEG}).json()
    assert answer["predictions"][0]["label"] == classifier.predict(JPEG).labels[0]
    assert re.search(r"flax_resnet_photos_admitted 0\.0", client.get("/metrics").text)
    assert not list(tmp_path.iterdir())


def test_a_full_queue_is_refused_and_no_answer_is_lost(classifier):
    """Three requests are answered by one batch each or together; the fourth must come again."""
    gate = threading.Event()

    class Waiting(Classifier):
        def _logits_program(self, tta=None):
            program, variables = Classifier._logits_program(self, tta)

            def waiting(variables, images):
                if np.any(images):  # not the images of the compilation
                    gate.wait(30)
                return program(variables, images)

            return waiting, variables

    waiting = Waiting(classifier.model, classifier.variables, classifier.info)
    colors = ("red", "green", "blue")
    with serving(waiting, batch_size=2, queue=3) as client, ThreadPoolExecutor(3) as pool:
        sent = [
            pool.submit(client.post, "/predict", files={"a": encoded(photo(color, 1))})
            for color in colors
        ]
        while "flax_resnet_photos_admitted 3.0" not in client.get("/metrics").text:
            time.sleep(0.01)
        refused = client.post("/predict", files={"a": JPEG})
        gate.set()
        labels = [request.result().json()[0]["predictions"][0]["label"] for request in sent]
    assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
    assert "queue of 3 photos is full" in refused.json()["error"]
    assert labels == [classifier.predict(encoded(photo(color, 1))).labels[0] for color in colors]


def asgi(app, receive):
    """Post to /predict with an ASGI channel; return the status, or None without an answer."""
    scope = {"type": "http", "method": "POST", "path": "/predict", "query_string": b""}
    headers = [(b"content-type", b"multipart/form-data; boundary=b")]
    started = []

    async def send(message):
        started.append(message.get("status"))

    async def run():
        await app(scope | {"headers": headers, "root_path": ""}, receive, send)

    asyncio.run(run())
    return started[0] if started else None


def test_slow_and_vanished_clients(classifier):
    with serving(classifier, batch_size=1, timeout=0.05) as client:

        async def slow():
            await asyncio.sleep(30)

        messages = iter([{"type": "http.request", "body": b"--b", "more_body": True}])

        async def vanishing():
            return next(messages, {"type": "http.disconnect"})

        assert asgi(client.app, slow) == 408
        assert asgi(client.app, vanishing) is None
        assert "flax_resnet_photos_admitted 0.0" in client.get("/metrics").text


@pytest.mark.slow
def test_heat_maps_are_those_of_explain(client, classifier):
    (answer,) = client.post("/predict?heat_map=true", files={"a": JPEG}).json()
    drawn = Image.open(io.BytesIO(base64.b64decode(answer["heat_map"])))
    (expected,) = classifier.explain(JPEG).overlays()
    np.testing.assert_allclose(drawn, expected, atol=3)
    assert answer["predictions"][0]["label"] == classifier.predict(JPEG).labels[0]


@pytest.mark.slow
def test_a_heat_map_is_of_the_class_that_is_answered(classifier):
    """Alone a photo may have another class than with its mirror image."""
    photos = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), np.uint8)
    # With this bias the random weights predict every class.
    usual = np.log(classifier.predict(photos).probabilities).mean(0)
    variables = jax.tree.map(np.asarray, classifier.variables)
    variables["params"]["fc"]["bias"] = variables["params"]["fc"]["bias"] - usual
    classifier = dataclasses.replace(classifier, variables=variables)
    alone = classifier.predict(photos).probabilities.argmax(1)
    both = classifier.predict(photos, tta="flip").probabilities.argmax(1)
    (row, *_) = np.flatnonzero(alone != both)
    with serving(classifier, tta="flip", batch_size=1) as client:
        files = {"a": encoded(Image.fromarray(photos[row]), "PNG")}
        (answer,) = client.post("/predict?heat_map=true", files=files).json()
    assert answer["predictions"][0]["label"] == classifier.classes[both[row]]
    drawn = Image.open(io.BytesIO(base64.b64decode(answer["heat_map"])))
    (expected,) = classifier.explain(photos[row], target=int(both[row])).overlays()
    np.testing.assert_allclose(drawn, expected, atol=3)


@pytest.mark.slow
def test_a_model_in_onnx_is_served_by_onnxruntime(classifier, files, tmp_path):
    pytest.importorskip("onnxruntime")
    classifier.export(tmp_path / "model.onnx")
    exported = fr.load(tmp_path / "model.onnx")
    with serving(exported, batch_size=2) as client:
        answers = client.post("/predict", files=form(files[1])).json()
        refused = client.post("/predict?heat_map=true", files={"a": JPEG})
        assert 'data-heat-maps="false"' in client.get("/").text
    for answer, found in zip(
        answers, exported.predict(list(files[1].values())).top(3), strict=True
    ):
        assert [p["label"] for p in answer["predictions"]] == [p.label for p in found]
        np.testing.assert_allclose(
            [p["probability"] for p in answer["predictions"]],
            [p.probability for p in found],
            atol=2e-6,
        )
    assert refused.status_code == 422 and "ONNX has no heat maps" in refused.json()["error"]


@pytest.mark.slow
def test_the_engine_changes_no_answer(client, classifier, files):
    pytest.importorskip("onnxruntime")
    with serving(classifier, "onnxruntime", batch_size=2) as other:
        answers = other.post("/predict", files=form(files[1])).json()
        heat_map = other.post("/predict?heat_map=true", files={"a": JPEG}).json()[0]["heat_map"]
    check_equal(answers, client.post("/predict", files=form(files[1])).json())
    assert Image.open(io.BytesIO(base64.b64decode(heat_map))).format == "PNG"


def test_the_token(classifier, tmp_path):
    with serving(classifier, batch_size=1, token="s3cret") as client:
        for headers in ({}, {"authorization": "Bearer s3cre"}, {"authorization": "Basic s3cret"}):
            refused = client.post("/predict", files={"a": JPEG}, headers=headers)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
            assert client.get("/metrics", headers=headers).status_code == 401
        allowed = client.post(
            "/predict", files={"a": JPEG}, headers={"authorization": "Bearer s3cret"}
        )
        assert allowed.status_code == 200
        assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
        assert 'id="token"' in client.get("/").text


def test_the_page_asks_no_other_server(client):
    page = client.get("/")
    assert not re.search(r"https?:|//\w|@import", page.text)
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy


def test_every_route_is_described(client):
    described = client.get("/openapi.json").json()
    assert described["openapi"].startswith("3.1")
    routes = {
        (route.path, method.lower())
        for route in client.app.routes
        for method in route.methods - {"HEAD"}
    }
    paths = described["paths"].items()
    assert routes == {(p, m) for p, operations in paths for m in operations if m != "parameters"}
    names = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(described)))
    assert names == set(described["components"]["schemas"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--port", "70000"], "--port is 70000"),
        (["--queue", "0"], "queue is 0"),
        (["--host", "192.0.2.1"], "cannot use port 8000 of 192.0.2.1"),
        (["--token-file", "missing"], "token cannot be read from missing"),
        (["--token-file", "empty"], "must be ASCII characters"),
    ],
)
def test_wrong_options(words, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").touch()
    assert main(["serve", "nothing", *words]) in (1, 2)
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1


def test_a_port_in_use_and_two_tokens(tmp_path, monkeypatch, capsys):
    from flax_resnet.inference.serve.server import open_socket

    with open_socket("127.0.0.1", 0) as other:  # of a server that loads its model
        assert main(["serve", "nothing", "--port", str(other.getsockname()[1])]) == 1
    assert "in use" in capsys.readouterr().err
    monkeypatch.setenv("FLAX_RESNET_TOKEN", "a")
    assert main(["serve", "nothing", "--token-file", str(tmp_path / "a")]) == 2
    assert "two tokens" in capsys.readouterr().err


def test_what_cannot_be_served_ends_the_server(classifier, random_run, tmp_path, capsys):
    dropped = fr.load(random_run, head="drop")
    dropped.save(tmp_path / "backbone.safetensors")
    assert main(["serve", str(tmp_path / "backbone.safetensors"), "--port", "0"]) == 1
    assert "These weights hold no classifier" in capsys.readouterr().err
    assert main(["serve", str(random_run), "--port", "0", "--temperature", "0"]) == 2
    assert "temperature is 0; it must be above 0" in capsys.readouterr().err
