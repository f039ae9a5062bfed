"""Tar archives and folders read without unpacking: found files, and refused archives."""

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from flax_resnet.data.tfds import archives
from flax_resnet.data.tfds.archives import FileTree, open_tree, tar_files
from flax_resnet.errors import UserError

FILES = {"a/one.bin": b"1" * 700, "a/b/two.bin": b"2" * 512, "three.bin": b""}
Member = tuple[tarfile.TarInfo, bytes]


def regular(name: str, content: bytes = b"x") -> Member:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info, content


def link(name: str, target: str, kind: bytes) -> Member:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


def tar(*members: Member) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


GOOD = tar(*(regular(name, content) for name, content in FILES.items()))


def contents(tree: FileTree) -> dict[str, bytes]:
    return {name: tree.read(name) for name in tree.files}


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[bytes], FileTree]:
    """Return a function that opens an archive of these bytes."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()

    def open_bytes(content: bytes) -> FileTree:
        (tmp_path / "some.tar").write_bytes(content)
        return open_tree(tmp_path / "some.tar", scratch)

    return open_bytes


@pytest.mark.parametrize("content", [GOOD, gzip.compress(GOOD)], ids=["plain", "gzip"])
def test_archive(opened: Callable[[bytes], FileTree], content: bytes) -> None:
    assert contents(opened(content)) == FILES


def test_folder(tmp_path: Path) -> None:
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    tree = open_tree(tmp_path, tmp_path / "not needed")
    assert contents(tree) == FILES
    assert list(tree.files) == ["three.bin", "a/one.bin", "a/b/two.bin"]


def test_archive_in_an_archive(opened: Callable[[bytes], FileTree], tmp_path: Path) -> None:
    path = opened(tar(regular("n1.tar", GOOD), regular("n2.tar", tar(regular("x"))))).source
    outer = tar_files(path, path)
    assert contents(FileTree(path, tar_files(path, path, within=outer["n1.tar"]))) == FILES
    assert contents(FileTree(path, tar_files(path, path, within=outer["n2.tar"]))) == {"x": b"x"}


def test_members_whose_names_begin_with_a_dot_and_a_slash(
    opened: Callable[[bytes], FileTree],
) -> None:
    assert contents(opened(tar(regular("./a/one"), regular("two")))) == {"a/one": b"x", "two": b"x"}


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (regular("/etc/passwd"), "absolute path"),
        (regular("../outside"), r"'\.\.'"),
        (regular("a/../../outside"), r"'\.\.'"),
        (link("a/sly", "/etc/passwd", tarfile.SYMTYPE), "link to '/etc/passwd'"),
        (link("a/sly", "../../x", tarfile.LNKTYPE), "link to"),
        (link("a/pipe", "", tarfile.FIFOTYPE), "neither a file nor a folder"),
        (link("a/disk", "", tarfile.BLKTYPE), "neither a file nor a folder"),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_hostile_member_is_refused_by_name(
    opened: Callable[[bytes], FileTree],
    tmp_path: Path,
    member: Member,
    reason: str,
    pack: Callable[[bytes], bytes],
) -> None:
    with pytest.raises(UserError, match=reason) as caught:
        opened(pack(tar(regular("good"), member)))
    assert repr(member[0].name) in str(caught.value)
    assert str(tmp_path / "some.tar") in str(caught.value)


def test_hostile_member_of_an_inner_archive(opened: Callable[[bytes], FileTree]) -> None:
    path = opened(tar(regular("n1.tar", tar(regular("../outside"))))).source
    with pytest.raises(UserError, match=r"'\.\./outside'"):
        tar_files(path, path, within=tar_files(path, path)["n1.tar"])


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("end", [0, 100, 512, 900, 1536, 2048, len(FILES["a/one.bin"]) + 512])
def test_cut_short(
    opened: Callable[[bytes], FileTree], pack: Callable[[bytes], bytes], end: int
) -> None:
    with pytest.raises(UserError, match=r"some\.tar is (damaged or cut short|no tar archive)"):
        opened(pack(GOOD[:end]))


def test_gzip_cut_short(opened: Callable[[bytes], FileTree]) -> None:
    content = gzip.compress(GOOD)
    with pytest.raises(UserError, match="cut short"):
        opened(content[: len(content) // 2])
    with pytest.raises(UserError, match="damaged"):
        opened(content[:-5] + b"\0" + content[-4:])


def test_inner_archive_that_runs_on_into_the_next(opened: Callable[[bytes], FileTree]) -> None:
    endless = tar(regular("one"))[:1024]  # one member without an end mark
    path = opened(tar(regular("n1.tar", endless), regular("n2.tar", GOOD))).source
    with pytest.raises(UserError, match="cut short"):
        tar_files(path, path, within=tar_files(path, path)["n1.tar"])


def test_archive_that_shrinks_after_it_was_opened(opened: Callable[[bytes], FileTree]) -> None:
    tree = opened(GOOD)
    tree.source.write_bytes(GOOD[:600])
    with pytest.raises(UserError, match="cut short"):
        tree.read("a/one.bin")


def test_archive_that_expands_without_end(
    opened: Callable[[bytes], FileTree], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(archives, "MAX_BYTES", 4 << 20)
    with pytest.raises(UserError, match="expands"):
        opened(gzip.compress(bytes(64 << 20)))
    assert (tmp_path / "scratch" / "uncompressed.tar").stat().st_size <= 4 << 20


def test_absent_sources(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.tar cannot be read \(No such file"):
        open_tree(tmp_path / "nothing.tar", tmp_path)


def test_root_of_a_marker(opened: Callable[[bytes], FileTree]) -> None:
    tree = opened(tar(*map(regular, ("top/in/mark", "top/in/other", "top/remark"))))
    assert tree.root_of("mark", "a thing") == "top/in/"
    assert opened(tar(regular("mark"))).root_of("mark", "a thing") == ""
    with pytest.raises(UserError, match="has no gone: give a thing"):
        tree.root_of("gone", "a thing")
    with pytest.raises(UserError, match="in 2 folders"):
        opened(tar(regular("a/mark"), regular("b/mark"))).root_of("mark", "a thing")
