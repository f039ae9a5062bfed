"""The grammar of all commands: tyro turns functions and configs into command lines.

tyro reports wrong usage in boxes of several lines; here each becomes one sentence.
"""

import contextlib
import difflib
import functools
import inspect
import io
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tyro

from ..config import Config
from ..errors import UserError, wrong_choice

_T = TypeVar("_T")

# Renamed options: the last component of the old name, and that of the new one.
RENAMED = {
    "ops": "conv-impl",
    "save-every-steps": "save-every",
    "freeze-until": "freeze-before",
}

# Sentences for what tyro reports, by the text of its box.
_SENTENCES = (
    (r"Error parsing (\S+): invalid literal for int.*: (.*)", r"\1 is \2; it must be an integer."),
    (r"Error parsing (\S+): could not convert .*: (.*)", r"\1 is \2; it must be a number."),
    (r"Missing value for argument '(.*)'. Expected 1 values.", r"\1 needs a value."),
    (r"Missing value for argument '(.*)'. Expected (.*) values.", r"\1 needs \2 values."),
)


def command(function: Callable[..., None]) -> Callable[[Sequence[str]], None]:
    """Make a function ``NAME_command`` with typed parameters a command of the command line.

    Args:
        function: The function. Its parameters before ``/`` are positional arguments, those after
            ``*`` are options, and its docstring is the help.

    Returns:
        A function of the words after the command's name. It parses them and calls the function.
    """
    name = function.__name__.removesuffix("_command").replace("_", "-")

    @functools.wraps(function)
    def run(words: Sequence[str]) -> None:
        bound, rest = parse_known(name, function, words)
        if rest:
            raise _wrong_usage(name, rest, (function,))
        bound()

    return run


def parse_known(
    name: str,
    function: Callable[..., _T],
    words: Sequence[str],
    *,
    others: Sequence[Callable[..., Any]] = (),
    add_help: bool = True,
) -> tuple[Callable[[], _T], list[str]]:
    """Parse the words that fit a function's signature.

    Args:
        name: The command's name.
        function: The function, as for ``command``.
        words: The words after the command's name.
        others: Other functions or dataclasses whose options the command has.
        add_help: Whether ``--help`` prints the function's help or is returned as unknown.

    Returns:
        The function bound to its arguments, and the words that it does not know.

    Raises:
        UserError: The words do not fit the signature.
        SystemExit: The help has been printed.
    """

    @functools.wraps(function)
    def bind(*positional: Any, **options: Any) -> Callable[[], _T]:
        return functools.partial(function, *positional, **options)

    # tyro keeps the line breaks of the source in the help.
    bind.__doc__ = re.sub(r"\n {8}", " ", inspect.getdoc(function) or "")
    markers = (tyro.conf.PositionalMetavarFromFieldName, tyro.conf.FlagCreatePairsOff)
    return _call_tyro(name, bind, words, others, config=markers, add_help=add_help)


def parse_config(
    name: str,
    default: Config,
    words: Sequence[str],
    *,
    others: Sequence[Callable[..., Any]] = (),
    description: str | None = None,
) -> Config:
    """Parse words that set fields of a config, such as ``--optimizer.learning-rate 0.1``.

    Args:
        name: The command's name.
        default: The config whose fields are set.
        words: The words after the command's name.
        others: Other functions or dataclasses whose options the command has.
        description: The introduction of the help.

    Raises:
        UserError: The words are not fields and their values.
        SystemExit: The help has been printed.
    """
    config, rest = _call_tyro(name, Config, words, others, default=default, description=description)
    if rest:
        raise _wrong_usage(name, rest, (Config, *others))
    return config


def _call_tyro(
    name: str,
    subject: Callable[..., Any],
    words: Sequence[str],
    others: Sequence[Callable[..., Any]],
    **settings: Any,
) -> Any:
    """Parse with tyro; return its result and the words that it does not know."""
    report = io.StringIO()
    try:
        with contextlib.redirect_stderr(report):
            return tyro.cli(
                subject,
                prog=f"flax-resnet {name}",
                args=words,
                return_unknown_args=True,
                **settings,
            )
    except SystemExit as end:
        if not end.code:
            raise
        raise _wrong_usage(name, words, (subject, *others), report.getvalue()) from None


def _wrong_usage(
    name: str, words: Sequence[str], subjects: Sequence[Callable[..., Any]], report: str = ""
) -> UserError:
    """Describe wrong usage: the first unknown option if there is one, else tyro's report."""
    name, known = name.split()[0], _options(subjects)
    for word in words:
        option = word.split("=")[0].replace("_", "-")
        if re.match("--?[a-z]", option) and option not in known:
            return UserError(_unknown_option(name, option, known), exit_code=2)
    help_is = f"see `flax-resnet {name} --help`."
    if not report:
        return UserError(f"{words[0]!r} is one argument too many: {help_is}", exit_code=2)
    # The box: a title, what is wrong, a rule, further help. Without UTF-8 it has ASCII lines.
    lines = [line.strip("│").rstrip() for line in report.splitlines()[1:]]
    below = itertools.dropwhile(_is_rule, lines)
    body = list(itertools.takewhile(lambda line: not _is_rule(line), below))
    if "Missing from" in body[0]:
        indent = body[0].index("M") + 4  # of names; their help is further to the right
        names = [line.split()[0] for line in body if re.match(f" {{{indent}}}\\S", line)]
        verb = "is" if len(names) == 1 else "are"
        return UserError(f"{' and '.join(names)} {verb} missing: {help_is}", exit_code=2)
    text = " ".join(" ".join(body).split())
    for pattern, sentence in _SENTENCES:
        text = re.sub(f"^{pattern}$", sentence, text)
    if choice := re.match(
        r"invalid choice ('.*') for argument '(.*)'\. Expected one of (.*)", text
    ):
        value, option, choices = choice.groups()
        return wrong_choice(option, value, sorted({*re.findall("'([^']*)'", choices)} - {"None"}))
    return UserError(text, exit_code=2)


def _is_rule(line: str) -> bool:
    return bool(re.match(" *(───|---)", line))


def _unknown_option(name: str, option: str, known: Sequence[str]) -> str:
    """Say what to write instead of an option that the command does not have."""
    old = option.lstrip("-").rpartition(".")[2]
    if new := RENAMED.get(old):
        candidates = [
            option.removesuffix(old) + new,
            *(other for other in known if other.endswith(f".{new}")),
        ]
        for candidate in filter(known.__contains__, candidates):
            return f"`{option}` is now `{candidate}`."
    nearest = difflib.get_close_matches(option, known, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else f"see `flax-resnet {name} --help`."
    return f"There is no option {option}: {hint}"


def _options(subjects: Sequence[Callable[..., Any]]) -> list[str]:
    """Return all options in the help of functions or dataclasses."""
    text = io.StringIO()
    for subject in subjects:
        with contextlib.suppress(SystemExit), contextlib.redirect_stdout(text):
            tyro.cli(subject, args=["--help"])
    return sorted({"-h", *re.findall(r"(?<!\S)--[a-z][\w.-]*[\w]", text.getvalue())})
