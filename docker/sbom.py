"""Write what an image contains: every Python package and every Debian package, as a CycloneDX 1.6 bill of materials.

``python docker/sbom.py FILE``, by the Python of the image. The same image gives the same bytes: there is no time and no
random number in it. A package that was installed by hash has the SHA-256 of its wheel.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).resolve().parent
OURS: Final = "wsipipe-momkd"
PINNED: Final = re.compile(r"^([a-z0-9-]+)==(\S+) --hash=sha256:([0-9a-f]{64})$", flags=re.MULTILINE)


def bill() -> dict[str, Any]:
    """The bill of materials of the Python and the system that this runs in."""
    hashes = {(name, version): digest for name, version, digest in pinned()}
    packages = {component["name"]: component for component in map(python_package, distributions())}
    for name, component in packages.items():
        if digest := hashes.get((name, component["version"])):
            component["hashes"] = [{"alg": "SHA-256", "content": digest}]
    ours = packages.pop(OURS, {"type": "library", "name": OURS})
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {**ours, "type": "application"}},
        "components": [*(packages[name] for name in sorted(packages)), *debian_packages()],
    }


def pinned() -> Iterator[tuple[str, str, str]]:
    """Name, version and SHA-256 of each package in the files beside this one."""
    for file in sorted(HERE.glob("*.txt")):
        yield from PINNED.findall(file.read_text(encoding="utf-8"))


def python_package(distribution: Distribution) -> dict[str, Any]:
    """One Python package, with its licence as its metadata states it."""
    name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
    purl = f"pkg:pypi/{name}@{distribution.version.replace('+', '%2B')}"
    component: dict[str, Any] = {"type": "library", "name": name, "version": distribution.version, "purl": purl}
    if licences := licences_of(distribution):
        component["licenses"] = licences
    return component


def licences_of(distribution: Distribution) -> list[dict[str, Any]]:
    """The licence expression, or else the name in the metadata, or else the classifiers."""
    if expression := distribution.metadata.get("License-Expression"):
        return [{"expression": expression}]
    name = distribution.metadata.get("License", "").strip()
    if name and "\n" not in name:
        return [{"license": {"name": name}}]
    classifiers = distribution.metadata.get_all("Classifier") or []
    kinds = [kind.rsplit(" :: ", 1)[-1] for kind in classifiers if kind.startswith("License :: ")]
    return [{"license": {"name": kind}} for kind in kinds]


def debian_packages() -> list[dict[str, str]]:
    """The packages of the distribution, none where there is no dpkg."""
    if shutil.which("dpkg-query") is None:
        return []
    command = ["dpkg-query", "--show", "--showformat", "${Package} ${Version} ${Architecture}\\n"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [
        {
            "type": "library",
            "name": name,
            "version": version,
            "purl": f"pkg:deb/debian/{name}@{version.replace('+', '%2B').replace(':', '%3A')}?arch={architecture}",
        }
        for name, version, architecture in (line.split() for line in sorted(listed.splitlines()))
    ]


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(bill(), indent=1) + "\n", encoding="utf-8")
