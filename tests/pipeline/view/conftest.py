"""A viewer on a workspace, one for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Thread

import pytest
from viewed_workspace import Client, Viewed, planted_views
from wsipipe.pipeline.view.server import ViewServer


@pytest.fixture(scope="session")
def viewed(tmp_path_factory: pytest.TempPathFactory) -> Viewed:
    """The workspace; a test that changes it copies it."""
    return planted_views(tmp_path_factory.mktemp("viewed"))


@pytest.fixture(scope="module")
def client(viewed: Viewed) -> Iterator[Client]:
    """A client of its viewer."""
    with ViewServer(viewed.workspace, "127.0.0.1", 0) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield Client(server)
        server.shutdown()
        server.answers.close()
