"""A running cluster for each test file that asks for one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from three_processes import Cluster, make_cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One running cluster for all tests of a file."""
    running = make_cluster(tmp_path_factory.mktemp("cluster"))
    try:
        yield running
    finally:
        running.stop()
