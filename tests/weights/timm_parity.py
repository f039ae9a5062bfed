"""Compares every ResNet of real timm with ours, and writes docs/weights.md. Needs timm.

    python -m tests.weights.timm_parity

A model with random weights and random statistics of its batch norms sees one image of 160x160. The
slow test test_timm_live.py does the same and compares with the page.
"""

import fnmatch
import re
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import flax_resnet as fr
from flax_resnet import UserError
from flax_resnet.weights.timm import variant_of

from .conftest import seeded_images, seeded_state_dict

PAGE = Path(__file__).parents[2] / "docs" / "weights.md"
PATTERN = "*resne*t*"
TOLERANCE = 1e-5  # of the largest logit
ROW = re.compile(r"^\| `(\w+)` \| (.+) \|$", re.MULTILINE)

# Families by a pattern of their names, the first that fits.
FAMILIES = {
    "BiT": "resnetv2_*_bit",
    "pre-activation": "resnetv2_*",
    "ResNet-RS": "resnetrs*",
    "blur-pool": "resnetblur*",
    "mean in place of strides": "*res*aa*",
    "ECA": "ecares*",
    "SE": "seres*",
    "group norm": "*_gn",
    "ResNeXt": "resnext*",
    "ResNet-C, -D, -S, -T": "resnet*[cdst]",
    "wide ResNet": "wide_*",
    "ResNet": "resnet*",
}


class Comparison(NamedTuple):
    """The largest difference of a logit relative to the largest logit, the dtype of both sides, and
    whether the state dict comes back bit by bit."""

    error: float
    dtype: str
    is_bit_equal: bool


def family_of(name):
    return next(family for family, p in FAMILIES.items() if fnmatch.fnmatchcase(name, p))


def timm_names():
    """Names of timm's architectures, those of its sets of weights too."""
    import timm

    tagged = timm.list_models(PATTERN, pretrained=True)
    return sorted({*timm.list_models(PATTERN), *(name.partition(".")[0] for name in tagged)})


def compare(name):
    """Compares in float32, and in float64 where rounding in float32 exceeds the tolerance: sums
    over BiT's standardised kernels cancel, and 269 layers add up.

    Raises:
        UserError: The architecture is not supported.
    """
    variant_of(name)  # before timm creates anything
    if family_of(name) != "BiT":
        found = compare_in(name, np.float32)
        if found.error <= TOLERANCE:
            return found
    return compare_in(name, np.float64)


def compare_in(name, dtype):
    import timm
    import torch

    with torch.device("meta"):  # it draws no random values
        theirs = timm.create_model(name, pretrained=False).eval()
    state_dict = seeded_state_dict({k: v.shape for k, v in theirs.state_dict().items()})
    theirs.to_empty(device="cpu")
    for module in theirs.modules():
        if hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()  # the filters of blur-pool
    theirs.load_state_dict({key: torch.from_numpy(value) for key, value in state_dict.items()})
    images = seeded_images(160, 160).astype(dtype)
    with torch.no_grad():
        images_of_torch = torch.from_numpy(images.transpose(0, 3, 1, 2))
        expected = theirs.to(images_of_torch.dtype)(images_of_torch).numpy()
    del theirs

    with jax.enable_x64(dtype == np.float64):
        # Not under jit: whole programs take minutes to compile, and the convolutions recur.
        options = {"conv_impl": "reference", "dtype": dtype, "param_dtype": dtype}
        model = fr.create_model(variant_of(name), **options)
        variables = fr.from_torchvision(state_dict, model)
        logits = np.asarray(model.apply(variables, jnp.asarray(images), train=False))
        again = fr.to_timm(variables, model)
    is_bit_equal = again.keys() == state_dict.keys() and all(
        np.array_equal(array, state_dict[key])
        for key, array in again.items()
        if not key.endswith("num_batches_tracked")
    )
    error = np.abs(logits - expected).max() / np.abs(expected).max()
    return Comparison(float(error), np.dtype(dtype).name, is_bit_equal)


def reason(name):
    """Why an architecture is refused; empty where it is supported."""
    try:
        variant_of(name)
    except UserError as error:
        return str(error).partition(": ")[2]
    return ""


def write_page(comparisons):
    """Writes the tables of the page.

    Args:
        comparisons: By name, those of supported architectures.
    """
    order = list(FAMILIES)
    names = [name for name in timm_names() if not reason(name)]
    supported = []
    for name in sorted(names, key=lambda name: (order.index(family_of(name)), name)):
        found = comparisons.get(name)
        text = f"{found.error:.0e} in {found.dtype}" if found else "names and shapes of arrays only"
        supported.append(f"| `{name}` | {family_of(name)}, {text} |")
    refused = [f"| `{name}` | {reason(name)} |" for name in timm_names() if reason(name)]
    page = PAGE.read_text()
    for title, lines in (("Supported", supported), ("Refused", refused)):
        start = page.index(f"## {title}")
        table = page.index("|---|---|\n", start) + len("|---|---|\n")
        end = page.find("\n\n", table)
        rest = page[end:] if end >= 0 else "\n"
        heading = f"## {title}: {len(lines)} architectures"
        kept = page[page.index("\n", start) : table]
        page = page[:start] + heading + kept + "\n".join(lines) + rest
    PAGE.write_text(page)


def main():
    comparisons = {}
    for name in timm_names():
        if not reason(name):
            comparisons[name] = compare(name)
            print(name, comparisons[name], flush=True)
    write_page(comparisons)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    import torchvision_import  # noqa: F401  # timm imports torchvision

    main()
