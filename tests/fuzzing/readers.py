"""The readers of files that others write, well-formed files for each, and how to damage them.

Whatever the bytes are, a reader returns or raises an error of one line, quickly and in bounded
memory. ``test_fuzzing.py`` tries a few hundred damaged files, ``benchmarks/fuzz.py`` any number.
"""

import asyncio
import base64
import csv
import functools
import gzip
import importlib.util
import io
import json
import random
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy
from PIL import Image

import flax_resnet as fr
from flax_resnet.data.arrays import read_arrays
from flax_resnet.data.formats import FormatError, read_idx
from flax_resnet.data.images import read_image, resize_center_crop
from flax_resnet.data.images.listing import read_listing
from flax_resnet.data.tfds.archives import open_tree
from flax_resnet.errors import UserError
from flax_resnet.inference.class_names import read_classes
from flax_resnet.report.history import read_history
from flax_resnet.weights.description import CHECKSUM_ENTRY, ENTRY, read_description
from flax_resnet.weights.formats.files import read_metadata, read_weights
from flax_resnet.weights.repository import read_json_object
from flax_resnet.weights.timm import read_description as read_timm
from flax_resnet.weights.transformers import class_names, model_options, processor_transform

TESTS = Path(__file__).parents[1]
CORPUS = Path(__file__).with_name("corpus")
EARLIER_RUN = TESTS / "compatibility" / "0.1.0.zip"
ALLOWED = (UserError, FormatError)


@dataclass(frozen=True)
class Reader:
    """A reader of one kind of file.

    Attributes:
        name: Name of the file that it is given; the extension chooses the format.
        seeds: Well-formed files.
        read: Read a file at a path.
        prepare: Make what has to lie beside the file in a new folder.
        text: Whether the file is text, which is damaged by characters and JSON values too.
        needs: Packages of extras that it is read with.
    """

    name: str
    seeds: Callable[[], list[bytes]]
    read: Callable[[Path], object]
    prepare: Callable[[Path], object] = lambda folder: None
    text: bool = False
    needs: tuple[str, ...] = ()

    @property
    def is_installed(self) -> bool:
        """Whether the packages that it needs are there."""
        return all(importlib.util.find_spec(name) for name in self.needs)


def picture(format, mode="RGB", **options):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 4), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels, "RGBA").convert(mode).save(buffer, format, **options)
    return buffer.getvalue()


def pictures():
    exif = Image.Exif()
    exif[0x0112] = 6
    return [
        *(picture("JPEG"), picture("JPEG", "L", progressive=True), picture("JPEG", exif=exif)),
        *(picture("PNG", "RGBA"), picture("PNG", "P"), picture("PNG", "I;16"), picture("GIF", "P")),
        *(picture("BMP"), picture("TIFF"), picture("TIFF", compression="tiff_lzw")),
        *(picture("PPM"), picture("WEBP"), picture("WEBP", "RGBA", lossless=True)),
    ]


def look_at(path):
    content = path.read_bytes()
    read_image(content, max_pixels=1_000_000)
    resize_center_crop(content, 18, 16, max_pixels=1_000_000)


def archives():
    found = []
    for compress in (bytes, gzip.compress):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for name in ("a/1.jpg", "a/2.jpg", "b/" + "x" * 150 + ".jpg"):
                member = tarfile.TarInfo(name)
                member.size = 700
                tar.addfile(member, io.BytesIO(bytes(700)))
        found.append(compress(buffer.getvalue()))
    return found


def unpack(path):
    scratch = path.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    tree = open_tree(path, scratch)
    return [tree.read(name) for name in tree.files]


def listed_pictures(folder):
    for name in ("a.jpg", "b.jpg", "c d.jpg"):
        (folder / name).write_bytes(b"not read")


def tables():
    buffer = io.StringIO()
    csv.writer(buffer).writerows(
        [["path", "label", "split"], ["a.jpg", "x", "train"], ["b.jpg", "y,z", "val"]]
    )
    texts = [
        buffer.getvalue(),
        "a.jpg;0\r\nb.jpg;1\r\n",
        'image\tclass\n"c d.jpg"\t"say ""a"""\n',
        "\ufeffid,breed\na,cat\nb,dog\n",
    ]
    return [text.encode() for text in texts]


