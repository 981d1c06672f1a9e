"""Each operation says what it may cost, and costs its caller accordingly."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from tele.https.limits import UNCHECKED_BODY, Limits
from tele.model.api.operation import Anyone
from tele.model.api.table import OPERATIONS

ROOT = Path(__file__).resolve().parents[2]


def _work() -> dict[str, str]:
    spec = importlib.util.spec_from_file_location("api_costs", ROOT / "docs" / "api_costs.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    work: dict[str, str] = module.WORK
    return work


def test_each_operation_says_what_it_costs() -> None:
    """A new operation needs a row in the table of costs, and a row is of an operation."""
    assert set(_work()) == set(OPERATIONS)


def test_what_reads_much_costs_much() -> None:
    """Lists, streams and large bodies take more of their caller's share than reading one item."""
    for operation in OPERATIONS.values():
        if operation.streams or operation.name.startswith("list_"):
            assert operation.cost >= 10, operation.name
        if operation.limit > 512 * 1024:
            assert operation.cost >= 4, operation.name


def test_unauthenticated_clients_send_little() -> None:
    """The body of a request that needs no permission is small."""
    for operation in OPERATIONS.values():
        if any(isinstance(who, Anyone) for who in operation.who):
            assert operation.limit <= UNCHECKED_BODY or operation.method == "GET", operation.name


def test_each_share_is_enough_for_any_operation() -> None:
    """No operation is refused to a caller that calls nothing else."""
    limits = Limits()
    for operation in OPERATIONS.values():
        assert operation.limit <= limits.bodies_per_caller, operation.name
        cost = operation.cost + operation.limit // 65536
        assert cost <= min(limits.units_burst, limits.unauthenticated_units_burst)
