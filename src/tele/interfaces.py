"""Which parts of tele can be replaced? Every plugin point, documented.

Invariants:

* A required interface has at most five methods; more features are a second, optional one.
* A method that may wait returns a Deferred, always.
* Values are those of :mod:`tele.model`.
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
from tele.model.host_user import Ensured, HostUser, Recovered, Released
from tele.model.identity import HostRole
from tele.model.searching import SearchedLine as SearchedLine
from tele.model.searching import SearchedRecording as SearchedRecording
from tele.model.searching import SearchPage as SearchPage
from tele.model.searching import SearchQuery as SearchQuery
from tele.model.session import RecordingStart
from tele.model.stuck import StuckUpload
from tele.model.trace import Traced, TracedProgram, TraceKind, TraceLost

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred
    from twisted.internet.interfaces import IProtocol, IReactorTime

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
    """Remove ``key``, if its revision is ``if_revision`` (None: any)."""

    key: str
    if_revision: int | None = None


@frozen
class Change:
    """A change of a key. ``item`` is None when ``key`` was removed or its lease expired."""

    key: str
    revision: int
    item: Item | None


class IWatch(Interface):
    """A running watch."""

    def stop() -> None:
        """End the watch. May be called twice."""


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
        """Call ``receiver`` with every change under ``prefix`` from now on, in order."""

    def close() -> Deferred[None]:
        """Finish running calls, then release files and connections."""


class IBatchBackend(IBackend):
    """A store that reads many keys with one call; optional."""

    commit_limit = Attribute("(changes, bytes) that one commit has at most; None: any number")

    def get_many(keys: Sequence[str]) -> Deferred[Sequence[Item | None]]:
        """Return for each key the item, or None, of the same revision of the store."""


class IOnDisk(Interface):
    """A backend or an archive on a disk of this machine."""

    def space() -> DiskSpace:
        """Return the space of that disk and of the reserve. Never waits."""


# -- recordings -----------------------------------------------------------------------


class IArchive(Interface):
    """A storage of recordings: named blobs of a recording, written once."""

    def put(recording_id: str, name: str, data: bytes) -> Deferred[None]:
        """Store durably. The same bytes again succeed, others are :class:`tele.errors.Conflict`."""

    def get(recording_id: str, name: str) -> Deferred[bytes]:
        """Return the bytes; fails with :class:`tele.errors.NotFound`."""

    def names(recording_id: str) -> Deferred[Sequence[tuple[str, int]]]:
        """Return (name, size in bytes) of each blob, in order of names."""

    def remove(recording_id: str) -> Deferred[None]:
        """Remove all blobs of a recording; succeeds if there are none."""


class IUploadingArchive(IArchive):
    """An archive that stores blobs on auth's disk first, and uploads them later; optional."""

    def start(
        backend: IBackend, owner: str, report: Callable[[StuckUpload], Deferred[None]]
    ) -> Deferred[None]:
        """Begin to upload. It may keep rows in ``backend``, below ``/archive/``.

        ``owner`` is the id of this auth, the same one after a restart. ``report`` emits the event
        of an upload that does not go on.
        """

    def stop() -> Deferred[None]:
        """Stop; what was not uploaded is uploaded after the next start."""

    def stuck() -> Deferred[Sequence[StuckUpload]]:
        """Return the uploads that do not go on."""

    def retry(recording_id: str) -> Deferred[None]:
        """Try again now; fails with :class:`tele.errors.NotFound` if it is not stuck here."""


class IRangeArchive(IArchive):
    """An archive that reads a part of a blob without the rest; optional."""

    def get_range(recording_id: str, name: str, start: int, end: int) -> Deferred[bytes]:
        """Return the bytes from ``start`` up to ``end``, fewer where the blob ends before.

        Fails with :class:`tele.errors.NotFound`.
        """


class ISearchIndex(Interface):
    """The text of recordings, to search in."""

    def add(recording: SearchedRecording, lines: Sequence[SearchedLine]) -> Deferred[None]:
        """Store the lines of a recording, instead of those that are there."""

    def remove(recording_id: str) -> Deferred[None]:
        """Remove a recording; succeeds if it is not there."""

    def scrub() -> Deferred[None]:
        """Leave nothing in files of what was removed. May take minutes; others are served."""

    def search(query: SearchQuery, key: str) -> Deferred[SearchPage]:
        """Return a page, newest first; ``key`` is who searches, and has a share of the work."""

    def close() -> Deferred[None]:
        """Finish what runs, then release files."""