def lines_of_json():
    rows = [{"path": "a.jpg", "label": "x", "split": "train"}, {"path": "b.jpg", "label": "y"}]
    return ["\n".join(map(json.dumps, rows)).encode(), b'{"path": "a.jpg", "label": 0}\n']


def files_of_classes():
    texts = [
        "cat\ndog\n",
        '["cat", "dog"]',
        '{"0": "cat", "1": "dog"}',
        '{"cat": 0, "dog": 1}',
        "{0: 'cat', 1: 'dog'}",
        "n01440764 tench\nn01443537 goldfish\n",
        "0,cat\n1,dog\n",
        "names:\n  0: cat\n  1: dog\n",
    ]
    return [text.encode() for text in texts]


def safetensors_files():
    arrays = {"conv1.weight": np.zeros((4, 3, 3, 3), np.float32), "n": np.array(3)}
    metadata = {"flax_resnet": json.dumps({"model.name": "resnet8"}), "format": "pt"}
    with_model = member_of(EARLIER_RUN, "model.safetensors")
    return [safetensors.numpy.save(arrays, metadata), with_model]


def member_of(archive, name):
    with zipfile.ZipFile(archive) as files:
        return files.read(name)


def npz_files(**more):
    buffer, packed = io.BytesIO(), io.BytesIO()
    arrays = {"conv1/kernel": np.zeros((3, 3, 3, 4), np.float32), **more}
    np.savez(buffer, **arrays)
    np.savez_compressed(packed, **arrays)
    return [buffer.getvalue(), packed.getvalue()]


def arrays_of_images():
    images = np.zeros((20, 4, 4, 3), np.uint8)
    return npz_files(images=images, labels=np.arange(20) % 2, classes=np.array(["cat", "dog"]))


def torch_files():
    return [path.read_bytes() for path in sorted((TESTS / "weights" / "files").glob("*.pth"))]


def read_any_weights(path):
    for array in read_weights(path).values():
        np.asarray(array)


def read_safetensors(path):
    read_any_weights(path)
    read_metadata(path)
    read_description(path)


def idx_files():
    header = bytes((0, 0, 8, 3)) + b"".join(n.to_bytes(4, "big") for n in (2, 4, 4))
    return [header + bytes(32), gzip.compress(header + bytes(32))]


def earlier_run(folder):
    shutil.unpack_archive(EARLIER_RUN, folder)


def from_earlier_run(name):
    return Reader(
        name,
        lambda: [member_of(EARLIER_RUN, name)],
        lambda path: fr.load(path.parent),
        earlier_run,
        text=True,
    )


def configs_of_transformers():
    folders = (TESTS / "weights" / "files" / "transformers").rglob("*.json")
    found = [path.read_bytes() for path in sorted(folders)]
    processor = {"size": {"shortest_edge": 224}, "crop_pct": 0.875, "image_mean": [0.5, 0.5, 0.5]}
    return [*found, json.dumps(processor).encode()]


def read_transformers(path):
    config = read_json_object(path)
    if "image_mean" in config:
        return processor_transform(config)
    return model_options(config), class_names(config, 2)


