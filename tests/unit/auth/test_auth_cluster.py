"""The settings of the cluster: who changes them, how, and who is told."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from attrs import evolve
from twisted.logger import capturedLogs

from auth_world import HOST_ID, World, result
from tele.auth.authorizer import LOCAL_ADMIN
from tele.auth.cluster_settings import ClusterSettings
from tele.auth.state import State
from tele.auth.users import PRESETS_MADE
from tele.errors import AccessDenied, Conflict, InvalidInput
from tele.interfaces import Put
from tele.loop import now
from tele.model.access import Grant
from tele.model.api import table
from tele.model.api.audit import ListEvents
from tele.model.api.cluster import PutCluster
from tele.model.api.hosts import AddHost, HostProbe, ReportHostProbes
from tele.model.api.members import ClusterState
from tele.model.api.operation import Nothing
from tele.model.cluster_settings import AllowedAlgorithms, PasswordPolicy, RecordingsRetention
from tele.model.codec import to_json
from tele.model.identity import Caller, HostRole, UserIdentity
from tele.model.presence import Presence
from tele.model.recording_modes import FEATURES, MODES, NODE_SYNC, PROXY, needs
from tele.model.resources import (
    Cluster,
    ClusterSpec,
    Metadata,
    RecordingMode,
    RecordingSettings,
    RoleSpec,
    User,
    UserSpec,
)
from tele.model.sizes import Size
from tele.rbac.presets import EDITOR, FORMER_PRESETS

OFF = RecordingSettings(RecordingMode.OFF)


def settings(world: World, caller: Caller | None = None) -> Any:
    return world.do(table.GET_CLUSTER, Nothing(), caller)


def put(
    world: World, recording: RecordingSettings, caller: Caller | None = None, **more: Any
) -> Any:
    cluster = Cluster(Metadata("c", **more), ClusterSpec(recording))
    return world.do(table.PUT_CLUSTER, PutCluster(cluster), caller).cluster


def person(world: World, name: str, *roles: str) -> Caller:
    """Return a user with these roles, as a caller."""
    result(world.parts.users.put_user(name, User(Metadata(name), UserSpec(roles))))
    expires = now(world.clock) + timedelta(hours=1)
    return Caller(UserIdentity(name, "c", expires, roles), "192.0.2.7:1")


def test_the_configuration_holds_until_the_resource_is_written(world: World) -> None:
    """Then the resource holds, also for another auth on this store with another configuration."""
    assert settings(world).spec == ClusterSpec(RecordingSettings())
    assert settings(world).metadata.revision == 0
    changed = put(world, evolve(OFF, capture_head=Size(1 << 12)))
    assert changed == settings(world)
    assert changed.metadata.revision > 0
    parts = world.parts
    other = State(
        world.backend, "c", world.authorities, RecordingSettings(), parts.hosts,
        lambda: now(world.clock),
    )  # fmt: skip
    result(other.start())
    assert other.recording == changed.spec.session_recording
    assert result(ClusterSettings(world.backend, "c", other, parts.hosts).get()) == changed
    other.stop()


def test_a_configuration_that_has_no_effect_is_logged(world: World) -> None:
    """At the start of auth, if it says something else than the cluster's settings."""
    settings = world.parts.settings

    def said(configured: RecordingSettings | None) -> list[str]:
        with capturedLogs() as events:
            settings.compare(configured)
        return [str(event.get("log_format")) for event in events]

    assert said(RecordingSettings()) == said(None) == []
    put(world, OFF)
    (line,) = said(RecordingSettings())
    assert "has no effect" in line
    assert said(OFF) == said(None) == []


