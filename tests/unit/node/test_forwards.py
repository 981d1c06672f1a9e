"""What a grant lets be forwarded, and where the node listens for a client."""

from __future__ import annotations

from datetime import UTC, datetime
from socket import socketpair
from typing import Any

import pytest
from attrs import Factory, define
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock

from grants import changed, one_role
from tele.admission.slots import Slots
from tele.capacity.descriptors import DescriptorBudget, shares_of
from tele.conch.forwarding.local import ForwardRequest, LocalRequest, Streams
from tele.conch.forwarding.remote import PathRequest, PortRequest
from tele.conch.session.session_forwarding import DisplayRequest
from tele.errors import AccessDenied, InvalidInput
from tele.model.access import GatewayPorts
from tele.model.identity import UserIdentity
from tele.node.forwards import ForwardingResources, Forwards
from tele.node.ports import LOOPBACK, addresses_for
from tele.node.user_sockets import UserListener, UserSockets
from tele.outbound.name_lookup import NameResolver
from tele.sessions.context import ConnectionContext
from tele.sessions.forward_record import ACCEPTED_BURST, ForwardRecords

LATER = datetime(2099, 1, 1, tzinfo=UTC)
ACCOUNT = DescriptorBudget(shares_of(1024)).account("alice")
EVERYWHERE = ("0.0.0.0", "::")


@define
class FakeAudit:
    """Stands for the audit reporter."""

    events: list[tuple[str, dict[str, Any]]] = Factory(list)

    def emit(self, name: str, context: ConnectionContext, **fields: Any) -> None:
        self.events.append((name, fields))


@define
class Slow:
    """Stands for the sockets of a user whose file system takes its time."""

    slow: Deferred[UserListener]

    def listen(self, path: bytes, rules: bytes = b"") -> Deferred[UserListener]:
        return self.slow

    def listen_for_agent(self) -> Deferred[UserListener]:
        return self.slow


def forwards(
    emitted: FakeAudit, check: Any = lambda: None, slots: Any = None, **options: Any
) -> Forwards:
    """Forwards whose sockets cannot be made: making one fails the test."""
    identity = UserIdentity("alice", "c", LATER)
    grant = one_role(identity, "alice", **options)
    context = ConnectionContext(grant, "session-1", ("192.0.2.7", 50000), ("192.0.2.1", 3022))
    audit: Any = emitted
    records = ForwardRecords(Clock(), context, audit, None)
    unused: Any = None
    sockets = UserSockets(unused, "alice")
    names = NameResolver(Clock())
    return Forwards(
        MemoryReactorClock(),
        context,
        ForwardingResources(sockets, names, ACCOUNT, slots or Slots(waiting=10)),
        records,
        check,
        lambda: None,
    )


def ask(made: Forwards) -> dict[str, Deferred[Any]]:
    """Ask for everything that there is."""
    return {
        "direct-tcpip": made.connect(ForwardRequest("127.0.0.1", 9, ("127.0.0.1", 1)), Streams()),
        "direct-streamlocal": made.connect(LocalRequest(b"/x"), Streams()),
        "tcpip-forward": made.listen(PortRequest("", 0)),
        "streamlocal-forward": made.listen(PathRequest(b"/x")),
        "auth-agent": made.agent(),
        "x11": made.display(DisplayRequest(False, "MIT-MAGIC-COOKIE-1", "00", 0)),
    }


@pytest.mark.parametrize("force_command", [None, "internal-sftp", "true"])
def test_nothing_by_default(force_command: str | None) -> None:
    """A grant that does not name a kind gives none, with a forced command or without (attack)."""
    emitted = FakeAudit()
    for kind, asked in ask(forwards(emitted, force_command=force_command)).items():
        failed: list[Any] = []
        asked.addErrback(failed.append)
        assert isinstance(failed[0].value, AccessDenied), kind
    assert [fields["kind"] for _, fields in emitted.events] == list(ask_kinds())
    assert all("not allowed" in fields["error"] for _, fields in emitted.events)


def test_what_is_refused_in_a_loop_does_not_fill_the_audit() -> None:
    """Refusals of one user are reported in part, and counted (attack)."""
    emitted = FakeAudit()
    made = forwards(emitted)
    for _ in range(3 * int(ACCEPTED_BURST)):
        asked = made.connect(ForwardRequest("127.0.0.1", 9, ("127.0.0.1", 1)), Streams())
        asked.addErrback(lambda _: None)
    assert len(emitted.events) == ACCEPTED_BURST


