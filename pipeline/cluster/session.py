"""A connection to a cluster: joined at its address, or started, and given back at the end of the command."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ...data.errors import SurroundingsError, UsageError
from .settings import SCHEDULERS, ClusterSettings

if TYPE_CHECKING:
    from distributed import Client

_SECONDS_TO_CONNECT: Final = 10
"""Also after a connection broke; then the run ends."""
_SECONDS_TO_ASK_AGAIN: Final = 20.0
_DEATH_TIMEOUT: Final = 300
"""Seconds in which a worker must have started and found its scheduler, else it ends and does not come back: long enough
for a busy machine, or one that first reads Python from a slow share. One whose scheduler goes away later ends at once.
"""


@dataclass(frozen=True)
class DaskWorker:
    """A worker of the cluster."""

    address: str
    name: str
    cores: int
    gpus: int
    memory: int


class Session:
    """A cluster, from its first use to the end of the command."""

    def __init__(self, settings: ClusterSettings) -> None:
        self.settings = settings
        self._cluster: Any = None
        self._client: Client | None = None
        self._jobs, self._asked = 0, 0.0

    @property
    def client(self) -> Client:
        """The connection; the cluster is joined or started at its first use.

        :raises SurroundingsError: it does not answer, or jobs cannot be submitted.
        """
        if self._client is None:
            self._client = self._connected()
        return self._client

    def workers(self) -> dict[str, DaskWorker]:
        """The workers that there are now, by address.

        :raises SurroundingsError: the scheduler does not answer.
        """
        try:
            info = self.client.scheduler_info()
        except OSError as error:  # so are Dask's own errors of a connection
            raise self._lost() from error
        if "workers" not in info:  # the answer of a client that has given up
            raise self._lost()
        found = {}
        for address, worker in info["workers"].items():
            if worker["status"] not in ("running", "paused"):
                continue
            gpus = int((worker.get("resources") or {}).get("GPU", 0))
            name = f"{worker.get('host') or ''} {worker['name']}".strip()
            found[address] = DaskWorker(address, name, worker["nthreads"], gpus, worker["memory_limit"] or 0)
        return found

    def has_gpus(self) -> bool:
        """Whether stages are to run on GPUs: jobs with GPUs are asked for, or a worker there has one."""
        if self.settings.kind != "address":
            return self.settings.gpus > 0
        return any(worker.gpus for worker in self.workers().values())

    def scale(self, places: int, places_a_job: int) -> None:
        """Ask for as many jobs as there are places needed.

        :param places: how many items may run at once.
        :param places_a_job: how many of them a job has.
        """
        settings = self.settings
        if settings.kind == "address":
            return
        wanted = settings.max_jobs
        if settings.adaptive:
            wanted = max(settings.min_jobs, min(wanted, math.ceil(places / max(places_a_job, 1))))
        _ = self.client  # started, if it was not
        if wanted != self._jobs or time.monotonic() - self._asked > _SECONDS_TO_ASK_AGAIN:
            self._jobs, self._asked = wanted, time.monotonic()
            self._cluster.scale(wanted)  # asked again, Dask replaces jobs whose time was over, or whose node died

    def lost(self) -> bool:
        """Whether the scheduler is gone."""
        return self._client is not None and self._client.status not in ("running", "connecting")

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        with suppress(OSError, TimeoutError):
            if self._client is not None:
                self._client.close()
        with suppress(OSError, TimeoutError):
            if self._cluster is not None:
                self._cluster.close()
        self._client = self._cluster = None

    def _lost(self) -> SurroundingsError:
        where = self.settings.address or "of this run"
        hint = "run the same command again: what is done stays done; workers end by themselves"
        return SurroundingsError(f"the Dask scheduler {where} does not answer", hint=hint)

    def _connected(self) -> Client:
        _refuse_without_dask(self.settings)
        from distributed import Client

        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what counts of it, the run says itself
        try:
            if self.settings.kind != "address":
                self._cluster = started(self.settings)
            where = self._cluster or self.settings.address
            return Client(where, timeout=_SECONDS_TO_CONNECT, set_as_default=False, name="wsipipe")
        except OSError as error:
            if self._cluster is not None:
                self._cluster.close()
            raise self._lost() from error


def started(settings: ClusterSettings) -> Any:
    """Start a cluster without workers yet; a ``SpecCluster`` of Dask.

    :raises SurroundingsError: what it needs is not installed here.
    """
    _refuse_without_dask(settings)
    if settings.kind == "local":
        from distributed import LocalCluster

        return LocalCluster(
            n_workers=0,
            threads_per_worker=settings.cores,
            memory_limit=settings.memory,
            resources={"GPU": settings.gpus} if settings.gpus else None,
            dashboard_address=":0",
            silence_logs=logging.CRITICAL,
            death_timeout=_DEATH_TIMEOUT,
        )
    import dask_jobqueue

    kinds = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "lsf": "LSFCluster", "sge": "SGECluster"}
    return getattr(dask_jobqueue, kinds[settings.kind])(**_arguments(settings))


def job_script(settings: ClusterSettings) -> str:
    """The script of each job, as the batch system gets it.

    :raises UsageError: the workers are no jobs.
    """
    if settings.kind not in SCHEDULERS:
        hint = f"set kind in [cluster] to {', '.join(SCHEDULERS)}"
        raise UsageError(f"kind = {settings.kind}: there is no job script", hint=hint)
    with started(settings) as cluster:
        return str(cluster.job_script())


def _arguments(settings: ClusterSettings) -> dict[str, Any]:
    """The arguments of dask-jobqueue: what it has to know of the jobs."""
    resources = ["--resources", f"GPU={settings.gpus}"] if settings.gpus else []
    of_gpus: Mapping[str, Callable[[int], str]] = {
        "slurm": lambda gpus: f"--gres=gpu:{gpus}",
        "lsf": lambda gpus: f'-gpu "num={gpus}"',
        "sge": lambda gpus: f"-l gpu={gpus}",
    }
    directives = list(settings.directives)
    further: dict[str, Any] = {}
    if settings.gpus and settings.kind in of_gpus:
        directives.insert(0, of_gpus[settings.kind](settings.gpus))
    elif settings.gpus:  # PBS asks for all in one line
        memory = settings.memory.replace(" ", "").replace("iB", "B")
        further["resource_spec"] = f"select=1:ncpus={settings.cores}:mem={memory}:ngpus={settings.gpus}"
    optional = {
        "walltime": settings.walltime,
        "queue": settings.queue,
        "project" if settings.kind == "lsf" else "account": settings.account,
        "interface": settings.interface,
        "log_directory": None if settings.log_folder is None else str(settings.log_folder),
    }
    if settings.kind == "sge" and settings.account is not None:
        optional.pop("account")
        optional["project"] = settings.account
    return {
        **{name: value for name, value in optional.items() if value is not None},
        **further,
        "cores": settings.cores,
        "memory": settings.memory,
        "processes": 1,
        "python": settings.python or sys.executable,
        "job_name": "wsipipe",
        "job_extra_directives": directives,
        "job_script_prologue": list(settings.prologue),
        "worker_extra_args": resources,
        "death_timeout": _DEATH_TIMEOUT,
        "scheduler_options": {"dashboard_address": ":0"},
        "silence_logs": "critical",
    }


def _refuse_without_dask(settings: ClusterSettings) -> None:
    """Refuse to go on without the packages.

    :raises UsageError: one is missing; it says which to install.
    """
    try:
        import distributed  # noqa: F401

        if settings.kind in SCHEDULERS:
            import dask_jobqueue  # noqa: F401
    except ImportError as error:
        what = f"a cluster needs {error.name}, which is not installed"
        raise UsageError(what, hint="pip install 'wsipipe-momkd[cluster]'") from error
