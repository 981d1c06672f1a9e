"""Hosts that join by a plugin's method in place of a token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.plugin import IPlugin
from zope.interface import implementer

import tele.plugins
from auth_world import World, result
from tele.auth.local import LocalAuthority
from tele.config.values import Chosen
from tele.embed.plugins import choose
from tele.errors import AccessDenied, InvalidInput, TeleError
from tele.interfaces import IJoinMethod, IJoinMethodFactory, JoinAttempt, Joined, Surroundings
from tele.model.api import table
from tele.model.identity import HostRole
from tele.model.presence import Presence

PLUGIN = """
from twisted.internet.defer import fail, succeed
from twisted.plugin import IPlugin
from zope.interface import implementer

from tele.errors import AccessDenied
from tele.interfaces import IJoinMethod, IJoinMethodFactory, Joined


@implementer(IJoinMethod)
class Serial:
    name = "serial"

    def __init__(self, known):
        self.known = known

    def check(self, attempt):
        if attempt.proof not in self.known:
            return fail(AccessDenied("no machine with this serial number"))
        return succeed(Joined({"serial": attempt.proof}))


@implementer(IPlugin, IJoinMethodFactory)
class Factory:
    kind = "serial"
    help = "serial:NUMBER,... - machines with one of these serial numbers"

    def make(self, arguments, surroundings):
        return Serial(arguments.split(","))


