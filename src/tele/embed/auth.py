"""How is auth made from its configuration?"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from twisted.internet.interfaces import IReactorTime

from tele.auth.limits import RecordingLimits
from tele.auth.recording_keys import RecordingEncryption
from tele.auth.retention import RetentionRules
from tele.auth.service import AuthService
from tele.config.recordings import RecordingEncryptionConfig
from tele.config.values import AuthConfig
from tele.data_dir import DataDirLock
from tele.durable_files import write_file
from tele.embed.addresses import host_name
from tele.embed.plugins import choose
from tele.embed.signing_key import signing_keys
from tele.interfaces import (
    IArchiveFactory,
    IAuditSinkFactory,
    IBackendFactory,
    IJoinMethodFactory,
    ISearchIndex,
    Surroundings,
)
from tele.loop import make_monotonic
from tele.membership.files import private_folder
from tele.membership.store import host_id_in
from tele.private_files import read_secret
from tele.tape.key_files import private_text, read_private, read_public
from tele.tape.sealing import KEY_SIZE

#: Longer paths do not fit into a socket's address (unix(7)).
_SOCKET_PATH_LIMIT = 107
LOCAL_SOCKET = "auth.sock"
#: Auth's private key that opens recordings, in data_dir.
RECORDING_KEY = "recordings.key"
#: The store, in data_dir, if the configuration names no other.
STORE_FILE = "auth.sqlite"
#: The text of recordings, in data_dir.
SEARCH_FILE = "recordings-text.sqlite"


def _remove_dead_socket(path: Path) -> None:
    """Remove the socket of an auth that was killed, and Twisted's lock beside it.

    That lock names a process id, which another process may have after a crash: auth would not start
    until that ends. Whether the socket accepts a connection decides instead.
    """
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
        except OSError:
            return  # the path is too long for a socket: there is none


def auth_service(reactor: IReactorTime, config: AuthConfig, data_dir: Path) -> AuthService:
    """Return auth on the store and archive that ``config`` chooses.

    Locks auth's part of ``data_dir`` and opens the store: call it in the process that serves.
    Raises :class:`tele.errors.Conflict` when another process has locked it.
    """
    make_monotonic(reactor)
    folder = private_folder(data_dir)
    lock = DataDirLock(folder, "auth")
    try:
        return _locked(reactor, config, folder, lock)
    except BaseException:
        lock.release()
        raise


def _encryption(config: RecordingEncryptionConfig, folder: Path) -> RecordingEncryption:
    """Return for whom recordings are sealed. Auth's own key is made when it is first needed."""
    path = folder / RECORDING_KEY
    if not path.exists():
        if not config.enabled:
            return RecordingEncryption()
        write_file(path, private_text(os.urandom(KEY_SIZE)).encode("ascii"), replace=False)
    private = read_private(read_secret(path, "the key of recordings"))
    recovery = tuple(read_public(text) for text in config.recovery_keys)
    return RecordingEncryption(config.enabled, private, recovery, config.searchable)


def _store_file(config: AuthConfig, folder: Path) -> Path | None:
    """Return the SQLite file of the store, None if it is another store."""
    if config.store.kind != "sqlite":
        return None
    return folder / (config.store.arguments or STORE_FILE)


def _search(config: AuthConfig, folder: Path, reactor: IReactorTime) -> ISearchIndex | None:
    """Return where the text of recordings is searched.

    Stores other than SQLite are shared by auths on several machines: each would have a part.
    """
    if config.store.kind != "sqlite":
        return None
    from tele.store.search import SqliteSearch

    return SqliteSearch(folder / SEARCH_FILE, reactor)


def _locked(
    reactor: IReactorTime, config: AuthConfig, folder: Path, lock: DataDirLock
) -> AuthService:
    surroundings = Surroundings(reactor, folder)
    local = folder / LOCAL_SOCKET
    _remove_dead_socket(local)
    archive = choose(IArchiveFactory, config.recordings, surroundings)
    sinks = [choose(IAuditSinkFactory, each, surroundings) for each in config.audit]
    methods = [choose(IJoinMethodFactory, each, surroundings) for each in config.join_methods]
    backend = choose(IBackendFactory, config.store, surroundings)
    return AuthService(
        reactor,
        cluster=config.cluster_name,
        backend=backend,
        search=_search(config, folder, reactor),
        archive=archive,
        host_id=host_id_in(folder),
        name=host_name(),
        listen=(config.listen.host, config.listen.port),
        recording=config.session_recording,
        client_keepalive=config.client_keepalive,
        session_end_after=config.session_end_after,
        recording_limits=RecordingLimits(
            config.recording_limits.session.bytes,
            config.recording_limits.user.bytes,
            config.recording_limits.node.bytes,
        ),
        retention=RetentionRules(
            config.recordings_retention.max_age, config.recordings_retention.max_size.bytes
        ),
        encryption=_encryption(config.recording_encryption, folder),
        signing_keys=signing_keys(config.signing_keys, folder, _store_file(config, folder)),
        sinks=sinks,
        join_methods=methods,
        suite=config.signature_algorithm_suite,
        local_socket=local if len(bytes(local)) <= _SOCKET_PATH_LIMIT else None,
        lock=lock,
    )
