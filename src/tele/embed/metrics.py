"""How do the parts of a process get their pages of numbers?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from tele.config.metrics import NODE_DEFAULT, MetricsAddress
from tele.config.values import AuthConfig, NodeConfig, ProxyConfig
from tele.embed.hosts import HostService
from tele.measures.metric import Measured
from tele.membership.numbers import MemberNumbers
from tele.metrics.service import MetricsService, measured_of
from tele.reactor import Reactor

if TYPE_CHECKING:
    from tele.auth.service import AuthService


def metrics_service(
    reactor: Reactor,
    part: str,
    config: AuthConfig | NodeConfig | ProxyConfig,
    problem: Callable[[], str],
    measured: Callable[[], Iterable[Measured]],
) -> MetricsService | None:
    """Return the page of ``part`` where ``config`` says; None if that is nowhere."""
    address = _listen_at(config).address
    if address is None:
        return None
    return MetricsService(reactor, part, (address.host, address.port), problem, measured)


def _listen_at(config: AuthConfig | NodeConfig | ProxyConfig) -> MetricsAddress:
    if config.metrics is not None:
        return config.metrics
    # A node that users reach through tunnels binds no port that is not in its configuration.
    return MetricsAddress(None) if config.listen_at is None else NODE_DEFAULT


def auth_problem(auth: AuthService | None) -> str:
    """Return why ``auth`` does not serve, or nothing."""
    if auth is not None and auth.measured:
        return ""
    is_stopping = auth is not None and auth.ready.called
    return "auth is stopping" if is_stopping else "auth is starting"


def auth_numbers(auth: AuthService | None) -> Sequence[Measured]:
    """Return what has numbers in ``auth``."""
    return () if auth is None else measured_of(*auth.measured)


def host_problem(host: HostService | None, part: str) -> str:
    """Return why a node or a proxy serves no clients, or nothing."""
    return f"the {part} is starting" if host is None else host.serving.problem


def host_numbers(reactor: Reactor, host: HostService | None) -> Sequence[Measured]:
    """Return what has numbers in a node or a proxy."""
    if host is None:
        return ()
    return measured_of(MemberNumbers(reactor, host.member), host.serving, *host.recorders)
