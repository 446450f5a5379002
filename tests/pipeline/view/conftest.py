"""A viewer on a workspace, one for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from viewed_workspace import Client, Viewed, planted_views, served


@pytest.fixture(scope="session")
def viewed(tmp_path_factory: pytest.TempPathFactory) -> Viewed:
    """The workspace; a test that changes it copies it."""
    return planted_views(tmp_path_factory.mktemp("viewed"))


@pytest.fixture(scope="module")
def client(viewed: Viewed) -> Iterator[Client]:
    """A client of its viewer."""
    with served(viewed.workspace) as server:
        yield Client(server)
