"""The script of ``docs/cluster.md``, run by bash as each job of an array."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import wsipipe as package
from new_slides import Clinic
from wsipipe.data.manifest import Manifest

PAGE = Path(__file__).resolve().parents[1] / "docs/cluster.md"


def test_the_jobs_of_an_array_do_all_slides_together(tmp_path: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    script, _of_apptainer = re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "array.sh").write_text(script)
    command = tmp_path / "bin/wsipipe"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -c "from wsipipe.pipeline.cli import main; main()" "$@"\n')
    command.chmod(0o755)
    clinic = Clinic(tmp_path)
    for number in range(3):
        clinic.slide(f"s{number}")
    (tmp_path / "wsipipe.toml").write_text(
        '[cohort]\nslides = ["slides"]\n[extract]\ndevice = "cpu"\n[tile]\nworkers = 1\n'
    )
    paths = [str(Path(package.__file__).resolve().parent.parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    given = os.environ | {"PATH": f"{command.parent}:{os.environ['PATH']}", "PYTHONPATH": os.pathsep.join(paths)}
    given |= {"TMPDIR": str(tmp_path / "scratch"), "SLURM_ARRAY_TASK_COUNT": "2"}
    jobs = [
        subprocess.Popen(["bash", "array.sh"], cwd=tmp_path, env=given | {"SLURM_ARRAY_TASK_ID": str(number)})
        for number in (1, 2)
    ]  # at once
    assert [job.wait() for job in jobs] == [0, 0]
    tiles = tmp_path / "work/tiles/0.5mpp-224px"
    done = {
        stage: sorted(item for item, record in Manifest.of(folder).latest(stage).items() if record.status == "done")
        for stage, folder in (("tile", tiles), ("extract", tmp_path / "work/features/0.5mpp-224px/efficientnet-lite0"))
    }
    assert done == {"tile": ["s0", "s1", "s2"], "extract": ["s0", "s1", "s2"]}
    assert (tiles / "qc/index.html").is_file()
    assert list((tmp_path / "scratch").iterdir()) == []
