"""How does the process of ``tele up`` run its cluster, and keep its owner logged in?

The owner of the folder owns the cluster's CA keys, so the process gives the owner
certificates without a password, and fresh ones for as long as it runs and they are used.
"""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Callable
from typing import Any

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import LoopingCall, deferLater
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from tele.auth.local import LocalAuthority
from tele.capacity.descriptors import process_budget, raise_limit
from tele.certs.x509 import TlsKey
from tele.cli.folder import Folder, default_folder
from tele.cli.home import Home, Profile
from tele.cli.login import keep
from tele.config.values import Address, FileConfig
from tele.embed import ClusterService, load_config
from tele.embed.addresses import public_address
from tele.errors import AccessDenied, NotFound, TeleError, Unavailable
from tele.log import LogFormat, make_logger, set_up_logging
from tele.loop import Expiry, make_monotonic, now
from tele.model.api.hosts import LIST_HOSTS, ListHosts
from tele.model.api.members import PublicKeys
from tele.model.authority import AuthorityKind, Certificates, authority_of

_log = make_logger(__name__)

#: How often we look whether the owner's certificate has to be renewed.
_LOOK_SECONDS = 60.0
#: How long the node may take to be heard of.
ONLINE_SECONDS = 30.0


def run_cluster(
    place: Folder,
    user: str,
    logins: tuple[str, ...],
    listen: tuple[str, int] | None,
    report: Callable[[dict[str, Any]], None],
) -> int:
    """Run until a signal ends it; return the status to end with.

    ``report`` hears once when all of it serves. Raises :class:`TeleError` when it cannot.
    """
    from twisted.internet import reactor

    make_monotonic(reactor)
    loaded = load_config(place.config)
    config = _for_now(loaded.config, listen)
    loaded = evolve(loaded, config=config)
    said = config.log
    with open(place.log, "a", encoding="utf-8", opener=_private) as log:
        set_up_logging(said.level.value, log, LogFormat(said.format.value))
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
    """Return the configuration with ``--listen``, and a free port for one that is taken."""
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


def _told(failure: Failure) -> TeleError:
    error = failure.value
    return error if isinstance(error, TeleError) else TeleError(failure.getErrorMessage())


class _Run:
    """One run of a cluster."""

    def __init__(
        self,
        reactor: Any,
        place: Folder,
        cluster: ClusterService,
        config: FileConfig,
        user: str,
        logins: tuple[str, ...],
    ) -> None:
        self._reactor = reactor
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
        """Run the reactor; return why it could not start, if it could not."""
        reactor = self._reactor
        reactor.addSystemEventTrigger("before", "shutdown", self._stop)
        reactor.callWhenRunning(self._begin, report)
        reactor.run(installSignalHandlers=True)
        return self._problem

    def _stop(self) -> Deferred[Any]:
        """End it, sessions too: `tele down` is waited for by a person."""
        self._cluster.force()
        return self._cluster.stopService()

    def _begin(self, report: Callable[[dict[str, Any]], None]) -> None:
        # The reactor has put its own handlers in place by now. A closed terminal ends us, too.
        signal.signal(signal.SIGHUP, lambda *_: self._reactor.callFromThread(self._reactor.stop))
        self._cluster.startService()
        running: Deferred[None] = Deferred.fromCoroutine(self._serve(report))
        running.addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        if failure.check(CancelledError):
            return  # it was told to stop while it started
        if not failure.check(TeleError):
            _log.failure("the cluster cannot start", failure)
            self._problem = TeleError(
                f"the cluster cannot start: {failure.getErrorMessage()}; see {self._place.log}"
            )
        else:
            self._problem = _told(failure)
            _log.error("the cluster cannot start: {error}", error=str(failure.value))
        if self._reactor.running:
            self._reactor.stop()

    async def _serve(self, report: Callable[[dict[str, Any]], None]) -> None:
        await self._cluster.ready
        await self._all_online()
        self._logged_in = await self._log_in()
        report(self._said(self._logged_in))
        looking = LoopingCall(lambda: Deferred.fromCoroutine(self._look()))
        stopped: Deferred[Any] = looking.start(_LOOK_SECONDS, now=False)
        stopped.addErrback(lambda f: _log.failure("the owner's certificate is not renewed", f))

    async def _all_online(self) -> None:
        """Wait until auth has heard of the node, so that ``tele ls`` shows it."""
        if self._cluster.node is None:
            return
        deadline = self._reactor.seconds() + ONLINE_SECONDS
        while not await self._find_node():
            if self._reactor.seconds() > deadline:
                raise Unavailable(f"the node is not online yet; see {self._place.log}")
            await deferLater(self._reactor, 0.02)

    async def _find_node(self) -> bool:
        """Note the name of our node once it is online with an address."""
        node, since = self._cluster.node, self._cluster.node_since
        if node is None or since is None:
            return True
        page = await self._cluster.owner.perform(LIST_HOSTS, ListHosts(limit=1000))
        for host in page.items:
            # What it said before it served is of its last run, or has no address yet.
            # If it served in the future, the clock was set back since.
            heard = host.last_seen >= since or since > now(self._reactor)
            if host.id == node.member.host_id and heard and host.addresses:
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
        """Get certificates for the owner, who has to be there still."""
        authority = self._authority()
        ssh, tls = authority.suite.generate(), TlsKey.generate()
        keys = PublicKeys(ssh.public.line, tls.public_pem)
        got = await authority.issue_for(self._user, keys)
        profile = self._profile(got)
        await deferToThread(keep, self._home, profile, ssh, tls, got)
        self._ours = got.ssh
        moment = now(self._reactor)
        self._half = Expiry(self._reactor, moment + (got.expires - moment) / 2)
        return profile

    async def _look(self) -> None:
        """Renew the owner's certificate at half of its life, unless it is not ours any more."""
        profile = self._logged_in
        if profile is None or self._half is None or not self._half.has_passed:
            return
        path = self._home.files(profile).certificate
        if path.exists() and path.read_text("ascii").startswith(self._ours):
            try:
                await self._renew()
            except (AccessDenied, NotFound) as error:
                # Who removed or locked the owner since meant it: only the next start undoes it.
                self._logged_in = None
                _log.warn("{user} gets no new certificate: {why!s}", user=self._user, why=error)

    def _said(self, profile: Profile) -> dict[str, Any]:
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
