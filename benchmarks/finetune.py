"""Head-only training: features computed once, against a forward pass at every step, and PyTorch.

    python -m benchmarks.finetune PHOTOS [--images 240] [--size 224] [--epochs 2]

resnet50, one file of (random) weights for all, a subset of the photos in 8:1:1, batches of 32, no
augmentation. Three methods, each timed from the start of ``flax-resnet finetune`` to its report;
PyTorch from building the loaders to the last validation:

- features once: what the command does, with its L-BFGS head;
- forward passes: the same command with ``--views 0``, which like the tutorials passes all training
  and validation images through the frozen model in every epoch;
- PyTorch: the tutorials' loop, torchvision's resnet50 in channels_last, two workers.

All are extrapolated to the whole folder: the first by the time per image of a second, compiled pass
over the subset (``embed``, the same forward pass) and by the time of L-BFGS, the others by the time
of an epoch (for ours without the first, which compiles); the rest is counted once. The heads learn
the same from the same features: the last lines print the validation accuracy by epoch of SGD on
stored features and of SGD with forward passes.
"""

import argparse
import dataclasses
import json
import shutil
import tempfile
import time
from pathlib import Path

BATCH = 32


def subset(photos, count, folder):
    """Copy ``count`` photos, the same number of each class, in 8:1:1; return the number of all."""
    classes = sorted(path for path in Path(photos).iterdir() if path.is_dir())
    total = 0
    for source in classes:
        files = sorted(source.glob("*.jpg"))
        total += len(files)
        for number, path in enumerate(files[: count // len(classes)]):
            split = "test" if number % 10 == 9 else "val" if number % 10 == 8 else "train"
            target = folder / split / source.name
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    return total


def ours(photos, weights, folder, name, size, **options):
    """Return the seconds of a run, and its history."""
    from rich.console import Console

    import flax_resnet as fr

    config = fr.finetune_config(
        photos,
        weights=weights,
        mode="head",
        image_size=size,
        batch_size=BATCH,
        workdir=folder / name,
        **options,
    )
    # The same rate at the same step, however many epochs are run.
    optimizer = dataclasses.replace(config.optimizer, schedule="constant", warmup_epochs=0.0)
    augment = dataclasses.replace(config.augment, random_resized_crop=False, flip=False)
    transfer = dataclasses.replace(config.transfer, feature_cache=str(folder / "features"))
    config = dataclasses.replace(
        config, optimizer=optimizer, augment=augment, transfer=transfer, compile_cache=None
    )
    began = time.perf_counter()
    with (folder / f"{name}.txt").open("w") as file:
        fr.train(config, Console(file=file, width=200))
    seconds = time.perf_counter() - began
    lines = (Path(config.workdir) / "history.jsonl").read_text().splitlines()
    return seconds, [json.loads(line) for line in lines]


def seconds_an_image(workdir, photos):
    """Return the seconds per image of a forward pass over files that is already compiled."""
    import flax_resnet as fr

    run, paths = fr.load(workdir), sorted(map(str, photos.rglob("*.jpg")))
    run.embed(paths)
    began = time.perf_counter()
    run.embed(paths)
    return (time.perf_counter() - began) / len(paths)


def pytorch(photos, weights, epochs, size):
    """Return the seconds to the first batch and of each epoch of a loop with frozen backbone."""
    import torch
    from safetensors.torch import save_file

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
    torch.manual_seed(0)
    model = torchvision.models.resnet50()
    save_file(model.state_dict(), weights)  # for our side too
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
                images = images.to(memory_format=torch.channels_last)
                (model(images).argmax(1) == labels).sum().item()
        each.append(time.perf_counter() - began)
    return start, each


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos")
    parser.add_argument("--images", type=int, default=240)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args()
    size, epochs = options.size, options.epochs
    folder = Path(tempfile.mkdtemp())
    photos, weights = folder / "photos", folder / "resnet50.safetensors"
    whole = subset(options.photos, options.images, photos)
    more = whole / options.images

    start, each = pytorch(photos, weights, epochs, size)  # forks workers: before JAX has threads
    print(f"PyTorch: {min(each):.1f} s an epoch of {options.images} images", flush=True)
    kept, history = ours(photos, weights, folder, "once", size)
    head, each_image = history[-1]["time"], seconds_an_image(folder / "once", photos)
    print(f"Features once: {kept:.1f} s with {head:.1f} s of L-BFGS; {1 / each_image:.1f} images/s")
    sgd = {"solver": "sgd", "epochs": epochs}
    again, history = ours(photos, weights, folder, "passes", size, views=0, **sgd)
    epoch = (history[-2]["time"] - history[0]["time"]) / max(epochs - 1, 1)
    fixed = again - epochs * epoch
    print(f"Forward passes: {epoch:.1f} s an epoch, {fixed:.1f} s of start, test and report")

    once = kept + each_image * (whole - options.images) + head * (more - 1)
    for count in (10, 30):
        passes, theirs = fixed + count * epoch * more, start + count * min(each) * more
        print(
            f"{count} epochs of {whole:,} photos, extrapolated: features once {once:,.0f} s, "
            f"forward passes {passes:,.0f} s ({passes / once:.1f}×), "
            f"PyTorch {theirs:,.0f} s ({theirs / once:.1f}×)"
        )
    _, kept_history = ours(photos, weights, folder, "sgd", size, views=1, **sgd)
    for name, lines in (("stored features", kept_history), ("forward passes", history)):
        print(f"SGD on {name}: validation top-1", [line["val_top1"] for line in lines[:epochs]])
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
