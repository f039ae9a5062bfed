"""Runs in object storage, against servers on the machine's loopback interface."""

import dataclasses
import importlib.util
import json
import re
import subprocess
import sys
import time

import numpy as np
import pytest
import safetensors.numpy

import flax_resnet as fr
from flax_resnet import UserError
from flax_resnet.cli import main
from flax_resnet.config import Config, DataConfig, ModelConfig
from flax_resnet.storage import copies, delete, list_files, locate, mirror, upload
from flax_resnet.training import lock
from flax_resnet.training.object_lock import take_lock
from tests.object_stores import (
    STORES,
    CuttingProxy,
    gcs_testbench,
    s3_store,
    with_environment,
)
from tests.ports import free_port
from tests.strangers.shards import samples, tar

pytestmark = pytest.mark.slow  # each store is a process of its own


@pytest.fixture(scope="module", params=list(STORES))
def store(request):
    start, packages = STORES[request.param]
    for package in ("upath", *packages):
        if importlib.util.find_spec(package) is None:  # gcsfs reads variables when it is imported
            pytest.skip(f"{package} is not installed")
    with start() as one, pytest.MonkeyPatch.context() as environment:
        for name, value in one.environment.items():
            environment.setenv(name, value)
        yield one


TIMES = ("time", "images_per_second", "data_wait")


def history_of(path):
    lines = fr.report.read_history(path / "history.jsonl")
    return [{name: line[name] for name in line if name not in TIMES} for line in lines]


NET = {"name": "resnet", "stage_sizes": (1,), "widths": (8,), "block": "basic", "stem": "cifar"}


