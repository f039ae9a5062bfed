"""What strangers do with the output of commands, one test for each."""

import os
import subprocess
import sys

import pytest

from tests.tiny_net import TINY_OPTIONS


def test_a_reader_that_closes_the_pipe_causes_no_message():
    """``flax-resnet list | head -1`` ended in ``error: BrokenPipeError``."""
    program = "import sys; from flax_resnet.cli import main; sys.exit(main(['list']))"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


# As on a full disk, of files alone: those of the checkpoint are larger.
TRAIN = """
import resource, signal, sys
from flax_resnet.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
sys.exit(main(["train", *sys.argv[1:]]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of resources")
def test_a_save_that_fails_is_one_sentence(tmp_path):
    """It printed 900 lines, of orbax's log and of a hundred tracebacks."""
    options = [*TINY_OPTIONS, "--model.widths", "64", "--config", "digits", "--save-every", "1"]
    options += ["--checkpoint.on-error", "stop", "--compile-cache", "None", "--max-steps", "9"]
    # JAX warns of a cache that it cannot write.
    environment = {name: os.environ[name] for name in os.environ if "CACHE" not in name}
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, *options, "--workdir", str(tmp_path / "run")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    *others, sentence = done.stderr.splitlines()
    # On a busy machine a library may name in a line of its own what takes it long.
    assert len(others) < 10 and "Traceback" not in done.stderr, done.stderr
    assert sentence.startswith("error: A checkpoint could not be written to ")
    assert "(File too large); there is none before it" in sentence
