"""Which cluster a command runs on, by the settings file and ``--dask``. Nothing of Dask is imported here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError

from ...data.errors import UsageError
from .settings import ClusterSettings

if TYPE_CHECKING:
    from ..run.runner import Elsewhere


def chosen(settings: ClusterSettings, address: str | None) -> ClusterSettings:
    """The settings of the cluster.

    :param address: of a running scheduler, which is then used whatever the settings say.
    :raises UsageError: it is no address.
    """
    if address is None:
        return settings
    try:
        return ClusterSettings(kind="address", address=address, wait=settings.wait)
    except ValidationError as error:
        what = f"--dask {address} is no address of a Dask scheduler"
        raise UsageError(what, hint="give it as the scheduler prints it, such as tcp://login1:8786") from error


def elsewhere(settings: ClusterSettings, address: str | None = None) -> Elsewhere | None:
    """The machines that stages run on; None: this one alone.

    :raises UsageError: Dask is not installed.
    """
    settings = chosen(settings, address)
    if settings.kind == "none":
        return None
    from .places import ElsewhereStages
    from .session import Session

    return ElsewhereStages(Session(settings))
