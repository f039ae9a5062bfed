"""Pages from the templates of ``templates/``: HTML, style and scripts in one file."""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ..file_names import escape
from ..output_files import replacing, to_json
from .environment import package_version


def write_html(
    path: Path,
    template: str,
    scripts: Sequence[str],
    data: Mapping[str, Any],
    content: Mapping[str, Any],
) -> None:
    """Write a page as one file that needs no other.

    Args:
        path: The file.
        template: Name of the template.
        scripts: Names of its scripts.
        data: What the scripts read, as JSON values.
        content: What the template shows.

    Raises:
        UserError: The file cannot be written.
    """
    page = (
        _templates()
        .get_template(template)
        .render(
            css=Markup(_asset("page.css")),
            script=Markup("\n".join(map(_asset, scripts))),
            data=Markup(script_json(data)),
            version=package_version(),
            **content,
        )
    )
    with replacing(path) as fresh:
        # The name of a folder can hold bytes that are not UTF-8.
        fresh.write_text(page, encoding="utf-8", errors="backslashreplace")


def script_json(value: Any) -> str:
    """Return a value as JSON that no HTML parser takes for markup."""
    text = to_json(_readable(value), separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _readable(value: Any) -> Any:
    """Write out bytes of names that are not UTF-8."""
    if isinstance(value, str):
        return value if value.isascii() else escape(value)
    if isinstance(value, dict):
        return {key: _readable(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_readable(entry) for entry in value]
    return value


@cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )


@cache
def _asset(name: str) -> str:
    return (files(__package__) / "templates" / name).read_text(encoding="utf-8")
