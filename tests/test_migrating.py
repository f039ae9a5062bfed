"""docs/migrating.md: the lines of both sides are calls that exist, and ours run."""

import ast
import importlib
import inspect
import re
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

import flax_resnet as fr

PAGE = (Path(__file__).parent.parent / "docs/migrating.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))
# Sections of libraries that install beside a current JAX -> modules whose names their lines use.
OTHERS = {
    "torchvision": ["torchvision.models", "torchvision.models.feature_extraction"],
    "timm": ["timm"],
    "transformers": ["transformers"],
}


def rows(section):
    return re.findall(r"^\| `(.+?)` \| `(.+?)`", SECTIONS[section], re.M)


def calls(code):
    """The called name and the keywords of each call of an expression."""
    for node in ast.walk(ast.parse(code.replace("(...)", "()").replace("(..., ", "("))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), [word.arg for word in node.keywords]


def resolve(dotted, modules):
    """What a name means after ``from MODULE import *`` of each module, or ``import MODULE``."""
    first, *rest = dotted.split(".")
    candidates = [module for module in modules if module.__name__ == first]
    candidates += [getattr(module, first, None) for module in modules]
    found = next(filter(None, candidates))
    for name in rest:
        found = getattr(found, name)
    return found


@pytest.mark.parametrize("section", OTHERS)
def test_the_lines_of_the_other_library_exist(section):
    pytest.importorskip("torch")
    if section == "torchvision":
        pytest.importorskip("tests.weights.torchvision_import")
    pytest.importorskip(section)
    modules = [importlib.import_module(module) for module in OTHERS[section]]
    checked = 0
    for line, _ in rows(section):
        if line.startswith(("model", "references", "validate", "inference", "Flax")):
            continue  # methods of a model, scripts, and what was removed
        for function, keywords in calls(line):
            if function == "partial":
                continue
            parameters = inspect.signature(resolve(function, modules)).parameters
            accepts_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
            assert accepts_all or set(keywords) <= set(parameters), line
            checked += 1
    assert checked, section


@pytest.fixture
def ours(monkeypatch):
    """The names that our lines use; sources are resolved to a small random model."""
    model = fr.create_model("resnet50", stage_sizes=(1, 1, 1, 1), num_classes=10)
    x = np.zeros((1, 32, 32, 3), np.float32)
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(0), x)
    sources = []

    class Source:
        transform, classes = "transform", ("a", "b")

    def load(*arguments):
        sources.append(arguments)
        return Source()

    fake = type("fr", (), {"__getattr__": lambda self, name: getattr(fr, name)})()
    fake.load = fake.load_pretrained = load
    names = {"fr": fake, "model": model, "variables": variables, "x": x, "images": x}
    names["state_dict"] = fr.to_torchvision(variables, model)
    return names, sources


@pytest.mark.slow
def test_our_lines_run(ours):
    names, sources = ours
    forms = r"resnet50(/IMAGENET1K_V[12])?|timm/resnet50\.a1_in1k|hf:microsoft/resnet-50"
    ran = 0
    for section in SECTIONS:
        for _, line in rows(section):
            if line.startswith(("fr.", "model.")) and "..., train" not in line:
                eval(line.replace("(...)", "()"), names)
                ran += 1
    assert ran >= 15
    assert all(re.fullmatch(forms, source) for source, *_ in filter(None, sources))
