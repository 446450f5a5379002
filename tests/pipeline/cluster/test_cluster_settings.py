"""The settings of a cluster are checked before any job is submitted; the job script shows them."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent

import pytest

pytest.importorskip("dask_jobqueue")

from command import wsipipe
from wsipipe.data.errors import UsageError
from wsipipe.pipeline.config import parse

JOBS = 'cores = 8\nmemory = "32GB"\nwalltime = "08:00:00"\nqueue = "short"\naccount = "pathology"\n'
JOBS += 'prologue = ["source env/bin/activate"]\ndirectives = ["--constraint=a100"]\ngpus = 2\n'


@pytest.mark.parametrize(
    ("cluster", "what"),
    [
        ({"kind": "cloud"}, 'cluster.kind = "cloud": input should be'),
        ({"kinds": "slurm"}, "unknown setting cluster.kinds (did you mean kind?)"),
        ({"kind": "slurm", "memory": "32"}, 'cluster.memory = "32": not a size with a unit, such as 32GB'),
        ({"kind": "slurm", "walltime": "8h"}, 'cluster.walltime = "8h": not a duration such as 08:00:00'),
        ({"kind": "slurm", "cores": 0}, "cluster.cores = 0: input should be greater than or equal to 1"),
        ({"kind": "slurm", "gpus": -1}, "cluster.gpus = -1: input should be"),
        ({"kind": "address"}, "cluster: kind = address needs the address"),
        ({"kind": "address", "address": "login1"}, 'cluster.address = "login1": not an address such as'),
        ({"kind": "slurm", "address": "tcp://a:1"}, "cluster: an address goes with kind = address, not with kind = s"),
        ({"kind": "slurm", "min_jobs": 2, "adaptive": True}, "cluster: min_jobs = 2 is more than max_jobs = 1"),
        ({"kind": "slurm", "min_jobs": 1}, "cluster: min_jobs goes with adaptive = true"),
        ({"kind": "local", "queue": "gpu"}, "cluster: queue is of jobs, and kind = local has none"),
        ({"kind": "slurm", "directives": ["--a\n--b"]}, "cluster.directives"),
        ({"kind": "slurm", "max_jobs": 0}, "cluster.max_jobs = 0"),
        ({"kind": "slurm", "wait": 0}, "cluster.wait = 0"),
    ],
)
def test_what_cannot_be_is_refused(cluster: dict[str, object], what: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse({"cluster": cluster})
    assert what in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "lines"),
    [
        ("slurm", ["#SBATCH -p short", "#SBATCH -A pathology", "#SBATCH --cpus-per-task=8", "#SBATCH --gres=gpu:2"]),
        ("pbs", ["#PBS -q short", "#PBS -A pathology", "#PBS -l select=1:ncpus=8:mem=32GB:ngpus=2"]),
        ("lsf", ["#BSUB -q short", '#BSUB -P "pathology"', "#BSUB -n 8", '#BSUB -gpu "num=2"']),
        ("sge", ["#$ -q short", "#$ -P pathology", "#$ -l gpu=2"]),
    ],
)
def test_the_job_script_says_what_the_settings_say(tmp_path: Path, kind: str, lines: list[str]) -> None:
    (tmp_path / "wsipipe.toml").write_text(f'[cluster]\nkind = "{kind}"\n{JOBS}', encoding="utf-8")
    shown = wsipipe("cluster", "--show", "--config", tmp_path / "wsipipe.toml").output.splitlines()
    for line in [*lines, "source env/bin/activate"]:
        assert line in shown, shown
    head = {"slurm": "#SBATCH", "pbs": "#PBS", "lsf": "#BSUB", "sge": "#$"}[kind]
    assert f"{head} --constraint=a100" in shown
    [start] = [line for line in shown if "dask_worker" in line or "dask worker" in line]
    for word in ("--nthreads 8", "--resources GPU=2", "--death-timeout 300"):
        assert word in start


def test_an_address_on_the_command_line_replaces_the_cluster_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "wsipipe.toml").write_text(f'[cluster]\nkind = "slurm"\n{JOBS}', encoding="utf-8")
    result = wsipipe("cluster", "--show", "--config", tmp_path / "wsipipe.toml", "--dask", "tcp://a:1")
    assert (result.exit_code, "kind = address: there is no job script" in result.output) == (2, True)
    result = wsipipe("cluster", "--config", tmp_path / "wsipipe.toml", "--dask", "login1")
    assert (result.exit_code, "--dask login1 is no address of a Dask scheduler" in result.output) == (2, True)


def test_without_a_cluster_there_is_nothing_to_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "kind = none: there is no job script" in wsipipe("cluster", "--show").output
    assert "no cluster is configured" in wsipipe("cluster").output


def test_the_settings_of_the_documentation_are_settings(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "cluster.md").read_text(encoding="utf-8")
    example, of_apptainer = [dedent(block) for block in re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL)]
    (tmp_path / "wsipipe.toml").write_text(example.replace('"ib0"', '"lo"'), encoding="utf-8")
    shown = wsipipe("cluster", "--show", "--config", tmp_path / "wsipipe.toml")
    assert shown.exit_code == 0, shown.output
    for line in ("#SBATCH -p gpu", "#SBATCH --gres=gpu:1", "#SBATCH -t 08:00:00", "source /shared/env/bin/activate"):
        assert line in shown.output.splitlines()
    (tmp_path / "wsipipe.toml").write_text(of_apptainer, encoding="utf-8")
    shown = wsipipe("cluster", "--show", "--config", tmp_path / "wsipipe.toml")
    assert "apptainer exec --nv --bind /shared /shared/wsipipe.sif python -m distributed.cli" in shown.output
