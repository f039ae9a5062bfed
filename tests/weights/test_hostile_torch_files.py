"""Files made to run code, to fill the memory, or to read what is not theirs.

Nothing that a file names is imported or called: it becomes an inert ``Foreign``. All else that is
out of bounds is refused.
"""

import copyreg
import io
import os
import pickle
import struct
import sys
import tracemalloc
import zipfile
import zlib

import pytest

from flax_resnet.errors import UserError
from flax_resnet.weights import find_weights
from flax_resnet.weights.formats import unpickle
from flax_resnet.weights.formats.numpy_objects import array_of
from flax_resnet.weights.formats.pickled_names import Foreign, ForeignClass
from flax_resnet.weights.formats.torch_files import read_torch_file

COMMAND = b"X\x0c\x00\x00\x00touch canary"
FLOATS = struct.pack("<4f", 1, 2, 3, 4)  # the storage that every file here has


def value(content):
    """A value as protocol 2 writes it, without PROTO and STOP."""
    return pickle.dumps(content, 2)[2:-1]


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def storage(numel=4, key="0", kind="FloatStorage"):
    arguments = value("storage") + name("torch", kind) + value(key) + value("cpu") + value(numel)
    return b"(" + arguments + b"tQ"


def tensor(size, stride, offset=0, of=None, dtype=None):
    arguments = (storage() if of is None else of) + value(offset) + value(size) + value(stride)
    function = name("torch._utils", "_rebuild_tensor_v3" if dtype else "_rebuild_tensor_v2")
    return function + b"(" + arguments + b"\x89}" + (dtype or b"") + b"tR"


def zip_bytes(pickled, data=FLOATS, **options):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", **options) as archive:
        archive.writestr("a/data.pkl", pickled)
        archive.writestr("a/data/0", data)
    return stream.getvalue()


def legacy_bytes(pickled, data=FLOATS, numel=4, keys=("0",), magic=0x1950A86A20F9469CFC6C):
    head = [magic, 1001, {"little_endian": True}]
    content = b"".join(pickle.dumps(part, 2) for part in head)
    content += storage() + b"0" + pickled  # names the storage, even if the attack does not
    content += pickle.dumps(list(keys), 2)
    return content + struct.pack("<q", numel) + data


def plain_bytes(pickled):
    """A file of pickle.dump."""
    return b"\x80\x02" + pickled


