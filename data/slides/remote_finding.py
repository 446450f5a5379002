"""Finding slides by URL: what a bucket or a web server lists, and the files that each slide consists of.

The rules are those of a disk (:mod:`.finding`): a folder with DICOM files is one slide, an MRXS slide comes with the
folder beside it, a VMS or VMU slide with the images that it names. A web server lists a folder by a page of links, or
not at all; then slides can be named one by one, and of several files only those whose index names them.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, BinaryIO, Final, cast
from urllib.parse import unquote

from ..errors import SlideError, UsageError
from ..file_names import why_no_file_name, why_no_output
from ..surroundings import patiently
from .dicom_header import slide_series
from .folder_contents import (
    DICOM,
    MIRAX,
    WITH_IMAGES_BESIDE,
    holds_dicom,
    is_only_slide,
    of_its_series,
    slides_among,
    values_named,
)
from .readers import SLIDE_EXTENSIONS
from .remote import COPY_IT, FOLDER, RemoteFile, connection_faults, represent, system_of, version_of

_HEAD: Final = 1 << 16
"""Bytes that are asked for at a time of the beginning of a file."""
_INDEX_BYTES: Final = 1 << 20
"""Most bytes that are read of a VMS or VMU index; one has a few thousand."""
_NOT_LISTED: Final = (401, 403, 405, 406, 410, 501)
"""Answers of a web server that does not list a folder."""

About = Mapping[str, Any]
"""What a server says of a file."""
LeftOut = dict[str, list[Path]]


def find_remote(url: str, workspace: Path, left_out: LeftOut) -> list[Path]:
    """Represent the slide at a URL, or all slides below it, by files in the workspace.

    :param left_out: gets what a user might miss: reason → URLs.
    :raises UsageError: what opens such URLs is not installed; there is nothing at the URL, no slide, or a folder that
        the server does not list.
    :raises SurroundingsError: the server does not answer.
    """
    found, others = patiently(lambda: _found(url), url)
    for why, those in others.items():
        left_out.setdefault(why, []).extend(those)
    return [slide.represented(workspace) for slide in found]


def _found(url: str) -> tuple[list[_Slide], LeftOut]:
    """The slides, and what a user might miss; both anew each time that the server is asked."""
    left_out: LeftOut = {}
    with connection_faults(url):
        server = _Server(url)
        if not server.is_folder():
            return [_slide_at(server, server.path)], left_out
        root = server.path.rstrip("/")
        slides = list(_slides_below(server, root, server.below(root), left_out))
    if not slides:
        known = " ".join(sorted(SLIDE_EXTENSIONS | {DICOM}))
        raise UsageError("no slides there", path=url, hint=f"slides are found by their extension: {known}")
    return slides, left_out


class _Server:
    """What is at a URL, by what the server there says.

    :raises UsageError: what opens such URLs is not installed.
    """

    def __init__(self, url: str) -> None:
        self._url, self._scheme = url, url.partition("://")[0]
        self.system, self.path = system_of(url)
        self.system.invalidate_cache()
        self._web = self._scheme in ("http", "https")

    def is_folder(self) -> bool:
        """Whether the URL is that of a folder. A web server answers alike for both: the URL's end decides, or a page.

        :raises UsageError: there is nothing.
        """
        if self._web and self.path.endswith("/"):
            return True
        about = self.about(self.path)
        if about is None:
            hint = "check the URL, and the credentials in the environment"
            raise UsageError("nothing is found there", path=self._url, hint=hint)
        if not self._web:
            return about.get("type") == "directory"
        page = about.get("mimetype") == "text/html"
        return page and Path(self.name_of(self.path)).suffix.lower() not in SLIDE_EXTENSIONS | {DICOM}

    def about(self, path: str) -> About | None:
        """What the server says of a file; None if it is not there."""
        try:
            return cast("About", self.system.info(path))
        except FileNotFoundError:
            return None

    def below(self, folder: str) -> _Listing:
        """List all files below a folder.

        :raises UsageError: the server does not list it.
        """
        if not self._web:
            found = self.system.find(folder, detail=True)
            files_there = {file: about for file, about in found.items() if about.get("type") == "file"}
            # A key that ends so is no file: what a console makes where somebody creates a folder.
            return _Listing({file: about for file, about in files_there.items() if not file.endswith("/")})
        files: dict[str, About] = {}
        folders, seen = [f"{folder}/"], set[str]()
        while folders:
            here = folders.pop()
            if here in seen:
                continue
            seen.add(here)
            for entry in self._links(here):
                path = entry["name"]
                if path.endswith("/"):
                    folders.append(path)
                else:
                    files[path] = entry
        return _Listing(files)

    def _links(self, folder: str) -> list[About]:
        """The links of a web server's page on a folder that lead below it."""
        try:
            entries = self.system.ls(folder, detail=True)
        except Exception as error:
            if not isinstance(error, FileNotFoundError) and getattr(error, "status", None) not in _NOT_LISTED:
                raise
            entries = []
        below = [entry for entry in entries if _leads_below(entry["name"], folder)]
        if not below:
            hint = (
                "name the slides by their URLs. The files of MRXS and DICOM slides can be found in a bucket (s3://) "
                "or on a server that lists its folders; or copy them to a disk, and give that path"
            )
            raise UsageError("the web server does not list this folder", path=folder, hint=hint)
        return below

    def open(self, path: str) -> BinaryIO:
        """Open a file, to read a little of its beginning."""
        return cast("BinaryIO", self.system.open(path, "rb", block_size=_HEAD, cache_type="readahead"))

    def url_of(self, path: str) -> str:
        """The URL of a path in this file system."""
        return path if "://" in path else f"{self._scheme}://{path}"

    def name_of(self, path: str) -> str:
        """The last part of a path, as the file is called."""
        name = path.partition("?")[0].rstrip("/").rpartition("/")[2] if self._web else path.rpartition("/")[2]
        return unquote(name) if self._web else name

    def file(self, name: str, path: str, about: About) -> RemoteFile:
        """A file of a slide, with its size and version.

        :param about: as it was listed; a web server's page of links says neither.
        :raises SlideError: the server does not state them.
        """
        url = self.url_of(path)
        if about.get("size") is None and self._web:
            about = self.about(path) or about
        if (size := about.get("size")) is None:
            raise SlideError("the server does not state its size", path=url, hint=COPY_IT)
        return RemoteFile(name, int(size), url, version_of(about, url))


