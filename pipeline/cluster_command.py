"""The command that shows what a cluster's jobs and workers are. Nothing of Dask is imported here."""

from __future__ import annotations

from typing import Annotated

import typer

from .command import ConfigFile, Dask, Debug, Json, console_of, settings_of


def add_cluster(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(cluster)


def cluster(
    show: Annotated[bool, typer.Option("--show", help="print the script of the jobs, and submit none")] = False,
    config: ConfigFile = None,
    dask: Dask = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show the job script of the cluster in the settings file or, without --show, compare its workers with this one."""
    from .cluster.command import show_job_script, show_workers

    with console_of(json=json, debug=debug) as console:
        settings = settings_of(config, {})
        (show_job_script if show else show_workers)(console, settings.cluster, dask, settings.workspace)
