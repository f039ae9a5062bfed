"""The packages of `flax_resnet` import only lower layers: files are read, not run."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "flax_resnet"
FILES = sorted(ROOT.rglob("*.py"))

# The layer of each package: it may import lower layers, and not its own.
LAYER = {
    "__main__": 8,
    "cli": 7,
    "commands": 6,
    "nnx": 6,
    "inference": 5,
    "results": 5,
    "training": 4,
    "report": 3,
    "data": 2,
    "metrics": 2,
    "weights": 2,
    "models": 1,
    "runtime": 1,
}
# Modules that every package but `models` may import; each may itself import those of `BASE`.
SHARED = (
    *(
        "config",
        "download",
        "errors",
        "file_names",
        "fonts",
        "host_memory",
        "jax_internals",
        "output_files",
        "paths",
    ),
    *("process_lock", "processor", "storage", "text_files", "transform"),
)
BASE = ("errors", "file_names", "paths", "process_lock", "storage")


def package_of(file):
    """`models/resnet.py` is in the package `models`; `cli.py` is the package `cli`; the root's
    `__init__.py` is the package `""`."""
    first = file.relative_to(ROOT).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def imported_modules(source, package):
    """Absolute dotted names of everything of ours that `source`, a file of `package`, imports;
    also inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1]
            parts = (base if node.level else []) + ([node.module] if node.module else [])
            names = [".".join([*parts, alias.name]) for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "flax_resnet")


def imported_packages(file):
    package = ".".join(("flax_resnet", *file.relative_to(ROOT).parts[:-1]))
    for name in imported_modules(file.read_text(), package):
        if name != "flax_resnet.__version__":
            yield name, [*name.split("."), ""][1]


def is_allowed(importer, imported):
    if importer in ("", imported):
        return True
    if imported in SHARED:
        return importer not in ("models", *SHARED) or (importer in SHARED and imported in BASE)
    return LAYER.get(importer, 0) > LAYER.get(imported, len(LAYER))


def test_heat_maps_import_models_only():
    found = {package for _, package in imported_packages(ROOT / "report" / "explain.py")}
    assert found == {"models"}


def name_of(file):
    return str(file.relative_to(ROOT))


def test_every_package_has_a_layer():
    assert {package_of(file) for file in FILES} <= {"", *LAYER, *SHARED}


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_imports_run_downwards(file):
    wrong = [
        name
        for name, package in imported_packages(file)
        if not is_allowed(package_of(file), package)
    ]
    assert not wrong, f"{name_of(file)} imports {', '.join(wrong)}"


@pytest.mark.parametrize(
    ("source", "package", "found"),
    [
        ("from . import a, b", "flax_resnet.data", ["flax_resnet.data.a", "flax_resnet.data.b"]),
        ("from ..config import C", "flax_resnet.data", ["flax_resnet.config.C"]),
        ("from .. import models", "flax_resnet.data", ["flax_resnet.models"]),
        ("import flax_resnet.cli as c, jax", "flax_resnet", ["flax_resnet.cli"]),
        ("def f():\n from .models import m", "flax_resnet", ["flax_resnet.models.m"]),
        ("from flax import linen\nimport flax", "flax_resnet", []),
    ],
)
def test_reader_resolves_imports(source, package, found):
    assert list(imported_modules(source, package)) == found


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("", "cli", True),
        ("training", "models", True),
        ("report", "models", True),
        ("training", "config", True),
        ("config", "errors", True),
        ("download", "errors", True),
        ("weights", "download", True),
        ("weights", "transform", True),
        ("report", "weights", True),
        ("report", "metrics", True),
        ("training", "metrics", True),
        ("metrics", "models", True),
        ("transform", "errors", True),
        ("models", "models", True),
        ("models", "errors", False),
        ("data", "weights", False),
        ("weights", "metrics", False),
        ("models", "transform", False),
        ("transform", "models", False),
        ("report", "training", False),
        ("config", "models", False),
        ("config", "download", False),
        ("download", "config", False),
        ("download", "data", False),
        ("models", "download", False),
        ("errors", "config", False),
        ("training", "", False),
    ],
)
def test_reader_knows_the_rules(importer, imported, allowed):
    assert is_allowed(importer, imported) is allowed
