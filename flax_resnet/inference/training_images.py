"""The images of a run, recognised by their contents among those that are found."""

import itertools
from collections.abc import Sequence

from ..data import IMAGE_SETS
from ..data.fingerprint import Fingerprint, read_fingerprint
from ..data.images import Records, digest_files
from ..errors import UserError
from ..weights import WeightsInfo


def run_fingerprint(info: WeightsInfo) -> Fingerprint | None:
    """Return the fingerprint of a run's data; None where the run, or other weights, keep none."""
    return read_fingerprint(info.path) if info.kind == "run" and info.path is not None else None


def training_images(
    info: WeightsInfo, data: Fingerprint | None, own: bool, chosen: str
) -> frozenset[str] | None:
    """Return hashes of the contents of the image files that a test must not have.

    They are those of training and, but for a score of validation images, those that chose the
    weights.

    Args:
        info: Description of the model.
        data: Its ``run_fingerprint``.
        own: Whether the images are those of the run itself, by their path.
        chosen: The split to evaluate.

    Returns:
        The hashes: none where the model was not trained on image files, and None where a run did
        not keep them.
    """
    if info.kind != "run" or info.path is None or chosen == "train":
        return frozenset()
    if data is None or not data.contents():
        by_name = info.settings.get("data.name") not in (None, *IMAGE_SETS)
        return frozenset() if by_name else None
    seen = data.contents(["train"] if chosen == "validation" else ["train", "validation"])
    # An image that the run has in test, too, is in the score that the run itself reports.
    return seen - data.contents(["test"]) if own else seen


def contents_of(paths: Sequence[str]) -> list[str | None]:
    """Return the hashes of the contents of files in order, None for those that cannot be read."""
    return [None if digest is None else digest.content for digest in digest_files(paths)]


def count_new(contents: Sequence[str | None], known: frozenset[str]) -> int:
    """Return how many files that can be read have contents that are not ``known``."""
    return sum(content is not None and content not in known for content in contents)


def leave_out(
    records: Records,
    contents: Sequence[str | None],
    seen: frozenset[str],
    title: str,
    *,
    keep: bool,
) -> tuple[Records, str, tuple[str, ...]]:
    """Leave out the files whose contents are in ``seen``.

    Args:
        records: The files.
        contents: Hashes of their contents; empty if ``seen`` is.
        seen: Hashes of contents.
        title: The title of their evaluation.
        keep: Whether the files are only counted.

    Returns:
        The other files, their title, and notes.

    Raises:
        UserError: No file is left.
    """
    is_new = [content not in seen for content in contents]
    count, total = is_new.count(False), len(records)
    if not count:
        return records, title, ()
    note = f"{count:,} of the {total:,} images are among those that the run was trained on"
    if keep:
        return records, title, (f"{note}: this is no test score",)
    if count == total:
        raise UserError(
            f"All {total:,} images of {title} are among those that the run was trained on: name "
            "other images, or --split all, which is no test."
        )
    kept = Records(tuple(itertools.compress(records.paths, is_new)), records.labels[is_new])
    return (
        kept,
        f"{title[:-1]} without {count:,} of training)",
        (f"{note}; they are left out (--split all evaluates them too)",),
    )