def test_a_change_is_told_to_every_host_at_once(world: World) -> None:
    """Also auth's own decisions have it; it is an event with what was before."""
    told: list[ClusterState] = []
    following = world.parts.state.watch(told.append)
    following.addErrback(lambda failure: None)
    put(world, OFF)
    assert [each.recording.mode for each in told] == [RecordingMode.NODE, RecordingMode.OFF]
    assert told[1].revision > told[0].revision
    following.cancel()
    (event,) = world.do(table.LIST_EVENTS, ListEvents(event="cluster.update")).items
    assert (event.code, event.user, event.fields["mode"]) == ("TC002I", LOCAL_ADMIN, "off")
    assert event.fields["before"]["mode"] == "node"
    assert event.fields["proxy_checks_host_keys"] is True


def test_a_grant_of_auth_has_the_plan(world: World) -> None:
    """What auth decides itself is recorded as what nodes decide."""
    caller = person(world, "alice", "access")
    assert isinstance(caller.identity, UserIdentity)
    put(world, OFF)
    identity = evolve(caller.identity, traits={"logins": ("alice",)})
    grant = world.parts.state.policy.decide(identity, "alice", {"env": "lab"}, now(world.clock))
    assert isinstance(grant, Grant)
    assert grant.recording.mode is RecordingMode.OFF


def test_a_change_that_is_late_is_refused(world: World) -> None:
    """The first writer wins; the other one reads again."""
    first = put(world, OFF)
    second = put(world, RecordingSettings(), revision=first.metadata.revision)
    with pytest.raises(Conflict, match="tele get cluster"):
        put(world, OFF, revision=first.metadata.revision)
    assert settings(world) == second


def test_rules_decide_who_reads_and_who_changes(world: World) -> None:
    """The preset editor may do both, an auditor and a user with access neither."""
    editor = person(world, "eve", "editor")
    assert put(world, OFF, editor) == settings(world, editor)
    for name, role in (("ada", "auditor"), ("bob", "access")):
        caller = person(world, name, role)
        with pytest.raises(AccessDenied):
            settings(world, caller)
        with pytest.raises(AccessDenied):
            put(world, RecordingSettings(), caller)
    assert settings(world).spec.session_recording == OFF


@pytest.mark.parametrize(
    ("recording", "metadata", "why"),
    [
        (RecordingSettings(RecordingMode.UNKNOWN), {}, "mode"),
        (RecordingSettings(sync_end_after=timedelta(0)), {}, "sync_end_after"),
        (RecordingSettings(capture_head=Size(1 << 30)), {}, "capture_head"),
        (RecordingSettings(capture_tail=Size(1 << 30)), {}, "capture_tail"),
        (OFF, {"labels": {"a": "b"}}, "metadata.labels"),
        (OFF, {"name": "d"}, "name cannot be changed"),
    ],
)
def test_what_nothing_honours_is_refused(
    world: World, recording: RecordingSettings, metadata: dict[str, Any], why: str
) -> None:
    """Nothing is stored then."""
    cluster = Cluster(Metadata(**{"name": "c", **metadata}), ClusterSpec(recording))
    with pytest.raises(InvalidInput, match=why):
        world.do(table.PUT_CLUSTER, PutCluster(cluster))
    assert settings(world).metadata.revision == 0


@pytest.mark.parametrize("changed", [False, True])
def test_an_editor_of_an_earlier_version_may_change_the_cluster(
    world: World, changed: bool
) -> None:
    """Unless an administrator has changed the role: then it stays as it is."""
    (former,) = FORMER_PRESETS
    kept = evolve(former, spec=RoleSpec()) if changed else former
    result(world.parts.users.put_role("editor", kept))
    result(world.backend.commit(Put(PRESETS_MADE, b"1")))
    result(world.parts.users.ensure_presets())
    role = result(world.parts.users.role("editor"))
    assert role.spec == (RoleSpec() if changed else EDITOR.spec)
    result(world.parts.users.put_role("editor", former))
    result(world.parts.users.ensure_presets())  # once
    assert result(world.parts.users.role("editor")).spec == former.spec


