"""May one connection have this forwarded, now?

Invariants:

* Each kind and each destination needs a permission of the grant, as it is now. A user is told that
  it is not allowed; which rule it was is for the audit.
* Addresses are decided on where names become addresses. Who does not see that, as a proxy in front
  of an sshd, refuses what the rules make depend on it.
* So many connections of a user are forwarded at once, over all their connections; more wait.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from typing import Final

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred

from tele.admission.slots import Slots
from tele.conch.forwarding.remote import PathRequest, PortRequest
from tele.errors import AccessDenied, TeleError, Unavailable, quoted
from tele.model.access import Grant
from tele.model.actions import EVERY_PATH
from tele.model.addresses import Address
from tele.rbac.destinations import (
    allows,
    allows_listening,
    allows_unresolved,
    may_lead,
    plain_address,
)
from tele.sessions.context import ConnectionContext
from tele.sessions.forward_record import ForwardRecord

#: The kind, and the key, of a forwarded agent.
AGENT: Final = "auth-agent"
#: All addresses that a machine may listen on, where that is not known.
ANY_LISTENER: Final = ("0.0.0.0", "::")  # noqa: S104 - nothing listens here


@frozen
class Sight:
    """What of a destination is seen here.

    :param addresses: returns where a host listens that is asked for, see :mod:`tele.node.ports`.
    :param names: names become addresses here, or on a machine that decides again.
    :param paths: so do paths lead to sockets.
    :param again: it is another machine that decides again.
    """

    addresses: Callable[[str], Sequence[str]]
    names: bool = True
    paths: bool = True
    again: bool = False


def _any_listener(_: str) -> Sequence[str]:
    return ANY_LISTENER


def _decided_there(_: str) -> Sequence[str]:
    return ()


#: A proxy in front of a node, which decides again; and in front of an sshd, which knows no roles.
OF_A_NODE: Final = Sight(_decided_there, again=True)
OF_AN_SSHD: Final = Sight(_any_listener, names=False, paths=False)


@frozen
class ForwardPermission:
    """Checks the grant before anything is made; ``check()`` raises when nothing new may begin."""

    context: ConnectionContext
    check: Callable[[], None]
    sight: Sight

    def connect(self, host: str, port: int) -> None:
        """Raise :class:`AccessDenied` unless ``host`` may be connected to now, as far as is known
        before its addresses are.
        """
        grant = self.context.grant
        lead = may_lead if self.sight.names else allows_unresolved
        allowed = lead(grant.local_forwards, _denied(grant.denied_forwards.local), host, port)
        self._need(allowed, grant, quoted(str(Address(host, port))))

    def usable(self, host: str, port: int) -> Callable[[Sequence[str]], Collection[str]]:
        """Return what tells which addresses of ``host`` may be connected to; it raises if that is
        none of them.
        """

        def usable(addresses: Sequence[str]) -> Collection[str]:
            grant = self.context.grant
            allow, deny = grant.local_forwards, _denied(grant.denied_forwards.local)
            found = {
                text
                for text in addresses
                if (address := plain_address(text)) is not None
                and allows(allow, deny, host, address, port)
            }
            shown = quoted(str(Address(host, port)))
            self._need(bool(found), grant, shown, f"its addresses are {', '.join(addresses)}")
            return found

        return usable

    def listen(self, host: str, port: int) -> None:
        """Raise it unless a port may be listened on now; 0 is any."""
        grant = self.context.grant
        shown = quoted(str(Address(host, port)))
        self._need(self._may_listen(grant, host, port), grant, shown)

    def _may_listen(self, grant: Grant, host: str, port: int) -> bool:
        allow = grant.remote_forwards
        if not allow:
            return False
        try:
            addresses = self.sight.addresses(host)
        except TeleError:
            return True  # it is none: that is the error then
        return allows_listening(allow, _denied(grant.denied_forwards.remote), addresses, port)

    def path(self) -> bytes:
        """Return the rules for paths of sockets, which are kept where the path is used; empty if
        every path is allowed. Raise it if none is, or if that cannot be seen from here.
        """
        grant = self.context.grant
        rules = _path_rules(grant)
        self._need(bool(grant.streamlocal_forwards), grant, "a socket")
        if rules and not self.sight.paths:
            raise AccessDenied(
                "forwarding of this socket is not allowed: on hosts with OpenSSH's sshd it"
                " cannot be seen where a path leads",
                "forwarding",
            )
        return rules

    def agent(self) -> None:
        """Raise it unless an agent may."""
        self._permit(self.context.grant.agent_forwarding, "agent forwarding")

    def display(self) -> None:
        """Raise it unless a display may."""
        self._permit(self.context.grant.x11_forwarding, "X11 forwarding")

    def keeps(self, host: str, port: int, address: str = "") -> bool:
        """Whether a connection to ``host`` that was allowed still is; ``address`` is where it goes,
        empty if that is not seen here.
        """
        grant = self.context.grant
        allow, deny = grant.local_forwards, _denied(grant.denied_forwards.local)
        if not grant.port_forwarding:
            return False
        if not address:
            lead = may_lead if self.sight.names else allows_unresolved
            return lead(allow, deny, host, port)
        seen = plain_address(address)
        return seen is not None and allows(allow, deny, host, seen, port)

    @property
    def path_rules(self) -> bytes:
        """The rules for paths of sockets that hold now, as :meth:`path` returns them."""
        return _path_rules(self.context.grant)

    def keeps_path(self, path: bytes, rules: bytes) -> bool:
        """Whether a connection to a socket still is, that was made with ``rules``."""
        return self.context.grant.port_forwarding and self.listens(PathRequest(path), rules)

    def listens(self, key: object, rules: bytes = b"") -> bool:
        """Whether what listens under ``key`` still may; a path was made with ``rules``."""
        grant = self.context.grant
        if key == AGENT:
            return grant.agent_forwarding
        if isinstance(key, PortRequest):
            return self._may_listen(grant, key.host, key.port)
        if isinstance(key, PathRequest):
            kept = self.sight.again or _path_rules(grant) in (b"", rules)
            return bool(grant.streamlocal_forwards) and kept
        return grant.x11_forwarding

    def _need(self, allowed: bool, grant: Grant, what: str, detail: str = "") -> None:
        if not grant.port_forwarding:
            raise AccessDenied("port forwarding is not allowed", "forwarding")
        if not allowed:
            why = _explained(grant) + (f"; {detail}" if detail else "")
            raise AccessDenied(f"forwarding to {what} is not allowed", "forwarding", why)
        self.check()

    def _permit(self, granted: bool, what: str) -> None:
        if not granted:
            raise AccessDenied(f"{what} is not allowed", "forwarding")
        self.check()


def _denied(patterns: tuple[str, ...] | None) -> tuple[str, ...]:
    return patterns or ()


def _path_rules(grant: Grant) -> bytes:
    """Return the rules of paths as JSON, or nothing if every path is allowed."""
    allow, deny = grant.streamlocal_forwards, _denied(grant.denied_forwards.streamlocal)
    if set(EVERY_PATH) <= set(allow) and not deny:
        return b""
    return json.dumps({"allow": allow, "deny": deny}).encode()


def _explained(grant: Grant) -> str:
    """Return what the roles allow and deny, for the audit."""
    given = [
        f"{name} {', '.join(patterns)}"
        for name, patterns in (
            ("local", grant.local_forwards),
            ("remote", grant.remote_forwards),
            ("streamlocal", grant.streamlocal_forwards),
            ("but not local", _denied(grant.denied_forwards.local)),
            ("but not remote", _denied(grant.denied_forwards.remote)),
            ("but not streamlocal", _denied(grant.denied_forwards.streamlocal)),
        )
        if patterns
    ]
    return f"{', '.join(grant.roles)} allow {'; '.join(given)}"


class ForwardSlots:
    """The places of one user's connection among those of ``slots``, of which the user may have
    ``most()``.
    """

    def __init__(self, slots: Slots, user: str, most: Callable[[], int]) -> None:
        self._slots = slots
        self._user = user
        self._most = most
        #: Connections that wait to be forwarded.
        self._waiting: set[Deferred[None]] = set()

    async def take(self, record: ForwardRecord) -> None:
        """Wait until one more connection may be forwarded for the user; it counts until ``record``
        is over. Raises :class:`Unavailable`.
        """
        ready: Deferred[None] = Deferred()
        slot = self._slots.enter(self._user, self._most, lambda: ready.callback(None))
        if slot is None:
            raise Unavailable(
                f"{self._slots.waiting} connections of {quoted(self._user)} wait to be forwarded"
                f" here already, beside {self._most()} that are: close some"
            )
        record.on_end = lambda: self._slots.leave(slot)
        self._waiting.add(ready)
        try:
            await ready
        except CancelledError:
            raise Unavailable("the client disconnected while its forward waited") from None
        finally:
            self._waiting.discard(ready)

    def check(self) -> None:
        """The limit may have changed: serve those that wait."""
        self._slots.check(self._user)

    def close(self) -> None:
        """The connection is gone."""
        for waiting in list(self._waiting):
            waiting.cancel()
