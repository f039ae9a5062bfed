"""What a command will compute, found before its arguments are parsed: flags of XLA depend on it."""

import itertools
import os
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import Any

from ..config import load_config
from ..errors import UserError
from ..paths import expand
from ..runtime import Dtype, auto_cpu_dtype, cpu_environment
from ..text_files import parse_json


def dtype_of(words: Sequence[str]) -> Dtype:
    """Find the dtype that a command will compute in.

    It is that of the option ``--model.dtype``, else of the recipe that ``--config`` names, else of
    the run whose folder is named. What cannot be read is left to the command, which reports it.

    Args:
        words: The words after the command's name.
    """
    dtype: Any = _value_of("--model.dtype", words)
    recipe = _value_of("--config", words)
    with suppress(UserError):
        if dtype is None and recipe is not None:
            dtype = load_config(recipe).model.dtype
    if dtype is None:
        for word in words:
            with suppress(OSError, ValueError, AttributeError, UserError):
                dtype = parse_json((expand(word) / "config.json").read_bytes()).get("model.dtype")
            if dtype is not None:
                break
    if dtype == "auto":
        bfloat16 = cpu_environment(os.environ, version("jaxlib"), "bfloat16")
        return auto_cpu_dtype(bfloat16.get("XLA_FLAGS", os.environ.get("XLA_FLAGS", "")))
    return "bfloat16" if dtype == "bfloat16" else "float32"


def _value_of(option: str, words: Sequence[str]) -> str | None:
    """Return the value that ``words`` give to an option, the last if there are several."""
    value = None
    for word, following in itertools.zip_longest(words, words[1:]):
        name, separator, after = word.partition("=")
        if name == option:
            value = after if separator else following
    return value
