"""How does a host get its recorder: a node for its sessions, a proxy for those that it ends?

Invariants:

* Both kinds of hosts record in the same way; each of them has a spool of its own.
* The recorder signs as the host does now, also after its keys have changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from zope.interface import implementer

from tele.config.values import Chosen
from tele.embed.plugins import choose
from tele.interfaces import (
    IAuthority,
    IRecorder,
    IRecorderFactory,
    NamedRecorder,
    RecorderSurroundings,
)
from tele.membership.files import private_folder
from tele.membership.member import Member
from tele.model.api.operation import Operation
from tele.model.identity import HostRole
from tele.reactor import Reactor


@implementer(IAuthority)
class _AsMember:
    """Auth, called as ``member``, for parts that are made before there is an identity."""

    def __init__(self, member: Member) -> None:
        self._member = member

    def perform(self, operation: Operation[Any, Any], request: Any) -> Deferred[Any]:
        """See :class:`tele.interfaces.IAuthority`."""
        return maybeDeferred(lambda: self._member.authority.perform(operation, request))

    def follow(
        self, operation: Operation[Any, Any], request: Any, receiver: Callable[[Any], None]
    ) -> Deferred[None]:
        """See :class:`tele.interfaces.IAuthority`."""
        return maybeDeferred(lambda: self._member.authority.follow(operation, request, receiver))


def recorder_folder(data_dir: Path, role: HostRole) -> Path:
    """Return the folder that recorders of a host in ``role`` have, made if need be.

    A proxy and a node may share ``data_dir``: their recordings do not.
    """
    folder = private_folder(data_dir)
    return folder if role is HostRole.NODE else private_folder(folder / role.value)


def make_recorder(
    reactor: Reactor, data_dir: Path, role: HostRole, member: Member, chosen: Chosen
) -> IRecorder:
    """Return the recorder that ``chosen`` names, for ``member``, a host in ``role``.

    Raises :class:`tele.errors.TeleError` if there is none, or it cannot be made.
    """
    surroundings = RecorderSurroundings(
        reactor,
        recorder_folder(data_dir, role),
        _AsMember(member),
        lambda data: member.identity.keys.ssh.sign(data),  # noqa: PLW0108 (keys change)
        lambda: member.identity.ssh_certificate.line,
        lambda: () if member.state is None else member.state.recording_keys,
    )
    made: IRecorder = choose(IRecorderFactory, chosen, surroundings)
    return made


def make_recorders(
    reactor: Reactor, data_dir: Path, role: HostRole, member: Member, chosen: Sequence[Chosen]
) -> tuple[NamedRecorder, ...]:
    """Return all recorders of a host, see :func:`make_recorder`."""
    return tuple(
        NamedRecorder(each.kind, make_recorder(reactor, data_dir, role, member, each))
        for each in chosen
    )
