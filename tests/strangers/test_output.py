"""What strangers do with the output of commands, one test for each."""

import subprocess
import sys


def test_a_reader_that_closes_the_pipe_causes_no_message():
    """``flax-resnet list | head -1`` ended in ``error: BrokenPipeError``."""
    program = "import sys; from flax_resnet.cli import main; sys.exit(main(['list']))"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1