def ask_kinds() -> tuple[str, ...]:
    return (
        *("direct-tcpip", "direct-streamlocal", "tcpip-forward", "streamlocal-forward"),
        *("auth-agent", "x11"),
    )


def test_nothing_new_after_the_certificate() -> None:
    """When the certificate has run out, nothing begins (attack)."""

    def check() -> None:
        raise AccessDenied("the certificate has expired", "expired")

    every = {"port_forwarding": True, "agent_forwarding": True, "x11_forwarding": True}
    for asked in ask(forwards(FakeAudit(), check, **every)).values():
        failed: list[Any] = []
        asked.addErrback(failed.append)
        assert "expired" in str(failed[0].value)


def test_what_is_forbidden_while_it_is_made_does_not_listen() -> None:
    """A path on a slow file system does not carry a forward past the end of its permission."""
    every: dict[str, Any] = {"port_forwarding": True, "agent_forwarding": True}
    made = forwards(FakeAudit(), **every)
    context = made._allowed.context
    for asked in (lambda: made.listen(PathRequest(b"/x")), made.agent):
        context.grant = changed(context.grant, **every)
        ours, theirs = socketpair()
        holder, other = socketpair()
        with ours, theirs, holder, other:
            slow: Deferred[UserListener] = Deferred()
            sockets: Any = Slow(slow)
            made._sockets = sockets
            listening: Deferred[Any] = asked()
            context.grant = changed(context.grant, port_forwarding=False, agent_forwarding=False)
            made.restrict()
            slow.callback(UserListener(b"/x", ours, holder.close))
            failed: list[Any] = []
            listening.addErrback(failed.append)
            assert "not allowed any more" in str(failed[0].value)
            assert ours.fileno() == holder.fileno() == -1
    assert not made._listeners.all


@pytest.mark.parametrize(
    ("asked", "no", "client"),
    [
        ("", LOOPBACK, EVERYWHERE),
        ("*", LOOPBACK, EVERYWHERE),
        ("localhost", LOOPBACK, LOOPBACK),
        ("127.0.0.1", ("127.0.0.1",), ("127.0.0.1",)),
        ("::1", ("::1",), ("::1",)),
        ("0.0.0.0", LOOPBACK, ("0.0.0.0",)),
        ("::", LOOPBACK, ("::",)),
        ("192.0.2.1", LOOPBACK, ("192.0.2.1",)),
        ("db.example", LOOPBACK, None),
        ("127.1", LOOPBACK, None),
        ("0x7f000001", LOOPBACK, None),
        ("\0", LOOPBACK, None),
    ],
)
def test_addresses(asked: str, no: tuple[str, ...], client: tuple[str, ...] | None) -> None:
    """As sshd's GatewayPorts; and no name is ever resolved for a client (attack)."""
    assert addresses_for(asked, GatewayPorts.NO) == no
    assert addresses_for(asked, GatewayPorts.YES) == EVERYWHERE
    if client is None:
        with pytest.raises(InvalidInput):
            addresses_for(asked, GatewayPorts.CLIENT)
    else:
        assert addresses_for(asked, GatewayPorts.CLIENT) == client


def test_connections_wait_for_those_before_them() -> None:
    """With as many as the role allows the next one waits, whichever connection it comes by; when
    the client leaves meanwhile nothing is made for it, and it is in the audit.
    """
    slots = Slots(waiting=1)
    others = slots.enter("alice", lambda: 1, lambda: None)
    assert others is not None
    emitted = FakeAudit()
    made = forwards(emitted, slots=slots, port_forwarding=True, max_forwards=1)
    request = ForwardRequest("127.0.0.1", 9, ("127.0.0.1", 1))
    failed: list[Any] = []
    made.connect(request, Streams()).addErrback(failed.append)
    assert not failed
    made.connect(request, Streams()).addErrback(failed.append)
    assert "wait to be forwarded here already" in str(failed.pop().value)
    made.close()
    assert "the client disconnected" in str(failed.pop().value)
    assert (slots.held("alice"), slots.waits("alice")) == (1, 0)
    assert [
        word for _, fields in emitted.events for word in ("wait to be", "client disconnected")
        if word in fields["error"]
    ] == ["wait to be", "client disconnected"]  # fmt: skip
