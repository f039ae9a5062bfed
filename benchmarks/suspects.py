"""Recall of wrong labels by ``check --suspects`` and by cleanlab, on the same probabilities.

    python -m benchmarks.suspects --model RUN [--photos FOLDER] [--cifar FOLDER] [--flipped 0.05]

A fraction of the labels is changed to another class, drawn from a seed; recall is the fraction of
these among as many of the first photos. It needs cleanlab.
"""

import argparse
from pathlib import Path

import numpy as np
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores

import flax_resnet as fr
from flax_resnet.data import load_dataset
from flax_resnet.data.images import find_images
from flax_resnet.inference.suspects import cross_fit, rank_suspects


def recalls(name, features, labels, fraction, seed):
    rng = np.random.default_rng(seed)
    classes = int(labels.max()) + 1
    count = round(fraction * len(labels))
    wrong = rng.choice(len(labels), count, replace=False)
    given = labels.copy()
    given[wrong] = (labels[wrong] + rng.integers(1, classes, count)) % classes
    probabilities = cross_fit(features, given, classes)

    def recall(order):
        return len(np.intersect1d(order[:count], wrong)) / count

    order, suspected = rank_suspects(probabilities, given)
    scores = get_label_quality_scores(given, probabilities)
    issues = find_label_issues(given, probabilities)
    print(
        f"{name}, seed {seed}: {len(labels):,} images, {count:,} flipped; recall ours "
        f"{recall(order):.1%}, cleanlab {recall(np.argsort(scores)):.1%}; suspected ours "
        f"{suspected.sum():,} ({suspected[wrong].mean():.1%} of the flipped), cleanlab "
        f"{issues.sum():,} ({issues[wrong].mean():.1%})"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--photos")
    parser.add_argument("--cifar", help="the folder of CIFAR-10's archive")
    parser.add_argument("--flipped", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    classifier = fr.load(args.model)
    sets = {}
    if args.photos:
        found = find_images(args.photos)
        paths = [path for records in found.splits.values() for path in records.paths]
        labels = np.concatenate([records.labels for records in found.splits.values()])
        sets[Path(args.photos).name] = classifier.embed(paths).features, labels
    if args.cifar:
        test = load_dataset("cifar10", args.cifar, download=False).test
        sets["CIFAR-10, test images"] = classifier.embed(test).features, np.asarray(test.labels)
    for name, (features, labels) in sets.items():
        for seed in range(args.seeds):
            recalls(name, features, labels.astype(np.int64), args.flipped, seed)


if __name__ == "__main__":
    main()
