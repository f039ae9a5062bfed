"""Kept digests of files: only new and changed files are read."""

import contextlib
import hashlib
import os
import shutil
import sqlite3

import pytest

from flax_resnet.data.images import ImageFiles, digest_files, digests, find_images


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The file of the cache; files are kept however recently they changed."""
    monkeypatch.setenv("FLAX_RESNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "RECENT_NS", -(10**12))
    return tmp_path / "cache" / digests.CACHE_FILE


@pytest.fixture
def files(tmp_path):
    """Four files, one with a name that is not UTF-8."""
    (tmp_path / "photos").mkdir()
    names = (b"a.jpg", b"b c.png", "\u732b.gif".encode(), b"\xe9.jpg")
    paths = [os.fsdecode(os.fsencode(tmp_path / "photos") + b"/" + name) for name in names]
    for path, name in zip(paths, names, strict=True):
        with open(path, "wb") as file:
            file.write(name * 9)
    return paths


@pytest.fixture
def read(monkeypatch):
    """The paths of the files that were read so far."""
    paths, read_bytes = [], digests.read_bytes
    monkeypatch.setattr(digests, "read_bytes", lambda path: paths.append(path) or read_bytes(path))
    return paths


def expected(path):
    with open(path, "rb") as file:
        content = file.read()
    first = int(hashlib.blake2b(content, digest_size=8).hexdigest(), 16)
    return hashlib.blake2b(content, digest_size=16).hexdigest(), first / 2**64


def assert_right(paths):
    for path, digest in zip(paths, digest_files(paths), strict=True):
        content, fraction = expected(path)
        assert digest.content == content
        assert digest.fraction == pytest.approx(fraction, abs=1e-15)


def test_unchanged_files_are_read_once(cache, files, read, monkeypatch):
    for _ in range(3):
        assert_right(files)
    assert sorted(read) == sorted(files)
    monkeypatch.chdir(os.path.dirname(files[0]))
    assert_right([os.path.basename(path) for path in files])
    assert len(read) == len(files)


@pytest.mark.parametrize("change", ["grown", "same size", "old time", "replaced", "link"])
def test_a_changed_file_is_read_again(cache, files, read, tmp_path, change):
    target = files[1]
    if change == "link":
        target = files[1] = str(tmp_path / "link.jpg")
        os.symlink(files[0], target)
    digest_files(files)
    before = os.stat(target)
    if change == "link":
        os.unlink(target)
        os.symlink(files[2], target)
    elif change == "replaced":  # by a file of the same size and times
        shutil.copy2(target, tmp_path / "other")
        with open(tmp_path / "other", "r+b") as file:
            file.write(b"X")
        os.utime(tmp_path / "other", ns=(before.st_atime_ns, before.st_mtime_ns))
        os.replace(tmp_path / "other", target)
    else:
        with open(target, "ab" if change == "grown" else "r+b") as file:
            file.write(b"X")
        if change == "old time":
            os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))
    read.clear()
    assert_right(files)
    assert read == [target]


def test_a_file_that_has_just_changed_is_not_kept(cache, files, read, monkeypatch):
    """One more change in the same tick of a coarse clock would leave no trace."""
    monkeypatch.setattr(digests, "RECENT_NS", 10**12)
    for _ in range(2):
        assert_right(files)
    assert len(read) == 2 * len(files)


def test_a_file_that_cannot_be_read_has_no_digest(cache, files, tmp_path):
    absent, folder = str(tmp_path / "gone.jpg"), str(tmp_path / "photos")
    for _ in range(2):
        found = digest_files([absent, *files, folder])
        assert found[0] is None and found[-1] is None and None not in found[1:-1]


@pytest.mark.parametrize("damage", ["garbage", "cut off", "a row", "a folder", "a file", "locked"])
def test_without_a_usable_cache_all_files_are_read(cache, files, read, damage):
    digest_files(files)
    content = cache.read_bytes()
    other = sqlite3.connect(cache, isolation_level=None)
    if damage == "garbage":
        cache.write_bytes(b"nonsense" * 999)
    elif damage == "cut off":
        cache.write_bytes(content[: len(content) // 2])
    elif damage == "a row":
        (row,) = other.execute("SELECT row FROM digests").fetchone()
        index = content.index(row) + 40
        cache.write_bytes(content[:index] + bytes([content[index] ^ 1]) + content[index + 1 :])
    elif damage == "a folder":
        cache.unlink()
        cache.mkdir()
    elif damage == "a file":
        shutil.rmtree(cache.parent)
        cache.parent.write_bytes(b"")
    else:
        other.execute("BEGIN EXCLUSIVE")
    with contextlib.closing(other):
        read.clear()
        assert_right(files)
        assert len(read) == (1 if damage == "a row" else 4)
    if damage in ("garbage", "cut off", "a row"):
        assert_right(files)  # makes a new cache at the latest
        read.clear()
        assert_right(files)
        assert read == []


def test_a_folder_without_splits_is_read_once(cache, read, tmp_path):
    """All files were read at every start, for their splits."""
    for name in ("a/1.jpg", "a/2.jpg", "b/1.jpg"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_text(name)
    first = find_images(tmp_path / "set")
    assert len(read) == 3
    again = find_images(tmp_path / "set")
    assert len(read) == 3
    for split, records in first.splits.items():
        assert records.paths == again.splits[split].paths
        ImageFiles(records, size=8).content_digests()  # those of kept features
    assert len(read) == 3
