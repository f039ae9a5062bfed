"""Commands about what a trained model makes of images: predict, embed, evaluate, report."""

import argparse
import itertools
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..config import Config
from ..errors import UserError

if TYPE_CHECKING:
    from ..inference import FoundFiles, Predictions

_MODEL = "a run's folder, a file of weights, or a published model such as resnet50"
_PATHS = "files, folders, patterns such as 'photos/**/*.jpg', or - for a list on stdin"


def predict_command(arguments: Sequence[str]) -> None:
    """Classify photos: files, folders, patterns or a list."""
    parser = _parser("predict", predict_command.__doc__)
    parser.add_argument("paths", nargs="+", metavar="PATH", help=_PATHS)
    parser.add_argument("--top-k", type=_positive, default=5, help="classes to tell, default 5")
    parser.add_argument("--format", choices=("table", "csv", "json", "jsonl"))
    parser.add_argument("--output", metavar="FILE", help="write there; its ending is a --format")
    parser.add_argument("--sheet", metavar="FILE.png", help="also write a contact sheet")
    parser.add_argument("--tta", choices=("flip",), help="average with the mirror image")
    parser.add_argument("--temperature", type=float, default=1.0, help="divide the logits by it")
    options = parser.parse_args(list(arguments))
    if options.format is None:
        ending = Path(options.output or "").suffix.lower().removeprefix(".")
        options.format = ending if ending in ("csv", "json", "jsonl") else "table"
    found = _find(options.paths)
    run = _load(options)

    from ..inference import predict_batches
    from ..inference.write_predictions import write_predictions
    from ..report.photo_sheet import MAX_PHOTOS

    kept: list[Predictions] = []
    failed = dict(found.missing)
    with _bar() as bar, _opened(options.output) as file:
        task = bar.add_task("predict", total=len(found.paths))

        def batches() -> Iterator[Any]:
            settings = {"batch_size": options.batch_size, "tta": options.tta}
            for batch in predict_batches(
                run, found.paths, temperature=options.temperature, **settings
            ):
                bar.advance(task, len(batch))
                failed.update(batch.failed)
                if options.sheet and sum(map(len, kept)) < MAX_PHOTOS:
                    kept.append(batch)
                yield batch
            if found.missing:
                yield _nothing(found.missing, run.classes)

        write_predictions(file, batches(), options.format, top_k=options.top_k, names=found.paths)
    if options.sheet and kept:
        _write_sheet(options.sheet, kept, len(found.paths))
    _conclude(len(found.paths) + len(found.missing), failed, found.passed_over)


def embed_command(arguments: Sequence[str]) -> None:
    """Write the features of photos, the input of the classifier."""
    parser = _parser("embed", embed_command.__doc__)
    parser.add_argument("paths", nargs="+", metavar="PATH", help=_PATHS)
    parser.add_argument("--output", required=True, metavar="FILE", help=".npz or .parquet")
    options = parser.parse_args(list(arguments))
    found = _find(options.paths)
    run = _load(options)

    from ..inference import embed, write_embeddings

    with _bar() as bar:
        task = bar.add_task("embed", total=len(found.paths))
        embeddings = embed(
            run,
            found.paths,
            batch_size=options.batch_size,
            progress=lambda count: bar.advance(task, count),
        )
    write_embeddings(options.output, embeddings)
    count, width = embeddings.features.shape
    print(f"{options.output}: {width} features of {count:,} images")
    failed = found.missing | dict(embeddings.failed)
    _conclude(len(found.paths) + len(found.missing), failed, found.passed_over)


