"""Files of class names that other tools and people write: read, or refused with both readings."""

import json

import pytest

import flax_resnet as fr
from flax_resnet.inference import read_classes

NAMES = ("daisy", "lily", "rose")
LINES = "daisy\nlily\nrose\n"
JSON = json.dumps(dict(enumerate(NAMES)))

READ = {  # file name, content
    "plain": ("a.txt", LINES),
    "byte-order mark": ("a.txt", "\ufeff" + LINES),
    "UTF-16": ("a.txt", ("\ufeff" + LINES).encode("utf-16-le")),
    "CRLF": ("a.txt", LINES.replace("\n", "\r\n")),
    "CR": ("a.txt", LINES.replace("\n", "\r")),
    "blank lines": ("a.txt", "\n daisy \n\n\nlily\nrose\n\n"),
    "no last line break": ("a.txt", LINES.strip()),
    "trailing commas": ("a.txt", "daisy,\nlily,\nrose\n"),
    "quotes and commas": ("a.txt", '"daisy",\n"lily",\n"rose",\n'),
    "Darknet": ("obj.names", LINES),
    "Teachable Machine": ("labels.txt", "0 daisy\n1 lily\n2 rose\n"),
    "numbers and colons": ("a.txt", "0: daisy\n1: lily\n2: rose\n"),
    "numbers and tabs": ("a.txt", "0\tdaisy\n1\tlily\n2\trose\n"),
    "numbers and dots": ("a.txt", "0. daisy\n1. lily\n2. rose\n"),
    "numbers in another order": ("a.txt", "2 rose\n0 daisy\n1 lily\n"),
    "numbers first": ("a.csv", "0,daisy\n1,lily\n2,rose\n"),
    "numbers last": ("a.csv", "daisy,0\nlily,1\nrose,2\n"),
    "numbers last, mixed": ("a.csv", "rose;2\ndaisy;0\nlily;1\n"),
    "heading": ("a.csv", "index,name\n0,daisy\n1,lily\n2,rose\n"),
    "heading, names first": ("a.csv", "class,index\nrose,2\ndaisy,0\nlily,1\n"),
    "pandas": ("a.csv", ",0\n0,daisy\n1,lily\n2,rose\n"),
    "pandas on Windows": ("a.csv", "\ufeff,name\r\n0,daisy\r\n1,lily\r\n2,rose\r\n"),
    "pandas, quotes": ("a.csv", ',name\n0,"daisy"\n1,"lily"\n2,"rose"\n'),
    "JSON list": ("a.json", json.dumps(NAMES)),
    "JSON with a mark": ("a.json", "\ufeff" + JSON),
    "JSON in UTF-16": ("a.json", JSON.encode("utf-16")),
    "by number": ("class_indices.json", JSON),
    "by name": ("a.json", '{"rose": 2, "daisy": 0, "lily": 1}'),
    "by name, as text": ("a.json", '{"rose": "2", "daisy": "0", "lily": "1"}'),
    "JSON in a .txt": ("a.txt", JSON),
    "a Python dict": ("imagenet.txt", "{0: 'daisy',\n 1: 'lily',\n 2: 'rose'}"),
    "Keras": (
        "imagenet_class_index.json",
        json.dumps({str(n): [f"n0144076{n}", name] for n, name in enumerate(NAMES)}),
    ),
    "transformers": (
        "config.json",
        json.dumps({
            "model_type": "resnet",
            "id2label": dict(enumerate(NAMES)),
            "label2id": {name: n for n, name in enumerate(NAMES)},
        }),
    ),
    "Ultralytics list": ("data.yaml", "train: a\nnc: 3\nnames: ['daisy', 'lily', 'rose']\n"),
    "Ultralytics numbers": ("data.yaml", "names:\n  0: daisy\n  1: lily\n  2: rose\n"),
    "Ultralytics items": ("data.yml", "nc: 3\nnames:\n- daisy\n- lily\n- rose\n"),
    "synset_words": ("a.txt", "n01440764 daisy\nn01443537 lily\nn01484850 rose\n"),
}  # fmt: skip


@pytest.mark.parametrize("kind", READ)
def test_a_file_of_another_tool(tmp_path, kind):
    """``0 daisy`` was the name of a class, and ``\\ufeffdaisy`` another."""
    name, content = READ[kind]
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert read_classes(path) == NAMES


