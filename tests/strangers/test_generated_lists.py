"""Generated lists, class files and arrays: each image once or named, or a refusal in a sentence.

The expected answers come from ``generate_lists``, which imports nothing of ours. The numbers of
cases of each kind are printed (``pytest -s``).
"""

import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import flax_resnet as fr
from flax_resnet.data.audit import check_folder, render
from flax_resnet.data.images import find_images
from flax_resnet.inference import read_classes
from flax_resnet.inference.find_files import find_files
from tests.strangers.generate import Generator
from tests.strangers.generate_lists import draw_array, draw_class_file, draw_list

SIZES = [
    pytest.param(17, id="fast"),
    pytest.param(200, id="slow", marks=[pytest.mark.slow]),
]


@pytest.fixture(scope="module")
def run(classifier):
    return classifier()


def check_list(drawn, run):
    """``check`` and ``predict`` of a list give what was drawn."""
    if drawn.absent:
        with pytest.raises(fr.UserError) as caught:
            find_images(drawn.path, ratios=(1, 0, 0))
        assert f"{len(drawn.absent):,} of " in str(caught.value)
    else:
        found = find_images(drawn.path, ratios=(1, 0, 0))
        got = {
            os.path.realpath(path): found.classes[label]
            for path, label in zip(found.train.paths, found.train.labels.tolist(), strict=True)
        }
        assert got == drawn.expected and len(found.train) == len(got)
        report = check_folder(drawn.path)
        assert set(map(os.path.realpath, report.unreadable)) == drawn.damaged
        assert sum(map(sum, report.counts.values())) == len(drawn.expected)
        Console(file=io.StringIO(), width=100).print(render(report))
    files = find_files([drawn.path])
    assert set(files.missing) == set(drawn.absent)
    done = run.predict(files.paths)
    assert sorted(map(os.path.realpath, done.names)) == sorted(drawn.expected)
    assert set(map(os.path.realpath, done.failed)) == drawn.damaged
    readable = [name not in done.failed for name in done.names]
    assert np.isfinite(done.probabilities).all(1).tolist() == readable


@pytest.mark.parametrize("size", SIZES)
def test_lists(size, run, tmp_path, capsys):
    generator = Generator(size)
    for case in range(size):
        folder = tmp_path / str(case)
        folder.mkdir()
        drawn = draw_list(generator, folder)
        try:
            check_list(drawn, run)
        except Exception as error:
            text = Path(drawn.path).read_bytes()
            raise AssertionError(f"case {case}: {drawn.path} {text!r}: {error}") from error
        shutil.rmtree(folder)
    print(generator.summary())


@pytest.mark.parametrize("size", SIZES)
def test_class_files(size, tmp_path):
    generator = Generator(size)
    for case in range(size):
        path, expected = draw_class_file(generator, tmp_path)
        if expected is None:
            with pytest.raises(fr.UserError) as caught:
                read_classes(path)
            assert "\n" not in str(caught.value)
        else:
            assert read_classes(path) == expected, f"case {case}: {Path(path).read_bytes()!r}"
        os.remove(path)
    print(generator.summary())


@pytest.mark.parametrize("size", SIZES)
def test_arrays(size, run, tmp_path):
    generator = Generator(size)
    for case in range(size):
        array, images = draw_array(generator)
        if images is None:
            with pytest.raises(fr.UserError) as caught:
                run.predict(array)
            assert "\n" not in str(caught.value), case
            continue
        paths = [tmp_path / f"{number}.png" for number in range(len(images))]
        for path, image in zip(paths, images, strict=True):
            Image.fromarray(np.ascontiguousarray(image)).save(path)
        done = run.predict(array)
        assert done.names == tuple(map(str, range(len(images)))), case
        np.testing.assert_allclose(
            done.probabilities, run.predict(paths).probabilities, atol=1e-5, err_msg=str(case)
        )
    print(generator.summary())