def config_in(workdir, **options):
    return Config(
        model=ModelConfig(**NET),
        data=DataConfig(name="digits", batch_size=128),
        epochs=2,
        save_every="3steps",
        workdir=str(workdir),
        compile_cache=None,
        **options,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run in a local folder."""
    workdir = tmp_path_factory.mktemp("local") / "run"
    fr.train(config_in(workdir), quiet())
    return workdir


def same_weights(*files):
    """Whether two files have the same bits; the library orders their metadata at random."""
    one, other = map(safetensors.numpy.load, files)
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


def start(workdir, environment, log=None):
    """Train in a process of its own."""
    code = (
        "import flax_resnet as fr; from flax_resnet.config import *\n"
        f"fr.train(Config(ModelConfig(**{NET}), DataConfig(name='digits', batch_size=128), "
        f"epochs=2, save_every='3steps', workdir={workdir!r}, compile_cache=None))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.DEVNULL, stderr=log
    )


def quiet():
    from rich.console import Console

    return Console(quiet=True)


def test_a_killed_run_ends_with_the_bits_of_a_local_one(store, whole, capsys, tmp_path):
    address = f"{store.root}/digits"
    child = start(address, with_environment(store))
    while not any("commit_success" in name for name in list_files(locate(address))):
        assert child.poll() is None, "it ended before its first checkpoint"
        time.sleep(0.1)
    child.kill()
    child.wait()
    result = fr.train(config_in(address), quiet())
    assert result.finished and str(result.workdir) == address
    workdir = locate(address)
    assert history_of(workdir) == history_of(whole)
    name = "model.safetensors"
    assert same_weights((workdir / name).read_bytes(), (whole / name).read_bytes())

    # What reads a run reads it there.
    image = np.zeros((8, 8), np.uint8)
    classifier = fr.load(address)
    assert classifier.info.source == address
    expected = fr.load(whole).predict(image).probabilities
    assert np.array_equal(classifier.predict(image).probabilities, expected)
    files = [fr.load(one).predict(image) for one in (f"{address}/{name}", whole / name)]
    assert np.array_equal(files[0].probabilities, files[1].probabilities)
    capsys.readouterr()
    assert main(["verify", address]) == 0
    assert "WRONG" not in capsys.readouterr().out
    assert main(["checkpoints", address, "--verify"]) == 0
    listed = capsys.readouterr().out
    assert "latest" in listed and "best" in listed and "damaged" not in listed
    (locate(address) / "report/index.html").unlink()
    assert main(["report", address]) == 0
    assert f"Open {address}/report/index.html." in capsys.readouterr().out
    assert (locate(address) / "report/index.html").read_text().startswith("<!")
    assert main(["evaluate", address, "--json", f"{store.root}/evaluation.json"]) == 0
    assert json.loads(locate(f"{store.root}/evaluation.json").read_text())
    target = f"{store.root}/weights/a.safetensors"
    assert main(["convert", address, target]) == 0
    assert fr.load(target).model == classifier.model
    # Without the file its checkpoints are read, and only finished ones.
    (workdir / name).unlink()
    latest = max(int(one.split("/")[1]) for one in list_files(workdir) if "commit_success" in one)
    delete(workdir / "checkpoints" / str(latest) / "commit_success.txt")
    assert fr.load(address).info.step < latest


RACE = """
import sys, threading
from flax_resnet import UserError
from flax_resnet.storage import locate
from flax_resnet.training.object_lock import take_lock

folder, got, refused = locate(sys.argv[1]), [], []

def take():
    try:
        got.append(take_lock(folder, "train"))
    except UserError as error:
        refused.append(str(error))

threads = [threading.Thread(target=take) for _ in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(got) == 1 and len(refused) == 5, (got, refused)
assert all("is in use" in text for text in refused), refused
got[0].check()
got[0].release()
assert not (folder / ".lock").exists()
"""


@pytest.mark.parametrize("server", [s3_store, gcs_testbench])
def test_of_commands_that_start_at_once_one_gets_the_lock(server):
    needed = ("upath", "moto", "s3fs") if server is s3_store else ("upath", "gcsfs")
    if not all(map(importlib.util.find_spec, needed)):
        pytest.skip(f"it needs {', '.join(needed)}")
    with server() as one:
        words = [sys.executable, "-c", RACE, f"{one.root}/locked"]
        subprocess.run(words, env=with_environment(one), check=True)


def test_a_lock_without_heartbeat_is_taken_over_whatever_the_clocks_say(store, monkeypatch):
    """The process of another host cannot be seen, and its clock differs by a day."""
    folder = locate(f"{store.root}/stale")
    monkeypatch.setattr(lock, "_system", lambda: "")
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.2)
    monkeypatch.setattr(lock, "STALE_SECONDS", 3.0)
    here = time.time
    monkeypatch.setattr(time, "time", lambda: here() + 86_400)
    first = take_lock(folder, "train")
    time.sleep(4)  # its heartbeats keep it
    with pytest.raises(UserError, match=r"is in use by process .* its last sign of life was"):
        take_lock(folder, "train")
    monkeypatch.setattr(time, "time", lambda: here() - 86_400)
    first._ended.set()  # it hangs
    time.sleep(5)
    second = take_lock(folder, "train")
    assert second.replaced == first.owner
    with pytest.raises(UserError, match="was taken over by process"):
        first.check()
    first.release()  # of which the second knows nothing
    second.check()
    second.release()


def test_a_cut_connection_loses_no_line_and_no_checkpoint(store, whole, tmp_path):
    """Where a store's library gives up, the run ends with a sentence; the next start goes on."""
    proxy = CuttingProxy(store.port)
    generator = np.random.default_rng(0)
    for start_number in range(5):
        log = tmp_path / f"log-{start_number}"
        with open(log, "wb") as file:
            child = start(f"{store.root}/cut", with_environment(store.through(proxy.port)), file)
        while child.poll() is None:
            if not proxy.is_armed and proxy.cuts < 20:
                proxy.cut(int(generator.integers(1, 40_000)))
            time.sleep(0.01)
        print(f"{store.root}: start {start_number}: {proxy.cuts} cuts so far")
        if child.returncode == 0:
            break
        text = log.read_text()
        assert re.search("^flax_resnet.errors.(User|Storage)Error: ", text, re.MULTILINE), text
    proxy.close()
    assert child.returncode == 0 and proxy.cuts >= 5
    assert history_of(locate(f"{store.root}/cut")) == history_of(whole)


def test_a_connection_that_breaks_in_a_shard(store, tmp_path, monkeypatch, new_clients):
    """At 20 random bytes of what is downloaded: another attempt, or one sentence; never a part."""
    content = np.random.default_rng(0).bytes(300_000)
    shards = locate(f"{store.root}/shards")
    for number in range(2):
        (tmp_path / "shard").write_bytes(content + bytes([number]))
        upload(tmp_path / "shard", shards / f"train-{number}.tar")
    proxy = CuttingProxy(store.port)
    for name, value in store.through(proxy.port).environment.items():
        monkeypatch.setenv(name, value)
    new_clients()
    refused = 0
    for attempt, at in enumerate(np.random.default_rng(1).integers(1, 600_000, 20)):
        monkeypatch.setenv("FLAX_RESNET_CACHE", str(tmp_path / str(attempt)))
        proxy.cut(int(at), upload=False)
        try:
            folder = mirror(locate(f"{store.root}/shards"))
        except UserError as error:
            assert "the connection to" in str(error)
            refused += 1
            folder = mirror(locate(f"{store.root}/shards"))
        for number in range(2):
            assert (folder / f"train-{number}.tar").read_bytes() == content + bytes([number])
    assert proxy.cuts == 20
    print(f"{store.root}: {refused} of 20 downloads ended in a sentence, the others went on")
    proxy.close()


# --- Bad input -----------------------------------------------------------------


@pytest.fixture
def new_clients(store):
    """Let fsspec make its clients anew, then and at the end; they keep what they were made with."""
    import fsspec

    kind = fsspec.get_filesystem_class(store.root.partition(":")[0])
    yield kind.clear_instance_cache
    kind.clear_instance_cache()


def sentence_of(capsys, *words, code=1):
    """The error message of a command, which must be one sentence."""
    capsys.readouterr()
    assert main(list(words)) == code
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1
    return message


SMALL = (
    *("train", "--config", "digits", "--model.name", "resnet", "--model.stage-sizes", "1"),
    *("--model.widths", "8", "--model.block", "basic", "--model.stem", "cifar"),
)
TRAIN = (*SMALL, "--max-steps", "2", "--workdir")


@pytest.mark.parametrize("words", [["train", "--config", "digits", "--workdir"], ["verify"]])
def test_a_bucket_that_is_not_there_is_named(store, capsys, words):
    scheme = store.root.partition(":")[0]
    address = f"{scheme}://no-such-bucket/run"
    assert f"{scheme}://no-such-bucket" in sentence_of(capsys, *words, address)


def test_no_credentials(store, capsys, monkeypatch, tmp_path, new_clients):
    if not store.root.startswith("s3"):
        pytest.skip("the emulators of GCS ask for none")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    new_clients()
    address = f"{store.root}/nobody"
    for words in (TRAIN, ("verify",)):
        message = sentence_of(capsys, *words, address)
        assert "there are no valid credentials for s3://runs (set AWS_ACCESS_KEY_ID" in message


def test_a_bucket_that_is_read_only(store, capsys):
    if not store.root.startswith("s3"):
        pytest.skip("the emulators of GCS have no permissions")
    boto3 = pytest.importorskip("boto3")
    client = boto3.client("s3", endpoint_url=store.environment["AWS_ENDPOINT_URL"])
    client.create_bucket(Bucket="readonly")
    address = "s3://readonly/run"
    assert main([*TRAIN, address]) == 0
    before = sorted(list_files(locate(address)))
    statement = {"Effect": "Deny", "Principal": "*", "Action": ["s3:PutObject", "s3:DeleteObject"]}
    statement["Resource"] = "arn:aws:s3:::readonly/*"
    policy = {"Version": "2012-10-17", "Statement": [statement]}
    client.put_bucket_policy(Bucket="readonly", Policy=json.dumps(policy))
    for words in ((*TRAIN, address), (*TRAIN, "s3://readonly/new"), ("report", address)):
        message = sentence_of(capsys, *words)
        assert "the credentials do not permit it in s3://readonly" in message
    assert sorted(list_files(locate("s3://readonly"))) == [f"run/{name}" for name in before]
    assert fr.load(address).info.step == 2


def test_two_runs_with_one_address(store, capsys):
    address = f"{store.root}/shared"
    lock = take_lock(locate(address), "train")
    try:
        assert f"{address} is in use by process" in sentence_of(capsys, *TRAIN, address)
    finally:
        lock.release()
    assert main([*TRAIN, address]) == 0
    message = sentence_of(capsys, *TRAIN, address, "--seed", "7")
    assert f"{address} holds another run: seed was 0, is now 7" in message


def test_shards_that_change_between_start_and_resume(store, capsys, tmp_path):
    folder, address = f"{store.root}/tar", f"{store.root}/of-shards"
    for number in range(2):
        members = samples([0, 1] * 8, start=16 * number)
        upload(tar(tmp_path / "a.tar", members), locate(f"{folder}/train-{number}.tar"))
    words = [*SMALL, "--data.batch-size", "8"]
    words += ["--data.name", "webdataset", "--data.dir", folder, "--data.image-size", "8"]
    words += ["--augment.crop-padding", "0", "--workdir", address, "--max-steps"]
    assert main([*words, "2"]) == 0
    # The same bytes written again are the same data.
    upload(tmp_path / "a.tar", locate(f"{folder}/train-1.tar"))
    copies._copied_data.cache_clear()  # as in another process
    assert main([*words, "3"]) == 0
    tar(tmp_path / "b.tar", samples([1, 0] * 8, start=16))
    upload(tmp_path / "b.tar", locate(f"{folder}/train-1.tar"))
    copies._copied_data.cache_clear()
    message = sentence_of(capsys, *words, "4")
    assert f"{address} holds another run" in message and "train" in message


def test_a_server_that_does_not_answer(store, capsys, monkeypatch, new_clients):
    for name, value in store.through(free_port()).environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TENSORSTORE_GCS_HTTP_URL", raising=False)
    new_clients()
    scheme = store.root.partition(":")[0]
    message = sentence_of(capsys, *TRAIN, f"{store.root}/silent")
    assert f"the connection to {scheme}://runs failed" in message


def test_images_in_a_store_are_copied_once(store, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "a.npz", image=pixels, label=np.arange(64) % 4)
    upload(tmp_path / "a.npz", locate(f"{store.root}/data/a.npz"))
    config = dataclasses.replace(
        config_in(f"{store.root}/own"),
        data=DataConfig(name="folder", dir=f"{store.root}/data/a.npz", batch_size=16),
        max_steps=2,
    )
    assert fr.train(config, quiet()).step == 2
