"""The process of ``tele up``: it runs a cluster, and keeps its owner logged in.

The owner of the folder owns the cluster's CA keys, so the process issues certificates to the owner
without a password, and renews them while it runs and they are used.
"""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Callable
from typing import Any

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorCore, IReactorFromThreads
from twisted.internet.task import LoopingCall, deferLater
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from tele.auth.local import LocalAuthority
from tele.capacity.descriptors import process_budget, raise_limit
from tele.certs.x509 import TlsKey
from tele.cli.folder import Folder, default_folder
from tele.cli.home import Home, Profile
from tele.cli.login import store_certificates
from tele.config.values import Address, FileConfig
from tele.embed import ClusterService, load_config
from tele.embed.addresses import public_address
from tele.errors import AccessDenied, NotFound, TeleError, Unavailable
from tele.log import LogFormat, make_logger, set_up_logging
from tele.loop import Expiry, make_monotonic, now
from tele.model.api.hosts import LIST_HOSTS, ListHosts
from tele.model.api.members import PublicKeys
from tele.model.authority import AuthorityKind, Certificates, authority_of
from tele.reactor import Reactor

_log = make_logger(__name__)

#: Seconds between two checks whether the owner's certificate has to be renewed.
_RENEWAL_CHECK_SECONDS = 60.0
#: How long the node may take to be online.
ONLINE_SECONDS = 30.0


def run_cluster(
    place: Folder,
    user: str,
    logins: tuple[str, ...],
    listen: tuple[str, int] | None,
    report: Callable[[dict[str, Any]], None],
) -> int:
    """Run until a signal; return the exit status.

    ``report`` is called once when all parts serve. Raises :class:`TeleError` if they cannot.
    """
    from twisted.internet import reactor

    make_monotonic(reactor)
    loaded = load_config(place.config)
    config = _for_now(loaded.config, listen)
    loaded = evolve(loaded, config=config)
    log_config = config.log
    with open(place.log, "a", encoding="utf-8", opener=_private) as log:
        set_up_logging(log_config.level.value, log, LogFormat(log_config.format.value))
        raise_limit()
        process_budget()
        run = _Run(reactor, place, ClusterService(reactor, loaded), config, user, logins)
        problem = run.until_stopped(report)
    if problem is not None:
        raise problem
    return 0


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _for_now(config: FileConfig, listen: tuple[str, int] | None) -> FileConfig:
    """Return the configuration with ``--listen``, and free ports for those that are in use."""
    import socket

    def free(address: Address) -> Address:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address.host, address.port))
            except OSError:
                return Address(address.host, 0)
        return address

    if config.auth is not None and config.auth.listen.host == "127.0.0.1":
        config = evolve(config, auth=evolve(config.auth, listen=free(config.auth.listen)))
    node = config.node
    if node is not None and node.listen is not None and node.listen.host == "127.0.0.1":
        config = evolve(config, node=evolve(node, listen=free(node.listen)))
    if config.proxy is not None and listen is not None:
        changed = evolve(config.proxy, listen=Address(*listen), public_addr=None)
        config = evolve(config, proxy=changed)
    return config


def _as_tele_error(failure: Failure) -> TeleError:
    error = failure.value
    return error if isinstance(error, TeleError) else TeleError(failure.getErrorMessage())


