"""The table of operations: what the server, the client and the document are driven by."""

from __future__ import annotations

import attrs
import pytest

from tele.model.api.operation import Anyone, Operation
from tele.model.api.table import OPERATIONS

ALL = list(OPERATIONS.values())


@pytest.mark.parametrize("operation", ALL, ids=lambda o: o.name)
def test_path_fields_are_attributes_of_the_request(operation: Operation[object, object]) -> None:
    """Each ``{name}`` in a path is an attribute that the request has."""
    assert attrs.has(operation.request)
    names = {a.name for a in attrs.fields(operation.request)}
    assert set(operation.path_fields) <= names


def test_rows_are_distinct() -> None:
    """No two operations have the same method and path."""
    assert len({(o.method, o.path) for o in ALL}) == len(ALL)


def test_few_operations_are_public() -> None:
    """Another public operation has to be added here."""
    unauthenticated = {o.name for o in ALL if any(isinstance(w, Anyone) for w in o.who)}
    assert unauthenticated == {
        "health", "cluster", "join", "rejoin", "login", "accept_invitation",
        "token_login",
    }  # fmt: skip


def test_every_operation_names_its_callers() -> None:
    """Nothing is allowed by default."""
    assert all(o.who for o in ALL)
