"""Checks of the installation: Python, wsipipe itself, PyTorch, OpenSlide."""

from __future__ import annotations

import importlib
import platform
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution, requires, version
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.version import Version

from ...data.version import __version__
from .finding import Finding, Subject, failed, ok, warning

DISTRIBUTION: Final = "wsipipe-momkd"
"""wsipipe's name on the package index, where another project is called ``wsipipe``."""
_OWN_FILES: Final = ("data/version.py", "pipeline/cli.py")
LEAST_OPENSLIDE: Final = Version("4.0.1")
_PACKAGES: Final = {
    "numpy": "numpy",
    "pandas": "pandas",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "skimage": "scikit-image",
    "cv2": "opencv-python-headless",
    "PIL": "pillow",
    "h5py": "h5py",
    "zarr": "zarr",
    "numcodecs": "numcodecs",
    "anndata": "anndata",
    "pyarrow": "pyarrow",
    "safetensors": "safetensors",
    "huggingface_hub": "huggingface-hub",
    "filelock": "filelock",
    "matplotlib": "matplotlib",
    "jinja2": "jinja2",
}
"""Module → package. PyTorch, OpenSlide and the codecs have checks of their own."""
_INSTALL: Final = "install wsipipe and its packages again: `pip install -c constraints.txt .` in a new environment"


def python(subject: Subject) -> Finding:
    """The version of Python, and where it lies."""
    here = f"{platform.python_version()} at {sys.executable} ({platform.system()} {platform.machine()})"
    if sys.maxsize < 2**32:
        return failed(f"{here}, of 32 bits", "use a Python of 64 bits")
    return ok(here, version=platform.python_version(), executable=sys.executable)


def wsipipe(subject: Subject) -> Finding:
    """The version of wsipipe, where it is imported from, and whether another package of that name is in the way."""
    folder = Path(__file__).parents[2]
    figures = {"version": __version__, "folder": str(folder)}
    here = f"{__version__} from {folder}"
    try:
        installed = version(DISTRIBUTION)
    except PackageNotFoundError:
        installed = None
    try:
        others = f"wsipipe {distribution('wsipipe').version}"
    except PackageNotFoundError:
        others = ""
    if others:
        return failed(
            f"{here}; {others} of the package index, which is another project, is installed too",
            f"both write into one folder: `pip uninstall wsipipe {DISTRIBUTION}`, then install {DISTRIBUTION} again",
            **figures,
        )
    strangers = [other for other in _packages_called_so() if not other.samefile(folder)]
    if strangers:
        kind = "another copy" if _is_ours(strangers[0]) else "another project's package of that name"
        return warning(
            f"{here}; {kind} lies at {strangers[0]}",
            "which of them Python takes depends on the order of its path: remove the other one",
            **figures,
            others=[str(other) for other in strangers],
        )
    if installed not in (None, __version__):
        return warning(f"{here}, but {installed} is what is installed", _INSTALL, **figures)
    return ok(here if installed else f"{here} (not installed, used from its folder)", **figures)


def _packages_called_so() -> list[Path]:
    """Every package ``wsipipe`` that Python's path leads to."""
    found: list[Path] = []
    for folder in (Path(entry or ".") / "wsipipe" for entry in sys.path):
        with suppress(OSError):  # an entry that may not be looked into
            if (folder / "__init__.py").is_file():
                found.append(folder)
    return found


def _is_ours(folder: Path) -> bool:
    return all((folder / name).is_file() for name in _OWN_FILES)


def pytorch(subject: Subject) -> Finding:
    """The versions of PyTorch, torchvision and timm, which must fit each other to be imported."""
    import timm
    import torch

    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else ""
    built = built or (f"ROCm {torch.version.hip}" if torch.version.hip else "the CPU alone")
    here = f"torch {torch.__version__}, built for {built}; "
    figures = {"torch": str(torch.__version__), "cuda": torch.version.cuda, "timm": timm.__version__}
    try:
        vision = importlib.import_module("torchvision")
        vision.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([1.0]), 0.5)
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        first_line = (str(error).splitlines() or [repr(error)])[0]
        return failed(f"{here}torchvision does not fit it: {first_line}", _INSTALL, **figures)
    return ok(f"{here}torchvision {vision.__version__}; timm {timm.__version__}", **figures)


def packages(subject: Subject) -> Finding:
    """Whether every other package can be imported, and is of a version that wsipipe is meant for."""
    wrong: list[str] = []
    for name, package in _PACKAGES.items():
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001  whatever a package raises is why it cannot be used
            wrong.append(f"{package}: {(str(error).splitlines() or [repr(error)])[0]}")
    wrong += _unmet(DISTRIBUTION)
    found = {package: _version(package) for package in _PACKAGES.values()}
    if wrong:
        return failed("; ".join(wrong), _INSTALL, packages=found)
    if unmet := [what for package in _PACKAGES.values() for what in _unmet(package)]:
        return warning("; ".join(unmet), _INSTALL, packages=found)
    return ok(f"{len(found)} can be imported", packages=found)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _unmet(owner: str) -> list[str]:
    """What an installed package asks of others and they are not; nothing is known where it is not installed."""
    try:
        asked = [Requirement(line) for line in requires(owner) or []]
    except PackageNotFoundError:
        return []
    unmet = []
    for need in asked:
        there = _version(need.name)
        if there is None or (need.marker is not None and not need.marker.evaluate({"extra": ""})):
            continue  # what is not there at all is missed at the import
        if not need.specifier.contains(there, prereleases=True):
            unmet.append(f"{owner} needs {need.name} {need.specifier}, and {there} is there")
    return unmet


def openslide(subject: Subject) -> Finding:
    """The version of the OpenSlide library: 4.0.1 mended how some slides are read."""
    import openslide as library

    found = str(library.__library_version__)
    if Version(found) < LEAST_OPENSLIDE:
        return failed(f"{found}, older than {LEAST_OPENSLIDE}", "`pip install --upgrade openslide-bin`", version=found)
    return ok(found, version=found)
