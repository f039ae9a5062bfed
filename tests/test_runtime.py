"""The process's settings for the CPU: what is set, what stays, and the restart."""

import importlib.metadata
import os
import subprocess
import sys

import pytest

from flax_resnet import runtime
from flax_resnet.runtime import ALLOCATOR, XLA_FLAG, cpu_environment, uses_cpu

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")


@on_linux
def test_settings_join_the_users():
    assert cpu_environment({}) == {"XLA_FLAGS": XLA_FLAG, "GLIBC_TUNABLES": ALLOCATOR}
    users = {"XLA_FLAGS": "--xla_dump_to=x", "GLIBC_TUNABLES": "glibc.cpu.x86_ibt=off"}
    new = cpu_environment(users)
    assert new["XLA_FLAGS"] == f"--xla_dump_to=x {XLA_FLAG}"
    assert new["GLIBC_TUNABLES"] == f"glibc.cpu.x86_ibt=off:{ALLOCATOR}"
    assert cpu_environment(users | new) == {}


def test_the_users_own_choices_stay():
    users = {
        "XLA_FLAGS": "--xla_cpu_experimental_ynn_fusion_type=dot",
        "GLIBC_TUNABLES": "glibc.malloc.arena_max=1",
    }
    assert cpu_environment(users) == {}


def test_other_devices_are_left_alone(monkeypatch):
    assert uses_cpu({"JAX_PLATFORMS": "cpu"}) and uses_cpu({"JAX_PLATFORMS": "cpu,cuda"})
    assert not uses_cpu({"JAX_PLATFORMS": "cuda,cpu"})
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [group])
    assert not uses_cpu({})
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(os, "execv", lambda *arguments: pytest.fail("restarted"))
    runtime.tune_cpu(restart=True)
    assert "XLA_FLAGS" not in os.environ


def run(program, **environment):
    plain = {
        name: os.environ[name] for name in ("PATH", "PYTHONPATH", "HOME") if name in os.environ
    }
    return subprocess.run(
        [sys.executable, "-c", program, "one", "two words"],
        capture_output=True,
        text=True,
        check=True,
        env=plain | {"JAX_PLATFORMS": "cpu"} | environment,
    )


RESTARTING = """
import os, sys
from flax_resnet.runtime import tune_cpu
tune_cpu(restart=True)
print(os.environ.get("GLIBC_TUNABLES"), sys.argv[1:], os.getpid())
"""


@on_linux
def test_a_restart_happens_once_and_keeps_the_command_line():
    process = run(RESTARTING)
    assert process.stdout.startswith(f"{ALLOCATOR} ['one', 'two words'] ")
    assert process.stderr.count("tuned for the CPU") == 1
    switched_off = run(RESTARTING, FLAX_RESNET_TUNE="0")
    assert switched_off.stdout.startswith("None ") and not switched_off.stderr


def test_a_late_call_warns_and_import_changes_nothing():
    program = """
import os, jax, flax_resnet as fr
assert "XLA_FLAGS" not in os.environ
jax.devices()
fr.tune_cpu()
assert "ynn" in os.environ["XLA_FLAGS"] and "GLIBC_TUNABLES" not in os.environ
"""
    process = run(program)
    assert "JAX has started already" in process.stderr
