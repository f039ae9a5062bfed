"""The table of results: each row is a recipe, its seeds, and what others published for it."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..config import Config, flatten, load_config, unflatten
from ..errors import UserError

PAPER = "He et al. 2015, table 6"
PREACTIVATION = "https://github.com/akamaster/pytorch_resnet_cifar10"
FIGURE_6 = "He et al. 2015, figure 6, read off"
VISION = "https://docs.pytorch.org/vision/stable/models.html"


@dataclass(frozen=True)
class Published:
    """A published accuracy on the test images.

    Attributes:
        accuracy: A fraction.
        source: The paper, or an address.
    """

    accuracy: float
    source: str


@dataclass(frozen=True)
class Row:
    """A row of the table of results.

    Attributes:
        name: Its name.
        recipe: The recipe of ``configs/``; None for the fine-tuning of a folder of photos.
        settings: Fields of the config by dotted name that differ from the recipe's; of fine-tuning
            the options of ``finetune_config``.
        seeds: Number of seeds.
        target: The accuracy that is asked for, a fraction; None where none is.
        judged_by: The images that the target is for. The archive of CIFAR-10 may hold fewer than
            10,000 test images: there the 5,000 validation images of the last epoch decide.
        paper: The accuracy of the paper.
        public: The best accuracy that others published.
        cost: Time of one seed.
        needs: The data that must be given, because they are not downloaded.
    """

    name: str
    recipe: str | None
    settings: Mapping[str, Any] = field(default_factory=dict)
    seeds: int = 1
    target: float | None = None
    judged_by: Literal["val", "test"] = "test"
    paper: Published | None = None
    public: Published | None = None
    cost: str = ""
    needs: str = ""

    def config(self, seed: int, data_dir: str | None = None) -> Config:
        """Return the settings of a run.

        Args:
            seed: The seed.
            data_dir: The folder of the data, as for ``data.dir``.

        Raises:
            UserError: A row that needs ``data_dir`` without it, or weights that are not there.
        """
        if self.needs and data_dir is None:
            raise UserError(f"{self.name} needs --data-dir: {self.needs}.", exit_code=2)
        if self.recipe is None:
            from ..training import finetune_config

            assert data_dir is not None
            return finetune_config(data_dir, seed=seed, **self.settings)
        settings = flatten(load_config(self.recipe)) | dict(self.settings) | {"seed": seed}
        if data_dir is not None:
            settings["data.dir"] = data_dir
        return unflatten(settings)

    def command(self, seed: int | None = None) -> str:
        """Return the command that trains the row without ``reproduce``."""
        start = f"python train.py --config {self.recipe}"
        if self.recipe is None:
            start = "flax-resnet finetune flowers"
        words = [start, options_of(self.settings)] + ([] if seed is None else [f"--seed {seed}"])
        return " ".join(filter(None, words))


def options_of(settings: Mapping[str, Any]) -> str:
    """Return settings by dotted name as options of a command line."""

    def text(value: Any) -> str:
        return " ".join(map(text, value)) if isinstance(value, list | tuple) else str(value)

    words = []
    for name, value in settings.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            section, dot, last = option.rpartition(".")
            words.append(f"--{option}" if value else f"--{section}{dot}no-{last}")
        else:
            words.append(f"--{option} {text(value)}")
    return " ".join(words)


def _cifar(depth: int, paper: float, public: float, cost: str, target: float | None = None) -> Row:
    """He et al. 2015a, section 4.2; accuracies in percent."""
    name = f"resnet{depth}"
    return Row(
        f"{name}_cifar",
        "resnet20_cifar",
        {} if depth == 20 else {"model.name": name},
        judged_by="val",
        target=target,
        paper=Published(paper / 100, PAPER),
        public=Published(public / 100, PREACTIVATION),
        cost=cost,
    )


def _plain(depth: int, accuracy: float, cost: str) -> Row:
    return Row(
        f"plain{depth}_cifar",
        f"plain{depth}_cifar",
        judged_by="val",
        paper=Published(accuracy, FIGURE_6),
        cost=cost,
    )


FLOWERS = "a folder with a folder of photos for each of five kinds of flowers (3,430 photos)"
_START = "resnet20/cifar10"


def _flowers(name: str, size: int, **options: Any) -> Row:
    return Row(
        f"flowers{size}_{name}",
        None,
        {"image_size": size, **options},
        seeds=3,
        cost="7 minutes",
        needs=FLOWERS,
    )


def _flowers_rows(size: int) -> tuple[Row, ...]:
    """Head, partial, full, gradual, and from scratch for the time of full."""
    start: dict[str, Any] = {"weights": _START}
    return (
        _flowers("head", size, mode="head", **start),
        _flowers("partial", size, mode="partial", freeze_before="layer3", views=1, **start),
        _flowers("full", size, mode="full", epochs=3, **start),
        _flowers("gradual", size, mode="gradual", epochs=4, **start),
        _flowers("scratch", size, weights="none", model="resnet20", epochs=3),
    )


def _imagenet(recipe: str, accuracy: float, source: str, **settings: Any) -> Row:
    return Row(
        recipe,
        recipe,
        settings,
        judged_by="val",
        paper=Published(accuracy / 100, source),
        cost="days on one GPU",
        needs="a folder with the folders train and val of ImageNet",
    )


ROWS = {
    row.name: row
    for row in (
        Row("digits", "digits", seeds=10, target=0.98, cost="1 minute"),
        Row(
            "mnist",
            "mnist",
            seeds=3,
            target=0.996,
            public=Published(0.9991, "https://arxiv.org/abs/2008.10400, an ensemble"),
            cost="10 minutes",
        ),
        _cifar(20, 91.25, 91.73, "3 hours", target=0.91),
        _cifar(32, 92.49, 92.63, "5 hours"),
        _cifar(44, 92.83, 93.10, "7 hours"),
        _cifar(56, 93.03, 93.39, "9 hours"),
        _plain(20, 0.91, "3 hours"),
        _plain(56, 0.87, "9 hours"),
        Row(
            "cifar_fast",
            "cifar_fast",
            seeds=3,
            target=0.9125,
            judged_by="val",
            cost="20 minutes",
        ),
        Row(
            "resnet9_cifar",
            "resnet9_cifar",
            seeds=3,
            target=0.94,
            judged_by="val",
            paper=Published(0.9401, "https://arxiv.org/abs/2404.00498, airbench94, 9.9 epochs"),
            public=Published(0.9405, "https://github.com/tysam-code/hlb-CIFAR10, 815 s on a CPU"),
            cost="30 minutes",
        ),
        # As many operations as resnet20, and weights that in float16 would fit into the package.
        Row(
            "resnet9_small",
            "resnet9_cifar",
            {"model.widths": [16, 32, 112, 128], "model.stem_width": 24, "epochs": 16},
            judged_by="val",
            cost="20 minutes",
        ),
        *_flowers_rows(64),
        *_flowers_rows(128),
        _imagenet("resnet50_imagenet", 76.130, VISION),
        _imagenet("resnext50_imagenet", 77.618, VISION),
        _imagenet("resnet50_imagenet_v2", 80.858, VISION),
        _imagenet("resnet50_imagenet_rsb_a3", 78.1, "https://arxiv.org/abs/2110.00476, table 2"),
        _imagenet(
            "resnet50_imagenet_fast", 73.8, "https://github.com/libffcv/ffcv-imagenet, 16 epochs"
        ),
    )
}
"""The rows by name. Costs are those of one seed on two CPU cores with AVX2 and the native
package, unless they say otherwise."""


def find_row(name: str, rows: Mapping[str, Row] = ROWS) -> Row:
    """Return the row of a name, of ``reproduce`` unless others are given.

    Raises:
        UserError: There is none of that name.
    """
    if name not in rows:
        import difflib

        near = difflib.get_close_matches(name, rows, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(rows)}."
        raise UserError(f"There is no row {name!r}: {hint}", exit_code=2)
    return rows[name]


def with_settings(row: Row, name: str, settings: Mapping[str, Any]) -> Row:
    """Return a row of another name with more settings."""
    return dataclasses.replace(row, name=name, settings={**row.settings, **settings})
