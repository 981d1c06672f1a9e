"""Auth publishes the head of its audit, so that its own store cannot take it back."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from attrs import evolve
from twisted.internet.defer import Deferred

from auth_world import HOST_ID, World, result
from tele.audit.heads import HeadSigner, check_head
from tele.auth.heads import MONTHS, HeadPublisher
from tele.certs.keys import PrivateKey
from tele.certs.x509 import TlsKey
from tele.errors import InvalidInput, Unavailable
from tele.loop import now
from tele.model.api.audit import ListHeads
from tele.model.api.members import PublicKeys
from tele.model.api.operation import Nothing
from tele.model.api.table import AUDIT_HEAD, LIST_AUDIT_HEADS
from tele.model.audit_head import SignedHead
from tele.model.identity import HostRole, UserIdentity


def signer(world: World) -> HeadSigner:
    """What the service gives it."""
    key = PrivateKey.generate()
    keys = PublicKeys(key.public.line, TlsKey.generate().public_pem)
    made = world.parts.issuer.host(HOST_ID, "auth1", HostRole.AUTH, keys, [])
    return HeadSigner(key, made.ssh)


@pytest.fixture
def heads(world: World) -> Any:
    """The publisher of a cluster with one event, which has begun."""
    publisher = world.parts.heads
    publisher.signer = signer(world)
    append(world, 1)
    publisher.start()
    yield publisher
    result(publisher.stop())


def append(world: World, count: int) -> None:
    for _ in range(count):
        result(world.auth.emit("cluster.create", evolve(world.admin), name="c"))


def archived(world: World) -> list[SignedHead]:
    """All pages of what is in the archive."""
    found, after = [], ""
    expires = now(world.clock) + timedelta(days=1)
    identity = world.admin.identity
    assert isinstance(identity, UserIdentity)
    caller = evolve(world.admin, identity=evolve(identity, expires=expires))
    while True:
        page = world.do(LIST_AUDIT_HEADS, ListHeads(after), caller)
        found += page.items
        if not page.next:
            return found
        after = page.next


def test_the_head_is_signed_when_it_moved(world: World, heads: HeadPublisher) -> None:
    """At once, then each minute; not again while nothing was appended."""
    first = heads.latest
    assert first is not None
    check_head(first, world.host_keys, "c")
    last = world.do(AUDIT_HEAD, Nothing())
    assert (first.number, first.hash) == (last.number, last.hash)
    world.clock.advance(120)
    assert heads.latest is first
    append(world, 2)
    world.clock.advance(60)
    assert heads.latest is not None
    assert heads.latest.number == first.number + 2


def test_the_archive_gets_one_an_hour(world: World, heads: HeadPublisher) -> None:
    """And lists them oldest first, in pages; each is signed."""
    for _ in range(300):
        append(world, 1)
        world.clock.pump([60.0])
    found = archived(world)
    assert 5 <= len(found) <= 6
    assert [each.number for each in found] == sorted(each.number for each in found)
    for each in found:
        check_head(each, world.host_keys, "c")


def test_what_is_in_the_archive_is_bounded(world: World, heads: HeadPublisher) -> None:
    """Heads of more than two years ago are removed; those of each month are listed until then."""
    for _ in range(MONTHS + 6):
        append(world, 1)
        world.clock.advance(timedelta(days=31).total_seconds())
        heads.signer = signer(world)
        append(world, 1)
        world.clock.advance(60)
    months = {folder for folder, _ in world.archive.blobs if folder.startswith("audit-heads-")}
    assert MONTHS - 2 <= len(months) <= MONTHS + 1
    assert len(archived(world)) >= MONTHS - 2


def test_a_cursor_that_leads_elsewhere(world: World, heads: HeadPublisher) -> None:
    """It is refused, or leads to nothing: it never names another recording."""
    for after in ("x", "2026-13/", "2026-01/../../x", "../", "2026-01/" + "a" * 65):
        with pytest.raises(InvalidInput):
            world.do(LIST_AUDIT_HEADS, ListHeads(after))
    assert world.do(LIST_AUDIT_HEADS, ListHeads("1999-01/")).items == ()


def test_an_archive_that_fails_stops_nothing(world: World, heads: HeadPublisher) -> None:
    """The head goes to the hosts all the same; the archive gets it later."""
    before, put = len(archived(world)), world.archive.put

    def fails(*_: Any) -> Any:
        raise Unavailable("the archive failed")

    world.archive.put = fails  # type: ignore[method-assign,assignment]
    append(world, 1)
    world.clock.pump([60.0] * 61)
    assert heads.latest is not None
    number = heads.latest.number
    assert len(archived(world)) == before
    world.archive.put = put  # type: ignore[method-assign]
    world.clock.advance(60)
    assert archived(world)[-1].number == number


def test_an_archive_that_hangs_delays_no_signature(world: World, heads: HeadPublisher) -> None:
    """Nor the stop of auth."""
    waiting: list[Deferred[None]] = []

    def hangs(*_: Any) -> Deferred[None]:
        waiting.append(Deferred())
        return waiting[-1]

    world.archive.put = hangs  # type: ignore[method-assign,assignment]
    for _ in range(70):
        append(world, 1)
        world.clock.pump([60.0])
    last = world.do(AUDIT_HEAD, Nothing())
    assert len(waiting) == 1
    assert heads.latest is not None
    assert heads.latest.number >= last.number - 1


def test_heads_in_the_archive_that_cannot_be_read(world: World, heads: HeadPublisher) -> None:
    """They are left out, with those that have no name of a head."""
    moment = now(world.clock)
    folder = f"audit-heads-{moment:%Y-%m}"
    world.archive.blobs[folder, f"{9:016d}-{'a' * 16}-{'b' * 8}.head"] = b"{"
    world.archive.blobs[folder, "notes"] = b"x"
    assert len(archived(world)) == 1