class IRecording(Interface):
    """One session being recorded."""

    paused = Attribute("bool: the recorder is behind; the session stops reading until it resumes")

    def write(frame: Frame) -> None:
        """Take one frame, in order of their numbers. Never blocks and never raises."""

    def when_resumed(callback: Callable[[], None]) -> None:
        """Call ``callback`` once, when ``paused`` turns false."""

    def close(reason: str, sequence: int = 0) -> Deferred[None]:
        """The session ended; its last frame had the number ``sequence``.

        Fires when the recording is safe on this machine.
        """


class ISyncRecording(IRecording):
    """A recording that knows what auth has of it; modes with ``-sync`` need one."""

    def synced(sequence: int) -> Deferred[None]:
        """Fire when auth durably has all frames up to the number ``sequence``.

        What is asked for is sent at once. Fails with a TeleError when auth will never have them.
        It may be cancelled.
        """


class IReportingRecording(IRecording):
    """A recording that reports what it loses. It may pause the session for as long as it needs."""

    def on_loss(callback: Callable[[str], None]) -> None:
        """Call ``callback`` with the reason whenever frames are lost, or begin to be lost."""


class IRecorder(Interface):
    """Records every session; the built-in recorder writes and uploads the tape."""

    def open(start: RecordingStart) -> Deferred[IRecording]:
        """Open the recording of a session that starts. A failure refuses the session.

        :class:`tele.errors.Unavailable`, the session cannot be recorded for now, refuses it only if
        a role has ``record: strict``; otherwise the session starts, and this is called again.
        """


@frozen
class NamedRecorder:
    """A recorder, with the name that messages about it have."""

    name: str
    recorder: IRecorder


# -- subsystems -----------------------------------------------------------------------


@frozen
class SubsystemSession:
    """The authorized session of a subsystem. ``remote_addr`` is ``host:port``."""

    user: str
    login: str
    roles: tuple[str, ...]
    session_id: str
    remote_addr: str


class ISubsystem(Interface):
    """A subsystem of a node (RFC 4254, section 6.5): ``ssh -s NODE NAME``."""

    name = Attribute("str: its name; ``sftp`` is the node's own")

    def start(session: SubsystemSession) -> Deferred[str | IProtocol]:
        """Return what serves one session; the client reads the text of a TeleError.

        A string is a command line, which the account's own shell runs as the account. A Twisted
        protocol runs in the node's own process, with the node's rights, and has to check itself
        what it does for which user. A protocol that sends data after the client's end of file
        provides ``IHalfCloseableProtocol``, as with TCP.
        """


# -- tracing ----------------------------------------------------------------------------


class ITrace(Interface):
    """One program of a session that is traced, with everything that it starts."""

    number = Attribute("int: by what its first process joins an :class:`IJoinedTracer`, or 0")

    def started(pid: int, cgroup: int) -> None:
        """Its first process runs; ``cgroup`` is the id of its control group, or 0."""

    def flush() -> Deferred[None]:
        """Fire when all that happened until now was reported. Never fails."""

    def close() -> Deferred[None]:
        """Report what is left, and trace it no more. May be called twice. Never fails."""


class ISessionTracer(Interface):
    """Reports what programs of sessions do, as the kernel of the machine knows it."""

    def missing() -> Mapping[TraceKind, str]:
        """Return the kinds that it cannot trace on this machine, each with the reason."""

    def open(
        program: TracedProgram, receiver: Callable[[Traced | TraceLost], None]
    ) -> Deferred[ITrace]:
        """Trace a program that is about to start; ``receiver`` is called in order of their numbers.

        Fails with :class:`tele.errors.Unavailable`: the program does not start then.
        """

    def stop() -> Deferred[None]:
        """The node stops: end, and leave nothing in the kernel."""


class IJoinedTracer(ISessionTracer):
    """A tracer that processes join before they execute anything; optional."""

    descriptor = Attribute("int: the socket by which they do (:mod:`tele.tracer.messages`)")


