"""Output files: whole or not at all, and where the user said."""

import json
import os
import stat
import threading
from pathlib import Path

import pytest
from PIL import Image

import flax_resnet as fr
from flax_resnet.data.images import write_picture
from flax_resnet.output_files import open_text, replacing, write_json
from flax_resnet.report.history import append_history, truncate_history

BEFORE = "of before"


class Picture(Image.Image):
    """A picture whose file is half written when the disk is full."""

    def save(self, path, *_, **__):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")


def interrupted_picture(path):
    write_picture(Picture(), path)


def interrupted_text(path):
    with open_text(path) as file:
        file.write("half")
        file.flush()
        raise OSError(28, "No space left on device")


def interrupted_json(path):
    write_json(path, {"a": 1, "b": object()})


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("sheet.png", interrupted_picture),
        ("labels.csv", interrupted_text),
        ("evaluation.json", interrupted_json),
    ],
)
def test_an_interrupted_file_is_as_it_was_before(tmp_path, name, write):
    path = tmp_path / name
    path.write_text(BEFORE)
    with pytest.raises((fr.UserError, TypeError)):
        write(path)
    assert path.read_text() == BEFORE
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_a_full_disk_is_one_sentence(tmp_path):
    with pytest.raises(fr.UserError, match=r"a\.csv cannot be written \(No space left on device\)"):
        interrupted_text(tmp_path / "a.csv")
    assert not list(tmp_path.iterdir())


def test_a_link_stays_a_link_and_permissions_stay(tmp_path):
    """``os.replace`` onto a link would leave the file that it leads to as it was."""
    real, link = tmp_path / "real.csv", tmp_path / "link.csv"
    real.write_text(BEFORE)
    real.chmod(0o640)
    link.symlink_to(real)
    with open_text(link) as file:
        file.write("new")
    assert link.is_symlink() and real.read_text() == "new"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640


def test_a_new_file_has_usual_permissions(tmp_path):
    with open_text(tmp_path / "a.csv") as file:
        file.write("new")
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE((tmp_path / "a.csv").stat().st_mode) == 0o666 & ~mask


def test_a_pipe_and_a_device_are_written_and_not_replaced(tmp_path):
    pipe, received = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: received.append(pipe.read_text()))
    reader.start()
    with open_text(pipe) as file:
        file.write("new")
    reader.join(10)
    assert received == ["new"] and stat.S_ISFIFO(pipe.stat().st_mode)
    with open_text("/dev/null") as file:
        file.write("new")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.parametrize("length", [255, 200])
def test_a_name_of_the_full_length_is_written(tmp_path, length):
    name = "n" * (length - 4) + ".png"
    write_picture(Image.new("RGB", (2, 2)), tmp_path / name)
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["folder", "\0", "n" * 300 + ".csv", "file.csv/a.csv"])
def test_a_path_that_cannot_be_written_is_named(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.csv").touch()
    with pytest.raises(fr.UserError, match=r"cannot be written"), open_text(tmp_path / name):
        pass
    assert {file.name for file in tmp_path.iterdir()} == {"folder", "file.csv"}


def test_an_error_of_the_body_is_not_about_the_file(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "a.csv"):
        (tmp_path / "absent").read_text()
    assert not list(tmp_path.iterdir())


def test_a_history_is_cut_in_one_step(tmp_path):
    path = tmp_path / "history.jsonl"
    for step in (1, 2, 3):
        append_history(path, {"step": step})
    assert [entry["step"] for entry in truncate_history(path, 2)] == [1, 2]
    assert [file.name for file in tmp_path.iterdir()] == ["history.jsonl"]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]


def test_a_failing_disk_is_named_although_nothing_can_be_removed(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(5, "Input/output error")

    with (
        pytest.raises(fr.UserError, match=r"a\.json cannot be written \(Input/output error\)"),
        monkeypatch.context() as patch,
        replacing(tmp_path / "a.json") as fresh,
    ):
        fresh.write_text("{")
        patch.setattr(os, "unlink", fail)
        fail()