def test_what_weakens_a_cluster_is_said(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the administrator who sets it, and in the audit; the default says nothing."""
    monkeypatch.setattr("tele.model.resources.MODES", tuple(RecordingMode))
    for recording, said in (
        (RecordingSettings(), ""),
        (OFF, "no session"),
        (RecordingSettings(proxy_plain_keys=True), "clients without host certificates"),
        (RecordingSettings(proxy_checks_host_keys=False), "host keys of machines with sshd"),
    ):
        request = PutCluster(Cluster(Metadata("c"), ClusterSpec(recording)))
        warnings = world.do(table.PUT_CLUSTER, request).warnings
        others = [each for each in warnings if "session_recording.mode is" not in each]
        assert len(others) == bool(said)
        assert all(said in warning for warning in others)
    event = world.events("cluster.update")[-1]
    assert event.fields["proxy_checks_host_keys"] is False


def test_a_change_of_the_mode_is_said(world: World) -> None:
    """Also one by leaving the key out, as in a text about another setting."""
    put(world, OFF)
    request = PutCluster(Cluster(Metadata("c"), ClusterSpec(password_policy=PasswordPolicy(20))))
    (warning,) = world.do(table.PUT_CLUSTER, request).warnings
    assert "session_recording.mode is node now, and was off" in warning
    assert world.do(table.PUT_CLUSTER, request).warnings == ()


# -- other settings -------------------------------------------------------------------
@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (ClusterSpec(banner="\x1b[2J"), r"spec.banner: it has the control character U\+001B"),
        (ClusterSpec(message_of_the_day="a\u202eb"), "spec.message_of_the_day: .*202E"),
        (
            ClusterSpec(algorithms=AllowedAlgorithms(ciphers=("3des-cbc",))),
            r"spec.algorithms.ciphers: unknown '3des-cbc'; there are .*aes256-gcm@openssh.com",
        ),
        (ClusterSpec(algorithms=AllowedAlgorithms(macs=("hmac-md5",))), "algorithms.macs"),
        (ClusterSpec(algorithms=AllowedAlgorithms(("none",))), "algorithms.key_exchanges"),
        (
            ClusterSpec(recordings_retention=RecordingsRetention(timedelta(hours=1))),
            "spec.recordings_retention.max_age: at least 1d",
        ),
    ],
)
def test_a_setting_that_no_part_supports_is_refused(
    world: World, spec: ClusterSpec, why: str
) -> None:
    """With the place of it; nothing is stored."""
    with pytest.raises(InvalidInput, match=why):
        world.do(table.PUT_CLUSTER, PutCluster(Cluster(Metadata("c"), spec)))
    assert settings(world).metadata.revision == 0


def test_a_setting_that_a_host_cannot_do_is_refused(world: World) -> None:
    """While the host is online; what was set before does not stop other changes."""
    world.join(world.token())
    world.do(table.ANNOUNCE, Presence("web1", HostRole.NODE), world.host())

    def change(**changed: Any) -> Any:
        request = PutCluster(Cluster(Metadata("c"), ClusterSpec(**changed)))
        return world.do(table.PUT_CLUSTER, request)

    with pytest.raises(InvalidInput, match=r"spec.banner: node web1 cannot do that"):
        change(banner="hello")
    change(password_policy=PasswordPolicy(min_length=20))  # is auth's own
    able = Presence("web1", HostRole.NODE, features=FEATURES[HostRole.NODE])
    world.do(table.ANNOUNCE, able, world.host())
    change(banner="hello")
    world.do(table.ANNOUNCE, Presence("web1", HostRole.NODE), world.host())
    change(banner="hello", password_policy=PasswordPolicy())
    change()


def test_hosts_of_an_older_version_read_a_state_without_settings(world: World) -> None:
    """Settings that have their defaults are left out of what hosts, and other auths, get."""
    put(world, OFF)
    assert "settings" not in to_json(world.parts.state.present)
    assert set(to_json(settings(world).spec)) == {"session_recording"}
    event = world.events("cluster.update")[-1]
    assert (event.fields["settings"], event.fields["settings_before"]) == ({}, {})


def test_the_retention_of_the_settings_replaces_that_of_the_configuration(world: World) -> None:
    """Also with one that keeps everything; what a change was is in the audit."""
    spec = ClusterSpec(recordings_retention=RecordingsRetention(timedelta(days=7), Size(1 << 30)))
    world.do(table.PUT_CLUSTER, PutCluster(Cluster(Metadata("c"), spec)))
    assert world.parts.state.settings == spec
    event = world.events("cluster.update")[-1]
    assert event.fields["settings"]["recordings_retention"] == {"max_age": "7d", "max_size": "1GiB"}


# -- what hosts can do ----------------------------------------------------------------
@pytest.fixture
def every_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version of tele that knows all modes; hosts may be of an older one."""
    monkeypatch.setattr("tele.model.resources.MODES", tuple(RecordingMode))


@pytest.mark.usefixtures("every_mode")
def test_a_mode_that_a_host_cannot_do_is_refused(world: World) -> None:
    """The error names the hosts that are online; one that is offline delays nothing."""
    sync = RecordingSettings(RecordingMode.NODE_SYNC)
    world.join(world.token())
    world.do(table.ANNOUNCE, Presence("web1", HostRole.NODE), world.host())
    with pytest.raises(InvalidInput, match="node-sync: node web1 cannot do that"):
        put(world, sync)
    able = Presence("web1", HostRole.NODE, features=(NODE_SYNC,))
    world.do(table.ANNOUNCE, able, world.host())
    assert put(world, sync).spec.session_recording == sync
    put(world, OFF)
    world.do(table.ANNOUNCE, Presence("web1", HostRole.NODE), world.host())
    with pytest.raises(InvalidInput, match="web1"):
        put(world, sync)
    world.clock.advance(100)
    put(world, sync)


@pytest.mark.usefixtures("every_mode")
def test_a_mode_of_proxies_needs_a_proxy(world: World) -> None:
    """Without one that is online no user could log in anywhere; nodes need no such feature then."""
    by_proxies = RecordingSettings(RecordingMode.PROXY)
    with pytest.raises(InvalidInput, match="no proxy is online"):
        put(world, by_proxies)
    proxy = world.proxy()
    world.do(table.ANNOUNCE, Presence("gate", HostRole.PROXY), proxy)
    with pytest.raises(InvalidInput, match="proxy gate cannot do that"):
        put(world, by_proxies)
    world.do(table.ANNOUNCE, Presence("gate", HostRole.PROXY, features=(PROXY,)), proxy)
    # A machine with sshd announces nothing.
    world.next_id = HOST_ID
    world.do(table.ADD_HOST, AddHost("legacy", "10.0.0.9:22"))
    world.do(table.REPORT_HOST_PROBES, ReportHostProbes((HostProbe(HOST_ID, True),)), proxy)
    assert put(world, by_proxies).spec.session_recording == by_proxies


def test_features_are_names(world: World) -> None:
    """A host announces words, which are passed on to other hosts."""
    world.join(world.token())
    for bad in ("", "A", "x" * 33, "a b", "é"):
        with pytest.raises(InvalidInput, match="not the name of a feature"):
            world.do(table.ANNOUNCE, Presence("web1", HostRole.NODE, features=(bad,)), world.host())
    with pytest.raises(InvalidInput):
        Presence("web1", HostRole.NODE, features=("a",) * 65)


def test_the_modes_that_work_are_those_that_all_parts_can_do() -> None:
    """A mode is not offered before nodes and proxies have what it needs."""
    for mode in RecordingMode:
        able = not any(needs(mode, role, FEATURES[role]) for role in HostRole)
        assert (mode in MODES) == (able and mode is not RecordingMode.UNKNOWN)
    assert {RecordingMode.NODE, RecordingMode.OFF} <= set(MODES)
