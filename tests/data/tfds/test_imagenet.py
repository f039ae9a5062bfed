"""ImageNet, prepared from archives and folders with the official layout."""

import signal
import subprocess
import sys
import time

import pytest

from flax_resnet.data.tfds import open_prepared, prepare

# Synsets of the first three classes, in every published list: tench, goldfish, great white shark.
SYNSETS = ("n01440764", "n01443537", "n01484850")
# The published classes of the first five validation images, counted from 0.
VALIDATION = (65, 970, 230, 809, 516)
PREPARE = "from flax_resnet.cli import main; import sys; sys.exit(main(sys.argv[1:]))"


def validation_name(number):
    return f"ILSVRC2012_val_{number:08}.JPEG"


@pytest.fixture(scope="module")
def train(jpeg):
    """The photos of each synset."""
    return {
        synset: {f"{synset}_{n}.JPEG": jpeg(10 * label + n) for n in range(2)}
        for label, synset in enumerate(SYNSETS)
    }


@pytest.fixture(scope="module")
def val(jpeg):
    return {validation_name(n + 1): jpeg(100 + n) for n in range(5)}


@pytest.fixture(scope="module", params=["archives", "folders", "folders of synsets"])
def source(request, train, val, tar, place, tmp_path_factory):
    folder = tmp_path_factory.mktemp("imagenet")
    if request.param == "archives":
        inner = {f"{synset}.tar": tar(photos) for synset, photos in reversed(train.items())}
        (folder / "ILSVRC2012_img_train.tar").write_bytes(tar(inner))
        (folder / "ILSVRC2012_img_val.tar").write_bytes(tar(dict(reversed(val.items()))))
    else:
        for synset, photos in train.items():
            place(folder / "train" / synset, photos)
        place(folder / "val", val)
    if (
        request.param == "folders of synsets"
    ):  # a label that differs from the list's, to see which one is used
        for n, name in enumerate(val):
            target = folder / "val" / SYNSETS[n % 3] / name
            target.parent.mkdir(exist_ok=True)
            (folder / "val" / name).rename(target)
    return folder


def test_photos_keep_their_bytes_and_get_their_labels(source, train, val, read_back, tmp_path):
    prepare("imagenet2012", source, tmp_path)
    examples = read_back("imagenet2012", tmp_path, "train")
    expected = [(name, label, content) for label, synset in enumerate(SYNSETS)
                for name, content in train[synset].items()]  # fmt: skip
    assert [(e["file_name"].decode(), int(e["label"]), e["image"]) for e in examples] == expected
    examples = read_back("imagenet2012", tmp_path, "validation")
    inside = (source / "val" / SYNSETS[0]).exists()
    labels = [0, 1, 2, 0, 1] if inside else VALIDATION
    assert [(e["file_name"].decode(), int(e["label"]), e["image"]) for e in examples] == [
        (name, label, content) for (name, content), label in zip(val.items(), labels, strict=True)
    ]


def test_the_prepared_set_is_opened_with_all_classes(source, tmp_path):
    prepare("imagenet2012", source, tmp_path)
    opened = open_prepared("imagenet2012", tmp_path)
    assert len(opened.classes) == 1000 and opened.classes[:3] == SYNSETS
    assert opened.splits["train"].labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert opened.splits["train"].image_shape is None


def test_one_split_alone_is_prepared_and_noted(val, place, read_back, tmp_path, console):
    place(tmp_path / "official" / "val", val)
    prepare("imagenet2012", tmp_path / "official", tmp_path, console)
    assert len(read_back("imagenet2012", tmp_path, "validation")) == 5
    assert "has no train images, so the set gets no such split" in console.text()


def test_a_png_keeps_its_bytes(place, tmp_path):
    """One of the published training files is a PNG with the ending of a JPEG."""
    png = b"\x89PNG\r\n\x1a\n and so on"
    place(tmp_path / "official" / "train" / SYNSETS[0], {"odd.JPEG": png})
    prepare("imagenet2012", tmp_path / "official", tmp_path)
    stored = open_prepared("imagenet2012", tmp_path).splits["train"]
    assert stored.contents([0])[0] == png


