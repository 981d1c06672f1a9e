"""What are a session, its recording and its manifest?

A session is one authenticated SSH connection: all its channels share one id, which is also the id
of its recording.
"""

from __future__ import annotations

from datetime import datetime
from enum import Enum

from attrs import field, frozen

from tele.model.bounds import OMITTED
from tele.model.identity import HostPlace, HostRole


def _recorded_by(recorder: HostRole, recorder_id: str, node_id: str) -> HostPlace:
    """A node records its own sessions only, whatever ``recorder_id`` says."""
    return recorder, node_id if recorder is HostRole.NODE else recorder_id


@frozen
class RecordingStart:
    """The facts of a session at its start; the first frame of its recording.

    ``kind`` is ``ssh``. ``started`` is wall time; the times of frames are relative to it.

    ``node`` and ``node_id`` are the host on which the session is, ``recorder`` and ``recorder_id``
    the one that records it: that node, or a proxy. ``mode`` is the recording mode, ``target`` what
    the host is (empty: a node of this cluster), ``certificate`` the serial of the session's
    certificate. What is left out is signed as it always was.
    """

    id: str
    kind: str
    cluster: str
    user: str
    login: str
    roles: tuple[str, ...]
    login_session: str
    node: str
    node_id: str
    remote_addr: str
    started: datetime
    recorder: HostRole = field(default=HostRole.NODE, metadata=OMITTED)
    recorder_id: str = field(default="", metadata=OMITTED)
    mode: str = field(default="", metadata=OMITTED)
    target: str = field(default="", metadata=OMITTED)
    certificate: str = field(default="", metadata=OMITTED)

    @property
    def recorded_by(self) -> HostPlace:
        """The host that records the session, sends the recording and signs it."""
        return _recorded_by(self.recorder, self.recorder_id, self.node_id)


@frozen
class Launched:
    """The program that is launched for one channel, whatever the client requested.

    ``kind`` is ``shell``, ``exec`` (a command line) or ``subsystem`` (without a shell), and
    ``command`` the command line or the subsystem's name. ``files`` is true for the file server,
    whose bytes are files and not a terminal session. ``forced`` is the command that a role or the
    certificate forces, if one does.
    """

    kind: str
    command: bytes = b""
    files: bool = False
    forced: str | None = None


class SessionStatus(str, Enum):
    """Whether a session that has not ended runs: unknown while its node is offline."""

    RUNNING = "running"
    UNKNOWN = "unknown"


@frozen
class Session:
    """A session that has not ended. ``started`` is the node's time, ``received`` auth's.

    ``status`` and ``node_seen``, the last announcement of an offline node, are as of the response.
    """

    id: str
    user: str
    login: str
    node: str
    node_id: str
    remote_addr: str
    started: datetime
    login_session: str = ""
    interactive: bool = False
    received: datetime | None = None
    status: SessionStatus = SessionStatus.RUNNING
    node_seen: datetime | None = None
    recorder: HostRole = field(default=HostRole.NODE, metadata=OMITTED)
    recorder_id: str = field(default="", metadata=OMITTED)

    @property
    def recorded_by(self) -> HostPlace:
        """The host that records the session, sends the recording and signs it."""
        return _recorded_by(self.recorder, self.recorder_id, self.node_id)


@frozen
class Recording:
    """A row of ``tele recordings ls``. ``size`` is in stored (compressed) bytes.

    ``complete`` is false until the signed manifest is stored, whatever ``ended`` is. ``incomplete``
    is why it was closed without being complete; empty while it is open or complete. ``node`` and
    ``node_id`` are auth's knowledge of the host on which the session was. ``started`` and ``ended``
    are the times of the host that sends it; ``received`` is when auth received the start.
    ``recorder``, ``recorder_id``, ``mode`` and ``target``: see :class:`RecordingStart`.
    """

    id: str
    kind: str
    user: str
    login: str
    node: str
    started: datetime
    ended: datetime | None
    interactive: bool
    size: int
    node_id: str = ""
    chunks: int = 0
    complete: bool = False
    received: datetime | None = None
    incomplete: str = ""
    recorder: HostRole = field(default=HostRole.NODE, metadata=OMITTED)
    recorder_id: str = field(default="", metadata=OMITTED)
    mode: str = field(default="", metadata=OMITTED)
    target: str = field(default="", metadata=OMITTED)

    @property
    def recorded_by(self) -> HostPlace:
        """The host that records the session, sends the recording and signs it."""
        return _recorded_by(self.recorder, self.recorder_id, self.node_id)


class RecordingState(str, Enum):
    """The state of a recording, as auth knows it.

    ``running``: its node is online and has not reported the end of the session. ``ended``: the
    session ended, but its node has not sent all of it. ``unfinished``: the end was not reported,
    and its node is offline or does not know the session any more. ``incomplete``: it was closed, by
    its node or by auth, and a part of it is missing; :attr:`Recording.incomplete` is the reason.
    """

    RUNNING = "running"
    ENDED = "ended"
    UNFINISHED = "unfinished"
    COMPLETE = "complete"
    INCOMPLETE = "incomplete"


@frozen
class ChunkDigest:
    """One chunk in a manifest; ``sha256`` is hex, of the stored bytes.

    For a lost chunk ``size`` is 0 and ``sha256`` empty, if its node does not know them.
    """

    number: int
    size: int
    sha256: str


@frozen
class WrappedKey:
    """The data key ``number`` of a recording, for one recipient.

    ``recipient`` is its X25519 public key, 32 bytes; ``data`` what
    :func:`tele.tape.sealing.wrap` returns.
    """

    number: int
    recipient: bytes
    data: bytes


@frozen
class Manifest:
    """Closes a recording; signed by the host key of its recorder.

    ``host_certificate`` is the signer's SSH host certificate (one line), ``signature`` an SSH
    signature blob over what :func:`tele.tape.verify.to_sign` returns. ``recovered``: the recorder
    was killed, and the spool was closed after its restart. ``sequence`` is the number of frames
    that the session had, those that were lost included. ``keys`` are the data keys that its chunks
    are sealed with, ``generation`` counts the manifests of a recording.
    """

    id: str
    version: int
    start: RecordingStart
    ended: datetime
    chunks: tuple[ChunkDigest, ...]
    frames: int
    interactive: bool
    recovered: bool
    host_certificate: str
    signature: bytes = b""
    sequence: int = field(default=0, metadata=OMITTED)
    keys: int = field(default=0, metadata=OMITTED)
    generation: int = field(default=1, metadata=OMITTED)
