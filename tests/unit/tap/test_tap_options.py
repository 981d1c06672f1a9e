"""What the services of twistd do once they have started, or cannot."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from tele.errors import Unavailable
from tele.tap import options


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A service that ``make`` returns, with what happens when it serves; nothing else is real."""
    made = SimpleNamespace(ready=Deferred(), configured=(), calls=[])
    reactor = SimpleNamespace(addSystemEventTrigger=lambda *_: None)
    monkeypatch.setattr("twisted.internet.reactor", reactor)
    for name in ("make_monotonic", "raise_limit", "process_budget", "check_unlocked"):
        monkeypatch.setattr(options, name, lambda *_: None)
    monkeypatch.setattr(options, "ClusterService", lambda *_: made)
    monkeypatch.setattr(options, "release_start", lambda: made.calls.append("released"))
    monkeypatch.setattr(options, "_exit_with_error", lambda *_: made.calls.append("exits"))
    config = SimpleNamespace(data_dir=None)
    arguments: Any = SimpleNamespace(loaded=SimpleNamespace(config=config))
    options.make(arguments, ())
    return made


def test_memory_of_the_start_is_returned_when_all_serve(service: Any) -> None:
    """Not before: what is imported later is not covered."""
    assert service.calls == []
    service.ready.callback(service)
    assert service.calls == ["released"]


def test_a_service_that_cannot_start_ends_the_process(service: Any) -> None:
    """Its error is that of the process."""
    service.ready.errback(Failure(Unavailable("the port is taken")))
    assert service.calls == ["exits"]