# --- Refused input ---------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({f"train/{SYNSETS[0]}/1.JPEG": b"<html>"}, "1.JPEG in"),
        ({"train/cat/1.JPEG": b"\xff\xd8\xff"}, "has cat, which is not one of ImageNet's 1,000"),
        ({f"train/{SYNSETS[1]}/read.me": b""}, f"{SYNSETS[1]}: 1 files (train) has no images"),
        ({"val/1.JPEG": b"\xff\xd8\xff"}, "neither in the folder of a synset nor named"),
        ({f"val/{validation_name(0)}": b"\xff\xd8\xff"}, "neither in the folder of a synset"),
        ({f"val/{validation_name(50_001)}": b"\xff\xd8\xff"}, "neither in the folder"),
        ({"else/1.JPEG": b"\xff\xd8\xff"}, "has neither archives nor folders of ImageNet"),
    ],
)
def test_damaged_folders_are_refused(changed, sentence, place, refused, tmp_path):
    place(tmp_path / "official", changed)
    message = refused("imagenet2012", tmp_path / "official", tmp_path)
    assert sentence in message and "give a" in message


def test_a_file_in_place_of_the_folder_and_no_source(refused, tmp_path):
    (tmp_path / "some.tar").write_bytes(b"x")
    assert "is no folder: give a folder" in refused("imagenet2012", tmp_path / "some.tar", tmp_path)
    assert "does not exist: give" in refused("imagenet2012", tmp_path / "gone", tmp_path)
    assert "without an account with its publisher" in refused("imagenet2012", None, tmp_path)


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ({"../n01440764.tar": b""}, "leads out of the archive by '..'"),
        ({"/n01440764.tar": b""}, "has an absolute path"),
        ({"cat.tar": b""}, "which is not one of ImageNet's 1,000 synsets"),
        ({"n01440764.tar": b""}, "is damaged or cut short"),
        ({"n01440764.tar": b"no tar" * 200}, "is damaged or cut short"),
        ({"n01440764.tar": "half"}, "cut short"),
        ({"n01440764.tar": "hostile"}, "'../../1.JPEG' leads out of the archive by '..'"),
    ],
)
def test_damaged_archives_are_refused(members, sentence, train, tar, refused, tmp_path):
    archives = {
        "half": tar(train[SYNSETS[0]])[:700],
        "hostile": tar({"../../1.JPEG": b"\xff\xd8\xff"}),
    }
    official = tmp_path / "official"
    official.mkdir()
    members = {name: archives.get(content, content) for name, content in members.items()}
    (official / "ILSVRC2012_img_train.tar").write_bytes(tar(members))
    message = refused("imagenet2012", official, tmp_path)
    assert sentence in message and str(official / "ILSVRC2012_img_train.tar") in message


def test_an_archive_cut_short_is_refused(train, val, tar, refused, tmp_path):
    official = tmp_path / "official"
    official.mkdir()
    (official / "ILSVRC2012_img_val.tar").write_bytes(tar(val)[:2000])
    assert "cut short" in refused("imagenet2012", official, tmp_path)


# --- Interrupted -------------------------------------------------------------


# Waits forever at the first photo of a class, so that the process can be killed there.
HELD = f"""
import sys, time
def hold(event, arguments):
    if event == "open" and {SYNSETS[2]!r} in str(arguments[0]) and "JPEG" in str(arguments[0]):
        time.sleep(600)
sys.addaudithook(hold)
"""


def test_after_a_kill_it_resumes(train, place, read_back, tmp_path):
    official = tmp_path / "official"
    for synset in SYNSETS[:2]:
        place(official / "train" / synset, train[synset])
    image = train[SYNSETS[2]][f"{SYNSETS[2]}_0.JPEG"]
    place(official / "train" / SYNSETS[2], {f"{SYNSETS[2]}_0.JPEG": image})
    command = ["prepare", "imagenet2012", "--from", str(official), "--data.dir", str(tmp_path)]
    process = subprocess.Popen([sys.executable, "-c", HELD + PREPARE, *command])
    incomplete = tmp_path / "imagenet2012" / "incomplete.5.1.0"
    resume_folder = incomplete / "unfinished"
    until = time.monotonic() + 120
    try:
        while len(list(resume_folder.glob("*.npz"))) < 2 or not list(incomplete.glob("*.part")):
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "imagenet2012" / "5.1.0").exists()
    finished = {path.name: path.stat().st_mtime_ns for path in incomplete.glob("*-of-00003")}
    assert len(finished) == 2
    folder = prepare("imagenet2012", official, tmp_path)
    assert {name: (folder / name).stat().st_mtime_ns for name in finished} == finished
    labels = [int(example["label"]) for example in read_back("imagenet2012", tmp_path, "train")]
    assert labels == [0, 0, 1, 1, 2]
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == []
