"""Damaged bytes of a run's folder: each flip is noticed, or changes nothing that is read."""

import dataclasses
import shutil

import jax.numpy as jnp
import pytest

import flax_resnet as fr
from benchmarks.bit_flips import FOLDERS, flip_bits, reading_of
from flax_resnet import cli
from flax_resnet.report import append_history, read_history
from flax_resnet.training import Checkpoints, replay, verify
from flax_resnet.weights import write_sealed
from tests.training.test_loop import BASE, assert_same_run, config

pytestmark = pytest.mark.usefixtures("no_page")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with checkpoints of steps 10 and 11, of which the second has the best score."""
    folder = tmp_path_factory.mktemp("finished")
    data = dataclasses.replace(BASE.data, batch_size=240)
    with pytest.MonkeyPatch.context() as patch:
        page = "flax_resnet.training.recording.write_run_page"
        patch.setattr(page, lambda workdir, *_: workdir)
        result = fr.train(config(folder, data=data, save_every=10))
    return folder, data, result


@pytest.fixture
def copied(finished, tmp_path):
    folder, data, result = finished
    shutil.copytree(folder, tmp_path / "run")
    return tmp_path / "run", data, result


@pytest.mark.slow
def test_flipped_bits_are_noticed(finished, tmp_path):
    """A few of each kind of file; ``benchmarks/bit_flips.py`` flips more than a thousand."""
    folder, _, _ = finished
    counts = flip_bits(folder, tmp_path / "copy", flips=12, seed=1, kinds=FOLDERS[:6])
    assert sum(count.silent for count in counts.values()) == 0, counts
    assert sum(count.noticed for count in counts.values()) > 6, counts


@pytest.mark.parametrize("file", ["classes.json", "config.json", "preprocessing.json"])
def test_a_changed_file_is_refused_by_prediction_and_training(copied, file):
    folder, data, _ = copied
    path = folder / file
    path.write_text(path.read_text().replace("8", "9", 1))
    for attempt in (lambda: fr.load(folder), lambda: fr.train(config(folder, data=data))):
        with pytest.raises(fr.UserError, match=rf"{file} is not as the run wrote it"):
            attempt()


def test_a_changed_file_is_read_after_the_checksums_are_deleted(copied):
    folder, _, _ = copied
    path = folder / "classes.json"
    path.write_text(path.read_text().replace('"0"', '"zero"'))
    (folder / "checksums.json").unlink()
    assert fr.load(folder).classes[0] == "zero"


def test_a_damaged_score_does_not_choose_another_checkpoint(copied):
    folder, _, result = copied
    (folder / "model.safetensors").unlink()
    before = reading_of(folder)
    path = folder / "checkpoints" / str(result.best_step) / "metrics" / "metrics"
    path.write_text('{"score": 0.0}')
    assert "metadata differs" in reading_of(folder) != before


def test_a_damaged_history_is_named(copied):
    folder, _, _ = copied
    path = folder / "history.jsonl"
    path.write_text(path.read_text().replace('"step": 11', '"step": 13', 1))
    with pytest.raises(fr.UserError, match=r"Line 2 of .*history.jsonl is damaged"):
        read_history(folder / "history.jsonl")


def damage(checkpoint):
    for path in sorted((checkpoint / "default").rglob("*")):
        if path.is_file() and path.stat().st_size > 1000 and path.parent.name == "d":
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(content)


def test_a_damaged_latest_checkpoint_falls_back_to_the_one_before(finished, copied, console):
    """And the run ends in the same bits."""
    folder, data, result = copied
    damage(folder / "checkpoints" / str(result.step))
    again = fr.train(config(folder, data=data), console)
    assert "11 cannot be read" in console.text()
    assert "training goes on from the checkpoint after step 10, the one before" in console.text()
    assert again.finished
    assert (folder / "checkpoints" / "11.damaged").is_dir()
    assert_same_run(finished[0], folder, result.step)


def test_verify_and_checkpoints_name_what_is_damaged(copied, capsys):
    folder, _, _ = copied
    assert cli.main(["verify", str(folder), "--replay", "1"]) == 0
    assert "Step 11, computed again, gave the same bits" in capsys.readouterr().out
    damage(folder / "checkpoints" / "11")
    assert cli.main(["verify", str(folder)]) == 1
    printed = capsys.readouterr()
    assert "WRONG: The checkpoint" in printed.out and "1 file is not as the run" in printed.err
    assert cli.main(["checkpoints", str(folder), "--verify"]) == 1
    assert "damaged" in capsys.readouterr().out
    assert cli.main(["checkpoints", str(folder), "--prune"]) == 0
    assert "Removed" in capsys.readouterr().out
    assert not (folder / "checkpoints" / "11").exists()


def rolled_back(folder):
    """The history of a run that was rolled back to step 2, and its checkpoints."""
    checkpoints = Checkpoints(folder / "checkpoints")
    for step, factor in ((2, 1.0), (3, 0.5)):
        state = {"rate_factor": jnp.float32(factor)}
        checkpoints.save(step, {"state": state}, wait=True)
    checkpoints.close()
    append_history(folder / "history.jsonl", {"step": 4, "rate_factor": 0.5, "digest": "of 4"})


def test_steps_are_not_computed_again_over_a_rollback(tmp_path, monkeypatch, console):
    """The machine was said to have computed something else."""

    def load(folder, checkpoints, saved, step, console):
        raise fr.UserError(f"from {saved}")

    monkeypatch.setattr(verify, "load_saved", load)
    rolled_back(tmp_path)
    with pytest.raises(fr.UserError, match="from 3"):  # and not from 2, or from the start
        verify.verify_by_replay(tmp_path, 10, console)
    shutil.rmtree(tmp_path / "checkpoints" / "3")
    with pytest.raises(fr.UserError, match=r"was rolled back .*no steps can be computed again"):
        verify.verify_by_replay(tmp_path, 10, console)


def test_a_deterministic_run_is_computed_again_by_the_same_algorithms(
    tmp_path, monkeypatch, console
):
    calls = []
    monkeypatch.setattr(replay, "require_determinism", lambda: calls.append("flags"))

    def refuse(config):
        calls.append("data")
        raise fr.UserError("There are no data.")

    monkeypatch.setattr(replay, "resolve", refuse)
    for deterministic in (False, True):
        write_sealed(tmp_path, {"config.json": {"deterministic": deterministic}})
        with pytest.raises(fr.UserError, match="no data"):
            replay.load_saved(tmp_path, tmp_path / "checkpoints", 0, 0, console)
    assert calls == ["data", "flags", "data"]


def test_a_run_killed_while_it_replaces_its_settings_is_not_damaged(tmp_path):
    """At each of the steps: digests of both, the files, digests of the new ones."""
    from flax_resnet import output_files
    from flax_resnet.weights import check_sealed, sealed_files

    class Killed(Exception):
        pass

    old, new = {"a.json": [1], "b.json": [2]}, {"a.json": [3], "b.json": [4]}
    for last in range(5):
        folder = tmp_path / str(last)
        folder.mkdir()
        write_sealed(folder, old)
        calls = []
        replace = output_files.os.replace

        def counted(*paths, calls=calls, last=last, replace=replace):
            if len(calls) == last:
                raise Killed
            calls.append(paths)
            replace(*paths)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(output_files.os, "replace", counted)
            try:
                write_sealed(folder, new)
            except Killed:
                assert last < 4
        check_sealed(folder)
        write_sealed(folder, new)
        check_sealed(folder)
        assert sealed_files._digest_of(folder / "a.json") in str(
            sealed_files._read_checksums(folder)
        )
