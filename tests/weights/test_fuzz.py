"""Whatever the bytes, `read_torch_file` gives a structure or a UserError, and stays small."""

import io
import itertools
import os
import pickle
import pickletools
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flax_resnet.errors import UserError
from flax_resnet.weights.formats.torch_files import read_torch_file

EXAMPLES = 250
QUICK = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
LONG = settings(QUICK, max_examples=8 * EXAMPLES)

GOLDEN = [path.read_bytes() for path in sorted((Path(__file__).parent / "files").glob("*.pth"))]


def pickle_of(content):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        return archive.read(name)


PICKLES = [
    pickle_of(content)
    for content in GOLDEN
    if content.startswith(b"PK") and b"no_crc/" not in content and b"whole_model/" not in content
]
ATTACK = b"cos\nsystem\n(X\x0c\x00\x00\x00touch canarytR"
# Splicing in bytes that mean something reaches further than noise does.
WORDS = [
    *(ATTACK, b"\x8c\x05posix\x8c\x06system\x93", b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"),
    *(struct.pack("<q", number) for number in (-1, 0, 1, 2**31, 2**40, 2**62)),
    *(b"\xff" * 4, b"\x00" * 4, b"J\xff\xff\xff\xff", b"\x8a\x09" + b"\x7f" * 9),
]


@st.composite
def mutated(draw, originals):
    """An original with a few bytes changed, cut, spliced from another, or put in."""
    content = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.sampled_from((0, 1, 4, 8, 64))))
        match draw(st.sampled_from(("flip", "flip", "set", "cut", "splice", "insert", "end"))):
            case "flip" if start < len(content):
                content[start] ^= draw(st.integers(1, 255))
            case "set" if start < len(content):
                content[start] = draw(st.sampled_from(b"\x00\x01\x02().]}KRhqtu\x85\x8a\xff"))
            case "cut":
                del content[start:end]
            case "splice":
                other = draw(st.sampled_from(originals))
                begin = draw(st.integers(0, len(other)))
                content[start:end] = other[begin : begin + draw(st.integers(1, 200))]
            case "insert":
                content[start:end] = draw(st.sampled_from(WORDS) | st.binary(max_size=8))
            case "end":
                del content[start:]
    return bytes(content)


def zipped(pickled):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        for number in range(30):
            archive.writestr(f"a/data/{number}", bytes(range(256)))
    return stream.getvalue()


def in_legacy(pickled):
    head = b"".join(
        pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    )
    return head + pickled + pickle.dumps(["0"], 2) + struct.pack("<q", 8) + bytes(32)


def value(content):
    return pickle.dumps(content, 2)[2:-1]


def name(text):
    return f"c{text}\n".encode()


NUMBERS = (0, 1, 2, 4, 8, -1, 2**31, 2**63, 2**70, True)
SHAPES = ((), (1,), (2, 2), (8,), (0, 2**62), (2**40, 0, 2**40), (-1,), (10**12,), ("a",), [2])
STRIDES = ((), (1,), (1, 2), (0,), (0, 0), (2**62,), (1, 1, 1), (-1,))
KINDS = [name(f"torch\n{kind}Storage") for kind in ("Float", "BFloat16", "Bool")]
KINDS += [name("torch.storage\nUntypedStorage"), name("torch\nfloat64"), b"N"]
STORAGES = [
    b"(" + value("storage") + kind + value(key) + b"N" + value(numel) + b"tQ"
    for kind, key, numel in itertools.product(KINDS, ("0", "1"), NUMBERS)
]
TENSORS = [
    name("torch._utils\n_rebuild_tensor_v2")
    + b"("
    + STORAGES[(7 * number) % 43]
    + b"".join(map(value, (NUMBERS[number % 7], shape, stride)))
    + b"\x89}tR"
    for number, (shape, stride) in enumerate(itertools.product(SHAPES, STRIDES))
]
CALLS = [
    name(function) + (b"(" if arguments is None else value(arguments) + b"R")
    for function, arguments in itertools.product(
        (
            *("torch._utils\n_rebuild_tensor", "torch._utils\n_rebuild_tensor_v3", "torch\nSize"),
            *("torch._utils\n_rebuild_parameter", "torch\ndevice", "_codecs\nencode"),
            *("collections\nOrderedDict", "collections\nCounter", "builtins\nset"),
            *("builtins\nfrozenset", "builtins\nbytes", "builtins\nbytearray"),
        ),
        (None, (), ([],), ({},), ("é", "latin1"), ([1, "a"],), (([2, 3],),), ("cpu", 2**70)),
    )
]
# Every instruction there is, with bytes that may be its argument.
CODES = [
    code.code.encode("latin-1") + argument
    for code in pickletools.opcodes
    for argument in ((b"\x01\x00\x00\x00", b"0\n", b"\xff" * 8) if code.arg else (b"",))
]
VALUES = [value(content) for content in (*NUMBERS, "", "a", b"", None, 0.5, [1, []], {"a": 1}, {2})]
FRAME = [code.encode("latin-1") for code in "(()}]\x8ftu\x85\x86aes02\x94N\x90Q"]
FRAGMENTS = (FRAME, FRAME, VALUES, STORAGES, TENSORS, CALLS, [*CODES, ATTACK])
STREAMS = st.lists(st.one_of(*map(st.sampled_from, FRAGMENTS)), max_size=15).map(
    lambda fragments: b"".join(fragments) + b"."
)

FILES = {
    "files": mutated(GOLDEN),
    "pickles": mutated(PICKLES).map(zipped),
    "streams": STREAMS.map(zipped) | STREAMS.map(in_legacy),
    "plain": STREAMS.map(lambda pickled: b"\x80\x02" + pickled),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    before, folder = os.getcwd(), tmp_path_factory.mktemp("fuzz")
    os.chdir(folder)
    yield folder
    os.chdir(before)


def arrays_in(content):
    """Structures may be deep, cyclic, or hold one thing many times."""
    seen, waiting = {}, [content]
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen[id(part)] = part
        if isinstance(part, np.ndarray):
            yield part
        elif isinstance(part, dict):
            waiting += part.values()
        elif isinstance(part, (list, tuple)):
            waiting += part


def check(folder, content):
    path = folder / "model.pth"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        read = read_torch_file(path)
    except UserError as error:
        assert str(error).startswith(f"{path} ") and "\n" not in str(error)
        read = None
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak <= 2 * len(content) + 2_000_000
    assert not (folder / "canary").exists(), "the file ran a command"
    for array in arrays_in(read):
        assert array.nbytes <= len(content)
        array.tobytes()  # each byte is there to be read


@pytest.mark.parametrize("kind", FILES)
@QUICK
@given(data=st.data())
def test_any_bytes(folder, kind, data):
    check(folder, data.draw(FILES[kind]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", FILES)
@LONG
@given(data=st.data())
def test_many_more_bytes(folder, kind, data):
    check(folder, data.draw(FILES[kind]))
