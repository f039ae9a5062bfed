"""The history of a run: lines appended, read, and cut back to where a run resumes."""

from pathlib import Path

import pytest

from flax_resnet.errors import UserError
from flax_resnet.report import append_history, read_history, truncate_history


def test_lines_are_appended_and_read(tmp_path):
    path = tmp_path / "history.jsonl"
    assert read_history(path) == [] and truncate_history(path, 5) == []
    lines = [{"step": 1, "val_loss": 0.5}, {"step": 2, "val_loss": None}]
    for line in lines:
        append_history(path, line)
    assert read_history(path) == lines
    with path.open("a") as file:
        file.write('{"step": 3, "val')  # the process was killed here
    assert read_history(path) == lines


@pytest.mark.parametrize("scores", [{"test_top1": 0.5}, {}])  # none without test images
def test_a_resumed_run_writes_later_lines_and_the_last_line_again(scores, tmp_path):
    path = tmp_path / "history.jsonl"
    for step in (1, 2, 3):
        append_history(path, {"step": step})
    append_history(path, {"step": 3, "best_step": 2} | scores)
    steps = [{"step": 1}, {"step": 2}, {"step": 3}]
    assert truncate_history(path, 3) == read_history(path) == steps
    assert truncate_history(path, 2) == read_history(path) == [{"step": 1}, {"step": 2}]


def test_any_flipped_bit_of_a_history_is_noticed(tmp_path):
    """Also one in the name of the checksum, or in a line break."""
    path = tmp_path / "history.jsonl"
    for step in (1, 2):
        append_history(path, {"step": step, "val_loss": 0.5, "digest": "0123456789abcdef"})
    content, lines = path.read_bytes(), read_history(path)
    for bit in range(8 * len(content)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            assert read_history(path) == lines
        except UserError as error:
            assert "is damaged" in str(error)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's full device")
def test_a_line_that_cannot_be_written_ends_in_a_sentence():
    with pytest.raises(UserError, match=r"/dev/full cannot be written \(No space left.*resumes"):
        append_history(Path("/dev/full"), {"step": 1})
