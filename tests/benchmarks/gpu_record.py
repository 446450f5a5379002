"""What ``gpu.sh`` writes down: a line of JSON for each figure as soon as it is there, and tables in the end.

python tests/benchmarks/gpu_record.py machine FILE --device cuda
python tests/benchmarks/gpu_record.py note FILE PART WHAT [NAME=VALUE ...]
python tests/benchmarks/gpu_record.py table FILE
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class Record:
    """Figures of one part, in the file of all.

    :param seconds: that the part may take; what does not fit is left out, and said to be.
    """

    def __init__(self, file: Path, part: str, seconds: float = float("inf")) -> None:
        self._file, self._part = file, part
        self._until = time.monotonic() + seconds

    def add(self, what: str, **figures: Any) -> None:
        """Write a line, to the file and to the terminal."""
        with self._file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"part": self._part, "what": what, **figures}) + "\n")
        print(f"{self._part}: {what}: {told(figures)}", flush=True)

    def has_time(self, what: str, needed: float = 0.0) -> bool:
        """Whether so many seconds are left; if not, a line says what was left out."""
        if self._until - time.monotonic() > needed:
            return True
        self.add(what, left_out="no time left")
        return False


def parser_of_a_part(doc: str | None, *, seconds: float) -> argparse.ArgumentParser:
    """The words that ``gpu.sh`` gives to each of its parts.

    :param seconds: that the part may take, if they are not given.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="figures are appended to it, a line of JSON each")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="little of everything: a dry run")
    parser.add_argument("--seconds", type=float, default=seconds)
    return parser


def told(figures: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {number(value)}" for name, value in figures.items())


def number(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if not isinstance(value, float):
        return str(value)
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.7g}" if 0.99 < abs(value) < 1 else f"{value:.3g}"


def machine(device: str) -> dict[str, Any]:
    """What the figures are of."""
    import torch

    facts: dict[str, Any] = {
        "device": device,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": version_of("timm"),
    }
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "name": properties.name,
            "gibibytes": properties.total_memory / 2**30,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "driver": driver(),
        }
    with (ROOT / "pyproject.toml").open("rb") as stream:
        project = tomllib.load(stream)["project"]
    names = [re.split(r"[<>=!~\[ ]", wanted)[0] for wanted in project["dependencies"]]
    missing = [name for name in [*names, "torch-geometric", "pytest"] if version_of(name) == ""]
    return facts | {"missing": ", ".join(missing) or "nothing"}


def version_of(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def driver() -> str:
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=20).stdout.split("\n")[0]
    except (OSError, subprocess.SubprocessError):
        return "?"


def table(file: Path) -> str:
    """Markdown: a list for each part, in the order of the parts' first lines."""
    parts: dict[str, list[dict[str, Any]]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        parts.setdefault(row.pop("part"), []).append(row)
    lines = []
    for part, rows in parts.items():
        lines += [f"\n## {part}\n", "| what | figures |", "| --- | --- |"]
        lines += [f"| {row.pop('what')} | {told(row)} |" for row in rows]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=["machine", "note", "table"])
    parser.add_argument("file", type=Path)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--device", default="cuda")
    asked = parser.parse_args()
    if asked.work == "machine":
        Record(asked.file, "machine").add("this machine", **machine(asked.device))
    elif asked.work == "note":
        part, what, *figures = asked.words
        Record(asked.file, part).add(what, **{name: value for name, _, value in (f.partition("=") for f in figures)})
    else:
        sys.stdout.write(table(asked.file) + "\n")


if __name__ == "__main__":
    main()
