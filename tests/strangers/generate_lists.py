"""Lists, class files and arrays as strangers have them, drawn by a seed; imports nothing of ours.

What each gives is known when it is drawn: ``expected``, or None where it must be refused.
"""

import csv
import io
import json
import os
from dataclasses import dataclass

import numpy as np

READABLE = ("JPEG", "PNG", "PNG, RGBA", "JPEG, CMYK", "WebP", "GIF", "TIFF", "BMP", "link")
DAMAGED = ("empty", "text", "random bytes", "cut off", "too many pixels")
ABSENT = ("dangling link", "pipe", "folder", None)  # None: nothing of that name

LABELS = {
    "words": ("cat", "dog", "ant"),
    "numbers": ("0", "1", "2"),
    "numbers with zeros": ("01", "02", "10"),
    "one and 01": ("1", "01", "2"),
    "scripts": ("\u732b", "\u0642\u0637\u0629", "\U0001f408"),
    "markup": ("[new] cats", ":dog:", "<b>"),
    "syntax": ("a,b", 'say "a"', "a;b"),
    "floats": ("1.0", "2.0", "0.5"),
    "null": ("NA", "None", "nan"),
}
HEADERS = (
    *("path,label", "id,breed", "filename,label", "image,label", "Image_ID,Class", "file,category"),
    *("Image Name,Class Label", "img,target", "PATH,Label", "file_name,species"),
)


@dataclass(frozen=True)
class List:
    """A list that was written.

    Attributes:
        path: The list.
        expected: Label of each file, by its real path.
        damaged: The files among them that hold no picture.
        absent: Paths as listed of which there is no file.
    """

    path: str
    expected: dict[str, str]
    damaged: frozenset[str]
    absent: tuple[str, ...]


def escaped(name):
    """A name with its bytes that are not UTF-8 written as \\udcNN."""
    return "".join(f"\\u{ord(c):04x}" if 0xD800 <= ord(c) < 0xE000 else c for c in name)


def draw_list(generator, root):
    """Write images and a list of them below ``root``, an empty folder."""
    rng, met = generator.rng, generator.met

    def choose(what, kinds):
        kind = rng.choice(list(kinds))
        met[what, str(kind).encode("unicode_escape").decode()] += 1
        return kind

    where = choose("list", ("next to the folder", "in the folder", "relative to another folder"))
    kind_of_labels = choose("labels", LABELS)
    folder = os.path.join(root, "images")
    os.mkdir(folder)
    rows, expected, damaged, absent = [], {}, set(), []
    style = choose("paths", ("as they are", "as they are", "backslashes", "./", "ids"))
    names_only = where != "next to the folder"
    count = rng.randint(3, 7)
    for number in range(count):
        is_absent = number > 1 and rng.random() < 0.05
        is_damaged = not is_absent and rng.random() < 0.1
        kind = rng.choice(ABSENT if is_absent else DAMAGED if is_damaged else READABLE)
        if kind is None:
            path = os.path.join(folder, "gone.png")
            met["file", "not there"] += 1
        else:
            path = generator.file(folder, kind=kind).path
        label = LABELS[kind_of_labels][number % 3]
        listed = escaped(os.path.basename(path) if names_only else os.path.relpath(path, root))
        if style == "backslashes" and "\\" not in listed:
            listed = listed.replace("/", "\\")
        elif style == "./":
            listed = f"./{listed}"
        elif style == "ids" and kind is not None and kind not in ABSENT:
            listed = os.path.splitext(listed)[0]
        rows.append((listed, label))
        if is_absent:
            absent.append(listed)
        else:
            expected[os.path.realpath(path)] = label
            if is_damaged:
                damaged.add(os.path.realpath(path))
    rng.shuffle(rows)
    target = folder if where == "in the folder" else root
    path = _write(choose, rng, target, rows)
    return List(path, expected, frozenset(damaged), tuple(absent))


def _write(choose, rng, folder, rows):
    header = choose("header", HEADERS).split(",")
    if choose("form", ("CSV", "CSV", "CSV", "TSV", "JSONL")) == "JSONL":
        lines = [json.dumps(dict(zip(header, row, strict=True)),
                            ensure_ascii=rng.random() < 0.5) for row in rows]  # fmt: skip
        text, extension = "\n".join(lines) + "\n" * rng.randint(0, 2), "jsonl"
    else:
        delimiter = choose("separator", (",", ",", ";", "\t", "|"))
        end = choose("line break", ("\n", "\r\n", "\r"))
        table = [header, *map(list, rows)]
        extra = choose("extra columns", ("none", "none", "index", "width", "empty"))
        for number, row in enumerate(table):
            if extra == "index":
                row.insert(0, str(number - 1) if number else "")
            elif extra == "width":
                row.append("224" if number else "width")
            elif extra == "empty":
                row.append("")
        has_breaks = any("\n" in cell or "\r" in cell for row in table for cell in row)
        quoting = csv.QUOTE_ALL if has_breaks or rng.random() < 0.3 else csv.QUOTE_MINIMAL
        file = io.StringIO()
        csv.writer(file, delimiter=delimiter, lineterminator=end, quoting=quoting).writerows(table)
        text = file.getvalue() + end * rng.randint(0, 2)
        extension = "tsv" if delimiter == "\t" and rng.random() < 0.5 else "csv"
    encoding = choose("encoding", ("utf-8", "utf-8", "utf-8-sig", "utf-16"))
    path = os.path.join(folder, f"list.{extension}")
    with open(path, "wb") as file:
        file.write(text.encode(encoding))
    return path


