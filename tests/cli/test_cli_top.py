"""``tele top``: what it shows of a running cluster, of hostile names, on screens of any size."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from tele.cli.top import lines, screen
from tele.cli.top_data import EVENTS, HOSTS_SECONDS, Snapshot, Watcher
from tele.errors import AccessDenied, Unreachable
from tele.model.api.audit import LIST_EVENTS, EventList
from tele.model.api.hosts import LIST_HOSTS, HostList
from tele.model.api.members import HEALTH, Health
from tele.model.api.sessions import LIST_SESSIONS, SessionList
from tele_command import Cluster

HOSTILE = "\x1b]0;owned\x07\u202e\n\x9b31m"


def snapshot(sessions: int = 3, offline: int = 2, events: int = 4, name: str = "web") -> Snapshot:
    """Return a look at a cluster with so many of each."""
    when = "2026-11-30T10:00:00Z"
    return Snapshot(
        time=when,
        cluster="example",
        disk="ok",
        hosts={"node": {"online": 5, "offline": offline}, "proxy": {"online": 1, "offline": 0}},
        offline=[{"name": name, "last_seen": when, "problem": name} for _ in range(offline)],
        sessions=[
            {"user": name, "login": name, "node": name, "remote_addr": "10.0.0.1:1",
             "started": when, "id": f"s{number}"}
            for number in range(sessions)
        ],
        more_sessions=False,
        accepted=2,
        refused=1,
        events=[
            {"time": when, "event": "auth.denied", "ok": False, "user": name, "server_name": name,
             "error": name}
            for _ in range(events)
        ],
        missing=[],
    )  # fmt: skip


@pytest.mark.parametrize("rows", [1, 2, 5, 10, 24, 60])
@pytest.mark.parametrize("columns", [1, 40, 200])
def test_a_screen_of_any_size(rows: int, columns: int) -> None:
    """No line is longer than the screen, and there are no more than it has; also with a problem."""
    for problem in ("", "auth does not answer: " + "x" * 300):
        drawn = screen(snapshot(200, 50, 50), problem, columns, rows).decode()
        shown = drawn.removeprefix("\x1b[?25l\x1b[H").removesuffix("\x1b[J").split("\r\n")
        assert len(shown) <= rows
        for line in shown:
            bare = line.removesuffix("\x1b[K").replace("\x1b[7m", "").replace("\x1b[0m", "")
            assert len(bare) <= columns


def test_names_of_others_cannot_draw() -> None:
    """A node, a user or an error with escape sequences changes neither screen nor title."""
    drawn = screen(snapshot(name=HOSTILE), HOSTILE, 200, 50).decode()
    rest = drawn
    for own in ("\x1b[?25l\x1b[H", "\x1b[7m", "\x1b[0m", "\x1b[K", "\x1b[J", "\r\n"):
        rest = rest.replace(own, "")
    assert not set("\x1b\x07\x9b\u202e\n\r") & set(rest)
    assert not set("\x1b\x07\x9b\u202e") & set("".join(lines(snapshot(name=HOSTILE), 9, 9, 9)))


def test_what_is_left_out_is_counted() -> None:
    """A list that does not fit says how many there are more."""
    text = list(lines(snapshot(30, 8, 3), 5, 10, 3))
    assert "and 20 more" in text
    assert "and 3 more" in text
    assert "logins in the last minute: 2 accepted, 1 refused" in text


class Auth:
    """Auth, as far as it is asked; ``denied`` are operations that it refuses."""

    def __init__(self, *denied: str) -> None:
        self.denied = denied
        self.calls: list[str] = []
        self.away = False

    def perform(self, operation: Any, request: Any) -> Any:
        """See :class:`tele.cli.auth_client.Authority`."""
        self.calls.append(operation.name)
        if self.away:
            raise Unreachable("no answer")
        if operation.name in self.denied:
            raise AccessDenied(f"{operation.name} is not allowed")
        if operation is LIST_EVENTS:
            assert request.limit == EVENTS
        answers = {
            HEALTH.name: Health("ok", "1"),
            LIST_HOSTS.name: HostList(()),
            LIST_SESSIONS.name: SessionList(()),
            LIST_EVENTS.name: EventList(()),
        }
        return answers.get(operation.name) or attrs.make_class("Info", ["cluster"])("example")


def test_what_roles_do_not_show() -> None:
    """It is named, and the rest is shown."""
    auth: Any = Auth("list_events")
    found = Watcher(auth, lambda: 0.0).look()
    assert found.missing == ("events: list_events is not allowed",)
    assert found.accepted is None
    assert found.sessions == []
    assert any("not shown: events" in line for line in lines(found, 5, 5, 5))


def test_hosts_are_listed_seldom() -> None:
    """A large fleet is not read at each look."""
    now = 0.0
    auth: Any = Auth()
    watcher = Watcher(auth, lambda: now)
    watcher.look()
    now = HOSTS_SECONDS - 1
    watcher.look()
    assert auth.calls.count("list_hosts") == 2  # nodes, and proxies
    assert auth.calls.count("list_sessions") == 2
    now = HOSTS_SECONDS
    watcher.look()
    assert auth.calls.count("list_hosts") == 4
    auth.away = True
    with pytest.raises(Unreachable):
        watcher.look()


def test_a_running_cluster(cluster: Cluster) -> None:
    """Once as text, once as JSON; an interval without a terminal is refused."""
    text = cluster.tele.run("top").stdout
    assert "nodes: 1 online, 0 offline" in text
    assert "proxies: 1 online" in text
    assert "cluster.create" in text
    found = cluster.tele.json("top")
    assert found["hosts"]["proxy"] == {"online": 1, "offline": 0}
    assert found["logins_per_minute"].keys() == {"accepted", "refused"}
    assert found["missing"] == []
    assert "--interval" in cluster.tele.fails(2, "top", "--interval", "5")
