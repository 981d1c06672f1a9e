"""What does a member remember over a restart, and where?

Laws of this file:

* Who a host is stands in its identity and nowhere else: auth made its id.
* One process at a time uses a folder; a second one is told so.
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

from tele.errors import Conflict, InvalidInput, TeleError
from tele.membership.files import private_folder, read_private, write_private
from tele.membership.identity import MemberIdentity, from_bytes, to_bytes
from tele.membership.spool import FileSpool, MemorySpool, Spool
from tele.model.api.members import ClusterState
from tele.model.codec import decode, encode
from tele.model.identity import HostRole

HOST_ID: Final = "host_id"


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
    """

    identity: MemberIdentity | None
    state: ClusterState | None
    bound: Mapping[str, str]
    spool: Spool

    def keep_identity(self, identity: MemberIdentity) -> None:
        """Remember a new identity, durably."""

    def keep_state(self, state: ClusterState) -> None:
        """Remember the last state of the cluster."""

    def keep_bound(self, labels: Mapping[str, str]) -> None:
        """Remember the labels that the cluster bound to this host."""

    def close(self) -> None:
        """Let go of files."""


class MemoryStore:
    """``state: memory``: a new host after each start."""

    def __init__(self) -> None:
        self.identity: MemberIdentity | None = None
        self.state: ClusterState | None = None
        self.bound: Mapping[str, str] = {}
        self.spool: Spool = MemorySpool()

    def keep_identity(self, identity: MemberIdentity) -> None:
        """See :class:`MemberStore`."""
        self.identity = identity

    def keep_state(self, state: ClusterState) -> None:
        """See :class:`MemberStore`."""
        self.state = state

    def keep_bound(self, labels: Mapping[str, str]) -> None:
        """See :class:`MemberStore`."""
        self.bound = labels

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
        path = self._folder / "identity.json"
        data = read_private(path)
        if data is None:
            return None
        try:
            return from_bytes(data)
        except TeleError as error:
            raise TeleError(f"{path}: {error}; remove it and join again with a token") from None

    def _read_state(self) -> ClusterState | None:
        data = read_private(self._folder / "state.json")
        try:
            return None if data is None else decode(ClusterState, data)
        except InvalidInput:
            return None  # of another version, or torn: auth tells it again

    def _read_bound(self) -> Mapping[str, str]:
        data = read_private(self._folder / "labels.json")
        return {} if data is None else decode(_Bound, data).labels

    def keep_identity(self, identity: MemberIdentity) -> None:
        """See :class:`MemberStore`."""
        write_private(self._folder / "identity.json", to_bytes(identity))
        self.identity = identity

    def keep_state(self, state: ClusterState) -> None:
        """See :class:`MemberStore`."""
        write_private(self._folder / "state.json", encode(state))
        self.state = state

    def keep_bound(self, labels: Mapping[str, str]) -> None:
        """See :class:`MemberStore`."""
        write_private(self._folder / "labels.json", encode(_Bound(labels)))
        self.bound = labels

    def close(self) -> None:
        """See :class:`MemberStore`."""
        self.spool.close()
        os.close(self._lock)