class _Listing(dict[str, About]):
    """Files that a server lists: path → what it says of it, in the order of the paths."""

    def __init__(self, files: Mapping[str, About]) -> None:
        super().__init__(sorted(files.items()))
        self._paths = list(self)

    def under(self, folder: str) -> Iterator[str]:
        """The paths below a folder."""
        for path in islice(self._paths, bisect_left(self._paths, f"{folder}/"), None):
            if not path.startswith(f"{folder}/"):
                return
            yield path


class _Slide:
    """A slide that was found.

    :param name: its own, by whose extension its format is known.
    :param above: the folder that it lies in.
    :param parts: its files: name as seen from that folder → path and what the server says of it.
    """

    def __init__(self, server: _Server, name: str, above: str, parts: Mapping[str, tuple[str, About]]) -> None:
        self._name, self._above = name, server.url_of(above)
        for part in (name, *parts):
            if reason := why_no_file_name(name) or why_no_output(part):
                raise UsageError(f"the name {part!a} {reason}", path=f"{self._above}/{name}", hint="rename the file")
        self._files = [server.file(part, path, about) for part, (path, about) in parts.items()]

    def represented(self, workspace: Path) -> Path:
        """Write the file that represents it."""
        place = workspace / FOLDER / hashlib.sha256(self._above.encode()).hexdigest()[:12]
        return represent(self._name, self._files, place)


def _slides_below(server: _Server, root: str, files: _Listing, left_out: LeftOut) -> Iterator[_Slide]:
    """The slides among all files below a folder."""
    folders: dict[str, dict[str, str]] = {}
    for path in files:
        if not any(part.startswith(".") for part in path.removeprefix(root).split("/")):
            folders.setdefault(path.rpartition("/")[0], {})[server.name_of(path)] = path
    of_mirax: set[str] = set()
    for folder, paths in sorted(folders.items()):
        if not of_mirax.isdisjoint(accumulate(folder.split("/"), "{}/{}".format)):
            continue
        names = [Path(name) for name in sorted(paths)]
        of_mirax |= {paths[file.name][: -len(MIRAX)] for file in names if file.suffix.lower() == MIRAX}
        if holds_dicom(names):
            yield _dicom_folder(server, folder, files)
        left_here: LeftOut = {}
        for file in slides_among(names, left_here):
            if (slide := _slide_of(server, paths[file.name], files)) is not None:
                yield slide
            else:
                left_here.setdefault("none of the images that it names lies beside it", []).append(file)
        for why, those in left_here.items():
            left_out.setdefault(why, []).extend(Path(server.url_of(paths[file.name])) for file in those)


def _slide_at(server: _Server, path: str) -> _Slide:
    """The slide whose own file is at a path, with its other files."""
    above, name = path.partition("?")[0].rpartition("/")[0], server.name_of(path)
    suffix = Path(name).suffix.lower()
    if suffix == DICOM:
        files = server.below(above)
        here = [file for file in files if file.rpartition("/")[0] == above and file.lower().endswith(DICOM)]
        series = {file: _series(server, file) for file in here}
        if is_only_slide(path, series):
            return _dicom_folder(server, above, files)
        own = sorted({path, *of_its_series(path, series)})
        return _Slide(server, name, above, {server.name_of(file): (file, files[file]) for file in own})
    beside = server.below(path[: -len(MIRAX)]) if suffix == MIRAX else {}
    slide = _slide_of(server, path, _Listing({path: _about(server, path), **beside}))
    if slide is None:
        hint = "copy the slide with its images there, or to a disk and give that path"
        raise UsageError("none of the images that it names lies beside it", path=server.url_of(path), hint=hint)
    return slide


def _slide_of(server: _Server, path: str, files: _Listing) -> _Slide | None:
    """The slide whose own file is at a path, with its other files among those that were listed.

    :returns: None of an index none of whose images is there.
    """
    above, name = path.partition("?")[0].rpartition("/")[0], server.name_of(path)
    suffix = Path(name).suffix.lower()
    parts = {name: (path, files[path])}
    if suffix == MIRAX:
        parts |= _seen_from(above, files.under(path[: -len(MIRAX)]), files, server)
    if suffix in WITH_IMAGES_BESIDE:
        if not (images := _images_of(server, path, above, files)):
            return None
        parts |= images
    return _Slide(server, name, above, parts)


def _images_of(server: _Server, path: str, above: str, files: _Listing) -> dict[str, tuple[str, About]]:
    """The images that a VMS or VMU index names, of which a server that does not list is asked one by one."""
    with server.open(path) as stream:
        index = stream.read(_INDEX_BYTES).decode("utf-8", "surrogateescape")
    named = [value for value in values_named(index) if Path(value).suffix.strip(".").isalpha()]  # a number is no name
    beside = {value: f"{above}/{value}" for value in named if not why_no_file_name(value)}
    return {value: (at, about) for value, at in beside.items() if (about := files.get(at) or server.about(at))}


def _dicom_folder(server: _Server, folder: str, files: _Listing) -> _Slide:
    """A folder of DICOM files as a slide. In its copy the folder has the extension, by which its id stays its name."""
    name = f"{server.name_of(folder)}{DICOM}"
    own = [file for file in files.under(folder) if not server.name_of(file).startswith(".")]
    parts = {f"{name}/{inside}": found for inside, found in _seen_from(folder, own, files, server).items()}
    return _Slide(server, name, folder.rpartition("/")[0], parts)


def _seen_from(folder: str, paths: Iterable[str], files: _Listing, server: _Server) -> dict[str, tuple[str, About]]:
    """Files by their names as seen from a folder."""
    inside = {path: path.removeprefix(f"{folder}/").split("/") for path in paths}
    return {"/".join(map(server.name_of, parts)): (path, files[path]) for path, parts in inside.items()}


def _about(server: _Server, path: str) -> About:
    about = server.about(path)
    if about is None:
        raise FileNotFoundError(path)
    return about


def _series(server: _Server, path: str) -> str:
    with server.open(path) as stream:
        return slide_series(stream)


def _leads_below(link: str, folder: str) -> bool:
    """Whether a link leads to a file or a folder below a folder, and is not one that sorts the page."""
    inside = link.removeprefix(folder)
    return inside not in ("", link) and not any(mark in inside for mark in "?#") and ".." not in inside.split("/")