def draw_class_file(generator, root):
    """Write a class file; return its path and its names, None if it must be refused."""
    rng, met = generator.rng, generator.met
    form, encoding = rng.choice(list(CLASS_FORMS)), rng.choice(("utf-8", "utf-8-sig", "utf-16"))
    end = rng.choice(("\n", "\r\n"))
    kind = rng.choice(("words", "scripts", "markup", "null"))
    met["classes", form] += 1
    met["names of classes", kind] += 1
    names = [f"{name}{rng.choice(('', ' b', '-c'))}" for name in LABELS[kind]]
    extension, is_read, text = CLASS_FORMS[form]
    path = os.path.join(root, f"classes{extension}")
    with open(path, "wb") as file:
        file.write(text(names, rng).replace("\n", end).encode(encoding))
    return path, tuple(names) if is_read else None


def _numbered(pattern, first=0):
    def write(names, rng):
        lines = [pattern.format(n, name) for n, name in enumerate(names, first)]
        if rng.random() < 0.3:
            rng.shuffle(lines)
        return "\n".join(lines) + "\n"

    return write


CLASS_FORMS = {  # form -> extension, whether it is read, text
    "one name a line": (".txt", True, lambda names, rng: "\n".join(names) + "\n"),
    "blank lines": (".txt", True, lambda names, rng: "\n\n".join(names) + "\n\n"),
    "Darknet": (".names", True, lambda names, rng: "\n".join(names)),
    "0 name": (".txt", True, _numbered("{} {}")),
    "0: name": (".txt", True, _numbered("{}: {}")),
    "0,name": (".csv", True, _numbered("{},{}")),
    "name,0": (".csv", True, _numbered("{1},{0}")),
    "name<TAB>0": (".tsv", True, _numbered("{1}\t{0}")),
    "pandas": (".csv", True, lambda n, r: ",name\n" + _numbered("{},{}")(n, r)),
    "JSON list": (".json", True, lambda names, rng: json.dumps(names)),
    "JSON by number": (".json", True, lambda n, rng: json.dumps(dict(enumerate(n)))),
    "JSON by name": (".json", True, lambda n, r: json.dumps({x: i for i, x in enumerate(n)})),
    "Keras": (
        ".json", True, lambda n, r: json.dumps({i: [f"n{i:08}", x] for i, x in enumerate(n)}),
    ),
    "YAML": (".yaml", True, lambda n, rng: "nc: 3\nnames: " + json.dumps(n, ensure_ascii=False)),
    "from 1": (".txt", False, _numbered("{} {}", 1)),
    "from 1, names first": (".csv", False, _numbered("{1},{0}", 1)),
    "one line": (".txt", False, lambda names, rng: ",".join(names)),
    "from 1 in JSON": (".json", False, lambda n, rng: json.dumps(dict(enumerate(n, 1)))),
}  # fmt: skip


def draw_array(generator):
    """Draw an array; return it and its images as uint8 ``[H, W]`` or ``[H, W, 3]``, or None."""
    rng, met = generator.rng, generator.met
    values = np.random.default_rng(rng.randrange(2**32))
    height, width, count = rng.randint(5, 40), rng.randint(5, 40), rng.choice((2, 5, 6))
    shape = rng.choice(list(SHAPES))
    met["shape", shape] += 1
    axes, is_read = SHAPES[shape]
    size = {"H": height, "W": width, "N": count, "1": 1, "2": 2, "3": 3, "4": 4}
    array = values.integers(0, 256, [size[axis] for axis in axes], np.uint8)
    array.flat[0] = 255  # so that the range of floats is clear
    images = list(array) if axes[0] == "N" and len(axes) > 2 else [array]
    if axes == "1HW":
        images = [array[0]]
    seen = [x[..., :3] if x.ndim == 3 and x.shape[2] == 4 else x for x in images]
    seen = [x[..., 0] if x.ndim == 3 and x.shape[2] == 1 else x for x in seen]
    kind = rng.choice(list(RANGES))
    met["range", kind] += 1
    convert, range_is_read = RANGES[kind]
    return convert(array), seen if is_read and range_is_read else None


SHAPES = {  # name -> axes, whether there is one reading
    "[H, W]": ("HW", True),
    "[H, W, 1]": ("HW1", True),
    "[H, W, 3]": ("HW3", True),
    "[H, W, 4]": ("HW4", True),
    "[1, H, W]": ("1HW", True),
    "[N, H, W]": ("NHW", True),
    "[N, H, W, 1]": ("NHW1", True),
    "[N, H, W, 3]": ("NHW3", True),
    "[N, H, W, 4]": ("NHW4", True),
    "[3, H, W]": ("3HW", False),
    "[4, H, W]": ("4HW", False),
    "[H, W, 2]": ("HW2", False),
    "[3, H, 3]": ("3H3", False),
    "[N, 3, H, W]": ("N3HW", False),
    "[N, 3, H, 3]": ("N3H3", False),
    "[N]": ("N", False),
    "[N, N, H, W, 3]": ("NNHW3", False),
}
RANGES = {  # name -> conversion of uint8, whether there is one reading
    "uint8": (lambda x: x, True),
    "float32 to 1": (lambda x: (x / 255).astype(np.float32), True),
    "float64 to 1": (lambda x: x / 255, True),
    "float32 to 255": (lambda x: x.astype(np.float32), True),
    "float16 to 255": (lambda x: x.astype(np.float16), True),
    "overshoot": (lambda x: x / 250, False),
    "normalised": (lambda x: x / 128 - 0.9, False),
    "int64": (lambda x: x.astype(np.int64), False),
    "uint16": (lambda x: x.astype(np.uint16) * 257, False),
    "bool": (lambda x: x > 100, False),
    "NaN": (lambda x: np.where(x > 100, np.nan, x / 255), False),
}