@pytest.fixture(autouse=True)
def no_canary(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert not os.path.exists("canary"), "the file ran a command"


@pytest.fixture
def read(tmp_path):
    """Reads a file of these bytes, within twice their number and 2 MB."""

    def read_within_bounds(content):
        (tmp_path / "model.pth").write_bytes(content)
        tracemalloc.start()
        try:
            return read_torch_file(tmp_path / "model.pth")
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak <= 2 * len(content) + 2_000_000

    return read_within_bounds


@pytest.fixture
def refused(read, tmp_path):
    def refuse(content):
        with pytest.raises(UserError) as caught:
            read(content)
        path, message = f"{tmp_path / 'model.pth'} ", str(caught.value)
        assert message.startswith(path) and message.isprintable()
        return message.removeprefix(path)  # which has the name of the test

    return refuse


def test_canary_sings():
    """The attacks are real: Python's own unpickler obeys."""
    assert pickle.loads(b"\x80\x02cos\nsystem\n(" + COMMAND + b"tR.") == 0
    os.remove("canary")


def test_the_files_are_sound_but_for_the_attack(read):
    pickled = b"\x80\x02" + tensor((2, 2), (1, 2)) + b"."
    for content in (zip_bytes(pickled), legacy_bytes(pickled)):
        assert read(content).tolist() == [[1, 3], [2, 4]]


INERT = {
    "REDUCE": (name("os", "system") + b"(" + COMMAND + b"tR.", "os.system"),
    "STACK_GLOBAL": (b"\x8c\x05posix\x8c\x06system\x93" + COMMAND + b"\x85R.", "posix.system"),
    "eval": (name("builtins", "eval") + b"(X\x01\x00\x00\x001tR.", "builtins.eval"),
    "class": (name("__builtin__", "getattr") + b".", "__builtin__.getattr"),
    "INST": (b"(S'touch canary'\nios\nsystem\n.", "os.system"),
    "OBJ": (b"(" + name("os", "system") + COMMAND + b"o.", "os.system"),
    "NEWOBJ": (name("os", "system") + COMMAND + b"\x85\x81.", "os.system"),
    "NEWOBJ_EX": (name("os", "system") + COMMAND + b"\x85}\x92.", "os.system"),
    "BUILD": (name("os", "system") + b")R" + value({"__setstate__": 1}) + b"b.", "os.system"),
    "APPEND": (name("os", "system") + b")R" + COMMAND + b"a.", "os.system"),
    "SETITEM": (name("os", "system") + b")RN" + COMMAND + b"s.", "os.system"),
    "called twice": (name("os", "system") + b")R" + COMMAND + b"\x85R.", "os.system"),
    "dotted GLOBAL": (name("torch._utils", "sys.modules") + b")R.", "torch._utils.sys.modules"),
    "dotted STACK_GLOBAL": (
        value("collections") + value("OrderedDict.__init__.__globals__") + b"\x93)R.",
        "collections.OrderedDict.__init__.__globals__",
    ),
    "terminal": (name("os\x1b[2J", "system") + b".", r"os\x1b[2J.system"),
    "long name": (name("os", "x" * 10_000) + b".", "os." + "x" * 77 + "…"),
    "torch.nn class": (
        name("torch.nn.modules.conv", "Conv2d") + b".",
        "torch.nn.modules.conv.Conv2d",
    ),
    "sparse tensor": (
        name("torch._utils", "_rebuild_sparse_tensor") + b")R.",
        "torch._utils._rebuild_sparse_tensor",
    ),
}


@pytest.mark.parametrize("wrap", [zip_bytes, legacy_bytes, plain_bytes])
@pytest.mark.parametrize("case", INERT)
def test_code_is_inert(read, case, wrap):
    """No import, no call: the canary of ``no_canary`` is not there, and no module is loaded."""
    pickled, shown = INERT[case]
    before = set(sys.modules)
    found = read(wrap(pickled))
    assert isinstance(found, Foreign | ForeignClass) and str(found) == shown
    assert set(sys.modules) == before


CODE = {
    "EXT1": (b"\x82\x01.", "instruction EXT1"),
    "NEXT_BUFFER": (b"\x97.", "instruction NEXT_BUFFER"),
    "name of an object": (b"]" + value("system") + b"\x93.", "not text"),
    "BUILD of a function": (
        name("torch._utils", "_rebuild_tensor_v2") + value({"__code__": 1}) + b"b.",
        "damaged",
    ),
    "BUILD of a class": (name("os", "system") + value({"__code__": 1}) + b"b.", "damaged"),
    "BUILD of a list": (b"]" + value({"append": 1}) + b"b.", "damaged"),
    "call of text": (value("a") + b")R.", "no function"),
    "instance of text": (value("a") + b")\x81.", "no function"),
    "instance of nothing": (b"(o.", "no function"),
    "keywords that are none": (name("a", "b") + b")N\x92.", "no function"),
    "call of a storage type": (name("torch", "FloatStorage") + b")R.", "no function"),
    "call without a tuple": (name("collections", "OrderedDict") + b"]R.", "no function"),
    "arguments": (name("torch._utils", "_rebuild_tensor_v2") + b")R.", "number of arguments"),
    "codec": (name("_codecs", "encode") + value(("a", "hex")) + b"R.", "wrong argument"),
    "protocol 0": (b"Pstorage\n.", "pickle_protocol=0"),
}


@pytest.mark.parametrize("wrap", [zip_bytes, legacy_bytes, plain_bytes])
@pytest.mark.parametrize("case", CODE)
def test_code(refused, case, wrap):
    pickled, words = CODE[case]
    assert words in refused(wrap(pickled))


def test_an_extension_code_is_not_looked_up(refused):
    """Python's unpickler returns what the process registered, without asking ``find_class``."""
    copyreg.add_extension("os", "system", 1)
    try:
        pickle.loads(b"\x80\x02\x82\x01.")  # now it is in a cache
        assert "instruction EXT1" in refused(zip_bytes(b"\x82\x01" + COMMAND + b"\x85R."))
    finally:
        copyreg.remove_extension("os", "system", 1)


GARBLED = {
    **{f"nothing for {code!r}": code + b"." for code in (b"", b"R", b"t", b"u", b"0", b"1", b"b")},
    **{f"across a mark {code!r}": b"N(" + code + b"." for code in (b"", b"a", b"\x85", b"q\x00")},
    "unknown recall": b"h\x07.",
    "unknown instruction": b"\xff.",
    "text that is none": b"X\x01\x00\x00\x00\xff.",
    "number that is none": b"Ione\n.",
    "bad escape": b"S'\\xz'\n.",
    "endless number": b"I" + b"1" * 5000 + b"\n.",
    "negative length": b"T\xff\xff\xff\xff.",
    "huge bytes": b"\x8e" + struct.pack("<Q", 2**62) + b"x.",
    "huge text": b"\x8d" + struct.pack("<Q", 2**62) + b"x.",
    "huge bytearray": b"\x96" + struct.pack("<Q", 2**40) + b"x.",
    "huger than any": b"\x8e" + b"\xff" * 8 + b"x.",
    "huge integer": b"\x8b\xff\xff\xff\x7f.",
    "append to a tuple": b")Na.",
    "extend a dict": b"}(Ne.",
    "set an item of a list": b"]NNs.",
    "key without a value": b"}(Nu.",
    "add to a list": b"](N\x90.",
    "persistent id of text": value("storage") + b"Q.",
    "persistent id of a list": b"]Q.",
    "storage without a type": value(("storage", 1, "0", "cpu", 4)) + b"Q.",
    "storage of numbers": storage(key=0) + b".",
    "negative storage": storage(-1) + b".",
    "true storage": storage(True) + b".",
    "storage of a list": storage([4]) + b".",
    "absent storage": storage(key="1") + b".",
    "storage elsewhere": storage(key="../data.pkl") + b".",
    "storage that is too large": storage(5) + b".",
    "storage that is huge": storage(2**62) + b".",
    "storage of larger elements": storage(4, kind="DoubleStorage") + b".",
    "stride 0": tensor((10**12,), (0,)),
    "stride 0 twice": tensor((10**6, 10**6), (0, 0)),
    "too many elements": tensor((3, 3), (1, 1)),
    "out of the storage": tensor((2,), (4,)),
    "offset": tensor((2,), (1,), 3),
    "huge offset": tensor((1,), (1,), 2**64),
    "negative offset": tensor((1,), (1,), -1),
    "negative size": tensor((-1, -4), (1, 1)),
    "negative stride": tensor((2,), (-1,), 3),
    "huge product": tensor((2**40, 2**40), (1, 1)),
    "huge empty": tensor((0, 2**40, 2**40), (1, 1, 1)),
    "sizes without strides": tensor((2, 2), (1,)),
    "sizes of text": tensor(("a",), (1,)),
    "sizes in a list": tensor([2], [1]),
    "size of a truth": tensor((True,), (1,)),
    "tensor of a tensor": tensor((1,), (1,), of=tensor((1,), (1,))),
    "tensor of nothing": tensor((1,), (1,), of=b"N"),
    "larger dtype": tensor((4,), (1,), dtype=name("torch", "float64")),
    "dtype of text": tensor((1,), (1,), dtype=value("float64")),
    "dtype of objects": tensor((1,), (1,), dtype=name("torch", "FloatStorage")),
}


@pytest.mark.parametrize("wrap", [zip_bytes, legacy_bytes])
@pytest.mark.parametrize("case", GARBLED)
def test_garbled(refused, case, wrap):
    pickled = GARBLED[case]
    assert "is damaged (" in refused(wrap(pickled if pickled.endswith(b".") else pickled + b"."))


@pytest.mark.parametrize("wrap", [zip_bytes, legacy_bytes])
@pytest.mark.parametrize(
    ("pickled", "words"),
    [
        (tensor((1,) * 33, (1,) * 33) + b".", "33 axes"),
        (b"\x8a\xff" + b"\x7f" * 255 + b".", "integer of more than"),
        (b"}(" + value(2**64) + b"Nu.", "key of type int"),
        (b"}" + storage() + b"Ns.", "key of type"),
        (b"\x8f(" + value((1,)) + b"\x90.", "key of type tuple"),
        # A pair of a pair of ...: 40 deep, 2**40 to a visitor.
        (b"}N" + b"2\x86" * 40 + b"Ns.", "key of type tuple"),
        # One list of 1000 elements, 1000 sets of it.
        (
            b"](" + b"K\x01" * 1000 + b"e\x85q\x00" + (name("builtins", "set") + b"h\x00R") * 1000,
            "over and over",
        ),
        (
            value((("x" * 1000), "latin1"))
            + b"q\x09("
            + (name("_codecs", "encode") + b"h\x09R") * 9,
            "over and over",
        ),
    ],
)
def test_out_of_bounds(refused, pickled, words, wrap):
    assert words in refused(wrap(pickled))


def test_number_of_instructions(refused, monkeypatch):
    monkeypatch.setattr(unpickle, "MAX_INSTRUCTIONS", 1000)
    assert "more than 1000 pickle instructions" in refused(zip_bytes(b"N0" * 500 + b"N."))


def test_conjugate_view(refused):
    plain = tensor((1,), (1,))
    assert plain.endswith(b"}tR")
    conjugate = plain.removesuffix(b"tR") + value({"conj": True}) + b"tR."
    assert "conjugate" in refused(zip_bytes(conjugate))


@pytest.mark.parametrize("wrap", [zip_bytes, legacy_bytes])
def test_strange_but_harmless(read, wrap):
    assert read(wrap(b"]r\xff\xff\xff\xff.")) == []
    cyclic = read(wrap(b"]q\x00h\x00a."))
    assert cyclic[0] is cyclic
    deep = read(wrap(b"]" * 10_000 + b"a" * 9_999 + b"."))
    depth = 1
    while deep:
        deep, depth = deep[0], depth + 1
    assert depth == 10_000
    assert read(wrap(b"N" + b"\x85" * 10_000 + b".")) is not None
    # Protocol 0 writes a tuple within itself with a POP that takes a MARK.
    own = ([],)
    own[0].append(own)
    own = read(wrap(pickle.dumps(own, 0)))
    assert own[0][0] is own


def test_bytes_left_over_from_a_dtype(read):
    three = storage(3, kind="UntypedStorage")
    array = read(zip_bytes(tensor((1,), (1,), of=three, dtype=name("torch", "int16")) + b"."))
    assert array.tolist() == [0] and array.itemsize == 2


def test_expanded_axis_of_one_element_may_have_any_stride(read):
    array = read(zip_bytes(tensor((1, 4), (2**70, 1)) + b"."))
    assert array.tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": FLOATS[:-1]}, "ends within storage 0"),
        ({"numel": -1}, "ends within storage 0"),
        ({"numel": 2**62}, "ends within storage 0"),
        ({"numel": 3}, "has 3 elements, a tensor claims 4"),
        ({"keys": ()}, "lacks storage 0"),
        ({"keys": ("0", "0")}, "list of storages"),
        ({"keys": ("1",)}, "list of storages"),
        ({"keys": ([],)}, "list of storages"),
    ],
)
def test_legacy_storages(refused, change, words):
    assert words in refused(legacy_bytes(tensor((4,), (1,)) + b".", **change))


