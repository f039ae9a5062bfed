"""Head-only training: features computed once, against a forward pass at every step, and PyTorch.

    python -m benchmarks.finetune PHOTOS [--images 240] [--size 224] [--epochs 2]

resnet50 with one file of weights for all (random ones: what is compared is time, and that the roads
agree), a subset of the photos, no augmentation, batch 32, ten epochs of the same steps on the kept
features. The roads without features are run for --epochs and extrapolated to 10 and 30; all are
extrapolated from the subset to the whole folder by time an image, with start and compilation, as
measured, counted once. Run on a machine with nothing else to do.
"""

import argparse
import json
import re
import shutil
import tempfile
import time
from pathlib import Path

from rich.console import Console

KEPT_EPOCHS = 10
BATCH = 32


def subset(photos, count, folder):
    """``count`` of the photos, as many of each class, in 8:1:1."""
    classes = sorted(path for path in Path(photos).iterdir() if path.is_dir())
    each = count // len(classes)
    total = 0
    for source in classes:
        files = sorted(source.glob("*.jpg"))
        total += len(files)
        for number, path in enumerate(files[:each]):
            split = "test" if number % 10 == 9 else "val" if number % 10 == 8 else "train"
            target = folder / split / source.name
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    return total


def write_weights(path):
    import jax
    import numpy as np

    import flax_resnet as fr

    model = fr.create_model("resnet50")
    image = np.zeros((1, 32, 32, 3), np.float32)
    init = jax.jit(lambda: model.init(jax.random.key(0), image, train=False))
    fr.save_weights(path, init(), model)


def ours(photos, weights, folder, views, epochs, size):
    """Seconds of a run, and what its console and its history say."""
    import dataclasses

    import flax_resnet as fr

    config = fr.finetune_config(
        photos,
        weights=weights,
        mode="head",
        views=views,
        solver="sgd",
        epochs=epochs,
        image_size=size,
        batch_size=BATCH,
        workdir=folder / f"views{views}",
    )
    # The same rate at the same step, however many epochs are run.
    optimizer = dataclasses.replace(config.optimizer, schedule="constant", warmup_epochs=0.0)
    augment = dataclasses.replace(config.augment, random_resized_crop=False, flip=False)
    transfer = dataclasses.replace(config.transfer, feature_cache=str(folder / "features"))
    config = dataclasses.replace(
        config, optimizer=optimizer, augment=augment, transfer=transfer, compile_cache=None
    )
    log = folder / f"views{views}.txt"
    began = time.perf_counter()
    with log.open("w") as file:
        fr.train(config, Console(file=file, width=200))
    seconds = time.perf_counter() - began
    lines = (Path(config.workdir) / "history.jsonl").read_text().splitlines()
    return seconds, log.read_text(), [json.loads(line) for line in lines]


def torchs(photos, weights, epochs, size):
    """Seconds to the first batch, and seconds of each epoch of a frozen-backbone loop."""
    import torch
    from safetensors.torch import load_file

    from tests.weights.torchvision_import import torchvision

    began = time.perf_counter()
    transforms = torchvision.transforms
    prepare = transforms.Compose(
        [
            transforms.Resize(round(size * 256 / 224)),
            transforms.CenterCrop(size),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    splits = {
        name: torch.utils.data.DataLoader(
            torchvision.datasets.ImageFolder(str(Path(photos) / name), prepare),
            batch_size=BATCH,
            shuffle=name == "train",
            num_workers=2,
        )
        for name in ("train", "val")
    }
    model = torchvision.models.resnet50()
    model.load_state_dict(load_file(weights), strict=False)
    model.requires_grad_(False)
    model.fc = torch.nn.Linear(2048, len(splits["train"].dataset.classes))
    model = model.to(memory_format=torch.channels_last).eval()
    optimizer = torch.optim.AdamW(model.fc.parameters(), 1e-3, weight_decay=0.01)
    start, each = time.perf_counter() - began, []
    for _ in range(epochs):
        began = time.perf_counter()
        for images, labels in splits["train"]:
            loss = torch.nn.functional.cross_entropy(
                model(images.to(memory_format=torch.channels_last)), labels
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            for images, labels in splits["val"]:
                (model(images).argmax(1) == labels).sum().item()
        each.append(time.perf_counter() - began)
    return start, each


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("photos")
    parser.add_argument("--images", type=int, default=240)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    photos, weights = folder / "photos", folder / "resnet50.safetensors"
    whole = subset(options.photos, options.images, photos)
    more = whole / options.images
    write_weights(weights)

    kept, told, kept_history = ours(photos, weights, folder, 1, KEPT_EPOCHS, options.size)
    again, _, history = ours(photos, weights, folder, 0, options.epochs, options.size)
    start, each = torchs(photos, weights, options.epochs, options.size)

    features = float(re.findall(r"in ([\d.]+) s\.", told)[0])
    head = kept_history[-2]["time"]
    # Later epochs alone: the first holds the compilation.
    epoch = (history[-2]["time"] - history[0]["time"]) / max(options.epochs - 1, 1)
    fixed = again - options.epochs * epoch
    print(
        f"resnet50 at {options.size} px, {options.images} of {whole:,} photos. Features once: "
        f"{kept:.1f} s in all ({features:.1f} s of features with their compilation, {head:.1f} s "
        f"of {KEPT_EPOCHS} epochs of the head). Forward passes: {epoch:.1f} s an epoch, "
        f"{fixed:.1f} s of start and compilation. PyTorch: {min(each):.1f} s an epoch."
    )
    same = [line["val_top1"] for line in kept_history[: options.epochs]]
    print(f"Validation top-1 by epoch, features {same}, forward passes", end=" ")
    print([line["val_top1"] for line in history[: options.epochs]])
    for epochs in (10, 30):
        once = (kept - features - head) + (features + head * epochs / KEPT_EPOCHS) * more
        ours_again = fixed + epochs * epoch * more
        theirs = start + epochs * min(each) * more
        print(
            f"{epochs} epochs of {whole:,} photos, extrapolated: features once {once:,.0f} s, "
            f"forward passes {ours_again:,.0f} s ({ours_again / once:.1f}×), "
            f"PyTorch {theirs:,.0f} s ({theirs / once:.1f}×)"
        )
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
