"""Random folders of photos, each with what a reader is expected to find; imports nothing of ours.

``draw(root, generator)`` writes one of ``LAYOUTS`` into ``root`` and returns a ``Folders``.
"""

from dataclasses import dataclass, field
from pathlib import Path

from tests.strangers.generate import NAME_BYTES, File, Generator

SPLITS = {
    "train": ("train", "Train", "training", "TRAINING", "train_set", "TrainImages", "trainset"),
    "validation": ("val", "valid", "Validation", "dev", "val_set", "Validation Data", "valset"),
    "test": ("test", "TEST", "testing", "eval", "test-set", "Evaluation", "testset"),
}


@dataclass
class Folders:
    """Files in folders, and what is expected of them.

    Attributes:
        root: The folder.
        layout: One of ``LAYOUTS``.
        images: Split (None if it is left to the reader) and class of each image in a class folder;
            also of those that cannot be read.
        left_out: Images that are hidden, or in no class folder.
        files: All files that are not hidden, by their path.
        refused: Whether the layout is to be refused.
    """

    root: Path
    layout: str
    images: dict[str, tuple[str | None, str]] = field(default_factory=dict)
    left_out: set[str] = field(default_factory=set)
    files: dict[str, File] = field(default_factory=dict)
    refused: bool = False


# What a directory entry that is no file is: it is in no split, and is named.
NO_FILES = ("pipe", "folder", "dangling link", "link to itself")


