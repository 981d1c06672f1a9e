"""Attacks on what auth published of the audit, by who owns the store, a node, or the archive."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from tele.audit.heads import (
    HeadSigner,
    check_head,
    contradiction,
    mark_of,
    read_lines,
    thinned,
    to_line,
)
from tele.certs.issue import HostCertificateRequest, issue_host
from tele.certs.keys import PrivateKey
from tele.errors import InvalidInput
from tele.membership.heads import FILE_LIMIT, HeadFile
from tele.model.audit_head import SignedHead
from tele.model.codec import encode
from tele.model.identity import HostRole
from test_audit_marks import Store, make, result

CA, KEY = PrivateKey.generate(), PrivateKey.generate()
TRUSTED = {CA.public.blob}
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
AUTH = "5b8b6f2e-6a0c-4c8e-9a53-2f7d5d2d9a55"


def signer(key: PrivateKey = KEY, ca: PrivateKey = CA, **words: Any) -> HeadSigner:
    request = HostCertificateRequest(AUTH, "auth1", "c", HostRole.AUTH)
    made = issue_host(ca, key.public.blob, evolve(request, **words), NOW, lambda n: bytes(n))
    return HeadSigner(key, made.line)


def head(number: int = 7, value: str = "a" * 64, minutes: float = 0) -> SignedHead:
    moment = NOW + timedelta(minutes=minutes)
    return signer().sign(SignedHead("c", number, value, moment, ""))


def plain(number: int, value: str, minutes: float) -> SignedHead:
    """One that is not signed: what is kept does not depend on that."""
    return SignedHead("c", number, value, NOW + timedelta(minutes=minutes), "x" * 700, b"s" * 83)


# -- who signed -----------------------------------------------------------------------
def test_a_head_is_signed_by_auth() -> None:
    """By its host certificate, also after that has expired."""
    assert check_head(head(), TRUSTED, "c").host_id == AUTH


def test_no_one_else_signs_a_head() -> None:
    """Not a node that has been taken over, nor a changed head, nor one of another cluster."""
    good = head()
    unsigned = evolve(good, signature=b"")
    wrong = [
        signer(role=HostRole.NODE).sign(unsigned),
        signer(role=HostRole.PROXY).sign(unsigned),
        signer(cluster="d").sign(unsigned),
        signer(ca=PrivateKey.generate()).sign(unsigned),
        evolve(good, number=8),
        evolve(good, hash="b" * 64),
        evolve(good, time=NOW + timedelta(hours=1)),
        evolve(good, time=NOW + timedelta(days=3)),
        evolve(good, signature=KEY.sign(encode(unsigned))),
        evolve(good, host_certificate=KEY.public.line),
        evolve(good, host_certificate=""),
        signer().sign(evolve(unsigned, number=0)),
        signer().sign(evolve(unsigned, hash="x")),
    ]
    wrong.append(evolve(signer(PrivateKey.generate()).sign(unsigned), signature=good.signature))
    for each in wrong:
        with pytest.raises(InvalidInput):
            check_head(each, TRUSTED, "c")
    with pytest.raises(InvalidInput):
        check_head(good, TRUSTED, "d")


# -- what they show -------------------------------------------------------------------
@pytest.fixture
def store() -> Store:
    return Store()


def published(store: Store, *numbers: int) -> list[Any]:
    return [mark_of(head(number, store.events[number - 1].hash, number)) for number in numbers]


def test_an_audit_that_was_made_anew_differs_from_what_was_published(store: Store) -> None:
    """Relinked from the changed event on, so that the chain is whole: the heads show it."""
    heads = published(store, 2, 4, 6, 8)
    assert not store.check(None, *heads).problem
    events = list(store.events)
    events[4] = make(5, user="mallory")
    store.write(events, relink=True)
    assert not store.check().problem
    found = store.check(None, *heads).problem
    assert "event 6 is not the event" in found
    assert "auth signed at 2026-11-24T12:06:00" in found
    assert "one of the events 5 to 6 is the first that was changed" in found


def test_an_end_that_was_cut_off_was_published(store: Store) -> None:
    """With fewer events, and with others in their place."""
    heads = published(store, 2, 8)
    store.write(store.events[:5])
    assert "is missing" in store.check(None, *heads).problem
    store.write([*store.events[:5], *(make(n, user="m") for n in (6, 7, 8, 9))], relink=True)
    found = store.check(None, *heads).problem
    assert "one of the events 3 to 8 is the first that was changed" in found


def test_two_audits_that_auth_signed(store: Store) -> None:
    """One for this auditor, another for the others: heads of both cannot be right."""
    good, other = published(store, 5)[0], mark_of(head(5, "b" * 64, 5))
    assert store.check(None, good, other).problem
    assert contradiction(head(5, "a" * 64), head(5, "b" * 64, 1))
    assert contradiction(head(5, "a" * 64), head(4, "b" * 64, 10))
    assert not contradiction(head(5, "a" * 64), head(6, "b" * 64, 1))
    # Two auths on one store may be a moment apart.
    assert not contradiction(head(5, "a" * 64), head(4, "b" * 64, 0.1))


# -- what is kept ---------------------------------------------------------------------
def test_what_is_kept_is_bounded_and_covers_two_years() -> None:
    """A head a minute for a month, and one a day for three years before."""
    old = [plain(n, f"{n:064x}", -60 * 24 * (1100 - n)) for n in range(1, 1070)]
    new = [plain(2000 + n, f"{n:064x}", -5 * n) for n in range(30 * 24 * 12, 0, -1)]
    kept = thinned([*old, *new])
    assert len(kept) < 1100
    assert kept[-1] == max(new, key=lambda each: each.time)
    assert timedelta(days=700) < kept[-1].time - kept[0].time <= timedelta(days=731)
    assert list(kept) == sorted(kept, key=lambda each: each.time)
    assert thinned(kept) == kept
    assert thinned([]) == ()


def test_a_contradiction_is_kept_when_others_are_dropped() -> None:
    """The evidence is not thinned out with the rest."""
    heads = [plain(n, f"{n:064x}", n) for n in range(1, 5000)]
    odd = plain(2500, "f" * 64, 2500.5)
    kept = thinned([*heads, odd])
    assert any(each.number == 2500 for each in kept)


def test_the_file_of_a_host(tmp_path: Path) -> None:
    """Heads are appended; a torn line is skipped; the file stays below its limit."""
    path = tmp_path / "audit-heads"
    file = HeadFile(path)
    first, second = head(1, "a" * 64), head(2, "b" * 64, 1)
    file.append(first)
    path.write_bytes(path.read_bytes() + to_line(second)[:40])
    file.append(second)
    assert list(read_lines(path.read_bytes())) == [first, second]
    assert path.stat().st_mode & 0o777 == 0o600
    minutes = FILE_LIMIT // len(to_line(plain(1, "a" * 64, 0)))
    path.write_bytes(
        b"".join(to_line(plain(n, f"{n:064x}", n - minutes)) for n in range(1, minutes + 1))
    )
    file.append(plain(9999, "c" * 64, 2))
    assert path.stat().st_size < FILE_LIMIT // 4
    assert [each.number for each in read_lines(path.read_bytes())][-1] == 9999


def test_lines_that_are_no_heads_are_skipped() -> None:
    """A file of a host that was taken over stops no check."""
    good = to_line(head())
    data = b"\n".join(
        [b"", b"{}", b"[" * 100_000, b"\xff", good, json.dumps([1]).encode(), good[:9]]
    )
    assert [each.number for each in read_lines(data)] == [7]
    assert result(Store().audit.head()).number == 8
