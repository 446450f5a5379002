"""Settings of the cluster that stages run on, the section ``[cluster]``. Nothing of Dask is imported here.

None of them changes a result, so none is recorded with one.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

SCHEDULERS: Final = ("slurm", "pbs", "lsf", "sge")
"""Kinds whose workers are jobs of a batch system."""

_MEMORY: Final = re.compile(r"\d+(\.\d+)? ?[kKMGT]i?B")
_WALLTIME: Final = re.compile(r"(\d+-)?\d{1,3}:\d\d(:\d\d)?")
_ADDRESS: Final = re.compile(r"(tcp|tls|ws|wss|ucx)://[^/\s]+:\d+")
_OF_JOBS: Final = ("walltime", "queue", "account", "directives", "prologue", "python", "log_folder", "interface")


class ClusterSettings(BaseModel):
    """Other machines to run on (wsipipe-momkd[cluster]): a running Dask scheduler, or jobs of a batch system."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    kind: Literal["none", "address", "local", "slurm", "pbs", "lsf", "sge"] = Field(
        "none",
        description="none: this machine alone; address: a running Dask scheduler; local: workers on this machine; "
        "or the batch system whose jobs become workers",
    )
    address: str | None = Field(
        None, examples=["tcp://login1:8786"], description="of kind address: where the scheduler listens"
    )
    cores: int = Field(1, ge=1, description="cores of each job, or local worker")
    memory: str = Field("4GB", description="memory of each job, or local worker, such as 32GB")
    gpus: int = Field(0, ge=0, description="GPUs of each job, or local worker")
    walltime: str | None = Field(None, examples=["08:00:00"], description="how long a job may run")
    queue: str | None = Field(None, examples=["gpu"], description="the jobs' queue; Slurm's partition")
    account: str | None = Field(None, examples=["pathology"], description="the account, or project, that jobs count on")
    directives: list[str] = Field(
        [], description="further lines of the job script's head, such as --constraint=a100, without #SBATCH"
    )
    prologue: list[str] = Field(
        [], description="lines that the job runs before the worker, such as module load or activating an environment"
    )
    python: str | None = Field(
        None,
        examples=["apptainer exec --nv wsipipe.sif python"],
        description="the Python of the workers; default: the one that runs here",
    )
    interface: str | None = Field(
        None, examples=["ib0"], description="network interface by which scheduler and workers talk"
    )
    log_folder: Path | None = Field(
        None, examples=["logs"], description="folder of the jobs' logs; default: where the batch system puts them"
    )
    min_jobs: int = Field(0, ge=0, description="with adaptive: jobs, or local workers, that stay to the end")
    max_jobs: int = Field(1, ge=1, description="jobs, or local workers, at most")
    adaptive: bool = Field(
        False, description="ask for as many jobs as there is work for, and give them back; otherwise for max_jobs"
    )
    wait: float = Field(30.0, gt=0, description="minutes to wait where there is no worker at all, before the run ends")

    @field_validator("memory")
    @classmethod
    def _is_a_size(cls, memory: str) -> str:
        if not _MEMORY.fullmatch(memory):
            raise ValueError("not a size with a unit, such as 32GB")
        return memory

    @field_validator("walltime")
    @classmethod
    def _is_a_duration(cls, walltime: str | None) -> str | None:
        if walltime is not None and not _WALLTIME.fullmatch(walltime):
            raise ValueError("not a duration such as 08:00:00")
        return walltime

    @field_validator("address")
    @classmethod
    def _is_an_address(cls, address: str | None) -> str | None:
        if address is not None and not _ADDRESS.fullmatch(address):
            raise ValueError("not an address such as tcp://login1:8786")
        return address

    @field_validator("directives", "prologue")
    @classmethod
    def _are_single_lines(cls, lines: list[str]) -> list[str]:
        if any("\n" in line or not line.strip() for line in lines):
            raise ValueError("give one line of the script a string")
        return lines

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        given = self.model_fields_set
        if self.kind == "address" and self.address is None:
            raise ValueError("kind = address needs the address, such as tcp://login1:8786")
        if self.kind not in ("address", "none") and self.address is not None:
            raise ValueError(f"an address goes with kind = address, not with kind = {self.kind}")
        if self.min_jobs > self.max_jobs:
            raise ValueError(f"min_jobs = {self.min_jobs} is more than max_jobs = {self.max_jobs}")
        if self.min_jobs and not self.adaptive:
            raise ValueError("min_jobs goes with adaptive = true; without it there are always max_jobs")
        if stray := [name for name in _OF_JOBS if name in given and self.kind not in (*SCHEDULERS, "none")]:
            raise ValueError(f"{', '.join(stray)} is of jobs, and kind = {self.kind} has none")
        return self

    def on_top(self, **changes: Any) -> Self:
        """A copy with other values, checked."""
        return type(self).model_validate({**self.model_dump(include=self.model_fields_set), **changes})
