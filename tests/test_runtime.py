"""The process's settings for the CPU: what is set, what stays, and the restart."""

import importlib.metadata
import importlib.util
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest

from flax_resnet import runtime
from flax_resnet.processor import multiplies_bfloat16, parse_features
from flax_resnet.runtime import ALLOCATOR, cpu_environment, uses_cpu, xla_flags

XLA_FLAG = "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution"
ONEDNN_FLAG = "--xla_cpu_experimental_onednn_custom_call=true"

# Lines of /proc/cpuinfo, shortened.
PROCESSORS = {
    "AMX": "processor : 0\nflags\t\t: fma avx2 avx512f avx512_bf16 amx_bf16 amx_tile\n",
    "AVX-512": "flags\t\t: fma avx2 avx512f avx512_vnni\n",
    "AVX2": "flags\t\t: fma avx avx2\n",
    "ARM": "Features\t: fp asimd bf16 i8mm\n",
    "none": "processor : 0\n",
}

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")


@on_linux
def test_settings_join_the_users():
    assert cpu_environment({}, "0.12.0") == {"XLA_FLAGS": XLA_FLAG, "GLIBC_TUNABLES": ALLOCATOR}
    users = {"XLA_FLAGS": "--xla_dump_to=x", "GLIBC_TUNABLES": "glibc.cpu.x86_ibt=off"}
    new = cpu_environment(users, "0.12.0")
    assert new["XLA_FLAGS"] == f"--xla_dump_to=x {XLA_FLAG}"
    assert new["GLIBC_TUNABLES"] == f"glibc.cpu.x86_ibt=off:{ALLOCATOR}"
    assert cpu_environment(users | new, "0.12.0") == {}


def test_the_users_own_choices_stay():
    users = {
        "XLA_FLAGS": "--xla_cpu_experimental_ynn_fusion_type=dot",
        "GLIBC_TUNABLES": "glibc.malloc.arena_max=1",
    }
    assert cpu_environment(users, "0.12.0") == {}


@on_linux
@pytest.mark.parametrize("jaxlib", ["0.8.3", "0.9.0.1", "0.10.1", "0.12.0.1"])
def test_xla_gets_a_flag_that_it_knows(jaxlib):
    assert cpu_environment({}, jaxlib)["XLA_FLAGS"] == XLA_FLAG


@on_linux
@pytest.mark.parametrize("jaxlib", ["0.7.2", "0.8.1", "0.13.0", "1.0"])
def test_xla_gets_no_flag_at_which_it_may_end_the_process(jaxlib):
    assert set(cpu_environment({}, jaxlib)) == {"GLIBC_TUNABLES"}


@pytest.mark.parametrize(
    ("processor", "jaxlib", "dtype", "expected"),
    [
        ("AMX", "0.12.0.1", "bfloat16", True),
        ("AMX", "0.12.0.1", "float32", False),
        ("AMX", "0.10.1", "bfloat16", False),
        ("AMX", "0.13.0", "bfloat16", False),
        ("AVX-512", "0.12.0.1", "bfloat16", False),
        ("AVX2", "0.12.0.1", "bfloat16", False),
        ("none", "0.12.0.1", "bfloat16", False),
    ],
)
def test_onednn_is_for_bfloat16_on_processors_that_multiply_it(processor, jaxlib, dtype, expected):
    features = parse_features(PROCESSORS[processor])
    for task in ("train", "infer"):
        flags = xla_flags(jaxlib, dtype, task, features, native=False)
        assert (ONEDNN_FLAG in flags) == expected
        assert (XLA_FLAG in flags) == (jaxlib != "0.13.0")
        assert ONEDNN_FLAG not in xla_flags(jaxlib, dtype, task, features, native=True)


@pytest.mark.parametrize(("jax_version", "expected"), [("0.9.2", False), ("0.10.0", True)])
def test_the_native_package_computes_beside_a_jax_that_it_supports(
    jax_version, expected, monkeypatch
):
    monkeypatch.setattr(importlib.metadata, "version", {"jax": jax_version}.get)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert runtime.has_native() == expected
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not runtime.has_native()


def test_processors_with_products_of_bfloat16():
    fast = {name for name, text in PROCESSORS.items() if multiplies_bfloat16(parse_features(text))}
    assert fast == {"AMX", "ARM"}


def test_this_jaxlib_knows_the_flags():
    """XLA ends a process at an unknown flag; the features of all processors are given."""
    version = importlib.metadata.version("jaxlib")
    every = set().union(*map(parse_features, PROCESSORS.values()))
    flags = {
        flag
        for dtype in ("float32", "bfloat16")
        for flag in xla_flags(version, dtype, "train", every, native=False)
    }
    run("import jax; jax.devices()", XLA_FLAGS=" ".join(flags))


def test_programs_that_jax_cannot_store_are_not_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", ONEDNN_FLAG)
    assert "JAX cannot store" in runtime.keep_programs(tmp_path)
    assert jax.config.values["jax_compilation_cache_dir"] != str(tmp_path)


def test_this_jaxlib_computes_right_results():
    """The reproducer of jax-ml/jax issue 39103, whatever the version is."""
    rows = np.random.default_rng(0).normal(size=(32_769, 3)).astype(np.float32)
    matrix = jnp.eye(3)
    computed = jax.jit(jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2)))(rows)
    expected = (rows.astype(np.float64) ** 2).sum(axis=1)
    error = float(np.abs(computed - expected).max() / expected.max())
    print(f"jaxlib {jaxlib.__version__}: largest error {error:.2e} of the largest sum")
    assert error < 1e-6


@pytest.mark.parametrize(("version", "is_wrong"), [("0.10.1", False), ("0.10.2", True)])
def test_a_jaxlib_with_wrong_results_is_named_in_one_sentence(
    version, is_wrong, monkeypatch, capsys
):
    monkeypatch.setattr(importlib.metadata, "version", {"jaxlib": version}.get)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    runtime.warn_of_wrong_results()
    assert capsys.readouterr().err.count("computes wrong results on a CPU") == is_wrong
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    runtime.warn_of_wrong_results()
    assert not capsys.readouterr().err


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