serial = Factory()
"""


@implementer(IJoinMethod)
class Badge:
    """Admits hosts with the badge ``good``, and notes the attempts."""

    name = "badge"

    def __init__(self) -> None:
        self.attempts: list[JoinAttempt] = []

    def check(self, attempt: JoinAttempt) -> Deferred[Joined]:
        self.attempts.append(attempt)
        if attempt.proof != "good":
            return fail(AccessDenied("bad badge", "token"))
        return succeed(Joined({"rack": "r1"}))


def use(world: World, *methods: Any) -> None:
    """Have auth take these methods."""
    parts = evolve(world.parts, join_methods=methods)
    world.auth = LocalAuthority(parts, world.clock, lambda: world.next_id)


def test_a_host_joins_by_a_method(world: World) -> None:
    """The method gets the proof and the caller; the labels it returns stay with the node."""
    badge = Badge()
    use(world, badge)
    world.join("badge:good")
    (attempt,) = badge.attempts
    assert (attempt.proof, attempt.name, attempt.role) == ("good", "web1", HostRole.NODE)
    assert attempt.ssh_public_key.startswith("ssh-ed25519 ")
    assert "good" not in repr(attempt)
    (event,) = world.events("node.join")
    assert event.fields["method"] == "badge"
    announced = world.do(
        table.ANNOUNCE, Presence("web1", HostRole.NODE, labels={"rack": "r9"}), world.host()
    )
    assert announced.labels == {"rack": "r1"}


def test_a_wrong_proof_does_not_join(world: World) -> None:
    """A denial of the method is that of the call, and an event (attack)."""
    use(world, Badge())
    with pytest.raises(AccessDenied, match="bad badge"):
        world.join("badge:bad")
    assert not world.events("node.join")
    (event,) = world.events("auth.denied")
    assert event.fields["operation"] == "join"


@pytest.mark.parametrize("token", ["badge:good", "badge", "good", ":good", "other:good"])
def test_a_method_that_is_not_configured_is_not_used(world: World, token: str) -> None:
    """Without a method of that name the text is a token like any other, and unknown (attack)."""
    use(world, *([] if token == "badge:good" else [Badge()]))
    with pytest.raises(AccessDenied, match="unknown, expired or used up"):
        world.join(token)


def test_no_method_makes_an_auth(world: World) -> None:
    """A method is not even called for the role auth (attack)."""
    badge = Badge()
    use(world, badge)
    with pytest.raises((AccessDenied, InvalidInput)):
        world.join("badge:good", role=HostRole.AUTH)
    assert not badge.attempts


@pytest.mark.parametrize(
    "labels",
    [{"": "x"}, {"rack": 5}, {"rack": "x" * 1025}, {str(n): "x" for n in range(129)}],
)
def test_a_method_gives_no_labels_that_a_node_cannot_have(
    world: World, labels: dict[str, Any]
) -> None:
    """They would be stored, and a member that cannot be read hinders auth (attack)."""

    @implementer(IJoinMethod)
    class Generous:
        name = "generous"

        def check(self, attempt: JoinAttempt) -> Deferred[Joined]:
            return succeed(Joined(labels))

    use(world, Generous())
    with pytest.raises(AccessDenied, match="generous gave labels"):
        world.join("generous:x")
    assert not world.events("node.join")
    assert len(world.events("auth.denied")) == 1
    world.join("generous:x", role=HostRole.PROXY, name="p1")


@pytest.mark.parametrize("error", [ValueError("secret 7"), AccessDenied("unknown", "token")])
def test_a_method_that_raises_admits_no_host(world: World, error: Exception) -> None:
    """Whether it raises at once or later: what is no answer is no admission, and an event (attack).

    The caller does not learn what a method raised that is not an error of tele.
    """

    @implementer(IJoinMethod)
    class Broken:
        name = "broken"

        def check(self, attempt: JoinAttempt) -> Deferred[Joined]:
            if attempt.proof == "later":
                return fail(error)
            raise error

    use(world, Broken())
    with capturedLogs() as logs:
        for proof in ("now", "later"):
            with pytest.raises(AccessDenied) as denied:
                world.join(f"broken:{proof}")
            assert "secret" not in str(denied.value)
    assert not world.events("node.join")
    events = world.events("auth.denied")
    assert [each.fields["operation"] for each in events] == ["join", "join"]
    assert not any("secret" in repr(each.fields) for each in events)
    failures = [each["log_failure"].value for each in logs if "log_failure" in each]
    assert failures == ([] if isinstance(error, AccessDenied) else [error, error])


@pytest.mark.parametrize("answer", [None, {"rack": "r1"}, succeed(None), Joined(None)])  # type: ignore[arg-type]
def test_an_answer_that_is_none_admits_no_host(world: World, answer: Any) -> None:
    """A method that returns something else than it should refuses the host, with an event."""

    @implementer(IJoinMethod)
    class Wrong:
        name = "wrong"

        def check(self, attempt: JoinAttempt) -> Any:
            return answer

    use(world, Wrong())
    with capturedLogs(), pytest.raises(AccessDenied, match="the join method wrong failed"):
        world.join("wrong:x")
    assert not world.events("node.join")
    assert len(world.events("auth.denied")) == 1


@pytest.mark.parametrize("methods", [[], [Badge()]])
def test_a_token_that_a_method_would_take_is_not_made(world: World, methods: list[Any]) -> None:
    """It could not be used beside the method ``badge``, nor after that is configured."""
    use(world, *methods)
    for token in ("badge:0123456789abcdef", "other:0123456789abcdef"):
        with pytest.raises(InvalidInput, match=r"cannot begin with '(badge|other):'.*join method"):
            world.token(token=token)
    for n, token in enumerate(("0123456789:abcdef", "Badge:0123456789", ":badge0123456789")):
        assert world.token(token=token) == token
        world.join(token, f"5b8b6f2e-6a0c-4c8e-9a53-00000000000{n}")
    assert len(world.events("node.join")) == 3


def test_a_token_still_counts_beside_a_method(world: World) -> None:
    """Tokens are used as before, and an event of a join by token names no method."""
    use(world, Badge())
    token = world.token(max_uses=1)
    world.join(token)
    (event,) = world.events("node.join")
    assert "method" not in event.fields
    with pytest.raises(AccessDenied):
        world.join(token, "5b8b6f2e-6a0c-4c8e-9a53-000000000002", name="web2")


def test_a_plugin_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Auth does not start, in one sentence; what the plugin raised is in the log."""

    @implementer(IPlugin, IJoinMethodFactory)
    class Broken:
        kind = "broken"
        help = "broken"

        def make(self, arguments: str, surroundings: Any) -> Any:
            raise KeyError(arguments)

    monkeypatch.setattr("tele.embed.plugins.getPlugins", lambda *_: [Broken()])
    surroundings = Surroundings(Clock(), tmp_path)
    with (
        capturedLogs() as logs,
        pytest.raises(TeleError, match="the plugin broken cannot be made: KeyError"),
    ):
        choose(IJoinMethodFactory, Chosen("broken", "x"), surroundings)
    assert [type(each["log_failure"].value) for each in logs] == [KeyError]


def test_two_methods_of_one_name_are_refused(world: World) -> None:
    """Which one is meant could not be known."""
    with pytest.raises(InvalidInput, match="'badge'"):
        use(world, Badge(), Badge())


def test_a_method_of_a_plugin(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module in a folder ``tele/plugins`` adds a method, which the configuration chooses."""
    folder = tmp_path / "tele" / "plugins"
    folder.mkdir(parents=True)
    (folder / "serial_numbers.py").write_text(PLUGIN)
    monkeypatch.setattr(tele.plugins, "__path__", [*tele.plugins.__path__, str(folder)])
    surroundings = Surroundings(Clock(), tmp_path)
    use(world, choose(IJoinMethodFactory, Chosen("serial", "17,18"), surroundings))
    world.join("serial:18")
    member = result(world.parts.members.named("web1"))
    assert member is not None
    assert member.labels == {"serial": "18"}
    with pytest.raises(AccessDenied, match="serial number"):
        world.join("serial:19", "5b8b6f2e-6a0c-4c8e-9a53-000000000002", name="web2")
