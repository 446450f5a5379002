"""Write the exact versions and hashes that the image installs.

``docker/packages.txt`` has everything but PyTorch, and ``docker/torch-BUILD.txt`` PyTorch with its CUDA libraries, for
one build. Hashes hold for one platform, so run this with the Python of the image, in the folder of the clone::

    docker run --rm --user "$(id -u):$(id -g)" --env HOME=/tmp --volume "$PWD:/src" --workdir /src BASE \\
        python docker/lock.py

``python docker/lock.py cpu``, or ``cu126``, writes only ``docker/torch-cpu.txt`` or ``docker/torch-cu126.txt``, from
PyTorch's own index. Nothing is installed; only what pip would install is asked for.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
EXTRAS: Final = ("cluster", "remote", "view")
"""What the image brings beside wsipipe's own dependencies."""
FROM_THE_INDEX: Final = "cu132"
"""The build of PyTorch that the package index itself has."""
OF_TORCH: Final = re.compile(r"torch|torchvision|triton|nvidia-.+|cuda-.+")
TORCH_INDEX: Final = "https://download.pytorch.org/whl"


def main(build: str | None) -> None:
    """Write the two files of the default build, or the one of another build."""
    if build is None:
        installed = resolved(*wanted())
        write("packages", {name: pin for name, pin in installed.items() if not OF_TORCH.fullmatch(name)})
        write(f"torch-{FROM_THE_INDEX}", {name: pin for name, pin in installed.items() if OF_TORCH.fullmatch(name)})
    else:
        installed = resolved("--extra-index-url", f"{TORCH_INDEX}/{build}", *of_build(build))
        write(f"torch-{build}", {name: pin for name, pin in installed.items() if OF_TORCH.fullmatch(name)})


def wanted() -> list[str]:
    """The requirements of wsipipe and of the extras, and what builds its wheel."""
    file = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = file["project"]
    further = [line for extra in EXTRAS for line in project["optional-dependencies"][extra]]
    return [*project["dependencies"], *further, *file["build-system"]["requires"]]


def of_build(build: str) -> list[str]:
    """PyTorch in the versions of ``constraints.txt``, as that build."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [f"{line}+{build}" for line in lines if line.startswith(("torch==", "torchvision=="))]


def resolved(*words: str) -> dict[str, tuple[str, str]]:
    """Version and SHA-256 of every wheel that pip would install, by the package's name."""
    options = ["--dry-run", "--ignore-installed", "--only-binary", ":all:", "--quiet", "--report", "-"]
    command = [sys.executable, "-m", "pip", "install", *options, "--constraint", str(ROOT / "constraints.txt"), *words]
    report: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    pins = {}
    for item in report["install"]:
        name = re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower()
        pins[name] = (item["metadata"]["version"], item["download_info"]["archive_info"]["hashes"]["sha256"])
    return pins


def write(name: str, pins: dict[str, tuple[str, str]]) -> None:
    """Write one file, sorted by package."""
    lines = [f"{package}=={version} --hash=sha256:{digest}" for package, (version, digest) in sorted(pins.items())]
    head = (
        f"# Written by docker/lock.py for CPython {sys.version_info.major}.{sys.version_info.minor} on Linux, x86-64."
    )
    (ROOT / "docker" / f"{name}.txt").write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
