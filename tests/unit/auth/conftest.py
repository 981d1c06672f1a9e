"""Auth in memory, for every test in this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from auth_world import World


@pytest.fixture
def world() -> Iterator[World]:
    """A fresh cluster."""
    made = World()
    yield made
    made.stop()
