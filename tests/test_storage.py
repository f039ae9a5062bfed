"""Addresses of object storage, and of what is none: no option makes a folder called ``s3:``."""

import sys
from types import SimpleNamespace

import pytest

import flax_resnet as fr
from flax_resnet import UserError
from flax_resnet.cli import main
from flax_resnet.paths import expand
from flax_resnet.storage import is_remote, list_files, local_copy, local_data, locate, mirror

ADDRESSES = ("hdfs://host/run", "https://host/run", "file:///run", "az://bucket/run", "gs:run/x:/")


@pytest.mark.parametrize("address", ["hdfs://host/a", "https://host/a", "file:///a", "az://b/a"])
@pytest.mark.parametrize(
    "words",
    [
        ["train", "--config", "digits", "--workdir"],
        ["train", "--config", "digits", "--data.dir"],
        ["augment-preview", "--config", "digits", "--output"],
        ["finetune"],
        ["evaluate", "resnet18/DEFAULT", "--data"],
        ["report"],
        ["verify"],
        ["checkpoints"],
        ["compare", "runs/a"],
        ["convert", "nothing.pth"],
        ["export", "nothing.pth"],
        ["predict", "--classes", "names.txt", "nothing.jpg", "--model"],
    ],
    ids=" ".join,
)
def test_no_option_takes_an_unknown_address(tmp_path, monkeypatch, capsys, words, address):
    monkeypatch.chdir(tmp_path)
    assert main([*words, address]) in (1, 2)
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_an_address_that_pathlib_has_shortened_is_refused():
    """``Path("s3://bucket/run")`` is ``s3:/bucket/run``, a folder called ``s3:``."""
    from pathlib import Path

    with pytest.raises(UserError, match="write the address as text, such as s3://BUCKET/NAME"):
        locate(Path("s3://bucket/run"))
    with pytest.raises(UserError, match="hdfs:// addresses are not supported here"):
        expand(Path("hdfs://host/run"))


@pytest.mark.parametrize("path", ["c:/photos", "runs/a:b", "runs/s3://x", "resnet18:V1", "hf:a/b"])
def test_what_looks_like_an_address_is_a_local_path(path):
    assert not is_remote(locate(path))
    assert local_data(path) == local_copy(locate(path)) == mirror(locate(path)) == expand(path)


@pytest.mark.parametrize(
    ("scheme", "module", "extra"),
    [("s3", "s3fs", "s3"), ("gs", "gcsfs", "gcs"), ("s3", "upath", "s3")],
)
def test_a_missing_package_is_named(monkeypatch, scheme, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError) as caught:
        fr.load(f"{scheme}://bucket/run")
    assert str(caught.value).endswith(f'pip install "flax-resnet[{extra}]".')
    assert str(caught.value).startswith(f"{scheme}://bucket/run needs ")


@pytest.mark.parametrize("name", ["../../.bashrc", "a/../../b", "..\\b", "C:b"])
def test_an_object_whose_name_leads_out_of_the_folder_is_refused(name):
    objects = {f"bucket/run/{one}": {"type": "file", "size": 1} for one in ("config.json", name)}
    folder = SimpleNamespace(fs=SimpleNamespace(find=lambda *_, **__: objects), path="bucket/run")
    with pytest.raises(UserError, match=r"holds an object called"):
        list_files(folder)
    del objects[f"bucket/run/{name}"]
    assert list(list_files(folder)) == ["config.json"]


def test_a_listing_that_a_store_refuses_is_one_sentence():
    """``verify gs://no-such-bucket/run`` ended in a FileNotFoundError."""

    class Folder:
        protocol, path = "gs", "no-such-bucket/run"

        def __str__(self):
            return f"gs://{self.path}"

        class fs:
            @staticmethod
            def find(*_, **__):
                raise FileNotFoundError("b/no-such-bucket/o")

    with pytest.raises(UserError, match="cannot be read: there is no bucket gs://no-such-bucket"):
        list_files(Folder())