def test_legacy_views(read, refused):
    def view(offset, numel):
        return storage().removesuffix(b"tQ") + value(("1", offset, numel)) + b"tQ"

    array = read(legacy_bytes(tensor((2,), (1,), of=view(1, 2)) + b"."))
    assert array.tolist() == [2, 3]
    for outside in (view(3, 2), view(-1, 2), view(2**63, 1)):
        assert "damaged" in refused(legacy_bytes(tensor((1,), (1,), of=outside) + b"."))
    assert "two types" in refused(
        legacy_bytes(b"(" + storage() + storage(kind="IntStorage") + b"t.")
    )


@pytest.mark.parametrize("magic", [[], {"little": 0x1950A86A20F9469CFC6C}, -0x1950A86A20F9469CFC6C])
def test_legacy_magic(refused, magic):
    assert refused(legacy_bytes(b"N.", magic=magic))


def test_compressed_entry(refused):
    content = zip_bytes(b"N.", bytes(10**6), compression=zipfile.ZIP_DEFLATED)
    assert len(content) < 2000
    assert "compressed entry" in refused(content)


def patched(content, entry, position, layout, new):
    """A zip archive with a field of the entry's record in the central directory replaced."""
    content = bytearray(content)
    start = content.rindex(b"PK\x01\x02", 0, content.rindex(entry))
    struct.pack_into(layout, content, start + position, new)
    return bytes(content)


