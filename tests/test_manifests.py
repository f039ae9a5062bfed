"""The job scripts and manifests in docs/pods.md are valid for the schedulers that read them."""

import argparse
import re
import shlex
import subprocess
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "pods.md"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


def test_kubernetes_accepts_the_manifest():
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    import yaml

    (manifest,) = blocks("yaml")
    objects = list(yaml.safe_load_all(manifest))
    assert [one["kind"] for one in objects][-2:] == ["Service", "Job"]
    for one in objects:
        kubernetes_validate.validate(one, kubernetes_validate.latest_version(), strict=True)
    wrong = objects[-1] | {"spec": objects[-1]["spec"] | {"completion": 4}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)
    service, job = objects[-2:]
    # By these JAX finds the other pods.
    assert service["metadata"]["name"] == job["spec"]["template"]["spec"]["subdomain"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}


def sbatch_options():
    """The options of the script with the forms of their values, by the manual of sbatch."""
    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
    for name in ("nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--time", type=lambda text: re.fullmatch(r"(\d+-)?\d+:\d\d:\d\d", text)[0])
    signals = r"([RB]:)?(TERM|USR1|USR2|INT|\d+)(@\d{1,5})?"
    parser.add_argument("--signal", type=lambda text: re.fullmatch(signals, text)[0])
    parser.add_argument("--requeue", action="store_true")
    return parser


def test_the_script_of_slurm():
    (script,) = [one for one in blocks("bash") if "#SBATCH" in one]
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    lines = script.splitlines()
    assert lines[0].startswith("#!")  # which sbatch requires
    options = [word for line in lines if line.startswith("#SBATCH") for word in shlex.split(line)]
    found = sbatch_options().parse_args([word for word in options if word != "#SBATCH"])
    assert found.ntasks_per_node == found.gpus_per_node  # JAX gives each task its own
    # After the last line of options sbatch reads no other.
    body = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[body:])