class _Writer:
    """Writes class folders with files, and notes what is expected."""

    def __init__(self, root: Path, layout: str, draw: Generator) -> None:
        self.found = Folders(root, layout)
        self.draw, self.rng = draw, draw.rng

    def folder(self, *parts: str) -> Path:
        path = self.found.root.joinpath(*parts)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def file(self, folder: Path, split: str | None, name: str | None, kind=None) -> None:
        """Write one image of a class, or, without a class, one to be left out."""
        file = self.draw.file(folder, kind=kind)
        self.found.files[file.path] = file
        if name is None or file.kind in NO_FILES:
            self.found.left_out.add(file.path)
        else:
            self.found.images[file.path] = split, name

    def clutter(self, folder: Path) -> None:
        """Leave what people and systems leave in folders; none of it is an image."""
        for name in ("Thumbs.db", ".DS_Store", "desktop.ini", "notes.txt", "._1.jpg"):
            if self.rng.random() < 0.1:
                (folder / name).write_bytes(b"\0")
        if self.rng.random() < 0.1:  # hidden: `check` names it, and `predict` skips it
            hidden = folder / f".{self.draw.name('.png')}"[: NAME_BYTES // 4]
            hidden = hidden.with_name(f"{hidden.name}.png")
            hidden.write_bytes(b"\0")
            self.draw.met["name", "leading dot"] += 1
            self.found.left_out.add(str(hidden))
        if self.rng.random() < 0.05:
            inner = folder / self.rng.choice(("__MACOSX", ".cache", "@eaDir"))
            inner.mkdir(exist_ok=True)
            (inner / "1.jpg").write_bytes(b"\0")

    def classes(self, names: list[str], *above: str, split: str | None = None) -> None:
        """Write class folders with one to five images each, some of these in folders below."""
        for name in names:
            folder = self.folder(*above, name)
            self.clutter(folder)
            # At least one that is an image, so that the class is a class.
            self.file(folder, split, name, kind="PNG")
            for _ in range(self.rng.randint(0, 4)):
                deep = folder
                for _ in range(self.rng.choice((0, 0, 0, 1, 3))):
                    deep = deep / self.draw.name()
                deep.mkdir(parents=True, exist_ok=True)
                self.file(deep, split, name)

    def names(self) -> list[str]:
        return [self.draw.name() for _ in range(self.rng.randint(2, 4))]

    def splits(self, *above: str, wrap: bool = False) -> None:
        """Write train with one or two other splits, under drawn names."""
        names = self.names()
        others = self.rng.choice((("validation",), ("test",), ("validation", "test")))
        for split in ("train", *others):
            folder = self.rng.choice(SPLITS[split])
            inner = (folder,) if wrap and self.rng.random() < 0.7 else ()
            some = names if split == "train" else names[: self.rng.randint(1, len(names))]
            # Where there is no validation, the reader takes some of train.
            free = split == "train" and "validation" not in others
            self.classes(some, *above, folder, *inner, split=None if free else split)

    def outside(self, folder: Path) -> None:
        """Perhaps write images next to the class folders."""
        for _ in range(self.rng.choice((0, 0, 1, 3))):
            self.file(folder, None, None)


def _classes(writer):
    writer.classes(writer.names())
    writer.outside(writer.found.root)
    writer.clutter(writer.found.root)


def _splits(writer):
    writer.splits()
    writer.clutter(writer.found.root)


def _train_alone(writer):
    writer.classes(writer.names(), writer.rng.choice(SPLITS["train"]))


def _unlabeled_test(writer):
    """Kaggle's: the test images have no labels."""
    names = writer.names()
    with_validation = writer.rng.random() < 0.5
    writer.classes(names, "train", split="train" if with_validation else None)
    if with_validation:
        writer.classes(names, "val", split="validation")
    inner = writer.rng.choice(((), ("test",), ("unknown",), ("images",)))
    folder = writer.folder("test", *inner)
    for _ in range(writer.rng.randint(1, 5)):
        writer.file(folder, None, None, kind="PNG")
    (writer.found.root / "sample_submission.csv").write_text("id,label\n")


def _nested_root(writer):
    """As zip files often are, with or without splits."""
    above = writer.rng.choice(((writer.found.root.name,), ("images",), ("Data", "images")))
    if writer.rng.random() < 0.5:
        writer.splits(*above)
    else:
        writer.classes(writer.names(), *above)
    writer.clutter(writer.found.root)


def _nested_splits(writer):
    """``training_set/training_set/cats``."""
    writer.splits(wrap=True)


def _prefixed_splits(writer):
    names, prefix = writer.names(), writer.rng.choice(("seg_", "birds-", "my photos "))
    writer.classes(names, f"{prefix}train", split="train")
    writer.classes(names, f"{prefix}val", split="validation")
    writer.classes(names, f"{prefix}test", split="test")


def _like_a_split(writer):
    """A class has the name of a split."""
    name = writer.rng.choice(("train", "test", "valid", "dev", "eval"))
    writer.classes([name, "bus", "ship"])


def _refused(write):
    def refused(writer):
        write(writer)
        writer.found.refused = True

    return refused


def _same_folders(writer):
    names = writer.names()
    for folder in writer.rng.choice(
        (("a", "b"), ("2023", "2024"), ("train", "more"), ("x", "test"))
    ):
        writer.classes(names, folder)


def _flat_splits(writer):
    for folder in ("train", "test"):
        writer.file(writer.folder(folder), None, None, kind="PNG")


def _no_classes(writer):
    writer.file(writer.found.root, None, None, kind="PNG")


def _one_class(writer):
    writer.file(writer.folder(writer.draw.name()), None, None, kind="PNG")


def _two_folders_of_a_split(writer):
    names = writer.names()
    for folder in ("train", "test", "Testing"):
        writer.classes(names, folder)


def _other_classes_in_test(writer):
    writer.classes(writer.names(), "train")
    writer.classes(writer.names(), "test")


def _no_images(writer):
    (writer.folder("a") / "b.txt").write_text("nothing")


# The kind of a layout -> how it is written.
LAYOUTS = {
    "classes": _classes,
    "splits": _splits,
    "train alone": _train_alone,
    "unlabelled test": _unlabeled_test,
    "nested root": _nested_root,
    "nested splits": _nested_splits,
    "splits with a prefix": _prefixed_splits,
    "a class like a split": _like_a_split,
    "refused: the same folders twice": _refused(_same_folders),
    "refused: splits without classes": _refused(_flat_splits),
    "refused: no class folders": _refused(_no_classes),
    "refused: one class": _refused(_one_class),
    "refused: two folders of a split": _refused(_two_folders_of_a_split),
    "refused: other classes in test": _refused(_other_classes_in_test),
    "refused: no images": _refused(_no_images),
}


def draw(root: Path, generator: Generator) -> Folders:
    """Write a folder of a drawn layout, and return what is expected of it."""
    usable = [name for name in LAYOUTS if not name.startswith("refused")]
    layout = generator.rng.choice(usable if generator.rng.random() < 0.8 else list(LAYOUTS))
    generator.met["layout", layout] += 1
    root.mkdir(parents=True)
    writer = _Writer(root, layout, generator)
    LAYOUTS[layout](writer)
    return writer.found
