"""What a proxy logs in to a target with."""

from __future__ import annotations

import os
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tele.certs.issue import UserCertificateRequest, issue_user
from tele.certs.keys import PrivateKey, parse_line
from tele.errors import AccessDenied, Unavailable, Unreachable
from tele.loop import now
from tele.proxy.terminating.registration import Minted, RegisteredSession

FIVE = timedelta(minutes=5)
T = TypeVar("T")


class Credentials:
    """What is used of the user's credentials here."""

    login = "root"


class Authority:
    """Mints certificates of five minutes."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.key = PrivateKey.generate()
        self.asked: list[str] = []
        self.error: Exception | None = None
        self.other: PrivateKey | None = None

    async def mint(self, line: str) -> Minted:
        self.asked.append(line)
        if self.error is not None:
            raise self.error
        expires = now(self.clock) + FIVE
        if not line:
            return Minted("", expires)
        blob = parse_line(line) if self.other is None else self.other.public.blob
        request = UserCertificateRequest("alice", "c", ("root",), ("dev",), "s-1", FIVE)
        made = issue_user(self.key, blob, request, datetime.now(UTC), os.urandom)
        return Minted(made.line, expires)

    def session(self) -> RegisteredSession:
        credentials: Any = Credentials()
        return RegisteredSession(
            "s", credentials, self.clock, self.mint, lambda: PrivateKey.generate()
        )


def done(work: Awaitable[T]) -> T:
    """Return the result of work that waits for nothing."""
    found: list[Any] = []

    async def wait() -> T:
        return await work

    Deferred.fromCoroutine(wait()).addBoth(found.append)
    (result,) = found
    if hasattr(result, "value"):
        raise result.value
    return result  # type: ignore[no-any-return]


def test_each_key_logs_in_once() -> None:
    """The certificate of the registration is for the first login; another login gets another."""
    authority = Authority()
    session = authority.session()
    done(session.register(certificate=True))
    first = done(session.identity())
    assert (first.login, first.certificate.key.blob) == ("root", first.private.public.blob)
    assert len(authority.asked) == 1
    second = done(session.identity())
    assert second.private.public.blob != first.private.public.blob
    assert len(set(authority.asked)) == 2


def test_one_that_was_not_used_in_time_is_replaced() -> None:
    """A client that opens its first session late gets in, too."""
    authority = Authority()
    session = authority.session()
    done(session.register(certificate=True))
    authority.clock.advance(256)
    identity = done(session.identity())
    assert authority.asked[-1] == identity.private.public.line
    assert len(authority.asked) == 2


def test_without_a_certificate_the_session_is_registered() -> None:
    """With the user's own agent auth is told of the session, and certifies nothing."""
    authority = Authority()
    done(authority.session().register(certificate=False))
    assert authority.asked == [""]


def test_auth_refuses() -> None:
    """What auth says reaches the caller, and another's certificate is not used."""
    authority = Authority()
    session = authority.session()
    authority.error = AccessDenied("alice is locked", "locked")
    with pytest.raises(AccessDenied, match="locked"):
        done(session.register(certificate=True))
    authority.error = None
    authority.other = PrivateKey.generate()
    with pytest.raises(Unavailable, match="another key"):
        done(session.identity())


def test_auth_is_asked_when_the_target_has_proved_itself() -> None:
    """Attempts to reach a target that does not answer use up none of the logins of the session; the
    error of one without auth says whose fault it is.
    """
    authority = Authority()
    session = authority.session()
    done(session.register(certificate=True))
    signed = done(session.sign_request(b"x" * 32, b"ssh-connection"))
    assert b"root" in signed
    assert len(authority.asked) == 1
    authority.error = Unreachable("no route")
    with pytest.raises(Unavailable, match="auth certifies no login now: no route"):
        done(session.sign_request(b"x" * 32, b"ssh-connection"))


def test_keys_are_not_shown() -> None:
    """A log line or an error that quotes the session shows no key."""
    authority = Authority()
    session = authority.session()
    done(session.register(certificate=True))
    assert "PrivateKey" not in repr(session)
