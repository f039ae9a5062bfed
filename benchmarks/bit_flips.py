"""Flip single bits in a run's folder, and see whether anything is read as another value.

    python -m benchmarks.bit_flips RUN --flips 1200

For each flip the folder is read as prediction reads it, from ``model.safetensors`` and from the
checkpoints, and its history. The result is *noticed* (one sentence), *harmless* (all values are as
before) or *silent* (a value or the chosen checkpoint is another one). The counts are printed by
kind of file; any silent one is listed, and the exit code is 1.
"""

import argparse
import dataclasses
import hashlib
import os
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np

from flax_resnet.errors import UserError
from flax_resnet.report import read_history
from flax_resnet.weights import load_source
from flax_resnet.weights.formats.checkpoint import read_tree

# Kinds of files, by patterns below the run's folder; the first ones decide directly.
FOLDERS = (
    "config.json",
    "classes.json",
    "preprocessing.json",
    "checksums.json",
    "checkpoints/*/metrics/metrics",
    "checkpoints/*/_CHECKPOINT_METADATA",
    "history.jsonl",
    "data.json",
    "model.safetensors",
    "checkpoints/*/default/**/*",
)


@dataclasses.dataclass
class Count:
    """Outcomes of flips in one kind of file."""

    noticed: int = 0
    harmless: int = 0
    silent: int = 0


def reading_of(folder: Path) -> str:
    """Return a digest of all that is read from a run, or the sentence that refuses it."""
    whole = hashlib.blake2b()
    try:
        loaded = load_source(str(folder))
        info = dataclasses.replace(loaded.info, path=None, source="")
        whole.update(repr(info).encode())
        for name in sorted(loaded.weights):
            whole.update(name.encode() + np.asarray(loaded.weights[name]).tobytes())
        whole.update(repr(read_history(folder / "history.jsonl")).encode())
    except UserError as error:
        return str(error)
    return whole.hexdigest()


def checkpoint_reading(folder: Path, path: Path) -> str:
    """Return a digest of the whole checkpoint that holds a file, or the sentence."""
    root = folder / "checkpoints"
    step = int(path.relative_to(root).parts[0])
    try:
        tree = read_tree(root, step)
    except UserError as error:
        return str(error)
    return hashlib.blake2b(repr(_plain(tree)).encode()).hexdigest()


def _plain(tree):
    if isinstance(tree, dict):
        return {name: _plain(value) for name, value in sorted(tree.items())}
    return None if tree is None else np.asarray(tree).tobytes()


def flip_bits(run: Path, copy: Path, flips: int, seed: int, kinds=FOLDERS) -> dict[str, Count]:
    """Flip bits one after the other in a copy of a run, ``flips`` in all, evenly over the kinds.

    Args:
        run: A finished run's folder.
        copy: A folder to make.
        flips: Their number.
        seed: Chooses files and bits.
        kinds: Patterns, of ``FOLDERS``.
    """
    rng = np.random.default_rng(seed)
    counts = {kind: Count() for kind in kinds}
    for has_weights in (True, False):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(run, copy)
        if not has_weights:  # then the best checkpoint is read
            (copy / "model.safetensors").unlink()
        expected, trees = reading_of(copy), {}
        for number in range(flips // 2):
            kind = kinds[number % len(kinds)]
            paths = sorted(path for path in copy.glob(kind) if path.is_file())
            if not paths:
                continue
            path = paths[rng.integers(len(paths))]
            content = path.read_bytes()
            bit = int(rng.integers(8 * len(content)))
            changed = bytearray(content)
            changed[bit // 8] ^= 1 << bit % 8
            inside = "checkpoints" in path.relative_to(copy).parts and not has_weights
            if inside and path not in trees:
                trees[path] = checkpoint_reading(copy, path)
            path.write_bytes(changed)
            found = [reading_of(copy)]
            wanted = [expected]
            if inside:
                found.append(checkpoint_reading(copy, path))
                wanted.append(trees[path])
            path.write_bytes(content)
            differing = [one for one, right in zip(found, wanted, strict=True) if one != right]
            if any(" " not in one for one in differing):  # a digest, and no sentence
                print(f"SILENT: bit {bit} of {path.relative_to(copy)}")
                counts[kind].silent += 1
            elif differing:
                counts[kind].noticed += 1
            else:
                counts[kind].harmless += 1
    return counts


def main() -> int:
    """Parse the command line, flip, and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--flips", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--copy", type=Path, help="a folder to make; by default RUN.flips")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    copy = options.copy or options.run.with_name(options.run.name + ".flips")
    counts = flip_bits(options.run, copy, options.flips, options.seed)
    print(f"{'file':40} noticed harmless silent")
    for kind, count in counts.items():
        print(f"{kind:40} {count.noticed:7} {count.harmless:8} {count.silent:6}")
    shutil.rmtree(copy)
    return 1 if any(count.silent for count in counts.values()) else 0


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    sys.exit(main())