def configs_of_timm():
    settings = {"input_size": [3, 224, 224], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    settings |= {"crop_pct": 0.95, "interpolation": "bicubic", "classifier": "fc"}
    held = {"architecture": "resnet50d", "num_classes": 10, "pretrained_cfg": settings}
    return [json.dumps(held).encode()]


def read_timm_config(path):
    return read_timm(read_json_object(path))


@functools.cache
def onnx_file():
    """What ``export`` writes of the run of an earlier version."""
    with tempfile.TemporaryDirectory() as folder:
        earlier_run(folder)
        path = Path(folder, "model.onnx")
        fr.load(folder).export(path)
        return path.read_bytes()


def descriptions_in_onnx():
    import onnx

    entries = onnx.load_from_string(onnx_file()).metadata_props
    return [entry.value.encode() for entry in entries if entry.key == ENTRY]


def read_description_in_onnx(path):
    """Read a file whose description is the content of this one."""
    import onnx

    proto = onnx.load_from_string(onnx_file())
    entries = {entry.key: entry for entry in proto.metadata_props}
    # A string of protobuf is UTF-8.
    entries[ENTRY].value = path.read_bytes().decode(errors="replace")
    # Or every other description would be refused for it.
    proto.metadata_props.remove(entries[CHECKSUM_ENTRY])
    file = path.with_suffix(".onnx")
    onnx.save(proto, file)
    fr.load(file)


def requests():
    """Requests as files: path and query, content type, body."""
    jpeg, png = picture("JPEG"), picture("PNG")
    form = b"".join(
        b'--x\r\nContent-Disposition: form-data; name="f"; filename="a.jpg"\r\n'
        b"Content-Type: image/jpeg\r\n\r\n" + content + b"\r\n"
        for content in (jpeg, png)
    )
    coded = base64.b64encode(png).decode()
    tensors = [
        {"name": "image", "datatype": "BYTES", "shape": [1], "data": [coded]},
        {"name": "image", "datatype": "UINT8", "shape": [1, 2, 2, 1], "data": [0, 1, 254, 255]},
    ]
    forms = [b"/predict?top_k=2\nmultipart/form-data; boundary=x\n" + form + b"--x--\r\n"]
    bodies = [("/predict?heat_map=false", {"images": [coded, coded]})]
    bodies += [
        ("/v2/models/model/infer", {"id": "1", "inputs": [one], "outputs": [{"name": "label"}]})
        for one in tensors
    ]
    return forms + [f"{to}\napplication/json\n{json.dumps(body)}".encode() for to, body in bodies]


def json_requests():
    return [request.partition(b"json\n")[2] for request in requests() if b"json\n" in request]


def serve_earlier_run(folder):
    from flax_resnet.inference.serve import ServeSettings, create_app

    earlier_run(folder)
    app = create_app(fr.load(folder), ServeSettings(batch_size=1, max_pixels=1_000_000))
    app.state.service.batcher.start()
    app.state.service.batcher.ready.result(60)
    _apps[folder] = app


_apps: dict[Path, Callable] = {}


def answer(path):
    """Let the server in the folder of a file answer the request in it.

    Raises:
        UserError: The answer is a refusal.
    """
    target, _, rest = path.read_bytes().partition(b"\n")
    content_type, _, body = rest.partition(b"\n")
    ask(_apps[path.parent], target, content_type, body)


def answer_json(path):
    """The same with a body in JSON, for the route that takes one like it."""
    body = path.read_bytes()
    target = b"/v2/models/model/infer" if b"inputs" in body else b"/predict"
    ask(_apps[path.parent], target, b"application/json", body)


def ask(app, target, content_type, body):
    where, _, query = target.partition(b"?")
    scope = {"type": "http", "method": "POST", "path": where.decode("latin-1"), "root_path": ""}
    scope |= {"query_string": query, "headers": [(b"content-type", content_type)]}
    scope |= {"scheme": "http", "server": ("host", 80), "http_version": "1.1"}
    received, sent = [{"type": "http.request", "body": body}], []

    async def receive():
        if received:
            return received.pop()
        return await asyncio.sleep(60)  # the client waits for the answer

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    content = b"".join(message.get("body", b"") for message in sent)
    assert sent[0]["status"] < 500, content
    if sent[0]["status"] >= 400:
        raise UserError(json.loads(content)["error"])
    if sent[0]["status"] < 300:  # else it says where the client is to go
        json.loads(content)


READERS = {
    "images": Reader("file", pictures, look_at),
    "archives": Reader("file.tar", archives, unpack),
    "lists.csv": Reader(
        "list.csv", tables, lambda path: read_listing(str(path)), listed_pictures, text=True
    ),
    "lists.jsonl": Reader(
        "list.jsonl",
        lines_of_json,
        lambda path: read_listing(str(path)),
        listed_pictures,
        text=True,
    ),
    "classes.txt": Reader("classes.txt", files_of_classes, read_classes, text=True),
    "classes.json": Reader("classes.json", files_of_classes, read_classes, text=True),
    "arrays of images": Reader("images.npz", arrays_of_images, read_arrays),
    "idx": Reader("images", idx_files, lambda path: read_idx(path, (4, 4))),
    "safetensors": Reader("model.safetensors", safetensors_files, read_safetensors),
    "npz": Reader("model.npz", npz_files, read_any_weights),
    "pth": Reader("model.pth", torch_files, read_any_weights),
    "config of a run": from_earlier_run("config.json"),
    "classes of a run": from_earlier_run("classes.json"),
    "preprocessing of a run": from_earlier_run("preprocessing.json"),
    "history of a run": Reader(
        "history.jsonl",
        lambda: [member_of(EARLIER_RUN, "history.jsonl")],
        read_history,
        text=True,
    ),
    "config of transformers": Reader(
        "config.json", configs_of_transformers, read_transformers, text=True
    ),
    "config of timm": Reader("config.json", configs_of_timm, read_timm_config, text=True),
    "onnx": Reader("model.onnx", lambda: [onnx_file()], fr.load, needs=("onnx", "onnxruntime")),
    "description in onnx": Reader(
        "description.json",
        descriptions_in_onnx,
        read_description_in_onnx,
        text=True,
        needs=("onnx", "onnxruntime"),
    ),
    "requests": Reader(
        "request", requests, answer, serve_earlier_run, needs=("starlette", "python_multipart")
    ),
    "requests in json": Reader(
        "request.json",
        json_requests,
        answer_json,
        serve_earlier_run,
        text=True,
        needs=("starlette", "python_multipart"),
    ),
}

# Spliced in, these reach further than noise does.
BINARY = (b"\x00" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"PK\x03\x04", b"\x1f\x8b", b"%s" * 4)
TEXTS = (
    *("null", "true", "-1", "0", "1e400", "NaN", "1" * 5000, "9" * 25, "0.1", '""', "[]", "{}"),
    *('"../../etc/passwd"', '"\\ud800"', '"\\u0000"', "[" * 10**5, '{"a":' * 10**5, "(" * 10**5),
    *("\ufeff", "\x00", "\x1b[31m", "\u202e", ",", ";", "\t", '"', "'", "\n", "\r", "\\", ":"),
)


def damage(content, others, rng, text):
    """The bytes with one to three of them, or pieces, changed."""
    content = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        start = rng.randint(0, len(content))
        end = min(len(content), start + rng.choice((0, 1, 4, 8, 64)))
        kind = rng.randrange(8 if text else 6)
        if kind == 0 and start < len(content):
            content[start] ^= 1 << rng.randrange(8)
        elif kind == 1 and start < len(content):
            content[start] = rng.choice(b"\x00\x01\x02\x7f\x80\xff")
        elif kind == 2:
            del content[start:end]
        elif kind == 3:
            other = rng.choice(others)
            begin = rng.randint(0, len(other))
            content[start:end] = other[begin : begin + rng.randint(1, 200)]
        elif kind == 4:
            content[start:end] = rng.choice(BINARY)
        elif kind == 5 and rng.random() < 0.3:
            del content[start:]
        elif kind == 6:
            content[start:end] = rng.choice(TEXTS).encode("utf-8", "surrogatepass")
        elif kind == 7:
            content[:] = with_another_value(bytes(content), rng)
    return bytes(content)


def with_another_value(content, rng):
    """JSON with a random value in place of one of its own; other bytes as they are."""
    try:
        whole = json.loads(content)
    except (ValueError, RecursionError):
        return content
    spots, nodes = [], [whole]
    while nodes:
        node = nodes.pop()
        if isinstance(node, dict | list):
            keys = node if isinstance(node, dict) else range(len(node))
            spots += [(node, key) for key in keys]
            nodes += [node[key] for key in keys]
    if not spots:
        return content
    node, key = rng.choice(spots)
    if isinstance(node, dict) and rng.random() < 0.2:
        del node[key]
    else:
        node[key] = rng.choice(
            (
                None,
                True,
                -1,
                0,
                2**70,
                0.5,
                1e300,
                "",
                "x",
                [],
                {},
                [[]],
                [0],
                [-1, 0],
                ["a"],
                {"a": 1},
            )
        )
    return json.dumps(whole).encode()


def draw(name, seed):
    """A damaged file for the reader, by a seed, or a well-formed one."""
    reader, rng = READERS[name], random.Random(f"{name} {seed}")
    seeds = _seeds(name)
    return damage(rng.choice(seeds), seeds, rng, reader.text)


_made: dict[str, list[bytes]] = {}


def _seeds(name):
    if name not in _made:
        _made[name] = READERS[name].seeds()
    return _made[name]


def outcome(name, content, folder):
    """``"read"`` or ``"refused"``, of a file with this content in a prepared folder.

    Raises:
        Exception: The reader raised something else, or a message of several lines.
    """
    reader = READERS[name]
    path = folder / reader.name
    path.write_bytes(content)
    try:
        reader.read(path)
    except ALLOWED as error:
        if "\n" in str(error) or not str(error):
            raise AssertionError(f"the message is not one line: {str(error)[:300]!r}") from error
        return "refused"
    return "read"
