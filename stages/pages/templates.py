"""Loading the HTML templates, with escaping of all values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def page_templates(**filters: Callable[..., str]) -> Environment:
    """The environment of the templates in this folder. Missing variables are errors, and all values are escaped.

    :param filters: further filters, beside ``count`` (12,345).
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": "{:,}".format, **filters}
    return environment
