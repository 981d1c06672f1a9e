"""Which parts of tele can be replaced? Every plugin point, documented.

Invariants:

* A required interface has at most five methods; more power is a second, optional one.
* Whatever may wait returns a Deferred (typed as such, never "maybe").
* Values that cross are those of :mod:`tele.model`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import Factory, field, frozen
from zope.interface import Attribute, Interface

from tele.model.api.operation import Operation
from tele.model.disk import DiskSpace
from tele.model.event import Event
from tele.model.frame import Frame
from tele.model.identity import HostRole
from tele.model.session import RecordingStart

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred
    from twisted.internet.interfaces import IProtocol

# -- store ----------------------------------------------------------------------------


@frozen
class Item:
    """One stored value. ``revision`` is that of its last change, store-wide and growing."""

    key: str
    value: bytes
    revision: int
    expires: datetime | None = None


@frozen
class Put:
    """Write ``value``. ``if_revision``: None always, 0 only if absent, else only if unchanged.

    ``ttl`` makes it a lease: the value is gone after that time unless put again.
    """

    key: str
    value: bytes
    if_revision: int | None = None
    ttl: timedelta | None = None


@frozen
class Delete:
    """Remove ``key``, if its revision is ``if_revision`` (None: whatever it is)."""

    key: str
    if_revision: int | None = None


@frozen
class Change:
    """What a watch tells. ``item`` is None when ``key`` was removed or its lease ran out."""

    key: str
    revision: int
    item: Item | None


class IWatch(Interface):
    """A running watch."""

    def stop() -> None:
        """Tell nothing more. May be called twice."""


class IBackend(Interface):
    """The cluster's store: ordered keys (``/users/alice``), values of bytes, revisions."""

    def get(key: str) -> Deferred[Item | None]:
        """Return the item, or None."""

    def range(
        start: str, end: str, limit: int = 0, reverse: bool = False
    ) -> Deferred[Sequence[Item]]:
        """Return items with ``start <= key < end`` in order of keys; ``limit`` 0 is all."""

    def commit(*changes: Put | Delete) -> Deferred[int]:
        """Do all changes or none, durably, and return the new revision.

        Fails with :class:`tele.errors.Conflict` when an ``if_revision`` does not hold.
        """

    def watch(prefix: str, receiver: Callable[[Change], None]) -> Deferred[IWatch]:
        """Tell ``receiver`` every change under ``prefix`` from now on, in order."""

    def close() -> Deferred[None]:
        """Finish what runs and let go of files and connections."""


class IBatchBackend(IBackend):
    """A store that reads many keys as fast as one; optional."""

    def get_many(keys: Sequence[str]) -> Deferred[Sequence[Item | None]]:
        """Return for each key the item, or None; all of one moment."""


class IOnDisk(Interface):
    """A backend or an archive that is on a disk of this machine."""

    def space() -> DiskSpace:
        """Return how much that disk has, and what is left of a reserve. Never waits."""


# -- recordings -----------------------------------------------------------------------


class IArchive(Interface):
    """Where recordings are kept: named blobs of a recording, written once."""

    def put(recording_id: str, name: str, data: bytes) -> Deferred[None]:
        """Store durably. The same bytes again are fine, others :class:`tele.errors.Conflict`."""

    def get(recording_id: str, name: str) -> Deferred[bytes]:
        """Return the bytes; fails with :class:`tele.errors.NotFound`."""

    def names(recording_id: str) -> Deferred[Sequence[tuple[str, int]]]:
        """Return (name, size in bytes) of each blob, in order of names."""

    def remove(recording_id: str) -> Deferred[None]:
        """Remove all of it. Removing what is not there is fine."""


class IRecording(Interface):
    """One session being recorded."""

    paused = Attribute("bool: the recorder is behind; the session reads no more until it resumes")

    def write(frame: Frame) -> None:
        """Take one frame, in order. Never blocks and never raises."""

    def when_resumed(callback: Callable[[], None]) -> None:
        """Call ``callback`` once, when ``paused`` turns false."""

    def close(reason: str) -> Deferred[None]:
        """The session ended. Fires when the recording is safe on this machine."""


class IRecorder(Interface):
    """Takes part in every session; the built-in one writes and uploads the tape."""

    def open(start: RecordingStart) -> Deferred[IRecording]:
        """A session starts. A failure refuses the session.

        :class:`tele.errors.Unavailable`, it cannot be recorded for now, does so only where a role
        says ``record: strict``; otherwise the session goes on, and this is asked again.
        """


# -- subsystems -----------------------------------------------------------------------


@frozen
class SubsystemSession:
    """Who asked for a subsystem: everything was decided before. ``remote_addr`` is host:port."""

    user: str
    login: str
    roles: tuple[str, ...]
    session_id: str
    remote_addr: str


