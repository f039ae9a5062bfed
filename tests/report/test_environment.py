"""What a page says of the process that trained, and what finding it out leaves alone."""

import os
import shutil
import subprocess

import pytest

from flax_resnet.report import environment


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["/bin/flax-resnet", "train", "--seed", "1"], "flax-resnet train --seed 1"),
        (["/x/flax_resnet/__main__.py", "train"], "flax-resnet train"),
        (["/x/pytest/__main__.py", "tests"], None),
        (["train.py", "--config", "a b"], "python train.py --config 'a b'"),
    ],
)
def test_the_command_as_one_types_it(words, command):
    assert environment.command_of(words) == command


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_is_found_and_the_repository_is_left_alone(tmp_path, monkeypatch):
    """A run that was killed in its first second left ``.git/index.lock``, at which all later git
    commands fail: the index was written, because the times of files had changed."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)

    def git(*words):
        named = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a"]
        return subprocess.run([*named, *words], check=True, capture_output=True, text=True).stdout

    file = tmp_path / "a"
    file.write_text("1")
    assert environment._commit(tmp_path) is None
    git("init")
    git("add", "a")
    git("commit", "-m", "a")
    commit = git("rev-parse", "HEAD").strip()
    os.utime(file, (1, 1))
    before = (tmp_path / ".git" / "index").read_bytes()
    assert environment._commit(tmp_path) == commit
    assert (tmp_path / ".git" / "index").read_bytes() == before
    file.write_text("2")
    assert environment._commit(tmp_path) == f"{commit}-dirty"
