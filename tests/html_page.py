"""HTML pages as tests read them: text, tags, the cells of a table, and a name that would break out of its place."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Final

HOSTILE: Final = '<script>alert("x")</script><img src=x onerror=alert(1)>" onclick="f()" \' javascript:alert(3)&lt;&'
VOID: Final = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Text and attributes of a page; tags must nest and close."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.chunks: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.chunks).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.chunks.append(data)


def outline(html: str) -> list[tuple[str, tuple[str, ...]]]:
    """The elements of a page and the names of their attributes: equal for pages that differ in texts alone."""
    return [(tag, tuple(attributes)) for tag, attributes in Page(html).tags]


def rows_after(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table body after a heading, as text."""
    body = page[page.index(heading) :]
    body = body[body.index("<tbody>") : body.index("</table>")]
    return [
        [re.sub(r"<[^>]*>", "", cell).strip() for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.S)]
        for row in re.findall(r"<tr>(.*?)</tr>", body, re.S)
    ]


def assert_alone(html: str) -> None:
    """The page fetches nothing, and nothing in it runs."""
    for word in ("http:", "https:", "@import", "url("):
        assert word not in html
    for tag, attributes in Page(html).tags:
        assert tag not in {"script", "iframe", "object", "link", "base"}
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href"):
            within = ("./", "#", *(("data:image/jpeg;base64,",) if tag == "img" else ()))
            assert name not in attributes or attributes[name].startswith(within)
