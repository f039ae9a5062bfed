"""Where a run was trained: command, recipe, versions, devices, commit; ``report/environment.json``.

It is written when the run starts, so that the page of a run that was killed has it too.
"""

import ast
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..config import Config, config_folders
from ..output_files import write_json
from ..paths import expand
from ..processor import describe_processor
from ..text_files import parse_json

FILE = "environment.json"
_PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "pillow"),
    *("flax-resnet-onednn", "tensorflow-datasets"),
)


def describe_environment(words: Sequence[str] | None = None) -> dict[str, Any]:
    """Return what a page says of this process and machine.

    Args:
        words: The command line; by default that of the process.
    """
    import jax

    devices = jax.devices()
    command = command_of(sys.argv if words is None else words)
    found: dict[str, Any] = {
        "command": command,
        "recipe": _recipe(command),
        "versions": {"flax_resnet": package_version(), "python": platform.python_version()},
        "commit": _commit(Path(__file__).parent),
        "devices": f"{len(devices)} × {devices[0].device_kind}",
        "processes": jax.process_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": describe_processor(),
    }
    for name in _PACKAGES:
        try:
            found["versions"][name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def package_version() -> str:
    """Return the version of flax_resnet; its root is not imported by name, because it imports all
    packages."""
    found: str = import_module(__package__.partition(".")[0]).__version__
    return found


def write_environment(folder: Path) -> None:
    """Write ``environment.json`` of this process.

    Of a run that moved, ``earlier`` lists the other processors and commits that it was trained
    with, because bits are equal on one kind of processor only.

    Raises:
        UserError: The file cannot be written.
    """
    found, before = describe_environment(), read_environment(folder)
    earlier = before.get("earlier", [])
    past = {name: before.get(name) for name in ("processor", "commit")}
    if before and past != {name: found[name] for name in past} and past not in earlier:
        earlier = [*earlier, past]
    write_json(folder / FILE, found | ({"earlier": earlier} if earlier else {}))


def read_environment(folder: Path) -> dict[str, Any]:
    """Read ``environment.json``; empty if there is none or it is damaged."""
    try:
        found = parse_json((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def command_of(words: Sequence[str]) -> str | None:
    """Return the command of ours that a process was started with, as one types it; None if it was
    another program, such as a notebook."""
    path = Path(words[0] if words else "")
    if path.name == "train.py":
        return shlex.join(["python", "train.py", *words[1:]])
    if path.name in ("flax-resnet", "cli.py") or path.parts[-2:] == ("flax_resnet", "__main__.py"):
        return shlex.join(["flax-resnet", *words[1:]])
    return None


def python_command(settings: Mapping[str, Any]) -> str:
    """Return the Python program that trains with these settings, as ``config.json`` has them."""
    import dataclasses

    default = Config()
    sections: dict[str, list[str]] = {}
    for name, value in settings.items():
        section, _, field = name.rpartition(".")
        holder = getattr(default, section, None) if section else default
        if holder is None or not hasattr(holder, field):
            continue
        usual = getattr(holder, field)
        if isinstance(value, list):
            value = tuple(tuple(one) if isinstance(one, list) else one for one in value)
        if value != usual:
            sections.setdefault(section, []).append(f"{field}={value!r}")
    arguments = sections.pop("", [])
    for held in dataclasses.fields(Config):
        if held.name in sections:
            kind = type(getattr(default, held.name)).__name__
            inner = ", ".join(sections[held.name])
            arguments.append(f"{held.name}=fr.config.{kind}({inner})")
    inner = "".join(f"    {argument},\n" for argument in arguments)
    return f"import flax_resnet as fr\n\nfr.train(fr.Config(\n{inner}))"


def _recipe(command: str | None) -> dict[str, str] | None:
    """Return the name and the docstring of the recipe that a command names."""
    words = shlex.split(command or "")
    named = [word.partition("=")[2] for word in words if word.startswith("--config=")]
    named += [after for word, after in pairwise(words) if word == "--config"]
    for name in named:
        for path in (expand(name), *(folder / f"{name}.py" for folder in config_folders())):
            if path.suffix == ".py" and path.is_file():
                text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
                return {"name": path.stem, "text": text or ""}
    return None


def _commit(folder: Path) -> str | None:
    """Return the commit of the repository that a folder is in, and whether files differ from it."""
    # Not `describe --dirty`: it writes the index, and a process that is killed meanwhile leaves the
    # lock of the index, which stops all later commands in the repository.
    words = ["git", "--no-optional-locks", "-C", str(folder), "status"]
    words += ["--porcelain=v2", "--branch", "--untracked-files=no"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = done.stdout.splitlines()
    commit = next((line.split()[-1] for line in lines if line.startswith("# branch.oid ")), None)
    is_clean = all(line.startswith("#") for line in lines)
    return commit if commit is None or is_clean else f"{commit}-dirty"