def test_overlapping_entries(refused):
    content = zip_bytes(tensor((4,), (1,)) + b".")
    assert "overlapping" in refused(patched(content, b"a/data/0", 42, "<I", 0))
    assert "overlapping" in refused(patched(content, b"a/data/0", 42, "<I", 20))


def test_overlapping_by_size(refused):
    content = patched(zip_bytes(b"N."), b"a/data.pkl", 20, "<I", 60)
    content = patched(content, b"a/data.pkl", 24, "<I", 60)
    assert "overlapping" in refused(content)


@pytest.mark.parametrize(
    ("position", "layout", "new", "words"),
    [
        (8, "<H", 1, "encrypted"),
        (10, "<H", 99, "compressed"),
        (16, "<I", zlib.crc32(b"other"), "checksum of a/data/0"),
        (20, "<I", 15, "compressed"),
        (24, "<I", 2**32 - 2, "compressed"),
        (42, "<I", 2**31, "cut short"),
    ],
)
def test_central_directory(refused, position, layout, new, words):
    content = zip_bytes(tensor((4,), (1,)) + b".")
    assert words in refused(patched(content, b"a/data/0", position, layout, new))


def test_entry_larger_than_the_file(refused):
    content = zip_bytes(tensor((4,), (1,)) + b".")
    for position in (20, 24):
        content = patched(content, b"a/data/0", position, "<I", 2**31)
    assert "cut short" in refused(content)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_entries_of_one_name(refused):
    stream = io.BytesIO(zip_bytes(b"N."))
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr("a/data.pkl", b"N.")
    assert "overlapping entries at a/data.pkl" in refused(stream.getvalue())


