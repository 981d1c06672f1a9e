"""What composes the parts: choosing plugins, finding addresses, joining the auth beside."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field
from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer

from tele.config.values import Address, AuthConfig, Chosen, JoinConfig, NodeConfig, Pins
from tele.embed import (
    ClusterService,
    HostService,
    auth_service,
    choose,
    join_settings,
    node_service,
    parse,
)
from tele.embed.addresses import public_address
from tele.embed.cluster import own_join
from tele.errors import InvalidInput, Unavailable
from tele.interfaces import (
    IArchiveFactory,
    IAuthority,
    IBackendFactory,
    NamedRecorder,
    Surroundings,
)
from tele.log import event_text
from tele.model.api.authorities import AuthorityList
from tele.model.api.tokens import NewToken, TokenAdded
from tele.model.authority import AuthorityKind, TrustedAuthority
from tele.model.identity import HostRole
from tele.store.memory import MemoryBackend

NOW = datetime(2026, 11, 24, tzinfo=UTC)
PIN = "sha256:" + "ab" * 32


def result(answer: Any) -> Any:
    found: list[Any] = []
    Deferred.fromCoroutine(answer).addCallback(found.append)
    assert found, "no answer yet"
    return found[0]


# -- plugins --------------------------------------------------------------------------
def test_kinds_choose_plugins(tmp_path: Path) -> None:
    """The part before the colon chooses the plugin, which gets the rest."""
    surroundings = Surroundings(Clock(), tmp_path)
    backend = choose(IBackendFactory, Chosen("memory"), surroundings)
    assert isinstance(backend, MemoryBackend)
    choose(IArchiveFactory, Chosen("dir", "here"), surroundings)
    assert (tmp_path / "here").is_dir()


def test_unknown_kinds_and_arguments(tmp_path: Path) -> None:
    """What there is gets listed; a plugin refuses arguments that mean nothing to it."""
    surroundings = Surroundings(Clock(), tmp_path)
    with pytest.raises(
        InvalidInput, match="no plugin for 'consul'; there are etcd, memory, postgresql, sqlite"
    ):
        choose(IBackendFactory, Chosen("consul", "//x"), surroundings)
    with pytest.raises(InvalidInput, match="takes no arguments"):
        choose(IBackendFactory, Chosen("memory", "x"), surroundings)


# -- addresses ------------------------------------------------------------------------
def test_public_addresses() -> None:
    """Given, or that of listening, or the machine's own where all interfaces are meant."""
    loopback = Address("127.0.0.1", 0)
    assert public_address(loopback, None, 5) == "127.0.0.1:5"
    assert public_address(loopback, Address("a.example", 9), 5) == "a.example:9"
    assert public_address(Address("::1", 0), None, 5) == "[::1]:5"
    for everywhere in ("0.0.0.0", "::"):
        host, _, port = public_address(Address(everywhere, 0), None, 5).rpartition(":")
        assert port == "5"
        assert host.strip("[]") not in ("", "0.0.0.0", "::")


# -- joining --------------------------------------------------------------------------
def test_the_token_file_is_read_when_it_is_needed(tmp_path: Path) -> None:
    """A host that has joined needs no token file any more; for another one it is an error."""
    path = tmp_path / "token"
    settings = join_settings(
        JoinConfig(auth=(Address("a", 1),), token_file=path, ca_pin=Pins((PIN,)))
    )
    assert (settings.addresses, settings.pins) == (("a:1",), (PIN,))
    with pytest.raises(InvalidInput, match="No such file"):
        settings.token()
    path.touch(0o600)
    path.write_text("  secret\n")
    assert settings.token() == "secret"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidInput, match="not a token"):
        settings.token()
    assert "secret" not in repr(settings)
    path.write_text("secret")
    path.chmod(0o644)
    with pytest.raises(InvalidInput, match=f"token_file {path}: others can read it .*chmod 600"):
        settings.token()


def test_a_host_without_join_is_refused(tmp_path: Path) -> None:
    """The error names what is missing."""
    with pytest.raises(InvalidInput, match="where is auth"):
        node_service(MemoryReactorClock(), NodeConfig(), tmp_path)
    with pytest.raises(InvalidInput, match="give one of"):
        join_settings(JoinConfig())