class _Run:
    """One run of a cluster."""

    def __init__(
        self,
        reactor: Reactor,
        place: Folder,
        cluster: ClusterService,
        config: FileConfig,
        user: str,
        logins: tuple[str, ...],
    ) -> None:
        self._reactor = reactor
        self._core = IReactorCore(reactor)
        self._place = place
        self._cluster = cluster
        self._config = config
        self._user = user
        self._logins = logins
        self._problem: TeleError | None = None
        self._home = Home.find()
        self._logged_in: Profile | None = None
        self._ours = ""
        self._node_name = ""
        self._half: Expiry | None = None

    def until_stopped(self, report: Callable[[dict[str, Any]], None]) -> TeleError | None:
        """Run the reactor; return the error if the cluster could not start."""
        self._core.addSystemEventTrigger("before", "shutdown", self._stop)
        self._core.callWhenRunning(self._begin, report)
        self._core.run()
        return self._problem

    def _stop(self) -> Deferred[Any]:
        """Stop, and end sessions at once: a user waits for `tele down`."""
        self._cluster.force()
        return self._cluster.stopService()

    def _begin(self, report: Callable[[dict[str, Any]], None]) -> None:
        # The reactor has installed its own handlers by now. A closed terminal stops it, too.
        threads = IReactorFromThreads(self._reactor)
        signal.signal(signal.SIGHUP, lambda *_: threads.callFromThread(self._core.stop))
        self._cluster.startService()
        running: Deferred[None] = Deferred.fromCoroutine(self._serve(report))
        running.addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        if failure.check(CancelledError):
            return  # stopped while it started
        if not failure.check(TeleError):
            _log.failure("cannot start", failure)
            self._problem = TeleError(
                f"the cluster cannot start: {failure.getErrorMessage()}; see {self._place.log}"
            )
        else:
            self._problem = _as_tele_error(failure)
            _log.error("cannot start", error=failure.value)
        if self._core.running:
            self._core.stop()

    async def _serve(self, report: Callable[[dict[str, Any]], None]) -> None:
        await self._cluster.ready
        await self._all_online()
        self._logged_in = await self._log_in()
        report(self._started(self._logged_in))
        checking = LoopingCall(lambda: Deferred.fromCoroutine(self._renew_if_due()))
        stopped: Deferred[Any] = checking.start(_RENEWAL_CHECK_SECONDS, now=False)
        stopped.addErrback(lambda f: _log.failure("owner's certificate not renewed", f))

    async def _all_online(self) -> None:
        """Wait until the node is online, so that ``tele ls`` shows it."""
        if self._cluster.node is None:
            return
        deadline = self._reactor.seconds() + ONLINE_SECONDS
        while not await self._find_node():
            if self._reactor.seconds() > deadline:
                raise Unavailable(f"the node is not online yet; see {self._place.log}")
            await deferLater(self._reactor, 0.02)

    async def _find_node(self) -> bool:
        """Remember the name of our node once it is online with an address."""
        node, since = self._cluster.node, self._cluster.node_since
        if node is None or since is None:
            return True
        page = await self._cluster.owner.perform(LIST_HOSTS, ListHosts(limit=1000))
        for host in page.items:
            # An earlier announcement is of its last run, or has no address yet.
            # If ``since`` is in the future, the clock was set back.
            announced = host.last_seen >= since or since > now(self._reactor)
            if host.id == node.member.host_id and announced and host.addresses:
                self._node_name = host.name
                return True
        return False

    def _authority(self) -> LocalAuthority:
        auth = self._cluster.auth
        if auth is None or auth.authority is None:
            raise Unavailable("auth ended while the cluster started")
        return auth.authority

    def _profile(self, got: Certificates) -> Profile:
        host = authority_of(got.authorities, AuthorityKind.HOST)
        config = self._config
        if config.auth is None or config.proxy is None:
            raise Unavailable("tele up needs the sections auth and proxy")
        address = public_address(
            config.proxy.listen, config.proxy.public_addr, config.proxy.listen.port
        )
        return Profile(config.auth.cluster_name, address, self._user, host.pins if host else ())

    async def _log_in(self) -> Profile:
        """Make the owner an administrator, with certificates in ``$TELE_HOME``."""
        await self._authority().ensure_admin(self._user, self._logins)
        return await self._renew()

    async def _renew(self) -> Profile:
        """Get certificates for the owner, whose user must still exist."""
        authority = self._authority()
        ssh, tls = authority.suite.generate(), TlsKey.generate()
        keys = PublicKeys(ssh.public.line, tls.public_pem)
        got = await authority.issue_for(self._user, keys)
        profile = self._profile(got)
        await deferToThread(store_certificates, self._home, profile, ssh, tls, got)
        self._ours = got.ssh
        moment = now(self._reactor)
        self._half = Expiry(self._reactor, moment + (got.expires - moment) / 2)
        return profile

    async def _renew_if_due(self) -> None:
        """Renew the owner's certificate at half of its lifetime, unless it was replaced."""
        profile = self._logged_in
        if profile is None or self._half is None or not self._half.has_passed:
            return
        path = self._home.files(profile).certificate
        if path.exists() and path.read_text("ascii").startswith(self._ours):
            try:
                await self._renew()
            except (AccessDenied, NotFound) as error:
                # The owner was removed or locked on purpose: only the next start undoes it.
                self._logged_in = None
                _log.warn("owner's certificate not renewed", user=self._user, error=error)

    def _started(self, profile: Profile) -> dict[str, Any]:
        folder = self._place.path
        option = "" if folder == default_folder() else f" --dir {shlex.quote(str(folder))}"
        return {
            "cluster": profile.cluster,
            "proxy": profile.proxy,
            "user": profile.user,
            "folder": str(folder),
            "node": self._node_name,
            "dir_option": option,
        }