# -- accounts -------------------------------------------------------------------------


class IHostUsers(Interface):
    """Makes OS accounts of a node. Those that it did not make it never changes or removes.

    For one login there is one call at a time. All fail with a :class:`tele.errors.TeleError`; the
    user reads its text.
    """

    def recover() -> Deferred[Recovered]:
        """The node starts, no session runs: take all lines of sudoers out of force."""

    def ensure(login: str, wanted: HostUser | None) -> Deferred[Ensured]:
        """Make the account, or change it; with None none is made, and it loses its rights."""

    def release(login: str) -> Deferred[Released]:
        """No session needs it: take its sudoers away, and remove it if it is to be dropped."""


# -- audit, joining, the API ----------------------------------------------------------


class IAuditSink(Interface):
    """Receives every appended audit event, in order. Failures are counted."""

    def receive(event: Event) -> Deferred[None]:
        """Take one event."""


class IAuditBatchSink(IAuditSink):
    """A sink that takes many events with one call; optional."""

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

    A host that joins with the token ``NAME:PROOF`` is checked by the method NAME. Auth makes no
    token that begins like this.
    """

    name = Attribute("str: what stands before the colon; a-z, 0-9 and hyphens")

    def check(attempt: JoinAttempt) -> Deferred[Joined]:
        """Check a proof for this role, once per attempt.

        Fails with :class:`tele.errors.AccessDenied`, with the same text for every cause. The
        caller is not authenticated: the work for a wrong proof has to be bounded. Whether a proof
        may be used twice is for the method to decide. Another exception refuses the host, too, and
        is logged: the host does not learn its text.
        """


class IAuthority(Interface):
    """Auth, local or remote: performs the operations of :mod:`tele.model.api.table`."""

    def perform(operation: Operation[Any, Any], request: Any) -> Deferred[Any]:
        """Return the operation's response; fails with a :class:`tele.errors.TeleError`."""

    def follow(
        operation: Operation[Any, Any], request: Any, receiver: Callable[[Any], None]
    ) -> Deferred[None]:
        """Call ``receiver`` with each value of a streaming operation.

        Fires when the stream ends; cancel the Deferred to end it.
        """


# -- choosing plugins by ``kind:arguments`` ----------------------------------------------


@frozen
class Surroundings:
    """What a factory may use: the reactor, and ``data_dir``, the directory of this machine.

    A factory adapts the reactor to what else it needs, as in ``IReactorTCP(reactor)``.
    """

    reactor: IReactorTime
    data_dir: Path


@frozen
class RecorderSurroundings(Surroundings):
    """``sign`` returns an SSH signature blob by the host's key, ``host_certificate`` a line.

    ``authority`` is auth, called as this host. All three work after the host has joined.
    ``recipients`` returns the X25519 public keys of those who may open recordings; if there are
    none, recordings are not sealed.
    """

    authority: IAuthority
    sign: Callable[[bytes], bytes]
    host_certificate: Callable[[], str]
    recipients: Callable[[], tuple[bytes, ...]] = tuple


@frozen
class HostUsersSurroundings(Surroundings):
    """``request`` asks the node's spawner, the one process that makes accounts of the machine."""

    request: Callable[[Mapping[str, Any]], Deferred[Mapping[str, Any]]]


class IFactory(Interface):
    """Makes one kind of plugin; an object that provides one of the interfaces below.

    It provides ``twisted.plugin.IPlugin``, too, and is found as an attribute of a module in a
    directory ``tele/plugins`` anywhere on Python's path.
    """

    kind = Attribute("str: what stands before the colon")
    help = Attribute("str: one line on what it is and what its arguments are")

    def make(arguments: str, surroundings: Any) -> Any:
        """Return the plugin; raises :class:`tele.errors.InvalidInput` for bad arguments.

        ``arguments`` is the text after the colon, or nothing. ``surroundings`` is a
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


class IHostUsersFactory(IFactory):
    """Makes an :class:`IHostUsers`; ``node.host_users.accounts`` chooses it."""


class ISessionTracerFactory(IFactory):
    """Makes an :class:`ISessionTracer`; ``node.tracer`` chooses it."""
