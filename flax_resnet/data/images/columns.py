"""Which columns of a table hold the paths, labels and splits of images."""

from __future__ import annotations

import re
from collections.abc import Sequence

from flax_resnet.data.images.listed_files import find_listed
from flax_resnet.data.images.splits import SPLIT_ALIASES
from flax_resnet.data.images.tables import Table, unclear_columns
from flax_resnet.errors import UserError

# Usual names, without case, spaces and punctuation.
_PATHS = frozenset({
    "path", "filepath", "fullpath", "relativepath", "relpath", "file", "filename", "fname", "id",
    "image", "images", "imagepath", "imagefile", "imagefilename", "imagename", "imageid",
    "img", "imgpath", "imgfile", "imgname", "imgid", "photo", "photoid", "picture",
})  # fmt: skip
LABEL_NAMES = frozenset({
    "label", "labels", "labelname", "labelid", "class", "classes", "classname", "classid",
    "classlabel", "category", "categoryname", "categoryid", "target", "species", "breed", "tag",
    "groundtruth", "truth", "true", "y",
})  # fmt: skip
_TRUTHS = frozenset({"groundtruth", "truth", "true"})
_SPLITS = frozenset({"split", "subset", "partition", "set", "dataset", "phase", "usage"})
_INDEX = re.compile(r"|index|unnamed\d*")  # of pandas


def split_columns(option: str | None) -> list[str] | None:
    """Return the columns that an option such as ``id,breed`` names; None where it is not given."""
    return option.split(",") if option else None


def choose_columns(
    table: Table, given: Sequence[str] | None = None, *, labelled: bool = True
) -> tuple[tuple[str, ...], list[str]]:
    """Choose the columns of paths, labels and splits.

    ``path``, ``label`` and ``split`` are taken first; then other usual names, such as
    ``image_id``, ``breed`` and ``subset``. Of several columns that could hold paths, the one whose
    files exist is taken. Several that could hold splits must agree. A single other column holds the
    labels.

    Args:
        table: The table, with at least one row.
        given: Names of the columns of paths, labels and optionally splits, in this order.
        labelled: Whether a column of labels is needed.

    Returns:
        The names of two or three columns, or of one or more if ``labelled`` is False; and notes
        for the user about columns with other names than ``path``, ``label`` and ``split``.

    Raises:
        UserError: A column is missing, or several could be meant.
    """
    if given:
        return _given(table, given, labelled), []
    key_of = {name: column_key(name) for name in table.columns}
    path = _path_column(table, key_of, labelled)
    if not labelled:
        return (path,), []
    label = _label_column(table, key_of, path)
    notes = []
    if (path.lower(), label.lower()) != ("path", "label"):
        notes = [f"{table.path}: paths are in the column {path}, labels in the column {label}"]
    split = _split_column(table, key_of, path, label)
    if split and split[0].lower() != "split":
        notes.append(f"{table.path}: splits are in the column {split[0]}")
    return (path, label, *split), notes


def column_key(name: str) -> str:
    """Return the name of a column without case, spaces and punctuation."""
    return re.sub(r"[\W_]+", "", name).lower()


def _given(table: Table, given: Sequence[str], labelled: bool) -> tuple[str, ...]:
    if len(given) > 3 or (labelled and len(given) < 2):
        raise UserError(
            f"--columns {','.join(given)}: name the columns of paths and labels, and optionally of "
            "splits, such as filename,breed",
            exit_code=2,
        )
    for name in given:
        if name not in table.columns:
            raise UserError(
                f"{table.path} has no column {name!r}, only {', '.join(table.columns)}", exit_code=2
            )
    return tuple(given)


def _path_column(table: Table, key_of: dict[str, str], labelled: bool) -> str:
    if exact := [name for name in table.columns if name.lower() == "path"]:
        return exact[0]
    candidates = [name for name in table.columns if key_of[name] in _PATHS]
    if len(candidates) == 1:
        return candidates[0]
    named = bool(candidates)
    files: dict[str, list[list[str]]] = {}
    for name in candidates or table.columns:
        paths = [str(row[table.columns.index(name)] or "") for row in table.rows]
        if paths and all(paths):
            found, _ = find_listed(table.path, paths)
            if all(found):
                files[name] = found
    # Where the columns have no names, the first line is an image too.
    if not named and any(map(all, (find_listed(table.path, [name])[0] for name in files))):
        raise UserError(_first_line(table, labelled))
    if files and len({str(found) for found in files.values()}) == 1:
        return next(iter(files))
    if not named and (len(table.columns) == 1 or not files):
        raise UserError(_first_line(table, labelled))
    raise _unclear(table, "paths", list(files) or candidates)


def _label_column(table: Table, key_of: dict[str, str], path: str) -> str:
    others = [name for name in table.columns if name != path]
    exact = [name for name in others if name.lower() == "label"]
    truths = [name for name in others if key_of[name] in _TRUTHS]
    if exact and not truths:  # ``evaluate`` writes what is predicted as label, next to true
        return exact[0]
    usual = [name for name in others if key_of[name] in LABEL_NAMES]
    if not usual:
        usual = [
            name
            for name in others
            if key_of[name] not in _PATHS | _SPLITS and not _INDEX.fullmatch(key_of[name])
        ]
    if len(usual) == 1:
        return usual[0]
    if not usual:
        raise UserError(_first_line(table, labelled=True))
    raise _unclear(table, "labels", usual)


def _split_column(table: Table, key_of: dict[str, str], path: str, label: str) -> list[str]:
    """Return the column of splits, or nothing where there is none."""
    others = [name for name in table.columns if name not in (path, label)]
    if exact := [name for name in others if name.lower() == "split"]:
        return exact[:1]
    usual = [name for name in others if key_of[name] in _SPLITS and _holds_splits(table, name)]
    columns = [table.columns.index(name) for name in usual]
    if any(len({_split_of(row[column]) for column in columns}) > 1 for row in table.rows):
        raise _unclear(table, "splits", usual, [path, label, usual[0]])
    return usual[:1]


def _split_of(value: object) -> str | None:
    return SPLIT_ALIASES.get(value.strip().lower()) if isinstance(value, str) else None


def _holds_splits(table: Table, name: str) -> bool:
    # Not by Table.column, which refuses values of other types: nobody has named this column.
    column = table.columns.index(name)
    values = [row[column] for row in table.rows]
    return all(_split_of(one) is not None for one in values)


def _first_line(table: Table, labelled: bool) -> str:
    if table.path.lower().endswith(".jsonl"):
        return (
            f'{table.path}, line {table.lines[0]}: not of the form {{"path": "a.jpg", "label": '
            '"cat"}, optionally with "split"; correct it'
        )
    if not labelled:
        return (
            f"{table.path}, line 1: it must name a column path; it is "
            f"{','.join(table.columns)[:80]!r}"
        )
    return unclear_columns(table.path, ",".join(table.columns))


def _unclear(
    table: Table, what: str, candidates: Sequence[str], example: Sequence[str] = ()
) -> UserError:
    named = "paths, labels and splits" if example else "paths and labels"
    example = example or (table.columns[0], table.columns[-1])
    return UserError(
        f"{table.path}: the {what} could be in the columns {' or '.join(candidates)}; name those "
        f"of {named}, as in --columns {','.join(example)} (of train and finetune: --data.columns)"
    )
