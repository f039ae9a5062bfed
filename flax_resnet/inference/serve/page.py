"""The page at ``/``: one file without a request to anywhere but this server."""

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from .service import Service


@cache
def _template() -> str:
    return files(__package__).joinpath("page.html.jinja").read_text(encoding="utf-8")


def write_page(name: str, service: Service) -> str:
    """Return the page of a model as HTML."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(_template()).render(
        name=name,
        classes=f"{len(service.classifier.classes):,}",
        max_upload=service.settings.max_upload,
        needs_token=service.settings.token is not None,
        heat_maps=str(service.has_heat_maps).lower(),
    )


def content_security_policy() -> str:
    """Return the policy by which a browser runs the page's own script and styles and no others."""
    digests = {
        tag: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for tag, text in re.findall(r"<(script|style)>(.*?)</\1>", _template(), re.DOTALL)
    }
    return (
        "default-src 'none'; connect-src 'self'; img-src blob: data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; "
        f"script-src 'sha256-{digests['script']}'; style-src 'sha256-{digests['style']}'"
    )
