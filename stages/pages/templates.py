"""The templates of our pages: how they are found, and how they escape what they are given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def page_templates(**filters: Callable[..., str]) -> Environment:
    """The templates in this folder. What they lack is an error, and what they are given is escaped.

    :param filters: of the page, beside ``count`` (12,345).
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
