"""Scores that strangers took for test scores: images of training among those of a test."""

import contextlib
import csv
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

import flax_resnet as fr
from flax_resnet.cli import main
from tests.tiny_net import TINY_OPTIONS


def write_photos(folder, count, seed):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        rng = np.random.default_rng([seed, number, sum(folder.name.encode())])
        pixels = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}-{number:03}.png")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on a folder without splits, and the files of its test split."""
    root = tmp_path_factory.mktemp("evaluation")
    for name in ("cat", "dog"):
        write_photos(root / "photos" / name, 40, 1)
    words = (*TINY_OPTIONS, "--data.name", "folder", "--data.dir", root / "photos")
    more = ("--data.image-size", "16", "--max-steps", "1", "--compile-cache", "None")
    arguments = map(str, ("train", "--config", "digits", *words, *more, "--workdir", root / "run"))
    assert main(list(arguments)) == 0
    held = json.loads((root / "run" / "data.json").read_text())["splits"]
    return root, {split: sorted(held[split]["files"]) for split in held}


def evaluated(root, source, *options):
    """Run the command; return its exit code, what it printed, and the files in the score."""
    output = root / "rows.csv"
    output.unlink(missing_ok=True)
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        words = ("evaluate", root / "run", source, *options, "--output", output)
        code = main(list(map(str, words)))
    rows = list(csv.DictReader(output.open())) if output.exists() else []
    files = sorted(row["file"].removeprefix(f"{source}/") for row in rows)
    return code, " ".join((out.getvalue() + err.getvalue()).split()), files


@pytest.mark.slow
def test_a_moved_folder_is_scored_on_what_the_run_did_not_see(run, tmp_path):
    """A copy of the folder was scored with all its training images, as "all"."""
    root, splits = run
    moved = shutil.copytree(root / "photos", tmp_path / "moved")
    code, printed, files = evaluated(root, moved)
    trained = len(splits["train"]) + len(splits["validation"])
    assert code == 0 and files == splits["test"]
    assert f"note: {trained} of the 80 images are among those that the run was trained" in printed
    assert f"(all without {trained} of training)" in printed
    scores = fr.load(root / "run").evaluate(moved)
    assert scores.result.top1 == fr.load(root / "run").evaluate().result.top1
    assert any("trained on; they are left out" in note for note in scores.notes)


@pytest.mark.slow
def test_renamed_and_mixed_files_are_recognised_by_their_contents(run, tmp_path):
    root, splits = run
    write_photos(tmp_path / "mixed" / "cat", 3, 2)
    write_photos(tmp_path / "mixed" / "dog", 3, 2)
    for number, path in enumerate(splits["train"][:5]):
        shutil.copy(root / "photos" / path, tmp_path / "mixed" / "cat" / f"new-{number}.png")
    code, printed, files = evaluated(root, tmp_path / "mixed")
    assert code == 0 and "note: 5 of the 11 images" in printed
    assert len(files) == 6 and not any("new" in name for name in files)


def test_a_list_and_a_test_folder_of_training_images_are_refused(run, tmp_path):
    root, splits = run
    listed = tmp_path / "list.csv"
    rows = [f"{root / 'photos' / path},{path.split('/')[0]}" for path in splits["train"]]
    listed.write_text("\n".join(["path,label", *rows]))
    for split, name in (("train", "cat"), ("train", "dog"), ("test", "cat"), ("test", "dog")):
        target = tmp_path / "divided" / split / name
        target.mkdir(parents=True)
        for path in splits["train"]:
            if path.startswith(name):
                shutil.copy(root / "photos" / path, target)
    for source in (listed, tmp_path / "divided"):
        code, printed, files = evaluated(root, source)
        assert code == 1 and not files
        assert "are among those that the run was trained on: name other images" in printed


def test_all_images_are_scored_where_that_is_asked_for(run):
    root, _ = run
    code, printed, files = evaluated(root, root / "photos", "--split", "all")
    assert code == 0 and len(files) == 80 and "this is no test score" in printed


def test_a_converted_run_knows_its_images(run, tmp_path):
    root, splits = run
    moved = shutil.copytree(root / "photos", tmp_path / "moved")
    fr.load(root / "run").save(tmp_path / "run")
    done = fr.load(tmp_path / "run").evaluate(moved)
    assert done.result.count == len(splits["test"])


def test_a_run_that_cannot_know_says_so(run, tmp_path):
    root, _ = run
    shutil.copytree(root / "run", tmp_path / "run")
    (tmp_path / "run" / "data.json").unlink()
    moved = shutil.copytree(root / "photos", tmp_path / "moved")
    notes = fr.load(tmp_path / "run").evaluate(moved).notes
    assert f"whether the run was trained on images of {moved} is not known" in notes
