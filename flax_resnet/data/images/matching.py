"""Folders of classes matched to the classes that a model knows, by one of several namings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from flax_resnet.data.images.records import first_few, pluralize
from flax_resnet.errors import UserError

Namings = Mapping[str, Sequence[str]]
"""What names are called, such as ``WordNet IDs`` -> a name for each class, in their order."""

NUMBERS = "numbers"
"""The naming of classes by their numbers from 0; in folders, zeros may precede these."""


def match_classes(
    source: str, found: Iterable[str], classes: Sequence[str], other_names: Namings
) -> tuple[dict[str, int], str]:
    """Return the label of each class folder, by the one naming that has all of them.

    Args:
        source: The folder that has the class folders, for messages.
        found: Names of the class folders.
        classes: Class names in the order of the labels.
        other_names: Other namings of the classes.

    Returns:
        The labels, and a sentence for the user where they follow another naming; else "".

    Raises:
        UserError: No naming has all names, two namings give different labels, a name is that of two
            classes, or numbers may count from 1.
    """
    names = sorted(found)
    namings = {"names": classes, **other_names}
    matches = {
        what: labels
        for what, known in namings.items()
        if (labels := _labels(what, names, known)) is not None
    }
    if not matches:
        raise UserError(_unknown(source, names, classes, other_names))
    (what, labels), *others = matches.items()
    for other, its in others:
        if differing := [name for name in names if labels[name] != its[name]]:
            name = differing[0]
            raise UserError(
                f"{source}: the folder {name} is {_described(labels[name], classes)} by the {what} "
                f"of the classes and {_described(its[name], classes)} by their {other}: rename the "
                "folders after the classes"
            )
    for name in names:
        if len(twice := [str(n) for n, known in enumerate(namings[what]) if known == name]) > 1:
            raise UserError(
                f"{source}: the folder {name} may be any of the classes {first_few(twice)}, which "
                "have the same name: rename the folders to the numbers of the classes"
            )
    if what == "names":
        return labels, ""
    if what == NUMBERS and _count_from_one(names):
        raise UserError(
            f"{source}: its folders are numbered from 1 to {len(names)}, but classes count from 0: "
            f"if {names[0]} is {_described(0, classes)}, rename the folders so that they count "
            f"from 0; if it is {_described(1, classes)}, name them after the classes"
        )
    example = names[0]
    return labels, (
        f"{source}: the folders are matched by the {what} of the classes "
        f"({example} is {classes[labels[example]]})"
    )


def _labels(what: str, names: Sequence[str], known: Sequence[str]) -> dict[str, int] | None:
    """Return the label of each name by one naming, or None if it lacks one of them."""
    label_of = {name: label for label, name in enumerate(known)}
    if what == NUMBERS:
        plain = {name: str(int(name)) for name in names if name.isascii() and name.isdigit()}
        if len(set(plain.values())) < len(names):
            return None
    else:
        plain = {name: name for name in names}
    if not all(plain.get(name) in label_of for name in names):
        return None
    return {name: label_of[plain[name]] for name in names}


def _count_from_one(names: Sequence[str]) -> bool:
    return len(names) > 1 and sorted(map(int, names)) == list(range(1, len(names) + 1))


def _described(label: int, classes: Sequence[str]) -> str:
    name = classes[label]
    return f"class {label}" if name == str(label) else f"class {label} ({name})"


def _unknown(source: str, names: Sequence[str], classes: Sequence[str], others: Namings) -> str:
    known = {"names": classes, **others}
    unknown = [name for name in names if name not in set(classes)]
    by_naming = {
        what: [name for name in names if _labels(what, [name], its) is not None]
        for what, its in known.items()
    }
    message = (
        f"{source} has {pluralize(len(unknown), 'class', 'classes')} that "
        f"{'is' if len(unknown) == 1 else 'are'} not among those expected: {first_few(unknown)}"
    )
    mixed = {what: some for what, some in by_naming.items() if some}
    if len(mixed) > 1:
        kinds = ", ".join(f"{some[0]} is one of their {what}" for what, some in mixed.items())
        return f"{message}; {kinds}: name all folders in one of these forms"
    return f"{message}; rename or remove these folders"