def evaluate_command(arguments: Sequence[str]) -> None:
    """Compare a run with the true classes: accuracy, confusion, calibration; or, where images
    have any number of classes, mean average precision."""
    parser = _parser("evaluate", evaluate_command.__doc__)
    parser.add_argument(
        "source", nargs="?", metavar="DIR",
        help="a folder with a folder for each class, or a .csv or .jsonl of path and label; by "
        "default the run's own data",
    )  # fmt: skip
    parser.add_argument("--split", choices=("train", "validation", "test", "all"))
    parser.add_argument("--tta", choices=("flip",), help="average with the mirror image")
    parser.add_argument("--output", metavar="FILE.csv", help="also write every file's prediction")
    parser.add_argument("--json", metavar="FILE.json", help="also write the figures")
    parser.add_argument("--confusion", metavar="FILE.png", help="also draw the confusion matrix")
    parser.add_argument(
        "--mistakes", metavar="FILE.png", help="also show the photos it was most wrong about"
    )
    options = parser.parse_args(list(arguments))
    run = _load(options)
    for option in ("confusion", "mistakes"):
        if run.settings.get("loss") == "sigmoid" and getattr(options, option):
            raise UserError(
                f"--{option} is for images with one class each; this run's have any number of "
                "them: leave it out.",
                exit_code=2,
            )

    from ..inference import evaluate
    from ..inference.write_predictions import write_predictions
    from ..metrics import MultiLabelEvaluation
    from ..report.evaluation import write_evaluation
    from ..report.tables import evaluation_tables

    with _bar() as bar:
        task = bar.add_task("evaluate", total=None)
        done = evaluate(
            run,
            options.source,
            split=options.split,
            batch_size=options.batch_size,
            tta=options.tta,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if isinstance(done.result, MultiLabelEvaluation):
        truth = [", ".join(itertools.compress(run.classes, row)) for row in done.labels]
    else:
        truth = [run.classes[label] for label in done.labels]
    console = Console(highlight=False)
    for table in evaluation_tables(done.result):
        console.print(table)
    if options.output:
        with _opened(options.output) as file:
            write_predictions(file, [done.predictions], "csv", top_k=min(5, len(run.classes)),
                              truth=truth)  # fmt: skip
    if options.json:
        write_evaluation(Path(options.json), done.result)
    if options.confusion and not isinstance(done.result, MultiLabelEvaluation):
        from ..report.plots import save_confusion

        save_confusion(done.result, options.confusion)
    if options.mistakes:
        _write_mistakes(options.mistakes, done, run.classes)
    _conclude(len(done.labels), dict(done.predictions.failed), 0)


def report_command(arguments: Sequence[str]) -> None:
    """Write a run's page, report/index.html, again."""
    from ..report.page import write_page

    parser = argparse.ArgumentParser(prog="flax-resnet report", description=report_command.__doc__)
    parser.add_argument("run", metavar="RUN", help="a run's folder")
    page = write_page(Path(parser.parse_args(list(arguments)).run))
    print(f"Open {page}.")


def _parser(command: str, text: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"flax-resnet {command}", description=text)
    parser.add_argument("model", metavar="RUN_OR_WEIGHTS", help=_MODEL)
    parser.add_argument(
        "--classes", metavar="FILE",
        help='names of the classes: class_indices.json ({"0": "daisy", ...}) or one a line',
    )  # fmt: skip
    parser.add_argument("--batch-size", type=_positive, default=32, help="default 32")
    return parser


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return int(text)


def _find(words: Sequence[str]) -> "FoundFiles":
    from ..inference.find_files import find_files

    found = find_files(words, sys.stdin)
    if not found.paths:
        told = "; ".join(f"{word} {why}" for word, why in found.missing.items())
        raise UserError(f"There is nothing to predict: {told or 'the list is empty'}.")
    return found


def _load(options: argparse.Namespace) -> Any:
    """The model, with compiled programs kept on the disk for the next time."""
    import jax

    from ..inference import load_any, read_classes

    if jax.config.values["jax_compilation_cache_dir"] is None and Config().compile_cache:
        folder = Path(str(Config().compile_cache)).expanduser()
        jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return load_any(options.model, read_classes(options.classes) if options.classes else None)


def _opened(path: str | None) -> AbstractContextManager[TextIO]:
    if path is None:
        return nullcontext(sys.stdout)
    try:
        target = Path(path).expanduser()
        target.parent.mkdir(parents=True, exist_ok=True)
        return target.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error}): name another place.") from error


def _bar() -> Progress:
    """A progress bar on a terminal's stderr; nothing elsewhere."""
    console = Console(stderr=True)
    return Progress(
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("images"),
        TimeRemainingColumn(compact=True),
        console=console,
        disable=not console.is_terminal or os.environ.get("TERM") == "dumb",
        transient=True,
    )


def _nothing(missing: Mapping[str, str], classes: tuple[str, ...]) -> "Predictions":
    """Words that led to no file, as rows like those of files that cannot be read."""
    import numpy as np

    from ..inference import Predictions

    rows = np.full((len(missing), len(classes)), np.nan, np.float32)
    return Predictions(tuple(missing), classes, rows, missing)


def _write_sheet(path: str, batches: Sequence["Predictions"], total: int) -> None:
    from ..report.photo_sheet import CaptionedPhoto, write_photo_sheet

    photos = []
    for batch in batches:
        for name, best in zip(batch.names, batch.top(1), strict=True):
            where = os.path.basename(name)
            if best:
                photos.append(CaptionedPhoto(name, best[0].label, best[0].probability, where))
            else:
                photos.append(CaptionedPhoto(name, "cannot be read", None, where))
    shown = write_photo_sheet(photos, path)
    rest = f" (the first {shown:,} of {total:,} photos)" if shown < total else ""
    print(f"Look at {path}{rest}.", file=sys.stderr)


def _write_mistakes(path: str, done: Any, classes: tuple[str, ...]) -> None:
    from ..report.photo_sheet import CaptionedPhoto, write_photo_sheet

    wrong = [
        (best[0], name, classes[label])
        for name, best, label in zip(
            done.predictions.names, done.predictions.top(1), done.labels, strict=True
        )
        if best and best[0].index != label and os.path.exists(name)
    ]
    wrong.sort(key=lambda item: -item[0].probability)
    photos = [
        CaptionedPhoto(
            name, best.label, best.probability, f"is {true} · {os.path.basename(name)}", True
        )
        for best, name, true in wrong
    ]
    if photos:
        shown = write_photo_sheet(photos, path)
        print(f"Look at {path}: {shown:,} of {len(photos):,} mistakes, the surest first.")
    else:
        print(f"No mistakes in files, so {path} was not written.")


def _conclude(total: int, failed: Mapping[str, str], passed_over: int) -> None:
    """Name what failed, and say so by the exit code."""
    if passed_over:
        print(f"{passed_over:,} files without an image's ending were passed over.", file=sys.stderr)
    for name, why in failed.items():
        print(f"failed: {name} {why}", file=sys.stderr)
    if failed:
        raise UserError(f"{len(failed):,} of {total:,} could not be read; they are named above.")
