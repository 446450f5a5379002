"""``wsipipe cluster``: the job script, and what the workers are."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.table import Table

from ...data.errors import SurroundingsError, UsageError
from ..console import Console
from .choice import chosen
from .settings import ClusterSettings

if TYPE_CHECKING:
    from .session import DaskWorker, Session

_LOOK: Final = 0.5


def show_job_script(console: Console, settings: ClusterSettings, address: str | None, workspace: Path) -> None:
    """Print the script of each job as the batch system gets it; no job is submitted.

    :raises UsageError: the workers are no jobs.
    """
    from .session import job_script

    script = job_script(chosen(settings, address))
    for line in script.splitlines():
        console.line(line)
    console.result({"job_script": script})


def show_workers(console: Console, settings: ClusterSettings, address: str | None, workspace: Path) -> None:
    """Compare the workers with this machine, and print a table of them. A cluster is started with one worker for that.

    :raises UsageError: no cluster is configured.
    :raises SurroundingsError: no worker comes, or one differs.
    """
    from .environment import compared, facts_here, refusal, shared_places
    from .session import Session

    settings = chosen(settings, address)
    if settings.kind == "none":
        hint = "set kind in [cluster] of the settings file, or give --dask tcp://HOST:8786"
        raise UsageError("no cluster is configured", hint=hint)
    with closing(Session(settings.on_top(adaptive=True))) as session, shared_places(workspace, []) as shared:
        session.scale(1, 1)
        workers = _first_workers(console, session)
        answers = session.client.run(facts_here, shared, workers=list(workers), on_error="return")
    own = facts_here(None)
    unlike = {workers[address].name: compared(answer, own) for address, answer in answers.items()}
    table = Table("worker", "cores", "GPUs", "memory", "as here", header_style="bold", box=None, padding=(0, 2, 0, 0))
    for worker in workers.values():
        same = "no" if unlike.get(worker.name) else "yes"
        table.add_row(worker.name, str(worker.cores), str(worker.gpus), f"{worker.memory / 1e9:.1f} GB", same)
    console.table(table)
    console.result({"workers": [{**vars(w), "differences": unlike.get(w.name, [])} for w in workers.values()]})
    if differing := {name: what for name, what in unlike.items() if what}:
        raise refusal(differing)


def _first_workers(console: Console, session: Session) -> dict[str, DaskWorker]:
    until = time.monotonic() + session.settings.wait * 60
    console.note("waiting for a worker")
    while not (workers := session.workers()):
        if time.monotonic() > until:
            what = f"no worker has come in {session.settings.wait:g} min"
            raise SurroundingsError(
                what, hint="look at the queue and the log of the job; [cluster] wait is the patience"
            )
        time.sleep(_LOOK)
    return workers
