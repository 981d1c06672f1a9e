"""What does the recording of a connection say at its start, and what of it is recorded?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from attrs import evolve, frozen
from twisted.internet.interfaces import IReactorTime

from tele.interfaces import IRecorder, NamedRecorder
from tele.loop import now
from tele.model.addresses import Address
from tele.model.identity import HostIdentity, HostRole
from tele.model.session import RecordingStart
from tele.recording.tee import ConnectionTape
from tele.sessions.context import ConnectionContext

#: In nanoseconds, as frames of recordings have them.
SECOND: Final = 1_000_000_000


@frozen
class ProxiedHost:
    """A host whose sessions a proxy records. ``target`` is what it is; empty: a node of tele."""

    host_id: str
    name: str
    cluster: str
    proxy_id: str
    target: str = ""


def make_tape(
    clock: IReactorTime,
    recorder: IRecorder | Sequence[NamedRecorder],
    context: ConnectionContext,
    host: HostIdentity | ProxiedHost,
) -> ConnectionTape:
    """Return the tape of a connection to ``host``, as its grant says; it begins now."""
    grant = context.grant
    start = RecordingStart(
        id=context.session_id,
        kind="ssh",
        cluster=host.cluster,
        user=grant.identity.user,
        login=grant.login,
        roles=grant.roles,
        login_session=grant.identity.login_session,
        node=host.name,
        node_id=host.host_id,
        remote_addr=str(Address(*context.remote_addr)),
        started=now(clock),
    )
    if isinstance(host, ProxiedHost):
        start = evolve(
            start,
            recorder=HostRole.PROXY,
            recorder_id=host.proxy_id,
            mode=grant.recording.mode.value,
            target=host.target,
        )
    began = clock.seconds()
    return ConnectionTape(
        recorder,
        start,
        lambda: int((clock.seconds() - began) * SECOND),
        record_input=grant.recording.input,
        strict=grant.recording.strict,
        sync=grant.recording.sync,
        sync_end_after=grant.recording.sync_end_after.total_seconds(),
        clock=clock,
    )
