"""A home directory and a running cluster, for the tests that request one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tele_command import Cluster, Tele, new_cluster


@pytest.fixture
def tele(tmp_path: Path) -> Tele:
    """A ``tele`` that has never been used."""
    return Tele(tmp_path)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One running cluster for all tests of a file, its owner logged in."""
    running = new_cluster(tmp_path_factory.mktemp("up"))
    try:
        yield running
    finally:
        running.down()