OTHER_NAMES = {
    "YAML's booleans": ("a.yaml", "names: [no, on, 010, null]", ("no", "on", "010", "null")),
    "commas in names": (
        "a.txt", "tench, Tinca tinca\ngoldfish\nray, skate\n",
        ("tench, Tinca tinca", "goldfish", "ray, skate"),
    ),
    "numbers in some names": ("a.txt", "7 up\ncola\n", ("7 up", "cola")),
    "years": ("a.txt", "Audi A4 2012\nBMW M3 2012\n", ("Audi A4 2012", "BMW M3 2012")),
    "numbers as names": ("a.txt", "0\n1\n2\n", ("0", "1", "2")),
    "years first": ("a.txt", "2012 Audi\n2009 BMW\n", ("2012 Audi", "2009 BMW")),
    "wnids": ("a.txt", "n01440764\nn01443537\n", ("n01440764", "n01443537")),
    "twice": ("a.json", '{"0": "crane", "1": "crane"}', ("crane", "crane")),
    "numbers by number": ("a.json", '{"1": 0, "2": 1}', ("1", "2")),
    "brackets": ("a.txt", "new [red]\n(old)\n", ("new [red]", "(old)")),
    "colons in names": ("a.txt", "0 :dog:\n1 cat\n", (":dog:", "cat")),
    "a bracket first": ("a.txt", "[new] cats\n{b}\n[old]\n", ("[new] cats", "{b}", "[old]")),
    "scripts": ("a.txt", "\u732b\n\u0642\u0637\u0629\n", ("\u732b", "\u0642\u0637\u0629")),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHER_NAMES)
def test_names_that_look_like_something_else(tmp_path, kind):
    name, content, expected = OTHER_NAMES[kind]
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert read_classes(tmp_path / name) == expected


REFUSED = {
    "from 1": ("a.txt", "1 daisy\n2 lily\n3 rose\n", "could count the classes, though not from 0"),
    "from 1, names first": ("a.csv", "daisy,1\nlily,2\n", "could count the classes"),
    "counts": ("a.csv", "daisy,120\nlily,80\n", "could count the classes"),
    "spaces before numbers": ("a.txt", "class 0\nclass 1\n", "or belong to the names"),
    "from 1 in JSON": ("a.json", '{"1": "daisy", "2": "rose"}', "from 0, each once"),
    "a gap": ("a.json", '{"0": "daisy", "2": "rose"}', "from 0, each once"),
    "the same key twice": ("a.json", '{"0": "daisy", "0": "rose"}', "'0' is there twice"),
    "both readings": ("a.json", '{"0": 1, "1": 2, "2": 0}', "could be '1', if its keys"),
    "one line": ("a.txt", "daisy,lily,rose\n", "one name or several"),
    "a heading": ("a.csv", "label\ndaisy\nlily\n", "could be a heading or a class"),
    "a heading above numbers": ("a.txt", "background\n0 a\n1 b\n", "could be a heading or a class"),
    "columns": ("a.csv", "0,n01440764,daisy\n2,n01443537,lily\n", "could"),
    "two names": ("a.json", '{"0": ["daisy", "Bellis"]}', "could be 'daisy' or 'Bellis'"),
    "a label map": ("a.pbtxt", "item {\n  id: 1\n  name: 'daisy'\n}\n", "label map of TensorFlow"),
    "that differ": (
        "a.json", '{"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 1, "b": 0}}', "differ",
    ),
    "empty": ("a.txt", " \n\n", "it is empty"),
    "an empty list": ("a.json", "[]", "it is empty"),
    "Latin-1": ("a.txt", "caf\xe9\n".encode("latin-1"), "is not text in UTF-8"),
    "UTF-16 without a mark": ("a.txt", LINES.encode("utf-16-le"), "holds NUL characters"),
    "no JSON": ("a.json", "{", "it is not JSON"),
    "a number": ("a.json", "3", "it is '3'"),
    "null": ("a.json", '["a", null]', "None is not a name"),
    "booleans": ("a.json", '{"a": true, "b": false}', "it has no numbers"),
    "deep": ("a.json", "[" * 100_000, "it is not JSON"),
    "no YAML": ("a.yaml", "names: [", "it is not YAML"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_a_file_that_could_be_read_in_two_ways_is_refused(tmp_path, kind):
    name, content, sentence = REFUSED[kind]
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(fr.UserError) as caught:
        read_classes(path)
    message = str(caught.value)
    assert sentence in message and str(path) in message and "\n" not in message
