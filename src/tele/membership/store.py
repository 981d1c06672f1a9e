"""What does a member remember over a restart, and where?

Laws of this file:

* Who a host is stands in its identity and nowhere else: auth made its id.
* One process at a time uses a folder; a second one is told so.
* What is kept counts from the call on, written or not. A host decides by what it was told,
  also when its disk is full.
* ``state.json`` is there only while it and ``labels.json`` are the newest. When either cannot
  be written the old state is removed, which a full disk allows: after a restart the host lets
  nobody in until auth has told it the state, instead of deciding by an old one.
* With :class:`MemoryStore` nothing touches a disk.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

from attrs import frozen

from tele.durable_files import sync_folder
from tele.errors import Conflict, InvalidInput, TeleError
from tele.membership.files import private_folder, read_private, write_private
from tele.membership.identity import MemberIdentity, from_bytes, to_bytes
from tele.membership.spool import FileSpool, MemorySpool, Spool
from tele.model.api.members import ClusterState
from tele.model.codec import decode, encode
from tele.model.identity import HostRole

HOST_ID: Final = "host_id"
IDENTITY: Final = "identity.json"
LABELS: Final = "labels.json"
STATE: Final = "state.json"


def host_id_in(folder: Path) -> str:
    """Return the id of auth (a UUID in text), made and kept in ``folder`` if need be.

    Raises :class:`TeleError` if the file holds something else.
    """
    path = private_folder(folder) / HOST_ID
    while True:
        data = read_private(path)
        if data is not None:
            break
        # Several parts may start in one folder at once: the first one wins.
        write_private(path, f"{uuid.uuid4()}\n".encode(), replace=False)
    try:
        return str(uuid.UUID(data.decode("ascii").strip()))
    except ValueError:
        raise TeleError(f"{path} does not hold the id of auth; restore or remove it") from None


@frozen
class _Bound:
    labels: Mapping[str, str]


class MemberStore(Protocol):
    """What a member remembers. ``identity`` and ``state`` are None at first.

    ``bound`` are labels that the cluster gave this host, whatever it says of itself.
    ``unwritten`` is why something kept is not on disk yet, or empty. Nothing that is kept raises.
    """

    identity: MemberIdentity | None
    state: ClusterState | None
    bound: Mapping[str, str]
    spool: Spool
    unwritten: str

    def keep_identity(self, identity: MemberIdentity) -> None:
        """Remember a new identity: at once, and durably as soon as that can be."""

    def keep_state(self, state: ClusterState) -> None:
        """Remember the last state of the cluster, likewise."""

    def keep_bound(self, labels: Mapping[str, str]) -> None:
        """Remember the labels that the cluster bound to this host, likewise."""

    def write_again(self) -> None:
        """Try to write what could not be written."""

    def close(self) -> None:
        """Let go of files."""


class MemoryStore:
    """``state: memory``: a new host after each start."""

    def __init__(self) -> None:
        self.identity: MemberIdentity | None = None
        self.state: ClusterState | None = None
        self.bound: Mapping[str, str] = {}
        self.spool: Spool = MemorySpool()
        self.unwritten = ""

    def keep_identity(self, identity: MemberIdentity) -> None:
        """See :class:`MemberStore`."""
        self.identity = identity

    def keep_state(self, state: ClusterState) -> None:
        """See :class:`MemberStore`."""
        self.state = state

    def keep_bound(self, labels: Mapping[str, str]) -> None:
        """See :class:`MemberStore`."""
        self.bound = labels

    def write_again(self) -> None:
        """See :class:`MemberStore`."""

    def close(self) -> None:
        """See :class:`MemberStore`."""


class DirectoryStore:
    """Files in ``<data_dir>/identity/<role>``.

    Raises :class:`Conflict` when another process uses the folder, :class:`TeleError`
    when a file is damaged, readable by others or cannot be used at all.
    """

    def __init__(self, data_dir: Path, role: HostRole) -> None:
        identities = private_folder(private_folder(data_dir) / "identity")
        self._folder = private_folder(identities / role.value)
        self._lock = self._take_lock(role)
        #: What is not on disk yet, by the name of its file.
        self._pending: dict[str, bytes] = {}
        self.unwritten = ""
        try:
            self.identity = self._read_identity()
            self.state = self._read_state()
            self.bound = self._read_bound()
            self.spool: Spool = FileSpool(self._folder / "events")
        except TeleError:
            os.close(self._lock)
            raise

    def _take_lock(self, role: HostRole) -> int:
        path = self._folder / "lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise Conflict(f"another {role.value} is running on {self._folder}") from None
        return descriptor

    def _read_identity(self) -> MemberIdentity | None:
        path = self._folder / IDENTITY
        data = read_private(path)
        if data is None:
            return None
        try:
            return from_bytes(data)
        except TeleError as error:
            raise TeleError(f"{path}: {error}; remove it and join again with a token") from None

    def _read_state(self) -> ClusterState | None:
        data = read_private(self._folder / STATE)
        try:
            return None if data is None else decode(ClusterState, data)
        except InvalidInput:
            return None  # of another version, or torn: auth tells it again

    def _read_bound(self) -> Mapping[str, str]:
        data = read_private(self._folder / LABELS)
        return {} if data is None else decode(_Bound, data).labels

    def keep_identity(self, identity: MemberIdentity) -> None:
        """See :class:`MemberStore`."""
        self.identity = identity
        self._keep(IDENTITY, to_bytes(identity))

    def keep_state(self, state: ClusterState) -> None:
        """See :class:`MemberStore`."""
        self.state = state
        self._keep(STATE, encode(state))

    def keep_bound(self, labels: Mapping[str, str]) -> None:
        """See :class:`MemberStore`."""
        self.bound = labels
        self._keep(LABELS, encode(_Bound(labels)))

    def _keep(self, name: str, data: bytes) -> None:
        self._pending[name] = data
        self.write_again()

    def write_again(self) -> None:
        """See :class:`MemberStore`."""
        problems: list[str] = []
        for name in (IDENTITY, LABELS, STATE):
            if name not in self._pending or (name == STATE and LABELS in self._pending):
                continue
            try:
                write_private(self._folder / name, self._pending[name])
            except TeleError as error:
                problems.append(str(error))
            else:
                del self._pending[name]
        if LABELS in self._pending or STATE in self._pending:
            problems += self._remove_old_state()
        self.unwritten = "; ".join(problems)

    def _remove_old_state(self) -> list[str]:
        """Have nothing left to decide by after a restart; return what is wrong with that."""
        if self.state is not None:
            self._pending[STATE] = encode(self.state)
        path = self._folder / STATE
        try:
            path.unlink(missing_ok=True)
            sync_folder(self._folder)
        except OSError as error:
            return [f"{path}, which is outdated, cannot be removed: {error.strerror}"]
        return []

    def close(self) -> None:
        """See :class:`MemberStore`."""
        self.spool.close()
        os.close(self._lock)