def test_pickle_without_an_end(refused):
    assert refused(zip_bytes(b"}"))
    assert "damaged" in refused(legacy_bytes(b"}"))


def test_pickle_that_goes_on_into_the_next_entry(refused):
    assert "(its pickle is cut short)" in refused(zip_bytes(b"C\x40", b"." * 120))


def nested(content):
    """A storage as pickle.dump writes it: a file of the older format, in bytes."""
    size = struct.pack("<I", len(content))
    return name("torch.storage", "_load_from_bytes") + b"B" + size + content + b"\x85R"


def test_nested_files(read, refused):
    inner = legacy_bytes(storage() + b".")
    array = read(plain_bytes(tensor((2,), (1,), of=nested(inner)) + b"."))
    assert array.tolist() == [1, 2]
    assert "no proper storage" in refused(plain_bytes(nested(legacy_bytes(nested(inner) + b"."))))
    assert "damaged" in refused(plain_bytes(nested(inner[:-4]) + b"."))
    assert "damaged" in refused(plain_bytes(tensor((2,), (1,)) + b"."))  # a storage of no file
    assert "wrong argument" in refused(
        plain_bytes(name("torch.storage", "_load_from_bytes") + b"N\x85R.")
    )


def test_nested_files_are_not_read_over_and_over(refused):
    inner = legacy_bytes(storage() + b".", bytes(4000), 1000)
    again = name("torch.storage", "_load_from_bytes") + b"h\x07R"
    content = b"B" + struct.pack("<I", len(inner)) + inner + b"\x85q\x070" + again * 100
    assert "over and over" in refused(plain_bytes(b"N0" * 20 + content + b"."))


MODULE = name("a", "Module") + b")\x81"


@pytest.mark.parametrize(
    "children",
    [
        # A module inside itself, and 40 modules that each hold the next twice.
        MODULE + b"q\x01}" + value("_modules") + b"}" + value("a") + b"h\x01ssb",
        b"".join(
            MODULE + b"}" + value("_modules") + b"}(" + value("a") + inner + value("b") + inner
            + b"usb" + f"p{number}\n0".encode()
            for number in range(100, 140)
            for inner in (f"g{number - 1}\n".encode() if number > 100 else b"N",)
        )
        + b"g139\n",
    ],
    ids=["inside itself", "twice each"],
)  # fmt: skip
def test_modules_without_end(tmp_path, children):
    path = tmp_path / "model.pth"
    path.write_bytes(zip_bytes(children + b"."))
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="modules without end"):
            find_weights(read_torch_file(path))
        assert tracemalloc.get_traced_memory()[1] < 2 * path.stat().st_size + 2_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("shape", [(2**40,), (2, 3), (-1,), ("a",)])
def test_arrays_of_numpy_that_claim_too_much(shape):
    kind = Foreign(ForeignClass("numpy", "dtype"), ("f4", False, True), (3, "<", None))
    state = (1, shape, kind, False, b"0123")
    array = Foreign(ForeignClass("numpy.core.multiarray", "_reconstruct"), (), state)
    assert array_of(array) is None
    array.state = (1, (1,), kind, False, b"0123")
    assert array_of(array).dtype == "<f4"
    kind.arguments = ("O8", False, True)
    assert array_of(array) is None
