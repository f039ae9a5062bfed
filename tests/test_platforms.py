"""Systems for which a dependency has no build: what computes the same without it, and what says so.

``.ci/run`` also checks the types for Windows, which finds functions of ``os`` that it lacks.
"""

import importlib.util
import io
import os
import sys
import tomllib

import numpy as np
import pytest
from packaging.requirements import Requirement
from PIL import Image

import flax_resnet as fr
from flax_resnet.data.images import decoding, pixels, resize_center_crop
from flax_resnet.data.tfds import open_prepared, prepare

LINUX = {"sys_platform": "linux", "platform_machine": "x86_64"}
ARM = LINUX | {"platform_machine": "aarch64"}
MAC = {"sys_platform": "darwin", "platform_machine": "arm64"}
WINDOWS = {"sys_platform": "win32", "platform_machine": "AMD64"}


def encoded():
    blocks = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(blocks).resize((320, 240), Image.Resampling.BICUBIC).save(buffer, "JPEG")
    return buffer.getvalue()


def loaded_again(module):
    """The module as it is when it is imported now; the one that others have imported stays."""
    spec = importlib.util.spec_from_file_location(f"{module.__name__}_again", module.__file__)
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    return again


@pytest.mark.parametrize(
    ("package", "systems"),
    [
        ("array-record", [LINUX, ARM, MAC]),
        ("cykooz-resizer", [LINUX, MAC, WINDOWS]),
        ("simplejpeg", [LINUX, ARM, MAC, WINDOWS]),
        ("tensorstore", [LINUX, ARM, MAC, WINDOWS]),
    ],
)
def test_packages_are_required_where_they_have_builds(package, systems, repository):
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    requirements = map(Requirement, project["dependencies"])
    (found,) = (requirement for requirement in requirements if requirement.name == package)
    wanted = [
        system
        for system in (LINUX, ARM, MAC, WINDOWS)
        if not found.marker or found.marker.evaluate(system)
    ]
    assert wanted == systems


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_pillow_resizes_where_the_faster_library_is_absent(interpolation, monkeypatch):
    content = encoded()
    with_library = resize_center_crop(content, 64, 56, interpolation=interpolation)
    monkeypatch.setitem(sys.modules, "cykooz_resizer", None)
    monkeypatch.setattr(pixels, "jpeg", loaded_again(pixels.jpeg))
    found = resize_center_crop(content, 64, 56, interpolation=interpolation)
    assert np.abs(found.astype(int) - with_library).max() <= 1


def test_files_are_read_where_the_system_has_no_nonblocking_files(tmp_path, monkeypatch):
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded())
    monkeypatch.delattr(os, "O_NONBLOCK")
    assert loaded_again(decoding).read_bytes(str(path)) == encoded()


@pytest.mark.parametrize("opens", [prepare, open_prepared])
def test_prepared_sets_are_refused_in_one_sentence_without_array_record(
    opens, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "array_record", None)
    folder = tmp_path / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    (folder / "features.json").write_text("{}")
    (folder / "dataset_info.json").write_text('{"fileFormat": "array_record"}')
    with pytest.raises(fr.UserError, match=r"need the package array-record, .* WSL") as caught:
        opens("mnist", data_dir=tmp_path)
    assert "\n" not in str(caught.value)