class ISubsystem(Interface):
    """What clients of a node ask for by name: ``ssh -s NODE NAME``."""

    name = Attribute("str: its name; ``sftp`` is the node's own")

    def start(session: SubsystemSession) -> Deferred[str | IProtocol]:
        """Return what serves one session; a failure with a TeleError is told to the client.

        A string is a command line, which the account's own shell runs as the account. A
        Twisted protocol is spoken in the node's own process, with the node's rights: it has
        to know what it does for whom. One that has something to say after the client's last
        byte provides ``IHalfCloseableProtocol``, as with TCP.
        """


# -- audit, joining, the API ----------------------------------------------------------


class IAuditSink(Interface):
    """Receives every audit event that was appended, in order. A failing sink is counted."""

    def receive(event: Event) -> Deferred[None]:
        """Take one event."""


class IAuditBatchSink(IAuditSink):
    """A sink for which many events are no more work than one; optional."""

    def receive_all(events: Sequence[Event]) -> Deferred[None]:
        """Take all of these events, in order, or none."""


@frozen
class JoinAttempt:
    """A host that wants to join as ``name``. ``proof`` is what it sent after the method's name.

    ``ssh_public_key`` is its new host key (``type base64``), ``remote_addr`` the address
    (``host:port``) that auth sees the call come from.
    """

    proof: str = field(repr=False)
    name: str
    role: HostRole
    ssh_public_key: str
    remote_addr: str


@frozen
class Joined:
    """What a host gets that joins: a node always has the ``labels``, whatever it announces."""

    labels: Mapping[str, str] = Factory(dict)


class IJoinMethod(Interface):
    """A proof, other than a join token, that a host may become a member.

    A host that joins with the token ``NAME:PROOF`` is checked by the method NAME.
    """

    name = Attribute("str: what stands before the colon; a-z, 0-9 and hyphens")

    def check(attempt: JoinAttempt) -> Deferred[Joined]:
        """Check a proof for this role, once per attempt.

        Fails with :class:`tele.errors.AccessDenied`, with the same text for every cause. The
        caller is not authenticated: the work for a wrong proof has to be bounded. Whether a proof
        may be used twice is for the method to decide.
        """


class IAuthority(Interface):
    """Auth, local or remote: performs the operations of :mod:`tele.model.api.table`."""

    def perform(operation: Operation[Any, Any], request: Any) -> Deferred[Any]:
        """Return the operation's response; fails with a :class:`tele.errors.TeleError`."""

    def follow(
        operation: Operation[Any, Any], request: Any, receiver: Callable[[Any], None]
    ) -> Deferred[None]:
        """Tell ``receiver`` each value of a streaming operation.

        Fires when the stream ends; cancel the Deferred to end it.
        """


# -- choosing plugins by ``kind:arguments`` ----------------------------------------------


@frozen
class Surroundings:
    """What a factory may use: the reactor, and ``data_dir``, the folder of this machine."""

    reactor: Any
    data_dir: Path


@frozen
class RecorderSurroundings(Surroundings):
    """``sign`` makes an SSH signature blob with the host's key, ``host_certificate`` is a line.

    ``authority`` is auth, called as this host. All of them work once the host is a member.
    """

    authority: IAuthority
    sign: Callable[[bytes], bytes]
    host_certificate: Callable[[], str]


class IFactory(Interface):
    """Makes one kind of plugin; an object that provides one of the interfaces below.

    It provides ``twisted.plugin.IPlugin``, too, and is found as an attribute of a module in
    a folder ``tele/plugins`` anywhere on Python's path.
    """

    kind = Attribute("str: the word before the colon")
    help = Attribute("str: one line on what it is and what its arguments are")

    def make(arguments: str, surroundings: Any) -> Any:
        """Return the plugin; raises :class:`tele.errors.InvalidInput` for bad arguments.

        ``arguments`` is what stands after the colon, or nothing. ``surroundings`` is a
        :class:`Surroundings`, for a recorder a :class:`RecorderSurroundings`.
        """


class IBackendFactory(IFactory):
    """Makes an :class:`IBackend`; ``auth.store`` chooses it."""


class IArchiveFactory(IFactory):
    """Makes an :class:`IArchive`; ``auth.recordings`` chooses it."""


class IAuditSinkFactory(IFactory):
    """Makes an :class:`IAuditSink`; each element of ``auth.audit`` chooses one."""


class IJoinMethodFactory(IFactory):
    """Makes an :class:`IJoinMethod`; each element of ``auth.join_methods`` chooses one."""


class IRecorderFactory(IFactory):
    """Makes an :class:`IRecorder`; ``node.recorder`` chooses it."""


class ISubsystemFactory(IFactory):
    """Makes an :class:`ISubsystem`; each element of ``node.subsystems`` chooses one."""
