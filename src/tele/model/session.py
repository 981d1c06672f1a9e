"""What happened on a connection? Sessions that run, and recordings that are kept.

A session is one authenticated SSH connection: all its channels share one id, which
is also the id of its recording.
"""

from __future__ import annotations

from datetime import datetime
from enum import Enum

from attrs import frozen


@frozen
class RecordingStart:
    """What is known when a session starts; the first frame of its recording.

    ``kind`` is ``ssh``. ``started`` is wall time, all frames count from it.
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


@frozen
class Launched:
    """What is launched for one channel, whatever the client asked for.

    ``kind`` is ``shell``, ``exec`` (a command line) or ``subsystem`` (no shell at all), and
    ``command`` the command line or the subsystem's name. ``files`` is true for the file
    server, whose bytes are files and not a person's work.
    """

    kind: str
    command: bytes = b""
    files: bool = False


class SessionStatus(str, Enum):
    """Whether a session that has not ended runs: not known while its node is offline."""

    RUNNING = "running"
    UNKNOWN = "unknown"


@frozen
class Session:
    """A session that has not ended. ``started`` is its node's word, ``received`` when auth heard of
    it.

    ``status`` and ``node_seen``, the node's last word if it is offline, are as of the moment of
    asking.
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


@frozen
class Recording:
    """A row of ``tele recordings ls``. ``size`` is in stored (compressed) bytes.

    ``complete`` is false until the signed manifest is there, whatever ``ended`` says.
    ``incomplete`` says why it was closed without being whole; nothing while it is open or complete.
    ``node`` and ``node_id`` are what auth knows of the host that sends it. ``started`` and
    ``ended`` are what that host says; ``received`` is when auth first heard of the session.
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


class RecordingState(str, Enum):
    """How far a recording is, as auth knows.

    ``running``: its node is online and has not said that the session ended. ``ended``: the
    session ended, but its node has not sent all of it. ``unfinished``: nobody said that it
    ended, and its node is gone or does not know of it any more. ``incomplete``: it is closed, by
    its node or by auth, though a part of it is lost or never came; :attr:`Recording.incomplete`
    says why.
    """

    RUNNING = "running"
    ENDED = "ended"
    UNFINISHED = "unfinished"
    COMPLETE = "complete"
    INCOMPLETE = "incomplete"


@frozen
class ChunkDigest:
    """One chunk as the manifest names it; ``sha256`` is hex, of the stored bytes.

    Of a chunk that is lost ``size`` is 0 and ``sha256`` empty, if its node does not know them.
    """

    number: int
    size: int
    sha256: str


@frozen
class Manifest:
    """Closes a recording; signed by the host key of the one who recorded.

    ``host_certificate`` is the signer's SSH host certificate (one line),
    ``signature`` an SSH signature blob over what :func:`tele.tape.verify.to_sign` returns.
    ``recovered`` says that the recorder died and the
    spool was closed after its restart.
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
