"""What the package uses of JAX without a public name, and when that can be removed."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.extend

from flax_resnet import jax_internals

PACKAGE = Path(jax_internals.__file__).parent


def test_one_file_alone_uses_jaxs_internals():
    users = [path.name for path in PACKAGE.rglob("*.py") if "jax._src" in path.read_text()]
    assert users == ["jax_internals.py"]


def test_there_is_no_public_name_yet():
    """When this fails, use the public name and delete ``jax_internals.py``."""
    for module in (jax.distributed, jax.extend.backend):
        for name in ("client", "get_client", "global_state", "backends_are_initialized"):
            assert not hasattr(module, name), f"use {module.__name__}.{name}"


def test_one_process_has_no_client():
    assert jax_internals.coordination_client() is None


def test_jax_has_started_once_it_has_devices():
    program = (
        "from flax_resnet.jax_internals import has_started\n"
        "import sys\n"
        "before = has_started(), 'jax' in sys.modules\n"
        "import jax; imported = has_started(); jax.devices()\n"
        "assert (*before, imported, has_started()) == (False, False, False, True)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