@implementer(IAuthority)
@define
class FakeAuthority:
    """Counts the tokens that it makes."""

    tokens: list[NewToken] = field(factory=list)

    def perform(self, operation: Any, request: Any) -> Deferred[Any]:
        if operation.name == "add_token":
            self.tokens.append(request)
            secret = f"t{len(self.tokens)}"
            return succeed(TokenAdded(secret, request.roles, NOW, PIN))
        trusted = TrustedAuthority(AuthorityKind.HOST, (), (), (PIN,))
        return succeed(AuthorityList((), (trusted,)))

    def follow(
        self, operation: Any, request: Any, receiver: Callable[[Any], None]
    ) -> Deferred[None]:
        raise AssertionError("nothing to follow")


def test_own_tokens_are_made_when_they_are_needed() -> None:
    """A host beside its auth gets a token to join with, and none when it is a member."""
    authority: Any = FakeAuthority()
    assert result(own_join(authority, HostRole.NODE)) == ((PIN,), "t1")
    assert authority.tokens == [NewToken((HostRole.NODE,), max_uses=1)]
    assert result(own_join(authority, None)) == ((PIN,), "")
    assert len(authority.tokens) == 1


# -- services -------------------------------------------------------------------------
class Part(Service):
    """Writes down what happens to it."""

    def __init__(self, name: str, calls: list[str]) -> None:
        self.part = name
        self.calls = calls
        self.ready: Deferred[int] = Deferred()
        self.joined: Deferred[None] = Deferred()

    def startService(self) -> None:
        super().startService()
        self.calls.append(f"start {self.part}")

    def stopService(self) -> None:
        super().stopService()
        self.calls.append(f"stop {self.part}")


def test_a_host_is_stopped_from_the_outside_in() -> None:
    """Recorder and membership stop after what serves: its last events are delivered."""
    calls: list[str] = []
    member, serving, recorder = (Part(n, calls) for n in ("member", "serving", "recorder"))
    member.ready = lambda: member.joined  # type: ignore[assignment]
    host = HostService(member, serving, recorder)  # type: ignore[arg-type]
    host.startService()
    assert calls == ["start member", "start serving"]
    member.joined.callback(None)
    assert calls[2:] == ["start recorder"]
    host.stopService()
    assert calls[3:] == ["stop serving", "stop recorder", "stop member"]


def test_several_recorders_are_services_of_one_host() -> None:
    """Each is started with an identity, and stopped before the membership."""
    calls: list[str] = []
    member, serving, one, two = (Part(n, calls) for n in ("member", "serving", "one", "two"))
    member.ready = lambda: member.joined  # type: ignore[assignment]
    recorders: Any = [NamedRecorder("one", one), NamedRecorder("two", two)]  # type: ignore[arg-type]
    host = HostService(member, serving, recorders)  # type: ignore[arg-type]
    host.startService()
    member.joined.callback(None)
    assert calls[2:] == ["start one", "start two"]
    host.stopService()
    assert calls[4:] == ["stop serving", "stop one", "stop two", "stop member"]


def test_auth_without_its_plugins_leaves_nothing(tmp_path: Path) -> None:
    """An unknown store is an error before anything is opened."""
    with pytest.raises(InvalidInput):
        auth_service(Clock(), AuthConfig("c", store=Chosen("none")), tmp_path / "d")
    assert not list((tmp_path / "d").glob("*.sqlite*"))


def test_a_cluster_has_no_owner_before_auth_serves(tmp_path: Path) -> None:
    """A call that is too early is an error."""
    loaded = parse("version: v1\nauth: {cluster_name: c}\n", "f.yaml", tmp_path)
    with pytest.raises(Unavailable):
        _ = ClusterService(MemoryReactorClock(), loaded).owner


def test_the_log_says_when_the_parts_stop(tmp_path: Path) -> None:
    """Else it ends with whatever session was the last."""
    loaded = parse("version: v1\nauth: {cluster_name: c}\n", "f.yaml", tmp_path)
    lines: list[str] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        lines.append(event_text(event))

    globalLogPublisher.addObserver(observe)
    try:
        ClusterService(MemoryReactorClock(), loaded).stopService()
    finally:
        globalLogPublisher.removeObserver(observe)
    assert lines == ["stopping parts=auth", "stopped parts=auth"]
