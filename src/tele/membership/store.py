"""What does a member keep over a restart, and where?

Invariants:

* The host id stands in the identity and nowhere else: auth made it.
* One process at a time uses a folder; a second one fails with :class:`Conflict`.
* What is kept counts from the call on, written or not: keeping waits for no disk. A host decides by
  what auth sent, also when its disk is full. :meth:`MemberStore.write` may wait, and is called
  in a thread (:mod:`tele.membership.rewriting`).
* ``state.json`` is there only while it and ``labels.json`` are the newest. When either cannot
  be written the old state is removed, which a full disk allows: after a restart the host refuses
  connections until auth has sent the state, instead of deciding by an old one.
* With :class:`MemoryStore` nothing touches a disk.
"""

from __future__ import annotations

import fcntl
import os
import threading
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Protocol

from attrs import frozen

from tele.durable_files import sync_folder
from tele.errors import Conflict, InvalidInput, TeleError
from tele.membership.files import private_folder, read_private, write_private
from tele.membership.heads import HEADS, HeadFile
from tele.membership.identity import MemberIdentity, from_bytes, to_bytes
from tele.membership.spool import FileSpool, MemorySpool, Spool
from tele.model.api.members import ClusterState
from tele.model.codec import decode, encode
from tele.model.identity import HostRole
from tele.model.presence import Host

HOST_ID: Final = "host_id"
IDENTITY: Final = "identity.json"
LABELS: Final = "labels.json"
STATE: Final = "state.json"
NODES: Final = "nodes.json"


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


@frozen
class _Nodes:
    nodes: tuple[Host, ...]


class MemberStore(Protocol):
    """What a member keeps. ``identity`` and ``state`` are None at first.

    ``bound`` are labels that the cluster gave this host, whatever its configuration is; ``nodes``
    the cluster's nodes, for a proxy. ``heads`` are the heads of the audit, None where there is no
    disk. ``is_pending``: something kept is not on disk yet.
    """

    identity: MemberIdentity | None
    state: ClusterState | None
    bound: Mapping[str, str]
    nodes: tuple[Host, ...]
    spool: Spool
    heads: HeadFile | None

    @property
    def is_pending(self) -> bool:
        """Whether :meth:`write` has something to do."""

    def keep_identity(self, identity: MemberIdentity) -> None:
        """Keep a new identity: at once, and durably with the next :meth:`write`."""

    def keep_state(self, state: ClusterState) -> None:
        """Keep the last state of the cluster, likewise."""

    def keep_bound(self, labels: Mapping[str, str]) -> None:
        """Keep the labels that the cluster bound to this host, likewise."""

    def keep_nodes(self, nodes: tuple[Host, ...]) -> None:
        """Keep the cluster's nodes, likewise."""

    def write(self) -> str:
        """Write what is not on disk yet; return why something could not be written, or nothing.

        One thread at a time may call it, while another one keeps something.
        """

    def close(self) -> None:
        """Close files."""


class MemoryStore:
    """``state: memory``: a new host after each start."""

    def __init__(self) -> None:
        self.identity: MemberIdentity | None = None
        self.state: ClusterState | None = None
        self.bound: Mapping[str, str] = {}
        self.nodes: tuple[Host, ...] = ()
        self.spool: Spool = MemorySpool()
        self.heads: HeadFile | None = None

    @property
    def is_pending(self) -> bool:
        """See :class:`MemberStore`."""
        return False

    def keep_identity(self, identity: MemberIdentity) -> None:
        """See :class:`MemberStore`."""
        self.identity = identity

    def keep_state(self, state: ClusterState) -> None:
        """See :class:`MemberStore`."""
        self.state = state

    def keep_bound(self, labels: Mapping[str, str]) -> None:
        """See :class:`MemberStore`."""
        self.bound = labels

    def keep_nodes(self, nodes: tuple[Host, ...]) -> None:
        """See :class:`MemberStore`."""
        self.nodes = nodes

    def write(self) -> str:
        """See :class:`MemberStore`."""
        return ""

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
        self._lock: int | None = self._take_lock(role)
        self.heads: HeadFile | None = HeadFile(self._folder / HEADS)
        #: What is not on disk yet, by the name of its file: returns what is to be in it.
        self._pending: dict[str, Callable[[], bytes]] = {}
        self._changing = threading.Lock()
        try:
            self.identity = self._read_identity()
            self.state = self._read_state()
            self.bound = self._read_bound()
            self.nodes = self._read_nodes()
            self.spool: Spool = FileSpool(self._folder / "events")
        except TeleError:
            os.close(self._lock)
            self._lock = None
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
            return None  # of another version, or torn: auth sends it again

    def _read_bound(self) -> Mapping[str, str]:
        data = read_private(self._folder / LABELS)
        return {} if data is None else decode(_Bound, data).labels

    def _read_nodes(self) -> tuple[Host, ...]:
        data = read_private(self._folder / NODES)
        try:
            return () if data is None else decode(_Nodes, data).nodes
        except InvalidInput:
            return ()  # of another version, or torn: auth sends them again

    @property
    def is_pending(self) -> bool:
        """See :class:`MemberStore`."""
        return bool(self._pending)

    def keep_identity(self, identity: MemberIdentity) -> None:
        """See :class:`MemberStore`."""
        self.identity = identity
        self._keep(IDENTITY, lambda: to_bytes(identity))

    def keep_state(self, state: ClusterState) -> None:
        """See :class:`MemberStore`."""
        self.state = state
        self._keep(STATE, lambda: encode(state))

    def keep_bound(self, labels: Mapping[str, str]) -> None:
        """See :class:`MemberStore`."""
        self.bound = labels
        self._keep(LABELS, lambda: encode(_Bound(labels)))

    def keep_nodes(self, nodes: tuple[Host, ...]) -> None:
        """See :class:`MemberStore`."""
        self.nodes = nodes
        self._keep(NODES, lambda: encode(_Nodes(nodes)))

    def _keep(self, name: str, data: Callable[[], bytes]) -> None:
        with self._changing:
            self._pending[name] = data

    def write(self) -> str:
        """See :class:`MemberStore`."""
        problems: dict[str, str] = {}
        for name in (IDENTITY, LABELS, STATE, NODES):
            data = self._pending.get(name)
            if data is None or (name == STATE and LABELS in self._pending):
                continue
            try:
                write_private(self._folder / name, data())
            except TeleError as error:
                problems[name] = str(error)
            else:
                with self._changing:
                    if self._pending[name] is data:  # else there is a newer one by now
                        del self._pending[name]
        texts = list(problems.values())
        if LABELS in problems or STATE in problems:
            texts += self._remove_old_state()
        return "; ".join(texts)

    def _remove_old_state(self) -> list[str]:
        """Remove the state, so that a restart does not use it; return why that failed."""
        with self._changing:
            state = self.state
            if state is not None and STATE not in self._pending:
                self._pending[STATE] = lambda: encode(state)
        path = self._folder / STATE
        try:
            path.unlink(missing_ok=True)
            sync_folder(self._folder)
        except OSError as error:
            return [f"{path}, which is outdated, cannot be removed: {error.strerror}"]
        return []

    def close(self) -> None:
        """See :class:`MemberStore`. May be called twice."""
        self.spool.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
